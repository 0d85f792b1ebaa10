/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The text of the metrics; metrics.h. Values are those that QUERY and SERVICES
 * answer with, and what the programs count: what sluicectl status shows.
 */
#include "metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "counts.h"
#include "log.h"
#include "service.h"

static void head(FILE *out, const char *name, const char *type,
		 const char *help)
{
	fprintf(out, "# HELP sluice_%s %s\n# TYPE sluice_%s %s\n", name, help,
		name, type);
}

static void single(FILE *out, const char *name, const char *type,
		   const char *help, uint64_t value)
{
	head(out, name, type, help);
	fprintf(out, "sluice_%s %" PRIu64 "\n", name, value);
}

/* Programs ---------------------------------------------------------------- */

static void labelled_counts(FILE *out, const __u64 values[COUNTS],
			    enum count_kind kind, const char *name,
			    const char *label, const char *help)
{
	head(out, name, "counter", help);
	for (size_t i = 0; i < COUNTS; i++) {
		if (counts[i].kind == kind)
			fprintf(out, "sluice_%s{%s=\"%s\"} %" PRIu64 "\n", name,
				label, counts[i].metric,
				(uint64_t)values[counts[i].at]);
	}
}

static void program_counts(FILE *out, const struct server *server)
{
	__u64 values[COUNTS];
	int r = counts_read(server->programs.counters, values);

	if (r) {
		log_client("metrics: counters: %s", strerror(-r));
		return;
	}
	labelled_counts(out, values, COUNT_STEERED, "steered_messages_total",
			"into", "Messages that programs put into rings.");
	labelled_counts(out, values, COUNT_SPILLED, "spilled_messages_total",
			"reason", "Messages left to the sockets' queues.");
	for (size_t i = 0; i < COUNTS; i++) {
		if (counts[i].kind == COUNT_OTHER)
			single(out, counts[i].metric, "counter", counts[i].what,
			       values[counts[i].at]);
	}
}

/* Services ---------------------------------------------------------------- */

#define AT(field) offsetof(struct sluice_control_service, field)

