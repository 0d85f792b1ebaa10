/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Clients of sluiced against each other: who may do what, quotas, floods, death,
 * and that nothing is left of what came and went.
 *
 * Limit: 600 s
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "tap.h"

static const char *const for_all[] = { "--config", NULL, NULL };

/* Starts it with a configuration that lets everybody in. */
static void start_for_all(struct daemon *d, const char *more)
{
	const char *args[3];
	char text[512];

	memcpy(args, for_all, sizeof(args));
	snprintf(text, sizeof(text), "[control]\nmode = 0666\n%s", more);
	args[1] = daemon_config(d, text);
	daemon_start(d, args);
}

static int try_create(int fd, __u32 landing_small)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_CREATE);
	int fds[4], count, r;

	frame.create.rings = 1;
	frame.create.ring_slots = 16;
	frame.create.conns = 16;
	frame.create.landing[0] = landing_small;
	r = daemon_call(fd, &frame, -1, fds, &count);
	for (int i = 0; i < count; i++)
		close(fds[i]);
	return r;
}

static void destroy(int fd, __u64 endpoint)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_DESTROY);

	frame.endpoint = endpoint;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), 0);
}

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		CHECK_SYS(close(fds[i]));
}

/* Access ------------------------------------------------------------------- */

static int connect_errno(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	int r;

	strcpy(name.sun_path, "control"); /* as daemon_connect() */
	r = connect(fd, (struct sockaddr *)&name, sizeof(name)) ? errno : 0;
	close(fd);
	return r;
}

/* As nobody, whose only group is nogroup. */
static void expect_nobody(int error)
{
	pid_t pid = tap_fork();

	if (!pid) {
		daemon_become_nobody();
		CHECK_EQ(connect_errno(), error);
		_exit(0);
	}
	tap_join(pid);
}

TAP_TEST(access_by_mode_and_group)
{
	static const struct {
		const char *config;
		int error;
	} rows[] = {
		{ "", EACCES },
		{ "[control]\nmode = 0666\n", 0 },
		{ "[control]\ngroup = nogroup\n", 0 },
		{ "[control]\ngroup = nogroup\nmode = 0600\n", EACCES },
		{ "[control]\ngroup = daemon\n", EACCES },
	};
	struct daemon d;

	daemon_open(&d);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *args[] = { "--config",
				       daemon_config(&d, rows[i].config),
				       NULL };

		daemon_start(&d, args);
		CHECK_EQ(connect_errno(), 0);
		expect_nobody(rows[i].error);
		CHECK_EQ(daemon_stop(&d), 0);
	}
	daemon_close(&d);
}

static long update_map(int fd, __u32 key, const void *value)
{
	union bpf_attr attr = {
		.map_fd = (__u32)fd,
		.key = (__u64)(uintptr_t)&key,
		.value = (__u64)(uintptr_t)value,
	};

	return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr));
}

/* Frozen: it can be mapped for reading, and in no other way be changed. */
static void check_frozen(int fd, size_t size)
{
	static char value[65536];
	void *at;

	CHECK_EQ(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
		 MAP_FAILED);
	CHECK_EQ(errno, EPERM);
	at = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	CHECK_NE(at, MAP_FAILED);
	CHECK_EQ(mprotect(at, size, PROT_READ | PROT_WRITE), -1);
	CHECK_EQ(errno, EACCES);
	CHECK_SYS(munmap(at, size));
	CHECK_EQ(update_map(fd, 0, value), -1);
	CHECK_EQ(errno, EPERM);
}

