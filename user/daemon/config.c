/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Keys of the configuration, their ranges, and reading them with libinih. */
#include "config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <sluice/uapi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, PATH, NUMBER, OCTAL, BYTES, LEVEL, BOOLEAN };

static const struct key {
	const char *name;
	enum kind kind;
	size_t at, size; /* in struct config */
	uint64_t min, max;
} keys[] = {
#define KEY(name, kind, field, ...)                                      \
	{                                                                \
		name, kind, offsetof(struct config, field),              \
			sizeof(((struct config *)0)->field), __VA_ARGS__ \
	}
	KEY("control.path", PATH, path, 0, 0),
	KEY("control.mode", OCTAL, mode, 0, 0777),
	KEY("control.group", TEXT, group, 0, 0),
	KEY("bpf.pin_dir", PATH, pin_dir, 0, 0),
	KEY("bpf.conn_counts", BOOLEAN, conn_counts, 0, 0),
	KEY("limits.endpoints_per_uid", NUMBER, limits.endpoints_per_uid, 0,
	    4096),
	KEY("limits.conns_per_uid", NUMBER, limits.conns_per_uid, 0, 262144),
	KEY("limits.conns_per_endpoint", NUMBER, limits.conns_per_endpoint, 0,
	    262144),
	KEY("limits.map_bytes_per_uid", BYTES, limits.map_bytes_per_uid, 0,
	    1ull << 50),
	KEY("limits.map_bytes_per_endpoint", BYTES,
	    limits.map_bytes_per_endpoint, 0, 1ull << 50),
	KEY("limits.clients_per_uid", NUMBER, limits.clients_per_uid, 1, 4096),
	KEY("daemon.grace_seconds", NUMBER, grace_seconds, 0, 3600),
	KEY("daemon.sweep_seconds", NUMBER, sweep_seconds, 1, 86400),
	KEY("daemon.log_level", LEVEL, log_level, 0, 0),
	KEY("daemon.unload", BOOLEAN, unload, 0, 0),
};
#define KEYS (sizeof(keys) / sizeof(keys[0]))

void config_init(struct config *config)
{
	*config = (struct config){
		.path = SLUICE_CONTROL_PATH,
		.mode = 0660,
		.pin_dir = "/sys/fs/bpf/sluice",
		.conn_counts = true,
		.limits = {
			.endpoints_per_uid = 256,
			.conns_per_uid = 16384,
			.conns_per_endpoint = 16384,
			.map_bytes_per_uid = 1ull << 30,
			.map_bytes_per_endpoint = 256ull << 20,
			.clients_per_uid = 256,
		},
		.grace_seconds = 10,
		.sweep_seconds = 60,
		.log_level = LOG_LEVEL_INFO,
	};
}

/* Digits of the base and nothing else; `suffix` gets what follows them. */
static bool parse_number(const char *text, int base, uint64_t *number,
			 const char **suffix)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*number = strtoull(text, &end, base);
	*suffix = end;
	return !errno && end != text;
}

static bool parse_bytes(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *suffix, *unit;
	unsigned int shift;

	if (!parse_number(text, 10, bytes, &suffix))
		return false;
	if (!*suffix)
		return true;
	unit = strchr(units, *suffix);
	if (!unit || suffix[1])
		return false;
	shift = 10 * (unsigned int)(unit - units + 1);
	if (*bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

static bool parse_level(const char *text, enum log_level *level)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {
		{ "error", LOG_LEVEL_ERROR },
		{ "warning", LOG_LEVEL_WARNING },
		{ "info", LOG_LEVEL_INFO },
		{ "debug", LOG_LEVEL_DEBUG },
	};

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(text, levels[i].name))
			continue;
		*level = levels[i].level;
		return true;
	}
	return false;
}

static const char *set_text(const struct key *key, char *field,
			    const char *text)
{
	if (key->kind == PATH && text[0] != '/')
		return "must be an absolute path";
	if (strlen(text) >= key->size)
		return "is too long";
	strcpy(field, text);
	return NULL;
}

static const char *set_number(const struct key *key, uint64_t *field,
			      const char *text)
{
	const char *end = "";
	bool good = key->kind == BYTES ?
			    parse_bytes(text, field) :
			    parse_number(text, key->kind == OCTAL ? 8 : 10,
					 field, &end) &&
				    !*end;

	if (!good)
		return key->kind == BYTES ?
			       "must be a number, with K, M, G or T or without" :
		       key->kind == OCTAL ? "must be an octal number" :
					    "must be a number";
	if (*field < key->min || *field > key->max)
		return "is out of range";
	return NULL;
}

