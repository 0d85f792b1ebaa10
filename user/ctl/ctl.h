/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl: what its parts share. One thread, one command, one answer on
 * standard output; complaints go to standard error.
 *
 *	main.c      command line
 *	control.c   talks to sluiced
 *	pins.c      reads the pinned maps
 *	status.c, top.c, trace.c, doctor.c, drain.c, unload.c,
 *	uring.c, probe-print.c   the commands
 *	probe*.c    what the kernel can do; bpf-insn.h
 */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <stdbool.h>

#include <jansson.h>

#include <sluice/uapi.h>

/* Exit codes. */
#define CTL_FAILED 1
#define CTL_USAGE 2
#define CTL_NO_SLUICED 3
#define CTL_PROBLEMS 4 /* doctor found some */

struct ctl_options {
	bool json;
	bool conns;
	bool off;
	bool force;
	double interval; /* seconds */
	long rounds; /* 0: without end */
	const char *sort;
	double timeout; /* seconds, < 0: for ever */
	const char *control;
	const char *pins;
	int pid; /* 0: none; likewise, less than 0: */
	int ring_fd;
	__u64 match, mask; /* of user_data */
	__u64 endpoint; /* 0: all */
	const char *lane;
	long count; /* 0: without end; likewise: */
	double seconds;
	char **operands; /* ends with NULL */
};

struct ctl_command {
	const char *name;
	const char *summary;
	const char *help; /* what --help adds; starts with the usage */
	const char *letters; /* of the options it takes, see main.c */
	bool operands; /* takes some */
	int (*run)(const struct ctl_options *options); /* exit code */
};

extern const struct ctl_command ctl_probe, ctl_status, ctl_doctor, ctl_top,
	ctl_trace, ctl_drain, ctl_unload, ctl_uring;

/* Complains and returns CTL_USAGE. */
int ctl_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Complains and returns CTL_FAILED. */
int ctl_failed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints and frees the object; `code`, or CTL_FAILED if that did not work. */
int ctl_json(json_t *json, int code);

void ctl_sleep(double seconds);

/* The control socket ----------------------------------------------------- */

/* An fd; or -CTL_NO_SLUICED or -CTL_FAILED. It complains unless `quiet`. */
int control_open(const struct ctl_options *options, bool quiet);

/*
 * Sends a request (type, flags, endpoint and body filled in) and waits for its
 * reply, which takes its place; up to *size bytes of what follows it go to data
 * (which may be NULL), *size says how many. 0; or CTL_FAILED after a complaint.
 */
int control_call(int fd, struct sluice_control *call, void *data, size_t *size);

/* The same, but a reply with an error is not complained of: call->error. */
int control_ask(int fd, struct sluice_control *call, void *data, size_t *size);

/*
 * Up to max records of record_size bytes beyond `after` (see the request of that
 * type), of all uids if it may. 0 or CTL_FAILED.
 */
int control_records(int fd, __u16 type, __u64 after, void *into,
		    size_t record_size, unsigned int max, unsigned int *count);

/* Totals: of all uids for root, else of the caller's. 0 or CTL_FAILED. */
int control_query(int fd, struct sluice_control_use *use);

/*
 * All endpoints (root) or those of the caller's uid. 0 or CTL_FAILED; free
 * *records.
 */
int control_list(int fd, struct sluice_control_record **records,
		 unsigned int *count);

/* All services, for root; none for others. As control_list(). */
int control_services(int fd, struct sluice_control_service **services,
		     unsigned int *count);

/* The pinned maps -------------------------------------------------------- */

#define PINS_DEFAULT "/sys/fs/bpf/sluice"

/* An fd or -errno. */
int pins_map(const char *dir, const char *name);

/* How many connections have an entry in `conns`, or -errno. */
int pins_conns(const char *dir);

#endif
