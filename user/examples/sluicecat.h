/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the parts of sluicecat share: one struct cat, made by main(), and the
 * three files around it. One thread; everything here is called from it.
 */
#ifndef SLUICECAT_H
#define SLUICECAT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <sluice/sluice.h>

/* Exit codes. */
#define CAT_OK 0
#define CAT_FAILED 1
#define CAT_USAGE 2

struct cat {
	/* what the command line asks for */
	const char *name;
	const char *extract; /* -x: directory to extract into, or NULL */
	char **operands; /* NULL-terminated; travel as a tar stream */
	const char *json; /* file for the summary, or NULL */
	double wait; /* seconds; < 0: not given */
	size_t buffer_size;
	size_t plain_size; /* largest message to a plain peer */
	bool listen;
	bool reverse;
	bool plain;
	bool quiet;
	bool no_ring;

	/* the transfer */
	struct sluice_conn *conn;
	bool sends; /* this side is the sender */
	pid_t tar; /* 0: none is running */
	uint64_t bytes; /* sent, or written out */
	uint64_t messages;
	int64_t start_ns;
	bool confirmed; /* sender: the receiver said that it wrote it all... */
	uint64_t confirmed_bytes; /* ...and how much */
	uint64_t ring_reads; /* sender: of the input, by io_uring... */
	uint64_t fixed_reads; /* ...and of these, into registered buffers */
	char peer_text[160]; /* sender: why the receiver failed, in its words */
	char failure[160]; /* receiver: the same, for the sender */

	/* sluicecat-report.c's own */
	int64_t shown_ns;
	uint64_t shown_bytes;
	bool show;
	bool line_open;
};

/* sluicecat-move.c: returns CAT_OK or CAT_FAILED, having complained. */
int cat_send(struct cat *cat);
int cat_receive(struct cat *cat);
/* A buffer of the pool: 0, -EAGAIN (wait: only if there cannot be one), -errno. */
int cat_loan(struct cat *cat, struct sluice_buf **buf, bool wait);

/*
 * sluicecat-ring.c: reads a regular file. NULL: it is none, or there is no io_uring.
 * Next: 1, and the caller has *buf with *len bytes; 0: the end, or an error of a read,
 * which reader_error() says; -errno: of the connection or the ring. Free before the
 * connection is closed.
 */
struct reader;
struct reader *reader_new(struct cat *cat, int fd);
int reader_next(struct reader *reader, struct sluice_buf **buf, uint32_t *len);
int reader_error(const struct reader *reader);
void reader_free(struct reader *reader);

/*
 * sluicecat-tar.c. Start returns the pipe to read from or to write to, or -1,
 * having complained. Finish waits for tar: CAT_OK or CAT_FAILED. Stop kills a
 * tar that is still running.
 */
int tar_start_create(struct cat *cat);
int tar_start_extract(struct cat *cat);
int tar_finish(struct cat *cat);
void tar_stop(struct cat *cat);

/* sluicecat-report.c */
int64_t clock_ns(void);
/* Prints "sluicecat: ..." to stderr, keeps the text; returns CAT_FAILED. */
int complain(struct cat *cat, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Redraws the progress line, at most four times a second. */
void progress(struct cat *cat);
/* The last line, and the JSON file: CAT_OK or CAT_FAILED. */
int summary(struct cat *cat);

#endif