static void use_as_nobody(const struct daemon *d, __u64 foreign,
			  int foreign_map)
{
	int fd = daemon_connect(d), fds[8], pair[2];
	__u64 endpoint = daemon_create(fd, 2, fds);
	struct sluice_control frame;
	struct sluice_steer_ring *ring;
	void *control;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
	for (int i = 0; i < 8; i += 4) {
		check_frozen(fds[i], 4096);
		check_frozen(fds[i + 1], 65536);
	}
	ring = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fds[4], 0);
	CHECK_NE(ring, MAP_FAILED);
	CHECK_EQ(ring->magic, SLUICE_STEER_MAGIC);
	CHECK_EQ(ring->uid, getuid());
	CHECK_EQ(ring->endpoint, endpoint);
	CHECK_EQ(ring->index, 1);
	control =
		mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fds[2], 0);
	CHECK_NE(control, MAP_FAILED);
	/* what is not its own */
	CHECK_EQ(daemon_attach(fd, foreign, 0, 2, 0, pair[1]), EPERM);
	CHECK_EQ(daemon_detach(fd, foreign, 0, 1), EPERM);
	frame = daemon_frame(SLUICE_CONTROL_DESTROY);
	frame.endpoint = foreign;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EPERM);
	frame = daemon_frame(SLUICE_CONTROL_CLAIM);
	frame.endpoint = foreign;
	CHECK_EQ(daemon_call(fd, &frame, foreign_map, NULL, NULL), EPERM);
	frame = daemon_frame(SLUICE_CONTROL_DRAIN);
	frame.drain.on = 1;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EPERM);
	for (int type = 0; type < 2; type++) {
		frame = daemon_frame(type ? SLUICE_CONTROL_LIST :
					    SLUICE_CONTROL_QUERY);
		frame.flags = SLUICE_CONTROL_F_ALL;
		CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EPERM);
	}
	CHECK_EQ(daemon_query(fd, 0).endpoints, 1);
	CHECK_EQ(daemon_query(fd, 0).conns, 1);
}

TAP_TEST(unprivileged_client)
{
	int fd, fds[4], pair[2];
	struct daemon d;
	__u64 endpoint;
	pid_t pid;

	daemon_open(&d);
	start_for_all(&d, "");
	fd = daemon_connect(&d);
	endpoint = daemon_create(fd, 1, fds);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
	pid = tap_fork();
	if (!pid) {
		daemon_become_nobody();
		use_as_nobody(&d, endpoint, fds[0]);
		_exit(0);
	}
	tap_join(pid);
	/* with it went what it had, and nothing else */
	CHECK_SOON(daemon_query(fd, SLUICE_CONTROL_F_ALL).endpoints == 1);
	CHECK_EQ(daemon_query(fd, SLUICE_CONTROL_F_ALL).conns, 1);
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 1), 0);
	close_all(fds, 4);
	close_all(pair, 2);
	close(fd);
	daemon_close(&d);
}

/* Quotas ------------------------------------------------------------------- */

TAP_TEST(quota_of_endpoints)
{
	struct daemon d;
	int fd, other, fds[4];
	__u64 first;

	daemon_open(&d);
	start_for_all(&d, "[limits]\nendpoints_per_uid = 3\n");
	fd = daemon_connect(&d);
	other = daemon_connect(&d);
	first = daemon_create(fd, 1, fds);
	close_all(fds, 4);
	CHECK_EQ(try_create(other, 0), 0);
	CHECK_EQ(try_create(fd, 0), 0);
	CHECK_EQ(try_create(other, 0), EDQUOT);
	CHECK_EQ(daemon_query(fd, 0).endpoint_limit, 3);
	destroy(fd, first);
	CHECK_EQ(try_create(other, 0), 0);
	close(fd);
	/* its death frees what it had, in a while */
	CHECK_SOON(daemon_query(other, 0).endpoints == 2);
	CHECK_EQ(try_create(other, 0), 0);
	close(other);
	daemon_close(&d);
}

TAP_TEST(quota_of_map_bytes)
{
	struct daemon d;
	int fd;

	daemon_open(&d);
	/* ring 8 KiB, control 8 KiB, doorbell 4 KiB, landing n * 64 KiB */
	start_for_all(&d, "[limits]\nmap_bytes_per_uid = 300K\n"
			  "map_bytes_per_endpoint = 148K\n");
	fd = daemon_connect(&d);
	CHECK_EQ(try_create(fd, 3), EDQUOT);
	CHECK_EQ(try_create(fd, 2), 0);
	CHECK_EQ(daemon_query(fd, 0).map_bytes, 148 << 10);
	CHECK_EQ(daemon_query(fd, 0).map_bytes_limit, 300 << 10);
	CHECK_EQ(try_create(fd, 2), 0);
	CHECK_EQ(try_create(fd, 1), EDQUOT);
	close(fd);
	daemon_close(&d);
}