/* One line of a service for each; those of one metric follow each other. */
static const struct service_metric {
	const char *name, *type, *help;
	const char *labels; /* what follows the service's name */
	size_t at, size; /* in the record */
} service_metrics[] = {
#define SERVICE(name, type, help, labels, field)                             \
	{                                                                    \
		"service_" name, type, help, labels, AT(field),              \
			sizeof(((struct sluice_control_service *)0)->field), \
	}
#define CONNS(path)                                                        \
	SERVICE("connections", "gauge", "Connections by how they travel.", \
		",path=\"" #path "\"", path)
#define BOTH(name, help, path, field)                                        \
	SERVICE(name, "counter", help, ",path=\"" path "\",to=\"backends\"", \
		field[0]),                                                   \
		SERVICE(name, "counter", help,                               \
			",path=\"" path "\",to=\"clients\"", field[1])
#define BYTES "Payload carried between clients and backends."
#define MESSAGES "Messages, or pieces of streams, carried likewise."
	SERVICE("backends", "gauge", "Backends that it has.", "", backends),
	SERVICE("backends_up", "gauge", "Backends that can take connections.",
		"", backends_up),
	SERVICE("accepted_total", "counter", "Connections accepted.", "",
		accepted),
	SERVICE("refused_total", "counter", "Connections refused.", "",
		refused),
	CONNS(relayed),
	CONNS(redirected),
	CONNS(handed),
	CONNS(waiting),
	BOTH("bytes_total", BYTES, "sluiced", bytes),
	BOTH("bytes_total", BYTES, "kernel", kernel_bytes),
	BOTH("messages_total", MESSAGES, "sluiced", messages),
	BOTH("messages_total", MESSAGES, "kernel", kernel_messages),
};
#define SERVICE_METRICS (sizeof(service_metrics) / sizeof(service_metrics[0]))

static uint64_t value_of(const struct service_metric *metric,
			 const struct sluice_control_service *record)
{
	const char *at = (const char *)record + metric->at;
	uint64_t wide;
	uint32_t narrow;

	if (metric->size == sizeof(wide)) {
		memcpy(&wide, at, sizeof(wide));
		return wide;
	}
	memcpy(&narrow, at, sizeof(narrow));
	return narrow;
}

static struct sluice_control_service *
service_records(const struct server *server, size_t *count)
{
	struct sluice_control_service *records;
	struct service *service;

	*count = 0;
	for (service = server->services->first; service;
	     service = service->next)
		*count += !service->removed;
	records = calloc(*count + 1, sizeof(*records));
	if (!records)
		return NULL;
	*count = 0;
	for (service = server->services->first; service;
	     service = service->next) {
		if (!service->removed)
			service_record(service, &records[(*count)++]);
	}
	return records;
}

/* The names need no escapes: see is_name() of config.c. */
static void service_values(FILE *out, const struct server *server)
{
	size_t count;
	struct sluice_control_service *records =
		service_records(server, &count);
	const char *last = "";

	for (size_t i = 0; records && count && i < SERVICE_METRICS; i++) {
		const struct service_metric *metric = &service_metrics[i];

		if (strcmp(metric->name, last))
			head(out, metric->name, metric->type, metric->help);
		last = metric->name;
		for (size_t at = 0; at < count; at++)
			fprintf(out,
				"sluice_%s{service=\"%s\"%s} %" PRIu64 "\n",
				metric->name, (const char *)records[at].name,
				metric->labels, value_of(metric, &records[at]));
	}
	free(records);
}

/* All ---------------------------------------------------------------------- */

char *metrics_text(struct server *server, size_t *size)
{
	const struct user *total = &server->tables.total;
	char *text = NULL;
	FILE *out = open_memstream(&text, size);
	bool failed;

	if (!out)
		return NULL;
	head(out, "build_info", "gauge", "1, with the version of sluiced.");
	fprintf(out, "sluice_build_info{version=\"%s\"} 1\n", SLUICE_VERSION);
	single(out, "draining", "gauge", "1 while sluiced takes nothing new.",
	       server->draining);
	single(out, "clients", "gauge", "Connections to the control socket.",
	       total->clients);
	single(out, "endpoints", "gauge", "Endpoints.", total->endpoints);
	single(out, "orphans", "gauge",
	       "Endpoints of an earlier sluiced that wait to be claimed.",
	       server->tables.orphans);
	single(out, "connections", "gauge", "Attached connections.",
	       total->conns);
	single(out, "map_bytes", "gauge", "Kernel memory of endpoints' maps.",
	       total->map_bytes);
	program_counts(out, server);
	service_values(out, server);
	failed = ferror(out);
	if (!fclose(out) && !failed)
		return text;
	free(text);
	return NULL;
}

/* The file ---------------------------------------------------------------- */

/* 0 or -errno. */
static int write_whole(const char *path, const char *text, size_t size)
{
	int fd, r = 0;

	if (unlink(path) && errno != ENOENT)
		return -errno;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		  0600);
	if (fd < 0)
		return -errno;
	while (size && !r) {
		ssize_t n = write(fd, text, size);

		if (n < 0) {
			r = errno == EINTR ? 0 : -errno;
			continue;
		}
		text += n;
		size -= (size_t)n;
	}
	if (!r && fchmod(fd, 0644))
		r = -errno;
	if (close(fd) && !r)
		r = -errno;
	return r;
}

/* A reader sees the old file or the new one, and whole. */
static int replace(const char *path, const char *text, size_t size)
{
	char next[METRICS_PATH_SIZE + 8];
	int r;

	snprintf(next, sizeof(next), "%s.new", path);
	r = write_whole(next, text, size);
	if (!r && rename(next, path))
		r = -errno;
	if (r)
		unlink(next);
	return r;
}

static void removed(const char *path)
{
	if (*path && unlink(path) && errno != ENOENT)
		log_warning("%s: cannot remove: %s", path, strerror(errno));
}

void metrics_write(struct server *server, int64_t now)
{
	struct metrics *metrics = &server->metrics;
	const char *path = server->config.metrics_file;
	size_t size;
	char *text;
	int r;

	if (strcmp(metrics->written, path)) {
		removed(metrics->written);
		metrics->complained = false;
	}
	strcpy(metrics->written, path);
	metrics->write_at = 0;
	if (!*path)
		return;
	metrics->write_at =
		now + (int64_t)server->config.metrics_seconds * 1000000000;
	text = metrics_text(server, &size);
	r = text ? replace(path, text, size) : -ENOMEM;
	free(text);
	if (r && !metrics->complained)
		log_warning("%s: cannot write metrics: %s", path, strerror(-r));
	metrics->complained = r;
}

void metrics_remove(struct server *server)
{
	removed(server->metrics.written);
	server->metrics.written[0] = 0;
}
