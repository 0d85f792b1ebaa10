/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Requests to follow io_urings: who may, what is refused, what a hostile client
 * can do, and that nothing is left of a ring that is gone.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <stddef.h>
#include <sluice/sluice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "follows.h"

#define BELL (FOLLOWS_MATCH | 1)

/* Breaches ------------------------------------------------------------------ */

enum base { FOLLOW, LEAVE, LIST };

/* Each is wrong in one thing; of a request that is fine. */
static const struct breach {
	const char *name;
	enum base base;
	size_t at, width;
	__u64 value;
	bool with_fd;
	int error;
} breaches[] = {
#define SET(field, value_)                                    \
	.at = offsetof(struct sluice_control, field),         \
	.width = sizeof(((struct sluice_control *)0)->field), \
	.value = (value_)
	{ "follow_number", FOLLOW, SET(endpoint, 1), .error = EINVAL },
	{ "follow_flags", FOLLOW, SET(flags, SLUICE_CONTROL_F_ALL),
	  .error = EINVAL },
	{ "follow_with_fd", FOLLOW, .with_fd = true, .error = EBADMSG },
	{ "follow_pid", FOLLOW, SET(uring.pid, 0x3fffffff), .error = ESRCH },
	{ "follow_pid_huge", FOLLOW, SET(uring.pid, 0xffffffff),
	  .error = ESRCH },
	{ "follow_kernel_thread", FOLLOW, SET(uring.pid, 2), .error = EBADF },
	{ "follow_closed_fd", FOLLOW, SET(uring.fd, 999), .error = EBADF },
	{ "follow_fd_huge", FOLLOW, SET(uring.fd, 0xffffffff), .error = EBADF },
	{ "follow_stdin", FOLLOW, SET(uring.fd, 0), .error = EBADF },
	{ "follow_outside_mask", FOLLOW, SET(uring.match, 1), .error = EINVAL },
	{ "follow_mask_without", FOLLOW, SET(uring.mask, 1), .error = EINVAL },
	{ "follow_buffer_first", FOLLOW,
	  SET(uring.buffer_first, SLUICE_URING_BUFFERS_END + 1),
	  .error = EINVAL },
	{ "follow_buffers_end", FOLLOW,
	  SET(uring.buffer_count, SLUICE_URING_BUFFERS_END), .error = EINVAL },
	{ "follow_buffers_wrap", FOLLOW, SET(uring.buffer_count, 0xffffffff),
	  .error = EINVAL },
	{ "follow_resv0", FOLLOW, SET(uring.__resv[0], 1), .error = EINVAL },
	{ "follow_resv1", FOLLOW, SET(uring.__resv[1], 1u << 31),
	  .error = EINVAL },
	{ "follow_again", FOLLOW, .error = EALREADY },

	{ "leave_nothing", LEAVE, SET(endpoint, 0), .error = ENOENT },
	{ "leave_unknown", LEAVE, SET(endpoint, 77), .error = ENOENT },
	{ "leave_body", LEAVE, SET(__resv[0], 1), .error = EINVAL },
	{ "leave_flags", LEAVE, SET(flags, SLUICE_CONTROL_F_ALL),
	  .error = EINVAL },
	{ "leave_with_fd", LEAVE, .with_fd = true, .error = EBADMSG },

	{ "list_body", LIST, SET(__resv[39], 1), .error = EINVAL },
	{ "list_flags", LIST, SET(flags, 4), .error = EINVAL },
	{ "list_with_fd", LIST, .with_fd = true, .error = EBADMSG },
};

static void try_breach(const struct follower *f, const struct breach *breach)
{
	static const __u16 types[] = {
		[FOLLOW] = SLUICE_CONTROL_URING_FOLLOW,
		[LEAVE] = SLUICE_CONTROL_URING_LEAVE,
		[LIST] = SLUICE_CONTROL_URINGS,
	};
	struct sluice_control frame = daemon_frame(types[breach->base]);
	int error;

	if (breach->base == FOLLOW)
		frame.uring = follow_body(&f->ring);
	if (breach->base == LEAVE)
		frame.endpoint = f->number;
	memcpy((char *)&frame + breach->at, &breach->value, breach->width);
	error = daemon_call(f->fd, &frame, breach->with_fd ? f->pair[0] : -1,
			    NULL, NULL);
	if (error != breach->error)
		TAP_FAIL("%s: error %d instead of %d", breach->name, error,
			 breach->error);
	for (size_t i = 0; i < sizeof(frame.__resv); i++)
		CHECK_EQ(frame.__resv[i], 0);
}

