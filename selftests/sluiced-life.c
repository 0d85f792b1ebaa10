/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The life of sluiced: taking over from one that was killed, from one that ended,
 * from bpftool; what it refuses to take over; two at a time; reload.
 *
 * Limit: 300 s
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "steer.h"

#include "steer.skel.h"

#include "daemon.h"
#include "tap.h"

#define EXIT_NO_BPF 3
#define EXIT_RUNNING 4

/* A client with an endpoint and an attached socket. */
struct world {
	struct daemon d;
	int fd;
	__u64 endpoint;
	int maps[4];
	int pair[2];
};

static void world_open(struct world *w)
{
	daemon_open(&w->d);
	daemon_start(&w->d, NULL);
	w->fd = daemon_connect(&w->d);
	w->endpoint = daemon_create(w->fd, 1, w->maps);
	CHECK_SYS(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, w->pair));
	CHECK_EQ(daemon_attach(w->fd, w->endpoint, 0, 5, 0, w->pair[0]), 0);
}

static void world_close(struct world *w)
{
	for (int i = 0; i < 4; i++)
		close(w->maps[i]);
	close(w->pair[0]);
	close(w->pair[1]);
	close(w->fd);
	daemon_close(&w->d);
}

/* As a client does after the end of a control connection. */
static void reconnect(struct world *w)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_QUERY);

	close(w->fd);
	w->fd = daemon_connect(&w->d);
	CHECK_EQ(daemon_call(w->fd, &frame, -1, NULL, NULL), 0);
}

static int claim(int fd, __u64 endpoint, int map)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_CLAIM);

	frame.endpoint = endpoint;
	return daemon_call(fd, &frame, map, NULL, NULL);
}

/* The first endpoint; false if there is none. */
static bool list_first(int fd, struct sluice_control_record *record)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_LIST);
	struct sluice_control_record records[SLUICE_LIST_MAX];
	size_t len = sizeof(records);

	daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	daemon_receive(fd, &frame, NULL, NULL, records, &len);
	CHECK_EQ(frame.error, 0);
	*record = records[0];
	return frame.list.count;
}

/* Sends one message, which must come by the ring. */
static void expect_steered(const struct world *w)
{
	const struct sluice_steer_ring *ring;
	struct sluice_steer_conn *conns;
	char *control;
	__u32 tail;

	ring = mmap(NULL, 8192, PROT_READ, MAP_SHARED, w->maps[0], 0);
	CHECK_NE((void *)ring, MAP_FAILED);
	control = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED,
		       w->maps[2], 0);
	CHECK_NE((void *)control, MAP_FAILED);
	conns = (void *)(control + SLUICE_MAP_HEADER);
	if (conns[5].word != SLUICE_STEER_ON)
		conns[5].word = SLUICE_STEER_GRANTED;
	tail = ring->tail;
	CHECK_EQ(send(w->pair[1], "hello", 5, 0), 5);
	CHECK_EQ(ring->tail, tail + 1);
	CHECK_EQ(conns[5].word, SLUICE_STEER_ON);
	munmap((void *)ring, 8192);
	munmap(control, 8192);
}

static void expect_queued(const struct world *w)
{
	char data[8];

	CHECK_EQ(send(w->pair[1], "hello", 5, 0), 5);
	CHECK_EQ(recv(w->pair[0], data, sizeof(data), MSG_DONTWAIT), 5);
}

/* Taking over -------------------------------------------------------------- */

static const struct end {
	const char *name;
	bool killed;
} ends[] = { { "killed", true }, { "ended", false } };

static void end(struct daemon *d, const struct end *how)
{
	if (how->killed)
		daemon_kill(d);
	else
		CHECK_EQ(daemon_stop(d), 0);
}

TAP_EACH(claimed_after, how, ends)
{
	struct sluice_control_record record;
	struct world w;
	char byte;

	world_open(&w);
	expect_steered(&w);
	end(&w.d, how);
	CHECK_LE(recv(w.fd, &byte, 1, 0), 0);
	expect_steered(&w); /* without any sluiced */
	daemon_start(&w.d, NULL);
	CHECK(daemon_said(&w.d, 0, "took over 1 endpoints with 1 connections"));
	expect_steered(&w);
	reconnect(&w);
	CHECK(list_first(w.fd, &record));
	CHECK_EQ(record.endpoint, w.endpoint);
	CHECK_EQ(record.flags, SLUICE_RECORD_F_ORPHAN);
	CHECK_EQ(record.pid, 0);
	CHECK_EQ(record.conns, 1);
	CHECK_EQ(record.ring_slots, 64);
	/* it is not ours before we claim it */
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 6, 0, w.pair[1]), EPERM);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), 0);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), EBUSY);
	CHECK(list_first(w.fd, &record));
	CHECK_EQ(record.flags, 0);
	CHECK_EQ(record.pid, getpid());
	expect_steered(&w);
	CHECK_EQ(daemon_query(w.fd, 0).conns, 1);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 5, 0, w.pair[1]), EEXIST);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 6, 0, w.pair[0]), EALREADY);
	CHECK_EQ(daemon_detach(w.fd, w.endpoint, 0, 5), 0);
	expect_queued(&w);
	/* numbers go on */
	close(w.maps[3]);
	CHECK_GT(daemon_create(w.fd, 1, w.maps), w.endpoint);
	world_close(&w);
}

