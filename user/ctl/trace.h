/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The parts of sluicectl trace: trace.c follows messages, trace-files.c finds the
 * files that have the probes, trace-print.c writes lines.
 */
#ifndef CTL_TRACE_H
#define CTL_TRACE_H

#include <stdbool.h>

#include <trace.h>

/* A file with the probes. */
struct trace_file {
	int fd; /* open while it is in the list */
	char *name;
	__u64 dev, inode;
};

struct trace_files {
	struct trace_file *all;
	unsigned int count;
};

/*
 * The files of these names, or, if there are none, those that processes run and the
 * library where it is installed. 0; or CTL_FAILED after a complaint, also if there
 * is not one. End with trace_files_free() in any case.
 */
int trace_files_find(char *const *names, struct trace_files *files);
void trace_files_free(struct trace_files *files);

/* The lane of that name; -1: there is none. */
int trace_lane(const char *name);

/* Which file is traced, on standard error. */
void trace_print_file(const struct trace_file *file);
void trace_print_head(void);
/* `since` is the time that counts as 0. */
void trace_print(const struct trace_event *event, __u64 since, bool json);

#endif
