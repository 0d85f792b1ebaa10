/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A TAP harness for tests in C. tap.c has main(); a test program is:
 *
 *	#include "tap.h"
 *
 *	TAP_TEST(frame_has_eight_bytes)
 *	{
 *		CHECK_EQ(sizeof(struct sluice_frame), 8);
 *	}
 *
 *	static const struct lane { const char *name; int id; } lanes[] = {
 *		{ "queued", 1 }, { "direct", 2 },	// the first member is the name
 *	};
 *
 *	TAP_EACH(order, lane, lanes)	// order/queued, order/direct
 *	{
 *		tap_limit(120);		// seconds, instead of 60
 *		CHECK_OK(sluice_conn_set_lane(conn, lane->id));
 *	}
 *
 * Every case runs in a process of its own, with its own session, an empty
 * directory of its own as cwd and TMPDIR, no fds but 0 to 2, and no core dumps.
 * A check that fails prints why and ends that process. A case fails, too, if it
 * runs out of time, or returns and leaves a child it did not wait for, or a file
 * in its directory. Whatever it leaves is then killed and removed.
 *
 *	build/selftests/X [--list] [case...]	a case, or all of "order"
 *	SLUICE_SEED=0x... 			repeats tap_random()
 *
 * The whole program has 300 s under `make check`; a line "Limit: 600 s" in the
 * first comment of its source changes that (in scripts too). In sanitizer builds
 * every limit is longer, by tap_slow.
 */
#ifndef TAP_H
#define TAP_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TAP_TEST(case_)                               \
	static void tap_run_##case_(void);            \
	static void tap_call_##case_(const void *row) \
	{                                             \
		(void)row;                            \
		tap_run_##case_();                    \
	}                                             \
	TAP_REGISTER(case_, NULL, 0, 1)               \
	static void tap_run_##case_(void)

/* One case per row of an array, whose first member is its name. */
#define TAP_EACH(case_, row_, array_)                                     \
	static void tap_run_##case_(const __typeof__((array_)[0]) *row_); \
	static void tap_call_##case_(const void *row)                     \
	{                                                                 \
		tap_run_##case_(row);                                     \
	}                                                                 \
	TAP_REGISTER(case_, array_, sizeof((array_)[0]),                  \
		     sizeof(array_) / sizeof((array_)[0]))                \
	static void tap_run_##case_(const __typeof__((array_)[0]) *row_)

/*
 * Checks. Each takes its arguments once. CHECK_OK wants a result >= 0, with
 * -errno for a failure, and CHECK_SYS a result that is not -1, with errno; both
 * are worth the result: int fd = CHECK_SYS(open(...)).
 */