/* Sockets that died without a DETACH do not count. */
static void check_conn_quota(const char *config)
{
	int fd, fds[4], pairs[5][2];
	struct daemon d;
	__u64 endpoint;

	daemon_open(&d);
	start_for_all(&d, config);
	fd = daemon_connect(&d);
	endpoint = daemon_create(fd, 1, fds);
	for (__u32 i = 0; i < 5; i++) {
		CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
				     pairs[i]));
		CHECK_EQ(daemon_attach(fd, endpoint, 0, i, 0, pairs[i][0]),
			 i < 4 ? 0 : EDQUOT);
	}
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 0), 0);
	CHECK_EQ(daemon_attach(fd, endpoint, 0, 4, 0, pairs[4][0]), 0);
	CHECK_SYS(close(pairs[2][0]));
	/* a sweep at a time, at most one in a second */
	CHECK_SOON(daemon_attach(fd, endpoint, 0, 0, 0, pairs[0][0]) == 0);
	CHECK_EQ(daemon_query(fd, 0).conns, 4);
	/* the dead one's index is kept for its DETACH, or given to the next */
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 2), 0);
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 2), ENOENT);
	pairs[2][0] = -1;
	for (int i = 0; i < 5; i++) {
		close(pairs[i][0]);
		close(pairs[i][1]);
	}
	close_all(fds, 4);
	close(fd);
	daemon_close(&d);
}

TAP_TEST(quota_of_conns)
{
	check_conn_quota("[limits]\nconns_per_uid = 4\n");
}

TAP_TEST(quota_of_conns_of_an_endpoint)
{
	check_conn_quota("[limits]\nconns_per_endpoint = 4\n");
}

TAP_TEST(quota_of_clients)
{
	struct sluice_control reply;
	int fds[4], extra;
	struct daemon d;
	char byte;

	daemon_open(&d);
	start_for_all(&d, "[limits]\nclients_per_uid = 3\n");
	for (int i = 0; i < 3; i++) {
		fds[i] = daemon_connect(&d);
		daemon_query(fds[i], 0);
	}
	extra = daemon_connect(&d);
	daemon_receive(extra, &reply, NULL, NULL, NULL, NULL);
	CHECK_EQ(reply.magic, SLUICE_CONTROL_MAGIC);
	CHECK_EQ(reply.flags, SLUICE_CONTROL_F_REPLY);
	CHECK_EQ(reply.error, EUSERS);
	CHECK_EQ(recv(extra, &byte, 1, 0), 0);
	close(extra);
	close(fds[0]);
	CHECK_SOON(({
		fds[0] = daemon_connect(&d);
		send(fds[0], "", 0, MSG_NOSIGNAL);
		daemon_receive(fds[0], &reply, NULL, NULL, NULL, NULL);
		if (reply.error != EMSGSIZE)
			close(fds[0]);
		reply.error == EMSGSIZE;
	}));
	close_all(fds, 3);
	daemon_close(&d);
}

/* Sweeps ------------------------------------------------------------------- */

TAP_TEST(dead_sockets_are_swept)
{
	int fd, fds[4], pair[2], other[2];
	struct daemon d;
	__u64 endpoint;

	daemon_open(&d);
	start_for_all(&d, "[daemon]\nsweep_seconds = 1\n");
	fd = daemon_connect(&d);
	endpoint = daemon_create(fd, 1, fds);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	/* one of another network namespace is not seen, and not taken for dead */
	CHECK_SYS(unshare(CLONE_NEWNET));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, other));
	CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
	CHECK_EQ(daemon_attach(fd, endpoint, 0, 2, 0, pair[1]), 0);
	CHECK_EQ(daemon_attach(fd, endpoint, 0, 3, 0, other[0]), 0);
	CHECK_SYS(close(pair[0]));
	CHECK_SOON(daemon_query(fd, 0).conns == 2);
	tap_sleep(2200000000); /* two more sweeps */
	CHECK_EQ(daemon_query(fd, 0).conns, 2);
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 1), 0);
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 2), 0);
	CHECK_EQ(daemon_detach(fd, endpoint, 0, 3), 0);
	close(pair[1]);
	close_all(other, 2);
	close_all(fds, 4);
	close(fd);
	daemon_close(&d);
}

