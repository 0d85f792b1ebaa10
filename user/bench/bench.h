/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluice-bench: types that its parts share.
 *
 *	main.c      options.c -> plan.c -> table.c, json.c, plot.c
 *	plan.c      which repetitions, in which order; discards; medians
 *	runner.c    one repetition: two processes, probe, watchdog
 *	loop.h      what the two processes do with messages, for every system
 *	fanin.h     the same for many senders and one receiver
 *	calls.c     counts system calls
 *	sluiced.c   the daemon that steered systems need
 *	raw.c, memcpy.c, fd.c, lanes.c, steered.c, epoll.c, middle.c, file.c,
 *	file-pool.c   the systems
 *
 * A *case* is what one row of the result says: system, pattern, mode, size,
 * touch, senders. A *repetition* runs one case once, in two new processes: side 0 asks or
 * sends, side 1 answers or receives.
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "clock.h"
#include "histogram.h"

#define BENCH_SIZE_MIN 32
#define BENCH_SIZE_MAX (16ul << 20)
#define BENCH_RING_SLOTS 256 /* as libsluice's default */
#define BENCH_LINE 64

/*
 * Once around a polling loop. Polling without a pause is slower: it takes the
 * line away from the writer again and again. Two are best on the machine where
 * this was tried: 0.19 us for half a round trip, with none 0.29, one 0.21, eight
 * 0.25.
 */
static inline void bench_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" : : : "memory");
#endif
}

/* Exit codes. */
#define BENCH_FAILED 1
#define BENCH_USAGE 2

enum bench_pattern {
	PATTERN_PINGPONG,
	PATTERN_STREAM,
	PATTERN_FANIN,
	PATTERN_FILE,
	PATTERNS
};
/* Of a system; pingpong and stream, if it does not say. */
#define BENCH_HAS(pattern) (1u << (pattern))
#define BENCH_HAS_TWO (BENCH_HAS(PATTERN_PINGPONG) | BENCH_HAS(PATTERN_STREAM))
enum bench_mode { MODE_SPIN, MODE_BLOCK, MODES };
enum bench_touch { TOUCH_FIRST, TOUCH_ALL, TOUCHES };

extern const char *const bench_patterns[PATTERNS];
extern const char *const bench_modes[MODES];
extern const char *const bench_touches[TOUCHES];

struct bench_system;

struct bench_case {
	const struct bench_system *system;
	enum bench_pattern pattern;
	enum bench_mode mode;
	enum bench_touch touch;
	size_t size;
	size_t touched; /* bytes that the sender writes and the receiver reads */
	unsigned int senders; /* fan-in: connections; else 0 */
	unsigned int burst; /* fan-in: messages that a sender sends at once */
	bool count_calls; /* a repetition for that, and nothing else */
	uint64_t warm_ticks;
	uint64_t warm_messages; /* of a stream, at least */
	uint64_t ticks; /* of measuring */
};

/* What the parent makes and both sides inherit. Unused fds are -1. */
struct bench_channel {
	int in[2]; /* by side; may equal out */
	int out[2];
	int (*pairs)[2]; /* fan-in: sockets, by connection and side */
	unsigned int pair_count;
	void *memory;
	size_t memory_size;
};

/* What one side found, while it measured. */
struct bench_result {
	uint64_t messages;
	uint64_t ticks;
	uint64_t cpu_ns;
	uint64_t middle_ns; /* CPU time of who is between, by who counts */
	uint64_t switches; /* context switches */
	uint64_t calls; /* system calls, if they were counted */
	uint64_t idle_ticks; /* spinning in vain: systems with `idle` */
	uint64_t spilled; /* steered systems: messages that were not */
	uint64_t frames; /* socket messages of the library, both ways, in all */
	uint64_t all_messages; /* with those of the warm-up */
	uint64_t messages_per_time; /* that one time in the histogram is for */
};

#define BENCH_TEXT 200

/* Shared by parent and sides, zero before each repetition. */
struct bench_control {
	struct {
		_Alignas(BENCH_LINE) uint32_t word;
	} probe[2], arrived[2];
	_Alignas(BENCH_LINE) struct bench_result result[2];
	double probe_ns[2]; /* before and after */
	char error[2][BENCH_TEXT];
	struct histogram histogram; /* of times, by side 0 */
	struct histogram probe_histogram;
};

/* One of the two processes. */
struct bench_side {
	const struct bench_case *c;
	unsigned int index;
	bool block;
	size_t size;
	size_t touched;
	struct bench_channel *channel;
	struct bench_control *control;
	struct bench_result *result;
	void *state; /* the system's */
};

#define BENCH_UNSUPPORTED 1

struct bench_system {
	const char *name;
	const char *what; /* one line for --list */
	bool solo; /* side 0 does all, in one process */
	bool frames; /* counts them in its result */
	bool idle; /* counts idle_ticks */
	bool sluiced; /* needs it */
	bool middle; /* somebody is between the sides */
	unsigned int patterns; /* BENCH_HAS() */
	/*
	 * In the parent: fills the channel, which the runner frees. 0; or
	 * BENCH_UNSUPPORTED or -errno, both with the reason in words.
	 */
	int (*prepare)(const struct bench_case *c,
		       struct bench_channel *channel, char reason[BENCH_TEXT]);
	/* In each side: 0, or what side_fail() returns. */
	int (*open)(struct bench_side *side);
	int (*run)(struct bench_side *side);
	int (*close)(struct bench_side *side);
};