#define CHECK(expr)                                     \
	do {                                            \
		if (!(expr))                            \
			TAP_FAIL("%s is false", #expr); \
	} while (0)

#define CHECK_EQ(a, b) TAP_COMPARE(a, ==, b)
#define CHECK_NE(a, b) TAP_COMPARE(a, !=, b)
#define CHECK_LT(a, b) TAP_COMPARE(a, <, b)
#define CHECK_LE(a, b) TAP_COMPARE(a, <=, b)
#define CHECK_GT(a, b) TAP_COMPARE(a, >, b)
#define CHECK_GE(a, b) TAP_COMPARE(a, >=, b)
#define CHECK_STR(a, b) tap_check_str(__FILE__, __LINE__, #a, a, #b, b)
#define CHECK_MEM(a, b, len) \
	tap_check_mem(__FILE__, __LINE__, #a, a, #b, b, len)
#define CHECK_OK(call)                                                     \
	({                                                                 \
		__typeof__(call) ret_ = (call);                            \
		if (ret_ < 0)                                              \
			tap_fail_call(__FILE__, __LINE__, #call, ret_, 0); \
		ret_;                                                      \
	})
#define CHECK_SYS(call)                                                      \
	({                                                                   \
		__typeof__(call) ret_ = (call);                              \
		if (ret_ == (__typeof__(call))-1)                            \
			tap_fail_call(__FILE__, __LINE__, #call, -1, errno); \
		ret_;                                                        \
	})

/* For what another process or thread is about to bring about, within 5 s. */
#define CHECK_SOON(expr) CHECK_WITHIN(5, expr)
#define CHECK_WITHIN(seconds, expr)                                    \
	do {                                                           \
		int64_t until_ =                                       \
			tap_now() + (seconds)*1000000000ll * tap_slow; \
		while (!(expr)) {                                      \
			if (tap_now() > until_)                        \
				TAP_FAIL("%s stayed false", #expr);    \
			tap_sleep(1000000);                            \
		}                                                      \
	} while (0)

/* Ends the case as failed, as skipped (name what is missing). */
#define TAP_FAIL(...) tap_fail(__FILE__, __LINE__, __VA_ARGS__)
void tap_skip(const char *format, ...)
	__attribute__((noreturn, format(printf, 1, 2)));

/* A line of explanation in the output. */
void tap_diag(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The case gets this many seconds from now on. */
void tap_limit(unsigned int seconds);

/* How much longer things take in this build: 1, more under a sanitizer. */
extern const int tap_slow;

/* Build directory; "build/bin/name". Static memory. */
const char *tap_build(void);
const char *tap_bin(const char *name);

/*
 * Processes. A forked child may use checks; a failure ends it, and tap_join()
 * then ends the case. It dies with the thread that forked it. A child whose
 * case function returns, exits with 0.
 */
pid_t tap_fork(void);
void tap_join(pid_t pid); /* waits; fails unless it exited with 0 */
void tap_kill(pid_t pid); /* SIGKILL, waits */
int tap_reap(pid_t pid); /* waits; the wait status */

/* CLOCK_MONOTONIC, ns */
int64_t tap_now(void);
void tap_sleep(int64_t ns);

/*
 * Random numbers, the same again with the same seed and case. A forked child or
 * a thread takes a stream of its own: tap_random_stream(1), (2), ...
 */
uint64_t tap_random(void);
uint64_t tap_random_below(uint64_t limit); /* 0 to limit - 1 */
void tap_random_stream(uint64_t stream);

/* Payload that `key` determines; matches: whether data is still that. */
void tap_fill(void *data, size_t len, uint64_t key);
bool tap_matches(const void *data, size_t len, uint64_t key);

/* What leaks show in, of this process. */
int tap_open_fds(void);
int tap_mappings(void); /* of shared memory: the heap comes and goes */
long tap_resident(void); /* bytes */

/* Internal from here on ---------------------------------------------------- */

struct tap_case {
	const char *name;
	void (*call)(const void *row);
	const void *rows;
	size_t row_size;
	size_t row_count;
	struct tap_case *next;
};

void tap_register(struct tap_case *entry);
void tap_fail(const char *file, int line, const char *format, ...)
	__attribute__((noreturn, format(printf, 3, 4)));
void tap_fail_call(const char *file, int line, const char *call, long long ret,
		   int error) __attribute__((noreturn));
void tap_fail_compare(const char *file, int line, const char *a, const char *op,
		      const char *b, long long value_a, long long value_b)
	__attribute__((noreturn));
void tap_check_str(const char *file, int line, const char *a, const char *str_a,
		   const char *b, const char *str_b);
void tap_check_mem(const char *file, int line, const char *a, const void *mem_a,
		   const char *b, const void *mem_b, size_t len);

#define TAP_REGISTER(case_, rows_, size_, count_)                      \
	__attribute__((constructor)) static void tap_add_##case_(void) \
	{                                                              \
		static struct tap_case entry = {                       \
			.name = #case_,                                \
			.call = tap_call_##case_,                      \
			.rows = rows_,                                 \
			.row_size = size_,                             \
			.row_count = count_,                           \
		};                                                     \
		tap_register(&entry);                                  \
	}

#define TAP_COMPARE(a, op, b)                                                 \
	do {                                                                  \
		long long a_ = (long long)(a), b_ = (long long)(b);           \
		if (!(a_ op b_))                                              \
			tap_fail_compare(__FILE__, __LINE__, #a, #op, #b, a_, \
					 b_);                                 \
	} while (0)

#endif