/* Hostile ------------------------------------------------------------------ */

/* Random bytes, sizes and fds, as fast as it can, never reading much. */
static void flood(const struct daemon *d)
{
	for (;;) {
		int fd = daemon_connect(d);

		for (int i = 0; i < 1000; i++) {
			__u64 bytes[16];
			struct sluice_control *frame = (void *)bytes;
			struct iovec iov = { bytes, sizeof(*frame) };
			struct msghdr message = { .msg_iov = &iov,
						  .msg_iovlen = 1 };

			for (int j = 0; j < 16; j++)
				bytes[j] = tap_random();
			if (i % 4)
				frame->magic = SLUICE_CONTROL_MAGIC;
			if (i % 8)
				frame->type %= 10;
			if (i % 16 == 0)
				iov.iov_len = tap_random_below(sizeof(bytes));
			if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) <
				    0 &&
			    errno != EAGAIN)
				break;
			if (i % 2)
				recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		}
		close(fd);
	}
}

TAP_TEST(garbage_does_no_harm)
{
	struct daemon d;
	int fd, fds[4], pair[2], before;
	__u64 endpoint;
	pid_t pids[2];

	daemon_open(&d);
	start_for_all(&d, "");
	fd = daemon_connect(&d);
	endpoint = daemon_create(fd, 1, fds);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	daemon_query(fd, 0); /* by now it has closed the fds it sent */
	before = daemon_fds(&d);
	for (int i = 0; i < 2; i++) {
		pids[i] = tap_fork();
		if (!pids[i]) {
			daemon_become_nobody();
			tap_random_stream((uint64_t)i + 1);
			flood(&d);
		}
	}
	for (int i = 0; i < 300; i++) {
		CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
		CHECK_EQ(daemon_detach(fd, endpoint, 0, 1), 0);
	}
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(waitpid(pids[i], NULL, WNOHANG), 0); /* to the end */
		tap_kill(pids[i]);
	}
	CHECK_SOON(daemon_fds(&d) == before);
	CHECK_EQ(daemon_query(fd, SLUICE_CONTROL_F_ALL).endpoints, 1);
	close_all(fds, 4);
	close_all(pair, 2);
	close(fd);
	daemon_close(&d);
}

/* The jobs that nobody has had done so far. */
static volatile int *answered;

/* Has as many CREATEs queued as it may, all the time. */
static void create_in_a_loop(const struct daemon *d)
{
	int fd = daemon_connect(d), fds[64], count, queued = 0;
	struct sluice_control frame;

	for (;;) {
		while (queued < 60) {
			frame = daemon_frame(SLUICE_CONTROL_CREATE);
			frame.create.rings = 1;
			frame.create.ring_slots = 65536;
			frame.create.conns = 16;
			daemon_send(fd, &frame, sizeof(frame), NULL, 0);
			queued++;
		}
		daemon_receive(fd, &frame, fds, &count, NULL, NULL);
		for (int i = 0; i < count; i++)
			close(fds[i]);
		queued--;
		*answered += !frame.error;
		if (frame.type == SLUICE_CONTROL_CREATE && !frame.error) {
			frame.type = SLUICE_CONTROL_DESTROY;
			frame.flags = 0;
			memset(frame.__resv, 0, sizeof(frame.__resv));
			daemon_send(fd, &frame, sizeof(frame), NULL, 0);
			queued++;
		}
	}
}

/*
 * Another uid's CREATE waits for one job of nobody's at most, and for free threads;
 * its ATTACH for none. Counted in jobs, not in time, so that load does not matter;
 * the bound allows for replies that were under way.
 */
