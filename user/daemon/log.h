/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Log lines of sluiced, to stderr, one write each, from any thread. Under
 * systemd's journal each line carries its priority.
 */
#ifndef SLUICED_LOG_H
#define SLUICED_LOG_H

/* As in syslog(3), so that journal prefixes need no table. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

void log_set_level(enum log_level level);

void log_write(enum log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* About clients: at most LOG_CLIENT_BURST lines in 10 s, then a count. */
#define LOG_CLIENT_BURST 20
void log_client(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