TAP_TEST(unclaimed_goes_after_the_grace_time)
{
	struct sluice_control_record record;
	const char *args[] = { "--config", NULL, NULL };
	struct world w;
	__u32 id;

	world_open(&w);
	id = daemon_map_id(w.maps[1]);
	daemon_kill(&w.d);
	args[1] = daemon_config(&w.d, "[daemon]\ngrace_seconds = 1\n");
	daemon_start(&w.d, args);
	reconnect(&w);
	CHECK_SOON(!list_first(w.fd, &record));
	CHECK_SOON(daemon_query(w.fd, 0).endpoints ==
		   0); /* until its maps are gone */
	CHECK_EQ(daemon_query(w.fd, 0).conns, 0);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), ENOENT);
	expect_queued(&w);
	CHECK(daemon_map_exists(id)); /* we have it */
	for (int i = 0; i < 4; i++) {
		close(w.maps[i]);
		w.maps[i] = -1;
	}
	CHECK_SOON(!daemon_map_exists(id));
	world_close(&w);
}

TAP_TEST(claim_needs_the_map)
{
	struct world w;
	int maps[4], pair[2];
	__u64 other;

	world_open(&w);
	other = daemon_create(w.fd, 1, maps);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	daemon_kill(&w.d);
	daemon_start(&w.d, NULL);
	reconnect(&w);
	CHECK_EQ(claim(w.fd, w.endpoint, maps[0]), EPERM);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[1]), EPERM);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[2]), EPERM);
	CHECK_EQ(claim(w.fd, w.endpoint, pair[0]), EBADF);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), 0);
	CHECK_EQ(claim(w.fd, other, maps[0]), 0);
	for (int i = 0; i < 4; i++)
		close(maps[i]);
	close(pair[0]);
	close(pair[1]);
	world_close(&w);
}

/* A thief who got hold of the ring's fd is still of another uid. */
TAP_TEST(claim_needs_the_uid)
{
	const char *args[] = { "--config", NULL, NULL };
	struct world w;
	pid_t pid;

	world_open(&w);
	daemon_kill(&w.d);
	args[1] = daemon_config(&w.d, "[control]\nmode = 0666\n");
	daemon_start(&w.d, args);
	pid = tap_fork();
	if (!pid) {
		daemon_become_nobody();
		reconnect(&w);
		CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), EPERM);
		_exit(0);
	}
	tap_join(pid);
	reconnect(&w);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), 0);
	world_close(&w);
}

static int pinned(const struct daemon *d, const char *name)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", d->pins, name);
	return CHECK_OK(bpf_obj_get(path));
}

/* Killed at any point: an endpoint of which a map is missing is removed. */
TAP_TEST(remains_are_removed)
{
	static const char *const outer[] = { "rings", "landings", "controls",
					     "doorbells" };
	struct steer_conn_entry entry = { .ring = 9, .endpoint = 99 };
	struct sluice_control_record record;
	__u64 cookie = 0x123456789;
	__u32 ring = 0, id;
	struct world w;

	for (int which = 0; which < 4; which++) {
		int map, conns;

		world_open(&w);
		daemon_kill(&w.d);
		map = pinned(&w.d, outer[which]);
		CHECK_OK(bpf_map_delete_elem(map, &ring));
		close(map);
		conns = pinned(&w.d, "conns");
		CHECK_OK(bpf_map_update_elem(conns, &cookie, &entry, 0));
		daemon_start(&w.d, NULL);
		reconnect(&w);
		CHECK(!list_first(w.fd, &record));
		CHECK_EQ(daemon_query(w.fd, 0).conns, 0);
		CHECK_LT(bpf_map_get_next_key(conns, NULL, &cookie), 0);
		close(conns);
		for (int i = 0; i < 4; i++) {
			map = pinned(&w.d, outer[i]);
			CHECK_LT(bpf_map_lookup_elem(map, &ring, &id), 0);
			close(map);
		}
		world_close(&w);
	}
}