TAP_TEST(one_client_does_not_delay_another)
{
	struct daemon d;
	int fd, fds[4], pair[2], before, most_create = 0, most_attach = 0;
	__u64 endpoint;
	pid_t pid;

	daemon_open(&d);
	start_for_all(&d, "");
	answered = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK_NE((void *)answered, MAP_FAILED);
	fd = daemon_connect(&d);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	pid = tap_fork();
	if (!pid) {
		daemon_become_nobody();
		create_in_a_loop(&d);
	}
	CHECK_SOON(*answered > 100);
	for (int i = 0; i < 50; i++) {
		before = *answered;
		endpoint = daemon_create(fd, 1, fds);
		if (*answered - before > most_create)
			most_create = *answered - before;
		CHECK_LT(most_create, 20);
		before = *answered;
		CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
		if (*answered - before > most_attach)
			most_attach = *answered - before;
		CHECK_LT(most_attach, 20);
		CHECK_EQ(daemon_detach(fd, endpoint, 0, 1), 0);
		destroy(fd, endpoint);
		close_all(fds, 4);
	}
	tap_diag("jobs of nobody's during a CREATE: %d, an ATTACH: %d; all: %d",
		 most_create, most_attach, *answered);
	tap_kill(pid);
	close_all(pair, 2);
	close(fd);
	daemon_close(&d);
}

/* Replies that nobody takes hold fds: so many, and no more. */
TAP_TEST(untaken_replies_are_bounded)
{
	struct sluice_control frame, reply;
	struct daemon d;
	int fd, other, fds[64], busy = 0, created = 0, count;

	daemon_open(&d);
	start_for_all(&d, "[limits]\nendpoints_per_uid = 4096\n");
	fd = daemon_connect(&d);
	other = daemon_connect(&d);
	for (int i = 0; i < 60; i++) {
		frame = daemon_frame(SLUICE_CONTROL_CREATE);
		frame.create.rings = SLUICE_RINGS_MAX;
		frame.create.ring_slots = 16;
		frame.create.conns = 16;
		daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	}
	/* the same uid's other connection is answered, if only that it must wait */
	CHECK_SOON(try_create(other, 0) == EBUSY);
	for (int i = 0; i < 60; i++) {
		daemon_receive(fd, &reply, fds, &count, NULL, NULL);
		close_all(fds, count);
		CHECK(!reply.error || reply.error == EBUSY);
		created += !reply.error;
		busy += reply.error == EBUSY;
	}
	CHECK_LE(created, 1024 / 64 + 16); /* a few were taken meanwhile */
	CHECK_EQ(created + busy, 60);
	CHECK_EQ(try_create(other, 0), 0);
	CHECK_EQ(daemon_query(other, 0).endpoints, created + 1);
	close(fd);
	close(other);
	daemon_close(&d);
}

/*
 * A client that asks and never reads: its requests stop being read, and its end
 * ends all of it.
 */
TAP_TEST(client_that_never_reads)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_QUERY);
	struct pollfd full = { .events = POLLOUT };
	struct daemon d;
	int fd, other, sent = 0, before;

	daemon_open(&d);
	daemon_start(&d, NULL);
	other = daemon_connect(&d);
	daemon_query(other, 0);
	before = daemon_fds(&d);
	fd = daemon_connect(&d);
	daemon_query(fd, 0);
	do {
		while (send(fd, &frame, sizeof(frame), MSG_DONTWAIT) > 0)
			sent++;
		CHECK_EQ(errno, EAGAIN);
		full.fd = fd;
		CHECK_LT(sent, 10000);
	} while (poll(&full, 1, 500) == 1);
	tap_diag("it took %d requests", sent);
	daemon_query(other, 0);
	close(fd);
	CHECK_SOON(daemon_fds(&d) == before);
	close(other);
	daemon_close(&d);
}