TAP_TEST(each_breach_has_its_error)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct follower f;
	int fds;

	follower_open(&f, 0);
	fds = daemon_fds(&f.d);
	for (size_t i = 0; i < sizeof(breaches) / sizeof(breaches[0]); i++)
		try_breach(&f, &breaches[i]);
	CHECK_EQ(daemon_fds(&f.d), fds);
	CHECK_EQ(followed(f.fd, 0, 0, records), 1);
	CHECK_EQ(records[0].ring, f.number);
	CHECK_EQ(records[0].pid, getpid());
	CHECK_EQ(records[0].uid, 0);
	CHECK_EQ(records[0].match, FOLLOWS_MATCH);
	CHECK_EQ(records[0].mask, FOLLOWS_MASK);
	CHECK_EQ(records[0].buffer_first, 1);
	CHECK_EQ(records[0].buffer_count, 2);
	follower_close(&f);
}

/* The same by the library, whose fd is all that keeps it. */
TAP_TEST(by_the_library)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct follower f;
	int fd, fds;

	follower_open(&f, 0);
	fds = tap_open_fds();
#define FOLLOW_BY(ring_fd, match, mask, first, count) \
	sluice_uring_follow(f.d.control, ring_fd, match, mask, first, count)
	CHECK_EQ(FOLLOW_BY(f.ring.ring_fd, 0, 0, 0, 0), -EALREADY);
	CHECK_EQ(leave(f.fd, f.number), 0);
	CHECK_EQ(FOLLOW_BY(-1, 0, 0, 0, 0), -EBADF);
	CHECK_EQ(FOLLOW_BY(f.pair[0], 0, 0, 0, 0), -EBADF);
	CHECK_EQ(FOLLOW_BY(f.ring.ring_fd, 1, 2, 0, 0), -EINVAL);
	CHECK_EQ(FOLLOW_BY(f.ring.ring_fd, 0, 0, 65536, 1), -EINVAL);
	CHECK_EQ(sluice_uring_follow("nowhere", f.ring.ring_fd, 0, 0, 0, 0),
		 -ENOENT);
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_SYS(setenv("SLUICE_CONTROL", f.d.control, 1));
	fd = CHECK_OK(sluice_uring_follow(NULL, f.ring.ring_fd, 1, 3, 4, 5));
	CHECK_EQ(followed(f.fd, 0, 0, records), 1);
	CHECK_EQ(records[0].pid, getpid());
	CHECK_EQ(records[0].match, 1);
	CHECK_EQ(records[0].mask, 3);
	CHECK_EQ(records[0].buffer_first, 4);
	CHECK_EQ(records[0].buffer_count, 5);
	close(fd);
	CHECK_SOON(followed(f.fd, 0, 0, records) == 0);
	follower_close(&f);
}

/* Why an io_uring is named, and not passed: the kernel does not let it. */
TAP_TEST(rings_cannot_be_passed)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .align = { .cmsg_level = SOL_SOCKET,
				 .cmsg_type = SCM_RIGHTS,
				 .cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct iovec iov = { "", 1 };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct io_uring ring;
	int pair[2];

	ring_open(&ring, 8, 0);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	memcpy(CMSG_DATA(&control.align), &ring.ring_fd, sizeof(int));
	CHECK_EQ(sendmsg(pair[0], &message, 0), -1);
	CHECK_EQ(errno, EINVAL);
	close(pair[0]);
	close(pair[1]);
	io_uring_queue_exit(&ring);
}

/* Who may -------------------------------------------------------------------- */

static int follow_ring(int fd, const struct io_uring *ring, __u64 *number)
{
	const struct sluice_control_uring body = follow_body(ring);

	return follow(fd, &body, number);
}

/* What nobody, who has inherited a ring of root's, can do. */
static void as_nobody(const struct daemon *d, const struct io_uring *roots,
		      __u64 roots_number, int say, int wait)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_URINGS);
	struct sluice_control_uring body = follow_body(roots);
	struct io_uring own, more;
	__u64 number;
	char byte;
	int fd;

	daemon_become_nobody();
	fd = daemon_connect(d);
	CHECK_EQ(follow(fd, &body, NULL), EPERM); /* inherited */
	body.pid = (__u32)getppid();
	CHECK_EQ(follow(fd, &body, NULL), EPERM);
	body.fd = 999; /* nor is it told what there is */
	CHECK_EQ(follow(fd, &body, NULL), EPERM);
	CHECK_EQ(leave(fd, roots_number), EPERM);
	frame.flags = SLUICE_CONTROL_F_ALL;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EPERM);
	CHECK_EQ(followed(fd, 0, 0, records), 0);

	ring_open(&own, 8, 0);
	ring_open(&more, 8, 0);
	CHECK_EQ(follow_ring(fd, &own, &number), 0);
	CHECK_EQ(follow_ring(fd, &more, NULL), EDQUOT);
	CHECK_EQ(followed(fd, 0, 0, records), 1);
	CHECK_EQ(records[0].ring, number);
	CHECK_EQ(records[0].uid, 65534);
	CHECK_EQ(leave(fd, number), 0);
	CHECK_EQ(follow_ring(fd, &more, NULL), 0);
	CHECK_EQ(write(say, &own.ring_fd, sizeof(int)), sizeof(int));
	CHECK_EQ(read(wait, &byte, 1), 0);
	io_uring_queue_exit(&own);
	io_uring_queue_exit(&more);
	close(fd);
}