extern const struct bench_system *const bench_systems[];
extern const unsigned int bench_system_count;

static inline bool bench_has(const struct bench_system *system,
			     enum bench_pattern pattern)
{
	return (system->patterns ? system->patterns : BENCH_HAS_TWO) &
	       BENCH_HAS(pattern);
}

/* Leaves the error where the parent finds it; returns -1. */
int side_fail(struct bench_side *side, const char *format, ...)
	__attribute__((format(printf, 2, 3), cold));

/* Options ----------------------------------------------------------------- */

#define BENCH_LIST_MAX 64
#define BENCH_BURST_MAX 64

struct bench_options {
	const struct bench_system *systems[BENCH_LIST_MAX];
	unsigned int system_count;
	size_t sizes[BENCH_LIST_MAX];
	unsigned int size_count;
	unsigned int senders[BENCH_LIST_MAX];
	unsigned int senders_count;
	unsigned int burst;
	bool patterns[PATTERNS];
	bool modes[MODES];
	enum bench_touch touch;
	unsigned int cpus[2];
	double seconds;
	unsigned int runs;
	const char *json;
	const char *plot;
};

/* Returns -1 to go on, or the exit code after it printed what there is to say. */
int options_parse(struct bench_options *options, int argc, char **argv);

/* "32 B", "4 KiB". Static memory, a new one for each of the last four calls. */
const char *size_text(size_t size);

/* One repetition ---------------------------------------------------------- */

struct bench_sample {
	double probe_ns[2];
	double p50_ns, p99_ns, p999_ns; /* pingpong only */
	double messages_per_s;
	double cpu_ns;
	double side_cpu_ns[2]; /* sender, receiver; not pingpong */
	double side_busy_ns[2]; /* without spinning in vain */
	double switches;
	double frames;
	double spilled;
	double calls;
	double side_calls[2];
	double cpu_share; /* of its CPU that a process had; the lower one */
};

/* A pair of sockets that take a message of the size. */
int seqpacket_prepare(const struct bench_case *c, struct bench_channel *channel,
		      char reason[BENCH_TEXT]);

/* A pair of stream sockets with room for some messages. */
int stream_prepare(const struct bench_case *c, struct bench_channel *channel,
		   char reason[BENCH_TEXT]);

/* fd.c: for systems whose sides have an fd each, of a stream. */
int fd_open(struct bench_side *side);
int stream_run(struct bench_side *side);
int fd_close(struct bench_side *side);

/* System calls can be counted here; the reason if not. */
bool calls_possible(char reason[BENCH_TEXT]);
/* In a side: starts to count its own. 0 or -errno. */
int calls_open(void);
extern int calls_fd; /* of this side's counter, or -1 */

/*
 * The sluiced that steered systems use: one that runs, else a private one, which
 * only root can start. 0; or -1 with the reason why there is none.
 */
int sluiced_need(char reason[BENCH_TEXT]);
void sluiced_end(void);

/*
 * 0, or BENCH_UNSUPPORTED, or -1 when the repetition failed; both with the
 * reason. Nothing of it is left running.
 */
int runner_run(const struct bench_case *c, const unsigned int cpus[2],
	       struct bench_sample *sample, char reason[BENCH_TEXT]);

/* The whole run ----------------------------------------------------------- */

struct bench_row {
	struct bench_case c;
	struct bench_sample *samples;
	unsigned int sample_count;
	unsigned int kept;
	unsigned int discarded;
	bool unsupported;
	char reason[BENCH_TEXT]; /* "" or why there is less than asked for */
	/* medians, per message where it makes sense; spread in per cent */
	double p50_ns, p99_ns, p999_ns;
	double messages_per_s, bytes_per_s;
	double cpu_ns, switches, frames, spilled;
	double side_cpu_ns[2], side_busy_ns[2];
	bool calls_known;
	double calls, side_calls[2];
	double spread;
};

struct bench_report {
	const struct bench_options *options;
	struct bench_row *rows;
	unsigned int row_count;
	unsigned int repetitions;
	unsigned int discarded;
	char calls_reason[BENCH_TEXT]; /* "" or why they are not counted */
	double probe_ns, probe_low_ns,
		probe_high_ns; /* median, accepted range */
};

/* 0, or -1 after it printed why. Free the report either way. */
int plan_run(const struct bench_options *options, struct bench_report *report);
void plan_free(struct bench_report *report);

/* Output ------------------------------------------------------------------ */

void table_print(const struct bench_report *report, FILE *out);

/*
 * Files are opened before the run, so that a bad path costs no time. 0, or -1
 * after it printed why. A file that did not exist goes again with output_drop().
 */
struct output {
	const char *path;
	int fd;
	bool created;
};

int output_open(struct output *output, const char *path);
void output_drop(struct output *output);

int json_write(const struct bench_report *report, struct output *output);
int plot_check(void);
int plot_write(const struct bench_report *report, struct output *output);

#endif
