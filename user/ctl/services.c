/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The services of sluiced: asking for them and showing them.
 */
#include "status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The next records, past the first `skip`, into space for SLUICE_SERVICES_MAX. */
static int some_services(int fd, unsigned int skip,
			 struct sluice_control_service *into,
			 unsigned int *count)
{
	int ret = control_records(fd, SLUICE_CONTROL_SERVICES, skip, into,
				  sizeof(*into), SLUICE_SERVICES_MAX, count);

	for (unsigned int i = 0; i < *count && !ret; i++) {
		into[i].name[sizeof(into[i].name) - 1] = 0;
		into[i].listen[sizeof(into[i].listen) - 1] = 0;
	}
	return ret;
}

int control_services(int fd, struct sluice_control_service **services,
		     unsigned int *count)
{
	struct sluice_control_service *all = NULL, *more;
	unsigned int got = SLUICE_SERVICES_MAX;

	*services = NULL;
	*count = 0;
	while (!geteuid() && got == SLUICE_SERVICES_MAX) {
		more = realloc(all,
			       (*count + SLUICE_SERVICES_MAX) * sizeof(*all));
		if (!more || some_services(fd, *count, more + *count, &got)) {
			free(more ? more : all);
			return more ? CTL_FAILED : ctl_failed("out of memory");
		}
		all = more;
		*count += got;
	}
	*services = all;
	return 0;
}

static const char *type_text(__u32 type)
{
	return type == SOCK_STREAM ? "stream" :
	       type == SOCK_DGRAM  ? "dgram" :
				     "seqpacket";
}

/* How new connections between plain programs travel, and why. */
static const char *path_text(const struct sluice_control_service *s)
{
	if (s->flags & SLUICE_SERVICE_F_REDIRECTS)
		return "redirect";
	if (s->type == SOCK_DGRAM)
		return "relay: the kernel would split datagrams";
	if (s->type == SOCK_SEQPACKET)
		return "relay: sockmap takes no seqpacket";
	if (s->flags & SLUICE_SERVICE_F_HALF_CLOSE)
		return "relay: a side may half-close";
	return "relay: this kernel does not redirect";
}

static json_t *both_json(const __u64 counts[2])
{
	return json_pack("{s:I, s:I}", "to_backends", (json_int_t)counts[0],
			 "to_clients", (json_int_t)counts[1]);
}

static json_t *service_json(const struct sluice_control_service *s)
{
	return json_pack(
		"{s:s, s:s, s:s, s:b, s:b, s:s, s:I, s:I, s:I, s:I, "
		"s:{s:I, s:I, s:I, s:I}, s:{s:o, s:o}, s:{s:o, s:o}}",
		"name", (const char *)s->name, "listen",
		(const char *)s->listen, "type", type_text(s->type),
		"listening", s->flags & SLUICE_SERVICE_F_LISTENING ? 1 : 0,
		"intercepts", s->flags & SLUICE_SERVICE_F_INTERCEPTS ? 1 : 0,
		"path", path_text(s), "backends", (json_int_t)s->backends,
		"backends_up", (json_int_t)s->backends_up, "accepted",
		(json_int_t)s->accepted, "refused", (json_int_t)s->refused,
		"conns", "relayed", (json_int_t)s->relayed, "redirected",
		(json_int_t)s->redirected, "handed", (json_int_t)s->handed,
		"waiting", (json_int_t)s->waiting, "sluiced", "bytes",
		both_json(s->bytes), "messages", both_json(s->messages),
		"kernel", "bytes", both_json(s->kernel_bytes), "messages",
		both_json(s->kernel_messages));
}

json_t *services_json(const struct snapshot *snapshot)
{
	json_t *json = json_array();

	for (unsigned int i = 0; i < snapshot->service_count; i++)
		json_array_append_new(json,
				      service_json(&snapshot->services[i]));
	return json;
}

void services_print(const struct snapshot *snapshot)
{
	const struct sluice_control_service *s = snapshot->services;

	if (!snapshot->service_count)
		return;
	printf("\n%-15s %-9s %8s %8s %8s %8s %10s %14s  %s\n", "service",
	       "type", "backends", "relayed", "redirect", "handed", "accepted",
	       "sluiced bytes", "plain to plain");
	for (unsigned int i = 0; i < snapshot->service_count; i++, s++)
		printf("%-15s %-9s %5u/%-2u %8u %8u %8u %10llu %14llu  %s%s\n",
		       (const char *)s->name, type_text(s->type),
		       s->backends_up, s->backends, s->relayed, s->redirected,
		       s->handed, (unsigned long long)s->accepted,
		       (unsigned long long)(s->bytes[0] + s->bytes[1]),
		       path_text(s),
		       s->flags & SLUICE_SERVICE_F_LISTENING ? "" :
							       " (refuses)");
}
