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
#include <sys/socket.h>

enum kind { TEXT, PATH, PATHS, NUMBER, OCTAL, BYTES, CHOICE, BOOLEAN };

/* The value of a CHOICE is an int, or an enum as large. */
static const struct choice {
	const char *name;
	int value;
} choices_of[][4] = {
#define LEVELS 0
	{ { "error", LOG_LEVEL_ERROR },
	  { "warning", LOG_LEVEL_WARNING },
	  { "info", LOG_LEVEL_INFO },
	  { "debug", LOG_LEVEL_DEBUG } },
#define TYPES 1
	{ { "stream", SOCK_STREAM },
	  { "seqpacket", SOCK_SEQPACKET },
	  { "dgram", SOCK_DGRAM } },
#define BALANCES 2
	{ { "round-robin", BALANCE_ROUND_ROBIN },
	  { "least-connections", BALANCE_LEAST },
	  { "hash-uid", BALANCE_HASH_UID } },
#define ENGINES 3
	{ { "auto", SWITCH_ENGINE_AUTO },
	  { "kernel", SWITCH_ENGINE_KERNEL },
	  { "user", SWITCH_ENGINE_USER } },
};
static const char *const choices_text[] = {
	"must be error, warning, info or debug",
	"must be stream, seqpacket or dgram",
	"must be round-robin, least-connections or hash-uid",
	"must be auto, kernel or user",
};

static const struct key {
	const char *name;
	enum kind kind;
	size_t at, size; /* in struct config, or service_config */
	uint64_t min, max; /* CHOICE: min says which */
} keys[] = {
#define KEY_OF(type, name, kind, field, ...)                                   \
	{                                                                      \
		name, kind, offsetof(type, field), sizeof(((type *)0)->field), \
			__VA_ARGS__                                            \
	}
#define KEY(...) KEY_OF(struct config, __VA_ARGS__)
#define SERVICE_KEY(...) KEY_OF(struct service_config, __VA_ARGS__)
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
	KEY("limits.urings_per_uid", NUMBER, limits.urings_per_uid, 0, 256),
	KEY("daemon.grace_seconds", NUMBER, grace_seconds, 0, 3600),
	KEY("daemon.sweep_seconds", NUMBER, sweep_seconds, 1, 86400),
	KEY("daemon.log_level", CHOICE, log_level, LEVELS, 0),
	KEY("daemon.switch", CHOICE, switch_engine, ENGINES, 0),
	KEY("daemon.unload", BOOLEAN, unload, 0, 0),
	KEY("metrics.socket", PATH, metrics_socket, 0, 0),
	KEY("metrics.mode", OCTAL, metrics_mode, 0, 0777),
	KEY("metrics.group", TEXT, metrics_group, 0, 0),
	KEY("metrics.file", PATH, metrics_file, 0, 0),
	KEY("metrics.interval_seconds", NUMBER, metrics_seconds, 1, 3600),
	SERVICE_KEY("service.listen", PATH, listen, 0, 0),
	SERVICE_KEY("service.type", CHOICE, type, TYPES, 0),
	SERVICE_KEY("service.backends", PATHS, backends, 0, 0),
	SERVICE_KEY("service.balance", CHOICE, balance, BALANCES, 0),
	SERVICE_KEY("service.mode", OCTAL, mode, 0, 0777),
	SERVICE_KEY("service.owner", TEXT, owner, 0, 0),
	SERVICE_KEY("service.group", TEXT, group, 0, 0),
	SERVICE_KEY("service.half_close", BOOLEAN, half_close, 0, 0),
	SERVICE_KEY("service.landing", BOOLEAN, landing, 0, 0),
	SERVICE_KEY("service.limit_per_uid", NUMBER, limit_per_uid, 0, 262144),
	SERVICE_KEY("service.bind_user", TEXT, bind_user, 0, 0),
	SERVICE_KEY("service.bind_group", TEXT, bind_group, 0, 0),
	SERVICE_KEY("service.intercept", PATH, intercept, 0, 0),
	SERVICE_KEY("service.cgroups", PATHS, cgroups, 0, 0),
};
#define SERVICE "service"
#define OF_SERVICE(key) (!strncmp((key)->name, SERVICE ".", sizeof(SERVICE)))
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
			.urings_per_uid = 64,
		},
		.grace_seconds = 10,
		.sweep_seconds = 60,
		.log_level = LOG_LEVEL_INFO,
		.metrics_mode = 0660,
		.metrics_seconds = 15,
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