/* Killed at any moment of a client's work. */
TAP_TEST(killed_at_any_moment)
{
	const char *args[] = { "--config", NULL, NULL };
	struct sluice_control_record record;
	struct daemon d;
	int fd;

	daemon_open(&d);
	args[1] = daemon_config(&d, "[daemon]\ngrace_seconds = 0\n");
	for (int i = 0; i < 20; i++) {
		pid_t pid;

		daemon_start(&d, args);
		fd = daemon_connect(&d);
		pid = tap_fork();
		if (!pid) {
			struct sluice_control frame;

			for (int j = 0; j < 60; j++) {
				frame = daemon_frame(SLUICE_CONTROL_CREATE);
				frame.create.rings = 1 + j % 4;
				frame.create.ring_slots = 1024;
				frame.create.conns = 64;
				if (send(fd, &frame, sizeof(frame),
					 MSG_NOSIGNAL) < 0)
					break;
			}
			pause();
		}
		tap_sleep((int64_t)tap_random_below(15000000));
		daemon_kill(&d);
		tap_kill(pid);
		close(fd);
	}
	daemon_start(&d, args);
	fd = daemon_connect(&d);
	CHECK_SOON(!list_first(fd, &record));
	close(fd);
	daemon_close(&d);
}

/* Two at a time ------------------------------------------------------------ */

TAP_TEST(second_one_is_refused)
{
	const char *args[] = { "--pins", NULL, "--unload", NULL };
	const char *socket_args[] = { "--control", NULL, NULL };
	char pins[320], control[320];
	struct world w;

	world_open(&w);
	snprintf(control, sizeof(control), "%s/other", w.d.dir);
	socket_args[1] = control;
	CHECK_EQ(daemon_try(&w.d, socket_args), EXIT_RUNNING);
	CHECK(daemon_said(&w.d, 0, "another sluiced works with it"));
	snprintf(pins, sizeof(pins), "%s/others", w.d.bpf);
	args[1] = pins;
	CHECK_EQ(daemon_try(&w.d, args), EXIT_RUNNING);
	CHECK(daemon_said(&w.d, 0, "another sluiced listens there"));
	expect_steered(&w);
	CHECK_EQ(daemon_query(w.fd, 0).conns, 1);
	world_close(&w);
}

TAP_TEST(path_of_something_else_is_kept)
{
	struct daemon d;
	FILE *file;

	daemon_open(&d);
	file = fopen(d.control, "we");
	CHECK(file);
	fclose(file);
	CHECK_EQ(daemon_try(&d, NULL), 1);
	CHECK(daemon_said(&d, 0, "File exists"));
	CHECK_SYS(access(d.control, F_OK));
	daemon_close(&d);
}

TAP_TEST(unload_removes_pins_and_endpoints)
{
	const char *args[] = { "--unload", NULL };
	struct world w;

	world_open(&w);
	expect_steered(&w);
	CHECK_EQ(daemon_stop(&w.d), 0);
	CHECK_SYS(access(w.d.pins, F_OK));
	daemon_start(&w.d, args);
	reconnect(&w);
	CHECK_EQ(claim(w.fd, w.endpoint, w.maps[0]), 0);
	expect_steered(&w);
	CHECK_EQ(daemon_stop(&w.d), 0);
	CHECK_EQ(access(w.d.pins, F_OK), -1);
	CHECK_EQ(access(w.d.control, F_OK), -1);
	expect_queued(&w);
	world_close(&w);
}

/* bpftool and other versions ----------------------------------------------- */

TAP_TEST(takes_over_what_bpftool_pinned)
{
	struct daemon d;
	char command[1024];
	int fd, maps[4];

	daemon_open(&d);
	snprintf(command, sizeof(command),
		 "PATH=$PATH:/usr/sbin; bpftool prog loadall "
		 "%s/bpf/steer.bpf.o %s pinmaps %s",
		 tap_build(), d.pins, d.pins);
	CHECK_EQ(system(command), 0);
	daemon_start(&d, NULL);
	CHECK(daemon_said(&d, 0, "took over what is pinned"));
	fd = daemon_connect(&d);
	daemon_create(fd, 1, maps);
	close(fd);
	for (int i = 0; i < 4; i++)
		close(maps[i]);
	daemon_close(&d);
}