TAP_TEST(only_own_rings)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct sluice_control_uring body = { 0 };
	struct io_uring ring;
	struct daemon d;
	int say[2], wait[2], fd, theirs;
	__u64 number;
	pid_t child;

	ring_open(&ring, 8, 0);
	daemon_open(&d);
	daemon_start_for_all(&d, "[limits]\nurings_per_uid = 1\n");
	fd = daemon_connect(&d);
	CHECK_EQ(follow_ring(fd, &ring, &number), 0);
	CHECK_SYS(pipe(say));
	CHECK_SYS(pipe(wait));
	child = tap_fork();
	if (!child) {
		close(wait[1]);
		as_nobody(&d, &ring, number, say[1], wait[0]);
		_exit(0);
	}
	close(say[1]);
	CHECK_EQ(read(say[0], &theirs, sizeof(theirs)), sizeof(theirs));
	/* root may, and sees all */
	body.pid = (__u32)child;
	body.fd = (__u32)theirs;
	CHECK_EQ(follow(fd, &body, NULL), EDQUOT);
	CHECK_EQ(leave(fd, number), 0);
	CHECK_EQ(follow(fd, &body, NULL), 0);
	CHECK_EQ(followed(fd, 0, 0, records), 1);
	CHECK_EQ(followed(fd, SLUICE_CONTROL_F_ALL, 0, records), 2);
	close(wait[1]);
	tap_join(child);
	CHECK_EQ(followed(fd, SLUICE_CONTROL_F_ALL, 0, records), 0);
	close(say[0]);
	close(wait[0]);
	close(fd);
	io_uring_queue_exit(&ring);
	CHECK_EQ(daemon_stop(&d), 0);
	daemon_close(&d);
}

/* One ring cannot use up the room that all share. */
TAP_TEST(very_many_in_flight)
{
	const int count = 5000, room = 4096;
	struct sluice_control_uring_record r;
	struct io_uring ring;
	struct follower f;
	__u64 number;

	follower_open(&f, 0);
	ring_open(&ring, 1024, 0);
	CHECK_EQ(follow_ring(f.fd, &ring, &number), 0);
	for (int i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (!sqe) {
			CHECK_OK(io_uring_submit(&ring));
			sqe = io_uring_get_sqe(&ring);
		}
		io_uring_prep_poll_add(sqe, f.pair[0], 1 /* POLLIN */);
		sqe->user_data = FOLLOWS_MATCH | (__u64)i;
	}
	CHECK_OK(io_uring_submit(&ring));
	r = record_of(f.fd, number);
	CHECK_EQ(r.counts.submitted, count);
	CHECK_EQ(r.counts.untracked, count - room);
	CHECK_EQ(r.tracked, room);
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	r = record_now(&f);
	CHECK_EQ(r.tracked, 1);
	CHECK_EQ(r.counts.untracked, 0);
	io_uring_queue_exit(&ring);
	follower_close(&f);
}

/* Nothing is left ------------------------------------------------------------ */

TAP_TEST(costs_nothing_when_nobody_asks)
{
	struct follower f;
	int rings, ops, counts;

	follower_open(&f, 0);
	rings = pinned_map(&f.d, "uring_rings");
	counts = pinned_map(&f.d, "uring_counts");
	ops = pinned_map(&f.d, "uring_ops");
	CHECK_GE(attached_programs(rings), 6);
	CHECK_EQ(map_entries(rings, 8), 1);
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	CHECK_EQ(map_entries(ops, 16), 1);
	CHECK_EQ(leave(f.fd, f.number), 0);
	CHECK_EQ(map_entries(rings, 8), 0);
	CHECK_EQ(map_entries(counts, 8), 0);
	CHECK_SOON(attached_programs(rings) == 0);
	CHECK_SOON(map_entries(ops, 16) == 0);
	/* and again, of which the end of the client is the end */
	CHECK_EQ(follow_ring(f.fd, &f.ring, NULL), 0);
	CHECK_GE(attached_programs(rings), 6);
	close(f.fd);
	CHECK_SOON(map_entries(rings, 8) == 0);
	CHECK_SOON(attached_programs(rings) == 0);
	f.fd = daemon_connect(&f.d);
	close(rings);
	close(counts);
	close(ops);
	follower_close(&f);
}

