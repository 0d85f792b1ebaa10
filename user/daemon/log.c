/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Log lines; log.h says what they are. */
#include "log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static _Atomic enum log_level threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	threshold = level;
}

static void write_line(enum log_level level, const char *format, va_list args)
{
	char line[1024];
	size_t len = 0;
	int n;

	if (level > threshold)
		return;
	if (getenv("JOURNAL_STREAM"))
		n = snprintf(line, sizeof(line), "<%d>", (int)level);
	else
		n = snprintf(line, sizeof(line), "sluiced: %s",
			     level == LOG_LEVEL_ERROR	? "error: " :
			     level == LOG_LEVEL_WARNING ? "warning: " :
							  "");
	len += (size_t)n;
	n = vsnprintf(line + len, sizeof(line) - 1 - len, format, args);
	len += n < 0 ? 0 : (size_t)n;
	if (len > sizeof(line) - 1)
		len = sizeof(line) - 1;
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nowhere left to say so */
}

void log_write(enum log_level level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	write_line(level, format, args);
	va_end(args);
}

/* Called by the main thread only. */
void log_client(const char *format, ...)
{
	static time_t since;
	static unsigned int lines;
	struct timespec now;
	va_list args;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec - since >= 10) {
		if (lines > LOG_CLIENT_BURST)
			log_warning("%u more lines about clients were left out",
				    lines - LOG_CLIENT_BURST);
		since = now.tv_sec;
		lines = 0;
	}
	if (++lines > LOG_CLIENT_BURST)
		return;
	va_start(args, format);
	write_line(LOG_LEVEL_WARNING, format, args);
	va_end(args);
}