/* Maps that are not pinned are pinned then. */
TAP_TEST(takes_over_a_program_alone)
{
	struct daemon d;
	char command[1024], path[320];

	daemon_open(&d);
	CHECK_SYS(mkdir(d.pins, 0700));
	snprintf(command, sizeof(command),
		 "PATH=$PATH:/usr/sbin; bpftool prog load %s/bpf/steer.bpf.o "
		 "%s/steer",
		 tap_build(), d.pins);
	CHECK_EQ(system(command), 0);
	daemon_start(&d, NULL);
	snprintf(path, sizeof(path), "%s/doorbells", d.pins);
	CHECK_SYS(access(path, F_OK));
	daemon_close(&d);
}

/* Pins a program as `steer`. */
static void pin(const struct daemon *d, int fd)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/steer", d->pins);
	CHECK_SYS(mkdir(d->pins, 0700));
	CHECK_OK(bpf_obj_pin(fd, path));
}

static void expect_stale(struct daemon *d, const char *why)
{
	char path[320];

	CHECK_EQ(daemon_try(d, NULL), EXIT_NO_BPF);
	CHECK(daemon_said(d, 0, why));
	CHECK(daemon_said(d, 0, "sluicectl unload"));
	/* it is not ours to remove */
	snprintf(path, sizeof(path), "%s/steer", d->pins);
	CHECK_SYS(access(path, F_OK));
	daemon_close(d);
}

TAP_TEST(other_version_is_refused)
{
	struct steer_bpf *skel;
	struct daemon d;

	daemon_open(&d);
	skel = steer_bpf__open();
	CHECK(skel);
	*(__u32 *)&skel->rodata->steer_config.version = 2;
	CHECK_OK(steer_bpf__load(skel));
	pin(&d, bpf_program__fd(skel->progs.steer));
	steer_bpf__destroy(skel);
	expect_stale(&d, "the program's version is 2, this sluiced's is 1");
}

TAP_TEST(other_map_shape_is_refused)
{
	struct steer_bpf *skel;
	struct daemon d;

	daemon_open(&d);
	skel = steer_bpf__open();
	CHECK(skel);
	CHECK_OK(bpf_map__set_max_entries(skel->maps.conns, 1024));
	CHECK_OK(steer_bpf__load(skel));
	pin(&d, bpf_program__fd(skel->progs.steer));
	steer_bpf__destroy(skel);
	expect_stale(&d, "map conns has another shape");
}

TAP_TEST(other_program_is_refused)
{
	const struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = -1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct daemon d;
	int fd;

	daemon_open(&d);
	fd = CHECK_OK(bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "steer", "GPL",
				    code, 2, NULL));
	pin(&d, fd);
	close(fd);
	expect_stale(&d, "does not use the maps it should");
}

/* Maps without the program: a load that was cut short. */
TAP_TEST(half_a_load_is_done_again)
{
	struct daemon d;
	char path[320];

	daemon_open(&d);
	daemon_start(&d, NULL);
	CHECK_EQ(daemon_stop(&d), 0);
	snprintf(path, sizeof(path), "%s/steer", d.pins);
	CHECK_SYS(unlink(path));
	daemon_start(&d, NULL);
	CHECK_SYS(access(path, F_OK));
	daemon_close(&d);
}

/* Reload ------------------------------------------------------------------- */

static void reload(struct daemon *d, const char *config, const char *says)
{
	size_t from = daemon_log_size(d);

	daemon_config(d, config);
	CHECK_SYS(kill(d->pid, SIGHUP));
	CHECK_SOON(daemon_said(d, from, says));
}

TAP_TEST(reload_takes_what_is_good)
{
	const char *args[] = { "--config", NULL, NULL };
	struct daemon d;
	int fd, maps[4];

	daemon_open(&d);
	args[1] = daemon_config(&d, "[limits]\nendpoints_per_uid = 5\n");
	daemon_start(&d, args);
	fd = daemon_connect(&d);
	daemon_create(fd, 1, maps);
	CHECK_EQ(daemon_query(fd, 0).endpoint_limit, 5);
	reload(&d, "[limits]\nendpoints_per_uid = 6\n",
	       "configuration read again");
	CHECK_EQ(daemon_query(fd, 0).endpoint_limit, 6);
	reload(&d, "[limits]\nendpoints_per_uid = x\n",
	       "sluiced.conf:2: endpoints_per_uid = x: must be a number; the "
	       "old configuration stays");
	CHECK_EQ(daemon_query(fd, 0).endpoint_limit, 6);
	reload(&d, "[control]\nmode = 0666\n[limits]\nendpoints_per_uid = 7\n",
	       "change at the next start only");
	CHECK_SOON(daemon_query(fd, 0).endpoint_limit == 7);
	CHECK_EQ(daemon_query(fd, 0).endpoints, 1);
	for (int i = 0; i < 4; i++)
		close(maps[i]);
	close(fd);
	daemon_close(&d);
}
