/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Followed io_urings; follows.h. */
#include "follows.h"

#include <bpf/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void ring_open(struct io_uring *ring, unsigned int entries, unsigned int flags)
{
	int r = io_uring_queue_init(entries, ring, flags);

	if (r == -EINVAL || r == -ENOSYS || r == -EPERM)
		tap_skip("no io_uring of that kind: %s", strerror(-r));
	CHECK_OK(r);
}

void follower_open(struct follower *f, unsigned int flags)
{
	struct sluice_control_uring body;

	ring_open(&f->ring, 8, flags);
	daemon_open(&f->d);
	daemon_start(&f->d, NULL);
	f->fd = daemon_connect(&f->d);
	body = follow_body(&f->ring);
	CHECK_EQ(follow(f->fd, &body, &f->number), 0);
	CHECK_SYS(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->pair));
}

void follower_close(struct follower *f)
{
	close(f->pair[0]);
	close(f->pair[1]);
	io_uring_queue_exit(&f->ring);
	close(f->fd);
	CHECK_EQ(daemon_stop(&f->d), 0);
	daemon_close(&f->d);
}

/* Requests ----------------------------------------------------------------- */

struct sluice_control_uring follow_body(const struct io_uring *ring)
{
	return (struct sluice_control_uring){
		.fd = (__u32)ring->ring_fd,
		.match = FOLLOWS_MATCH,
		.mask = FOLLOWS_MASK,
		.buffer_first = 1,
		.buffer_count = 2,
	};
}

int follow(int fd, const struct sluice_control_uring *body, __u64 *number)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_URING_FOLLOW);
	int error;

	frame.uring = *body;
	error = daemon_call(fd, &frame, -1, NULL, NULL);
	for (size_t i = 0; i < sizeof(frame.__resv); i++)
		CHECK_EQ(frame.__resv[i], 0);
	if (!error)
		CHECK_NE(frame.endpoint, 0);
	if (number)
		*number = frame.endpoint;
	return error;
}

int leave(int fd, __u64 number)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_URING_LEAVE);

	frame.endpoint = number;
	return daemon_call(fd, &frame, -1, NULL, NULL);
}

unsigned int followed(int fd, __u16 flags, __u64 after,
		      struct sluice_control_uring_record *records)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_URINGS);
	size_t size = SLUICE_URINGS_MAX * sizeof(*records);

	frame.flags = flags;
	frame.endpoint = after;
	daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	daemon_receive(fd, &frame, NULL, NULL, records, &size);
	CHECK_EQ(frame.error, 0);
	CHECK_EQ(frame.list.record_size, sizeof(*records));
	CHECK_EQ(size, frame.list.count * sizeof(*records));
	for (unsigned int i = 0; i < frame.list.count; i++) {
		CHECK_GT(records[i].ring, after);
		after = records[i].ring;
		CHECK_EQ(records[i].counts.__resv, 0);
	}
	return frame.list.count;
}

struct sluice_control_uring_record record_of(int fd, __u64 number)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	__u16 flags = geteuid() ? 0 : SLUICE_CONTROL_F_ALL;

	CHECK_GE(followed(fd, flags, number - 1, records), 1);
	CHECK_EQ(records[0].ring, number);
	return records[0];
}

struct sluice_control_uring_record record_now(const struct follower *f)
{
	return record_of(f->fd, f->number);
}

/* Times -------------------------------------------------------------------- */

__u64 times_count(const struct sluice_uring_times *times)
{
	__u64 count = 0;

	for (int i = 0; i < SLUICE_URING_BUCKETS; i++)
		count += times->bucket[i];
	return count;
}

void check_times(const struct sluice_uring_times *times, __u64 count,
		 __u64 least, __u64 most)
{
	CHECK_EQ(times_count(times), count);
	CHECK_GE(times->sum, count * least);
	CHECK_LE(times->sum, count * most);
	for (int i = 0; i < SLUICE_URING_BUCKETS; i++) {
		if (!times->bucket[i])
			continue;
		if (i < SLUICE_URING_BUCKETS - 1)
			CHECK_GT(2ull << i, least);
		CHECK_LE(1ull << i, most ? most : 1);
	}
}

/* Rings -------------------------------------------------------------------- */

int take_cqe(struct io_uring *ring, __u64 user_data)
{
	struct io_uring_cqe *cqe;
	int r;

	CHECK_OK(io_uring_wait_cqe(ring, &cqe));
	CHECK_EQ(cqe->user_data, user_data);
	r = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return r;
}

void poll_fd(struct io_uring *ring, int fd, __u64 user_data, unsigned int flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	CHECK(sqe);
	io_uring_prep_poll_add(sqe, fd, 1 /* POLLIN */);
	sqe->len |= flags; /* IORING_POLL_* */
	sqe->user_data = user_data;
	CHECK_EQ(io_uring_submit(ring), 1);
}

/* Maps and programs --------------------------------------------------------- */

int pinned_map(const struct daemon *d, const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", d->pins, name);
	return CHECK_SYS(bpf_obj_get(path));
}

static bool uses_map(__u32 program, __u32 map)
{
	__u32 ids[64], len = sizeof(struct bpf_prog_info);
	struct bpf_prog_info info = {
		.nr_map_ids = 64,
		.map_ids = (uintptr_t)ids,
	};
	int fd = bpf_prog_get_fd_by_id(program);
	bool found = false;

	if (fd < 0) /* gone meanwhile */
		return false;
	CHECK_SYS(bpf_obj_get_info_by_fd(fd, &info, &len));
	for (__u32 i = 0; i < info.nr_map_ids && i < 64; i++)
		found |= ids[i] == map;
	close(fd);
	return found;
}

int attached_programs(int map)
{
	__u32 id = 0, wanted = daemon_map_id(map);
	int count = 0;

	while (!bpf_link_get_next_id(id, &id)) {
		struct bpf_link_info info = { 0 };
		__u32 len = sizeof(info);
		int fd = bpf_link_get_fd_by_id(id);

		if (fd < 0)
			continue;
		if (!bpf_obj_get_info_by_fd(fd, &info, &len) &&
		    info.type != BPF_LINK_TYPE_ITER &&
		    uses_map(info.prog_id, wanted))
			count++;
		close(fd);
	}
	return count;
}

int map_entries(int map, size_t key_size)
{
	char key[64], next[64];
	int count = 0;

	while (!bpf_map_get_next_key(map, count ? key : NULL, next)) {
		memcpy(key, next, key_size);
		count++;
	}
	return count;
}