static bool parse_choice(const struct key *key, const char *text, int *value)
{
	const struct choice *choices = choices_of[key->min];

	for (size_t i = 0; i < 4 && choices[i].name; i++) {
		if (strcmp(text, choices[i].name))
			continue;
		*value = choices[i].value;
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

/* Adds the words of text. */
static const char *add_paths(struct paths *paths, const char *text)
{
	static const char space[] = " \t,";
	size_t len;

	while (*(text += strspn(text, space))) {
		len = strcspn(text, space);
		if (*text != '/')
			return "must be absolute paths";
		if (len >= sizeof(paths->path[0]))
			return "has a path that is too long";
		if (paths->count == PATHS_MAX)
			return "has too many paths";
		memcpy(paths->path[paths->count], text, len);
		paths->path[paths->count++][len] = 0;
		text += len;
	}
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
static const char *set_key(void *base, const struct key *key, const char *text)
{
	void *field = (char *)base + key->at;

	switch (key->kind) {
	case TEXT:
	case PATH:
		return set_text(key, field, text);
	case NUMBER:
	case OCTAL:
	case BYTES:
		return set_number(key, field, text);
	case PATHS:
		return add_paths(field, text);
	case CHOICE:
		return parse_choice(key, text, field) ? NULL :
							choices_text[key->min];
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
	const char *wrong = !key || OF_SERVICE(key) ?
				    "is unknown" :
				    set_key(config, key, text);

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
	/* The lines that set keys, 0: none has; of the last service, its. */
	unsigned int set[KEYS];
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

/* Services ---------------------------------------------------------------- */

static bool is_name(const char *name)
{
	return *name && strlen(name) < SLUICE_SERVICE_NAME_SIZE &&
	       !name[strspn(name, "abcdefghijklmnopqrstuvwxyz"
				  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				  "0123456789_.-")];
}

/* The last one, or a new one; its name may have been used only by the last. */
static struct service_config *service_of(struct reading *reading,
					 const char *name)
{
	struct service_config **at = &reading->config->services, *last = NULL;

	if (!is_name(name)) {
		fail(reading,
		     "[service %s]: the name must have 1 to %d "
		     "letters, digits, '.', '_' or '-'",
		     name, SLUICE_SERVICE_NAME_SIZE - 1);
		return NULL;
	}
	for (; *at; at = &(*at)->next) {
		last = *at;
		if (!strcmp(last->name, name) && last->next) {
			fail(reading, "[service %s] is there already", name);
			return NULL;
		}
	}
	if (last && !strcmp(last->name, name))
		return last;
	*at = calloc(1, sizeof(**at));
	if (!*at) {
		fail(reading, "%s", strerror(ENOMEM));
		return NULL;
	}
	strcpy((*at)->name, name);
	(*at)->type = SOCK_STREAM;
	(*at)->mode = 0660;
	(*at)->half_close = true;
	for (size_t i = 0; i < KEYS; i++) {
		if (OF_SERVICE(&keys[i]))
			reading->set[i] = 0;
	}
	return *at;
}

static void check_service(struct reading *reading,
			  const struct service_config *service)
{
	const struct service_config *other = reading->config->services;

	if (!*service->listen)
		fail(reading, "[service %s] has no listen = PATH",
		     service->name);
	for (; other != service; other = other->next) {
		if (!strcmp(other->listen, service->listen))
			fail(reading,
			     "[service %s] and [service %s] listen at "
			     "the same path",
			     other->name, service->name);
		if (*service->intercept &&
		    !strcmp(other->intercept, service->intercept))
			fail(reading,
			     "[service %s] and [service %s] intercept "
			     "the same path",
			     other->name, service->name);
	}
	for (unsigned int i = 0; i < service->backends.count; i++) {
		if (!strcmp(service->backends.path[i], service->listen))
			fail(reading, "[service %s] is its own backend",
			     service->name);
	}
	if (service->landing && service->type != SOCK_STREAM)
		fail(reading, "[service %s]: landing is for type = stream",
		     service->name);
	if (!*service->intercept == !!service->cgroups.count)
		fail(reading, "[service %s]: intercept and cgroups go together",
		     service->name);
}

static void check_services(struct reading *reading)
{
	for (struct service_config *service = reading->config->services;
	     service; service = service->next)
		check_service(reading, service);
}

void config_free(struct config *config)
{
	while (config->services) {
		struct service_config *service = config->services;

		config->services = service->next;
		free(service);
	}
}

static void *fail_section(struct reading *reading, const char *section)
{
	fail(reading, "unknown section [%s]", section);
	return NULL;
}

/* What the section's keys are in; NULL: it is unknown. *family is "service" or it. */
static void *find_section(struct reading *reading, const char *section,
			  const char **family)
{
	size_t len = strlen(section);

	*family = section;
	if (!strncmp(section, SERVICE " ", sizeof(SERVICE))) {
		*family = SERVICE;
		return service_of(reading, section + sizeof(SERVICE));
	}
	for (size_t i = 0; i < KEYS; i++) {
		if (!OF_SERVICE(&keys[i]) &&
		    !strncmp(keys[i].name, section, len) &&
		    keys[i].name[len] == '.')
			return reading->config;
	}
	return fail_section(reading, section);
}

static int take(void *arg, const char *section, const char *name,
		const char *value)
{
	struct reading *reading = arg;
	const struct key *key;
	const char *wrong, *family;
	char full[128];
	void *base = find_section(reading, section, &family);

	if (!base)
		return 0;
	snprintf(full, sizeof(full), "%s.%s", family, name);
	key = find_key(full);
	if (!key) {
		fail(reading, "unknown key %s in [%s]", name, section);
		return 0;
	}
	if (reading->set[key - keys] && key->kind != PATHS) {
		fail(reading, "%s is set a second time; line %u did", name,
		     reading->set[key - keys]);
		return 0;
	}
	reading->set[key - keys] = reading->line;
	wrong = set_key(base, key, value);
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
	if (!reading.failed)
		check_services(&reading);
	return reading.failed ? -1 : 0;
}