/* Returns what is wrong, or NULL. */
static const char *set_key(struct config *config, const struct key *key,
			   const char *text)
{
	void *field = (char *)config + key->at;

	switch (key->kind) {
	case TEXT:
	case PATH:
		return set_text(key, field, text);
	case NUMBER:
	case OCTAL:
	case BYTES:
		return set_number(key, field, text);
	case LEVEL:
		return parse_level(text, field) ?
			       NULL :
			       "must be error, warning, info or debug";
	case BOOLEAN:
		if (strcmp(text, "yes") && strcmp(text, "no"))
			return "must be yes or no";
		*(bool *)field = !strcmp(text, "yes");
		return NULL;
	}
	return NULL;
}

static const struct key *find_key(const char *name)
{
	for (size_t i = 0; i < KEYS; i++) {
		if (!strcmp(keys[i].name, name))
			return &keys[i];
	}
	return NULL;
}

int config_set(struct config *config, const char *name, const char *text,
	       char *error, size_t size)
{
	const struct key *key = find_key(name);
	const char *wrong = key ? set_key(config, key, text) : "is unknown";

	if (!wrong)
		return 0;
	snprintf(error, size, "%s = %s: %s", name, text, wrong);
	return -1;
}

/* Files ------------------------------------------------------------------- */

struct reading {
	struct config *config;
	FILE *stream;
	const char *file;
	unsigned int line; /* that was read last */
	unsigned int set[KEYS]; /* the line that set it, 0: none has */
	char *error;
	size_t size;
	bool failed;
};

__attribute__((format(printf, 2, 3))) static void fail(struct reading *reading,
						       const char *format, ...)
{
	va_list args;
	int n;

	if (reading->failed)
		return; /* the first error is the one to mend */
	reading->failed = true;
	n = snprintf(reading->error, reading->size, "%s:%u: ", reading->file,
		     reading->line);
	if (n < 0 || (size_t)n >= reading->size)
		return;
	va_start(args, format);
	vsnprintf(reading->error + n, reading->size - (size_t)n, format, args);
	va_end(args);
}

/* libinih tells its handler no line, so count them; it cuts long ones in two. */
static char *read_line(char *line, int size, void *arg)
{
	struct reading *reading = arg;
	size_t len;

	if (!fgets(line, size, reading->stream))
		return NULL;
	reading->line++;
	len = strlen(line);
	if (len == (size_t)size - 1 && line[len - 1] != '\n') {
		fail(reading, "line is longer than %d bytes", size - 2);
		return NULL;
	}
	return line;
}

static int take(void *arg, const char *section, const char *name,
		const char *value)
{
	struct reading *reading = arg;
	const struct key *key;
	const char *wrong;
	char full[128];

	snprintf(full, sizeof(full), "%s.%s", section, name);
	key = find_key(full);
	if (!key) {
		size_t len = strlen(section);
		bool known = false;

		for (size_t i = 0; i < KEYS; i++)
			known |= !strncmp(keys[i].name, section, len) &&
				 keys[i].name[len] == '.';
		if (known)
			fail(reading, "unknown key %s in [%s]", name, section);
		else
			fail(reading, "unknown section [%s]", section);
		return 0;
	}
	if (reading->set[key - keys]) {
		fail(reading, "%s is set a second time; line %u did", name,
		     reading->set[key - keys]);
		return 0;
	}
	reading->set[key - keys] = reading->line;
	wrong = set_key(reading->config, key, value);
	if (wrong)
		fail(reading, "%s = %s: %s", name, value, wrong);
	return !wrong;
}

int config_read(struct config *config, const char *file, bool optional,
		char *error, size_t size)
{
	struct reading reading = {
		.config = config,
		.file = file,
		.error = error,
		.size = size,
	};
	int r;

	reading.stream = fopen(file, "re");
	if (!reading.stream) {
		if (optional && errno == ENOENT)
			return 0;
		snprintf(error, size, "%s: %s", file, strerror(errno));
		return -1;
	}
	r = ini_parse_stream(read_line, &reading, take, &reading);
	if (ferror(reading.stream) && !reading.failed) {
		reading.failed = true;
		snprintf(error, size, "%s: %s", file, strerror(errno));
	}
	fclose(reading.stream);
	if (r > 0 && !reading.failed) {
		reading.line = (unsigned int)r;
		fail(&reading, "neither [section], key = value nor comment");
	}
	return reading.failed ? -1 : 0;
}