/* A TCP socket whose close waits for ever: nobody reads what it has sent. */
static int lingering_socket(int *peer)
{
	struct sockaddr_in name = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger linger = { .l_onoff = 1, .l_linger = 3600 };
	int listener =
		CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	static char data[65536];
	socklen_t len = sizeof(name);

	CHECK_SYS(bind(listener, (struct sockaddr *)&name, len));
	CHECK_SYS(listen(listener, 1));
	CHECK_SYS(getsockname(listener, (struct sockaddr *)&name, &len));
	if (connect(fd, (struct sockaddr *)&name, len))
		tap_skip("no TCP over loopback: %s", strerror(errno));
	*peer = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
	while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	CHECK_SYS(
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	return fd;
}

/* It hides in the queue of the socket that sluiced is the last to close. */
static void send_what_lingers(const struct daemon *d)
{
	int fd = daemon_connect(d), fds[4], pair[2], peer;
	__u64 endpoint = daemon_create(fd, 1, fds);
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_ATTACH);
	int tcp = lingering_socket(&peer);
	char byte;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	daemon_send(pair[1], "x", 1, &tcp, 1);
	frame.endpoint = endpoint;
	CHECK_SYS(kill(d->pid, SIGSTOP));
	daemon_send(fd, &frame, sizeof(frame), pair, 1);
	/* closed here, while others hold it: that does not wait */
	CHECK_SYS(close(tcp));
	CHECK_SYS(close(pair[0]));
	CHECK_SYS(kill(d->pid, SIGCONT));
	CHECK_EQ(recv(fd, &byte, 1, 0), 0);
	fd = daemon_connect(d);
	daemon_receive(fd, &frame, NULL, NULL, NULL, NULL);
	CHECK_EQ(frame.error, EACCES);
}

TAP_TEST(close_that_waits_is_cut_short)
{
	struct daemon d;
	int fd, fds[4];
	pid_t pid;

	daemon_open(&d);
	start_for_all(&d, "");
	fd = daemon_connect(&d);
	daemon_create(fd, 1, fds);
	pid = tap_fork();
	if (!pid) {
		/* root's kill() is for SIGSTOP; its clients are not what counts */
		CHECK_SYS(setresuid(65534, 65534, 0));
		CHECK_SYS(setresuid(0, 0, 0));
		send_what_lingers(&d);
		_exit(0);
	}
	tap_join(pid);
	CHECK(daemon_said(&d, 0, "shunned"));
	close_all(fds, 4);
	close(fd);
	daemon_close(&d);
}

/* Leaks -------------------------------------------------------------------- */

TAP_TEST(nothing_is_left_of_many)
{
	const int rounds = 1000;
	int fd, fds[4], pair[2], before;
	__u32(*ids)[4] = calloc((size_t)rounds, sizeof(*ids));
	struct daemon d;
	__u64 endpoint;

	tap_limit(500);
	daemon_open(&d);
	daemon_start(&d, NULL);
	fd = daemon_connect(&d);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	daemon_query(fd, 0);
	before = daemon_fds(&d);
	for (int i = 0; i < rounds; i++) {
		endpoint = daemon_create(fd, 1, fds);
		for (int j = 0; j < 4; j++)
			ids[i][j] = daemon_map_id(fds[j]);
		for (__u32 j = 0; j < 5; j++) {
			CHECK_EQ(daemon_attach(fd, endpoint, 0, j, 0, pair[0]),
				 0);
			if (i % 2 || j < 4)
				CHECK_EQ(daemon_detach(fd, endpoint, 0, j), 0);
		}
		if (i % 10)
			destroy(fd, endpoint);
		close_all(fds, 4);
		if (i % 10)
			continue;
		close(fd); /* the other way to end it */
		fd = daemon_connect(&d);
		CHECK_SOON(daemon_query(fd, 0).endpoints == 0);
	}
	CHECK_EQ(daemon_fds(&d), before);
	CHECK_EQ(daemon_query(fd, SLUICE_CONTROL_F_ALL).conns, 0);
	CHECK_EQ(daemon_query(fd, SLUICE_CONTROL_F_ALL).map_bytes, 0);
	/* the kernel frees maps a little later */
	for (int i = 0; i < rounds; i++) {
		for (int j = 0; j < 4; j++)
			CHECK_SOON(!daemon_map_exists(ids[i][j]));
	}
	free(ids);
	close_all(pair, 2);
	close(fd);
	daemon_close(&d);
}
