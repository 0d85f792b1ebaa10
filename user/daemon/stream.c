/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Landing of STREAM; stream.h says how. */
#include "stream.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <steer.h> /* for the skeleton */
#include <stream.h>

#include <stream.skel.h>

#include "log.h"
#include "pins.h"

#define SPILL_ROOM (2 << 20) /* the kernel doubles it */
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

#define CLEAN_LOOKS 4 /* a sender may be between queueing and the program */

#define SETTLE_LOOK_NS 500000
#define FULL_LOOKS 4 /* a sender that is full so long is waiting */
#define CALM_LOOKS \
	40 /* one that does nothing for so long is likely to stay so */
#define SETTLE_MAX_NS 200000000
#define LOOK_PACKET 64 /* bytes of a packet that the kernel takes for one */

/* Loading ----------------------------------------------------------------- */

/* The skeleton closes what is not duplicated. */
static int take(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Uses the maps of steering, and those of an earlier sluiced if there are. */
static int reuse_maps(struct stream_bpf *skel, const struct programs *programs)
{
	const struct {
		struct bpf_map *map;
		int fd;
	} maps[] = {
		{ skel->maps.conns, programs->conns },
		{ skel->maps.rings, programs->rings },
		{ skel->maps.landings, programs->landings },
		{ skel->maps.controls, programs->controls },
		{ skel->maps.doorbells, programs->doorbells },
		{ skel->maps.counters, programs->counters },
		{ skel->maps.streams, programs->streams },
	};
	int r = 0;

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]) && !r; i++) {
		if (maps[i].fd >= 0)
			r = bpf_map__reuse_fd(maps[i].map, maps[i].fd);
	}
	return r;
}

static int begin(struct programs *programs, const struct stream_bpf *skel)
{
	int program = bpf_program__fd(skel->progs.stream);
	int r;

	programs->streams = take(bpf_map__fd(skel->maps.streams));
	if (programs->streams < 0)
		return -errno;
	if (bpf_prog_attach(program, programs->streams, BPF_SK_SKB_VERDICT, 0))
		return -errno;
	pin_remove(programs->pin_dir, "stream");
	r = pin_object(programs->pin_dir, "stream", program);
	/* last: it says that the other is there and attached */
	return r ? r :
		   pin_object(programs->pin_dir, "streams", programs->streams);
}

int stream_open(struct programs *programs)
{
	struct stream_bpf *skel;
	bool pinned;
	int r;

	programs->streams = pin_open(programs->pin_dir, "streams");
	pinned = programs->streams >= 0;
	if (!pinned && programs->streams != -ENOENT)
		return programs->streams;
	skel = stream_bpf__open();
	if (!skel)
		return -errno;
	bpf_program__set_expected_attach_type(skel->progs.stream,
					      BPF_SK_SKB_VERDICT);
	bpf_program__set_autoload(skel->progs.stream, !pinned);
	r = reuse_maps(skel, programs);
	if (!r)
		r = stream_bpf__load(skel);
	if (!r && !pinned)
		r = begin(programs, skel);
	if (!r) {
		programs->stream_look =
			take(bpf_program__fd(skel->progs.stream_look));
		r = programs->stream_look < 0 ? -errno : 0;
	}
	stream_bpf__destroy(skel);
	return r;
}

/* Attaching --------------------------------------------------------------- */

static bool is_empty(int fd)
{
	int queued;

	return !ioctl(fd, SIOCINQ, &queued) && !queued;
}

static int add(const struct programs *programs, __u64 key, int fd)
{
	__u64 socket = (__u64)fd;

	return bpf_map_update_elem(programs->streams, &key, &socket,
				   BPF_NOEXIST) ?
		       -errno :
		       0;
}

static int open_spill(int spill[2])
{
	int room = SPILL_ROOM;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
		       spill))
		return -errno;
	if (setsockopt(spill[0], SOL_SOCKET, SO_SNDBUFFORCE, &room,
		       sizeof(room)))
		setsockopt(spill[0], SOL_SOCKET, SO_SNDBUF, &room,
			   sizeof(room));
	return 0;
}

int stream_attach(const struct programs *programs, int fd, __u64 cookie,
		  int spill[2])
{
	int off = 0, r;

	if (programs->streams < 0)
		return -EOPNOTSUPP;
	if (!is_empty(fd))
		return -EAGAIN;
	r = open_spill(spill);
	if (r)
		return r;
	/* better an error than fds that disappear; older kernels have no such thing */
	setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
	r = add(programs, STREAM_SPILL(cookie), spill[0]);
	if (!r)
		r = add(programs, cookie, fd);
	if (r) {
		close(spill[0]);
		close(spill[1]);
		return r;
	}
	for (int i = 0; i < CLEAN_LOOKS; i++) {
		if (is_empty(fd))
			return 0;
	}
	return STREAM_LAGS;
}

/* Settling ---------------------------------------------------------------- */

static uint32_t look(const struct programs *programs, __u64 cookie)
{
	uint64_t packet[LOOK_PACKET / sizeof(uint64_t)] = { cookie };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet,
		    .data_size_in = sizeof(packet), .repeat = 1);

	if (bpf_prog_test_run_opts(programs->stream_look, &run))
		return 0;
	return run.retval;
}

static uint32_t drops(int fd)
{
	uint32_t meminfo[SK_MEMINFO_VARS] = { 0 };
	socklen_t len = sizeof(meminfo);

	getsockopt(fd, SOL_SOCKET, SO_MEMINFO, meminfo, &len);
	return meminfo[SK_MEMINFO_DROPS];
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static void pause_for(long ns)
{
	const struct timespec time = { .tv_nsec = ns };

	nanosleep(&time, NULL);
}

/*
 * Waits until the sender does nothing: it has no room, or has had nothing to send
 * for a while; and nothing of it is on the way. Or for as long as may be.
 */
static void wait_for_rest(const struct programs *programs, int fd, __u64 cookie)
{
	int64_t deadline = now() + SETTLE_MAX_NS;
	uint32_t before = 0, found;
	int looks = 0, queued, queued_before = -1;

	while (now() < deadline) {
		found = look(programs, cookie);
		queued = 0;
		ioctl(fd, SIOCINQ, &queued);
		if (found != before || queued != queued_before)
			looks = 0;
		before = found;
		queued_before = queued;
		if (++looks >=
		    (found & STREAM_LOOK_F_FULL ? FULL_LOOKS : CALM_LOOKS))
			return;
		pause_for(SETTLE_LOOK_NS);
	}
}

int stream_settle(const struct programs *programs, int fd, __u64 cookie)
{
	uint32_t before = drops(fd);

	wait_for_rest(programs, fd, cookie);
	/*
	 * A piece that was taken off the queue, and has not come to the program,
	 * is dropped now, and counted. Its sender would have to run in between.
	 */
	if (bpf_map_delete_elem(programs->streams, &cookie) && errno != ENOENT)
		return -errno;
	pause_for(SETTLE_LOOK_NS);
	return drops(fd) == before ? 0 : -EIO;
}