TAP_TEST(a_closed_ring_is_forgotten)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	const char *args[] = { "--config", NULL, NULL };
	struct io_uring ring;
	struct daemon d;
	int fd, map;

	daemon_open(&d);
	args[1] = daemon_config(&d, "[daemon]\nsweep_seconds = 1\n");
	daemon_start(&d, args);
	fd = daemon_connect(&d);
	map = pinned_map(&d, "uring_rings");
	ring_open(&ring, 8, 0);
	CHECK_EQ(follow_ring(fd, &ring, NULL), 0);
	io_uring_queue_exit(&ring);
	CHECK_EQ(followed(fd, 0, 0, records), 0); /* when somebody looks, */
	ring_open(&ring, 8, 0);
	CHECK_EQ(follow_ring(fd, &ring, NULL), 0);
	io_uring_queue_exit(&ring);
	CHECK_SOON(map_entries(map, 8) == 0); /* and when nobody does */
	close(map);
	close(fd);
	CHECK_EQ(daemon_stop(&d), 0);
	daemon_close(&d);
}

static void nop(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_nop(sqe);
	sqe->user_data = 5;
	CHECK_EQ(io_uring_submit(ring), 1);
	CHECK_EQ(take_cqe(ring, 5), 0);
}

/* A ring, made on that CPU: what a CPU frees it gives out again first. */
static void ring_open_on(struct io_uring *ring, int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK_SYS(sched_setaffinity(0, sizeof(cpus), &cpus));
	ring_open(ring, 1, 0);
}

/* What was counted under that number, straight from the map. */
static __u64 submitted(int map, __u64 number)
{
	struct sluice_uring_counts counts[256];
	__u64 sum = 0;

	CHECK_LE(libbpf_num_possible_cpus(), 256);
	CHECK_SYS(bpf_map_lookup_elem(map, &number, counts));
	for (int i = 0; i < libbpf_num_possible_cpus(); i++)
		sum += counts[i].submitted;
	return sum;
}

/*
 * The address of a closed ring's context becomes that of one that nobody asked
 * for. Which one it will be is the allocator's to say, so that many are tried.
 */
TAP_TEST(a_new_ring_in_the_place_of_the_old)
{
	enum { TRIES = 1500 };
	const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct io_uring ring;
	struct follower f;
	int map, counts, tries;
	bool taken;

	follower_open(&f, 0);
	map = pinned_map(&f.d, "uring_rings");
	counts = pinned_map(&f.d, "uring_counts");
	nop(&f.ring);
	CHECK_EQ(submitted(counts, f.number), 1);
	io_uring_queue_exit(&f.ring);
	/* nobody looks for it: only a ring with its address takes it out */
	for (tries = 0; tries < TRIES && map_entries(map, 8); tries++) {
		tap_sleep(2000000); /* its context is freed later */
		ring_open_on(&ring, (int)(tries % cpus));
		nop(&ring);
		io_uring_queue_exit(&ring);
	}
	taken = !map_entries(map, 8);
	CHECK_EQ(submitted(counts, f.number), 1);
	CHECK_EQ(followed(f.fd, 0, 0, records), 0);
	ring_open(&f.ring, 8, 0);
	CHECK_EQ(follow_ring(f.fd, &f.ring, &f.number), 0);
	CHECK_EQ(record_now(&f).counts.submitted, 0);
	close(map);
	close(counts);
	follower_close(&f);
	if (!taken)
		tap_skip("none of %d rings got the address", TRIES);
}

static bool is_pinned(const struct daemon *d, const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", d->pins, name);
	return !access(path, F_OK);
}

TAP_TEST(sluiced_is_killed)
{
	struct follower f;
	int map;

	follower_open(&f, 0);
	map = pinned_map(&f.d, "uring_rings");
	CHECK_GE(attached_programs(map), 6);
	daemon_kill(&f.d);
	CHECK_SOON(attached_programs(map) == 0);
	close(map);
	close(f.fd);
	daemon_start(&f.d, NULL);
	f.fd = daemon_connect(&f.d);
	map = pinned_map(&f.d, "uring_rings"); /* a new one */
	CHECK_EQ(map_entries(map, 8), 0);
	CHECK_EQ(follow_ring(f.fd, &f.ring, &f.number), 0);
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	CHECK_EQ(record_now(&f).counts.submitted, 1);
	CHECK_EQ(daemon_stop(&f.d), 0);
	CHECK_EQ(attached_programs(map), 0);
	close(map);
	CHECK(!is_pinned(&f.d, "uring_rings"));
	CHECK(!is_pinned(&f.d, "uring_counts"));
	CHECK(!is_pinned(&f.d, "uring_ops"));
	CHECK(is_pinned(&f.d, "steer"));
	close(f.fd);
	daemon_start(&f.d, NULL);
	f.fd = daemon_connect(&f.d);
	follower_close(&f);
}
