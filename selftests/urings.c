/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* See urings.h. */
#include <string.h>

#include "urings.h"

#define SOON (5 * SECOND * tap_slow)
#define FILES_FIRST 3
#define FILES_COUNT 64

const struct setup setups[SETUPS] = {
	{ "basic", 0, 0, false },
	{ "sqpoll", IORING_SETUP_SQPOLL, 0, false },
	{ "defer", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0,
	  false },
	{ "poll", 0, SLUICE_URING_F_NO_MULTISHOT, false },
	{ "files", 0, 0, true },
};

void loop_open_ring(struct loop *loop, const struct setup *setup,
		    unsigned int entries)
{
	struct io_uring_params params = { .flags = setup->flags,
					  .sq_thread_idle = 50 };
	int r;

	*loop = (struct loop){ .setup = setup };
	r = io_uring_queue_init_params(entries, &loop->ring, &params);
	if (r == -EINVAL && setup->flags)
		tap_skip("no such ring in this kernel");
	CHECK_OK(r);
	if (setup->files)
		CHECK_OK(io_uring_register_files_sparse(
			&loop->ring, FILES_FIRST + FILES_COUNT));
}

void loop_open(struct loop *loop, const struct setup *setup,
	       unsigned int entries)
{
	loop_open_ring(loop, setup, entries);
	CHECK_OK(sluice_uring_set(
		&loop->set, &loop->ring,
		&URINGS_OPTIONS(.flags = setup->set_flags,
				.file_first = FILES_FIRST,
				.file_count = setup->files ? FILES_COUNT : 0)));
}

void loop_digest(struct loop *loop)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&loop->ring, &cqe)) {
		if (!sluice_uring_digest(loop->set, cqe)) {
			loop->mine++;
			loop->last_mine = cqe->user_data;
		}
		io_uring_cqe_seen(&loop->ring, cqe);
	}
}

int loop_turn(struct loop *loop, int64_t timeout_ns)
{
	struct __kernel_timespec t = { .tv_sec = timeout_ns / SECOND,
				       .tv_nsec = timeout_ns % SECOND };
	struct io_uring_cqe *cqe;
	int prepared = sluice_uring_prepare(loop->set, &loop->ring), r;

	if (prepared < 0 && prepared != -EAGAIN)
		CHECK_OK(prepared);
	if (prepared || !timeout_ns)
		r = io_uring_submit_and_get_events(&loop->ring);
	else
		r = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &t,
						     NULL);
	if (r < 0 && r != -ETIME && r != -EINTR)
		CHECK_OK(r);
	loop_digest(loop);
	return prepared;
}

int loop_wait(struct loop *loop, struct sluice_event *events,
	      unsigned int count, int64_t timeout_ns)
{
	int64_t end = tap_now() + timeout_ns, left;
	int n;

	for (;;) {
		left = end - tap_now();
		loop_turn(loop, left > 0 ? left : 0);
		n = CHECK_OK(sluice_uring_events(loop->set, events, count));
		if (n || left <= 0)
			return n;
	}
}

void loop_expect(struct loop *loop, struct sluice_conn *conn, uint32_t ready)
{
	struct sluice_event events[4];

	CHECK_EQ(loop_wait(loop, events, 4, SOON), 1);
	CHECK(events[0].conn == conn);
	CHECK(events[0].data == (void *)conn);
	CHECK_EQ(events[0].ready, ready);
	CHECK_EQ(events[0].error, 0);
}

void loop_expect_none(struct loop *loop, int64_t timeout_ns)
{
	struct sluice_event events[4];

	CHECK_EQ(loop_wait(loop, events, 4, timeout_ns), 0);
}

void loop_idle(struct loop *loop)
{
	int64_t end = tap_now() + SOON;

	while (sluice_uring_in_flight(loop->set) ||
	       sluice_uring_due(loop->set)) {
		CHECK_LT(tap_now(), end);
		loop_turn(loop, 10 * MS);
	}
}

void loop_remove(struct loop *loop, struct sluice_conn *conn)
{
	int64_t end = tap_now() + SOON;
	int r;

	while ((r = sluice_set_remove(loop->set, conn)) == -EAGAIN) {
		CHECK_LT(tap_now(), end);
		loop_turn(loop, 10 * MS);
	}
	CHECK_EQ(r, 0);
}

struct sluice_uring_info loop_info(const struct loop *loop)
{
	struct sluice_uring_info info;

	sluice_uring_info(loop->set, &info);
	return info;
}

bool urings_multishot(const struct loop *loop)
{
	return !loop_info(loop).multishot_error;
}

void loop_close(struct loop *loop)
{
	if (loop->set) {
		sluice_uring_stop(loop->set);
		loop_idle(loop);
		sluice_set_free(loop->set);
	}
	io_uring_queue_exit(&loop->ring);
}
