/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Landing of STREAM: conns that begin and end in any way, with either side or
 * sluiced killed, and clients that send while their sockets are attached.
 *
 * Limit: 600 s
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "landings.h"
#include "tap.h"

/* Attaching while the client sends --------------------------------------------- */

struct sender {
	int fd;
	uint64_t sent;
	uint64_t pause; /* at most, in units that pass quickly */
	bool stop;
};

static void *send_on(void *arg)
{
	struct sender *sender = arg;
	uint64_t i;

	tap_random_stream(2);
	while (!__atomic_load_n(&sender->stop, __ATOMIC_RELAXED)) {
		size_t len = 1 + tap_random_below(3000);

		landing_send(sender->fd, sender->sent, len);
		sender->sent += len;
		for (i = tap_random_below(sender->pause + 1); i; i--)
			sched_yield();
	}
	return NULL;
}

/*
 * Wherever the first of what comes is met, before the program, by it, or left
 * behind by it (-EBUSY): it is in order, and all there.
 */
TAP_TEST(attached_while_the_client_sends)
{
	unsigned int lags = 0, landed = 0, early = 0;
	struct landing_rig rig;
	pthread_t thread;

	landing_open(&rig, LANDING_YES, NULL);
	for (int i = 0; i < 200; i++) {
		struct sender sender = { .pause = tap_random_below(20) };

		landing_again(&rig);
		sender.fd = rig.client;
		pthread_create(&thread, NULL, send_on, &sender);
		for (int n = 0; n < 30; n++)
			CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 1);
		__atomic_store_n(&sender.stop, true, __ATOMIC_RELAXED);
		while (pthread_tryjoin_np(thread, NULL))
			landing_receive(&rig, 1000000);
		landing_receive_up_to(&rig, sender.sent);
		lags += landing_info(&rig).steer_error == -EBUSY;
		early += landing_info(&rig).steer_error == -EAGAIN;
		landed += landing_info(&rig).steered > 0;
		close(rig.client);
		rig.client = -1;
		CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	}
	tap_diag("%u landed, %u lagged, %u were never found empty", landed,
		 lags, early);
	CHECK_GT(landed, 0);
	landing_close(&rig);
}

/* Runs sluiced, which is traced, up to its count-th change of a map. */
static void stop_at_map_update(pid_t pid, int count)
{
	struct __ptrace_syscall_info info;
	int status;

	while (count) {
		CHECK_EQ(waitpid(pid, &status, __WALL), pid);
		CHECK(WIFSTOPPED(status));
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			CHECK_SYS(ptrace(PTRACE_GET_SYSCALL_INFO, pid,
					 sizeof(info), &info));
			if (info.op == PTRACE_SYSCALL_INFO_ENTRY &&
			    info.entry.nr == SYS_bpf &&
			    info.entry.args[0] == BPF_MAP_UPDATE_ELEM)
				count--;
		}
		if (count)
			CHECK_SYS(ptrace(PTRACE_SYSCALL, pid, 0, 0));
	}
}

struct meanwhile {
	pid_t pid; /* sluiced */
	int client;
	int again_us; /* the client sends again after that; -1: it does not */
	pthread_barrier_t traced;
};

/* The socket is in the map after the third: its entry and a spill socket come first. */
static void *send_meanwhile(void *arg)
{
	struct meanwhile *m = arg;

	CHECK_SYS(ptrace(PTRACE_SEIZE, m->pid, 0, PTRACE_O_TRACESYSGOOD));
	CHECK_SYS(ptrace(PTRACE_INTERRUPT, m->pid, 0, 0));
	pthread_barrier_wait(&m->traced);
	stop_at_map_update(m->pid, 3);
	landing_send(m->client, 0, 1500);
	CHECK_SYS(ptrace(PTRACE_DETACH, m->pid, 0, 0));
	if (m->again_us < 0)
		return NULL;
	usleep((useconds_t)m->again_us);
	landing_send(m->client, 1500, 700);
	return NULL;
}

static const struct lag {
	const char *name;
	int again_us;
} lags[] = {
	{ "calm", -1 },
	{ "goes_on", 1000 },
	{ "goes_on_late", 100000 },
};

/* Sent after sluiced has looked, and before the program sees what arrives. */
TAP_EACH(what_lags_is_received, lag, lags)
{
	uint64_t sent = lag->again_us < 0 ? 1500 : 2200;
	struct landing_rig rig;
	struct meanwhile m;
	pthread_t thread;

	landing_open(&rig, LANDING_YES, NULL);
	sluice_conn_close(rig.conn);
	close(rig.client);
	rig.client = services_connect(&rig.s);
	m = (struct meanwhile){ .pid = rig.s.d.pid,
				.client = rig.client,
				.again_us = lag->again_us };
	pthread_barrier_init(&m.traced, NULL, 2);
	pthread_create(&thread, NULL, send_meanwhile, &m);
	pthread_barrier_wait(&m.traced);
	CHECK_OK(sluice_accept(rig.listener, &rig.conn, LANDING_WAIT_NS));
	if (lag->again_us < 0)
		landing_receive_up_to(&rig, sent);
	pthread_join(thread, NULL);
	landing_receive_up_to(&rig, sent);
	CHECK_EQ(landing_info(&rig).rx_reason, SLUICE_REASON_STEER_REFUSED);
	CHECK_EQ(landing_info(&rig).steer_error, -EBUSY);
	/* by recv() from here on */
	for (int i = 0; i < 10; i++) {
		landing_send(rig.client, sent, 5000);
		sent += 5000;
		landing_receive_up_to(&rig, sent);
	}
	CHECK_EQ(landing_info(&rig).steered, 0);
	CHECK_SYS(shutdown(rig.client, SHUT_WR));
	CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	pthread_barrier_destroy(&m.traced);
	landing_close(&rig);
}

/* Ends ---------------------------------------------------------------------- */

/* The backend's own end of sending changes nothing. */
TAP_TEST(backend_half_closes)
{
	struct landing_rig rig;
	uint64_t sent = 0, steered;
	char byte;

	landing_open(&rig, LANDING_YES, NULL);
	landing_until_steered(&rig, &sent);
	CHECK_OK(sluice_conn_shutdown(rig.conn));
	CHECK_EQ(recv(rig.client, &byte, 1, 0), 0);
	steered = landing_info(&rig).steered;
	for (int i = 0; i < 10; i++) {
		landing_send(rig.client, sent, 1000);
		sent += 1000;
		landing_receive_up_to(&rig, sent);
	}
	CHECK_EQ(landing_info(&rig).steered, steered + 10);
	landing_send(rig.client, sent, 1000);
	close(rig.client);
	rig.client = -1;
	landing_receive_up_to(&rig, sent + 1000);
	CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	landing_close(&rig);
}

/* The kernel takes its socket out of the map, though it goes on sending. */
TAP_TEST(client_ends_its_receiving)
{
	struct landing_rig rig;
	uint64_t sent = 0;

	landing_open(&rig, LANDING_YES, NULL);
	landing_until_steered(&rig, &sent);
	landing_send(rig.client, sent, 1000);
	CHECK_SYS(shutdown(rig.client, SHUT_RD));
	sent += 1000;
	for (int i = 0; i < 10; i++) {
		landing_send(rig.client, sent, 1000);
		sent += 1000;
		if (i % 3)
			landing_receive_up_to(&rig, sent);
	}
	landing_receive_up_to(&rig, sent);
	CHECK_EQ(landing_info(&rig).steer_error, -ESHUTDOWN);
	close(rig.client);
	rig.client = -1;
	CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	landing_close(&rig);
}

/* Both, each before anything has been received; much of it was spilled. */
TAP_TEST(ends_right_after_it_has_spilled)
{
	const uint32_t few[3] = { 1, 0, 0 };
	struct landing_rig rig;
	uint64_t sent;

	landing_open(&rig, LANDING_YES, few);
	for (int i = 0; i < 20; i++) {
		landing_again(&rig);
		for (sent = 0; sent < 100000; sent += 3000)
			landing_send(rig.client, sent, 3000);
		if (i % 2)
			CHECK_SYS(shutdown(rig.client, SHUT_WR));
		else
			close(rig.client);
		landing_receive_up_to(&rig, sent);
		CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
		CHECK_GT(landing_info(&rig).spilled, 0);
		if (i % 2)
			close(rig.client);
		rig.client = -1;
	}
	landing_close(&rig);
}

TAP_TEST(receiver_is_killed)
{
	struct landing_rig rig = { .client = -1 };
	int status = 0;
	ssize_t n;
	pid_t pid;

	services_open(&rig.s, SOCK_STREAM, 0, LANDING_YES);
	pid = tap_fork();
	if (!pid) {
		landing_bind(&rig, NULL);
		CHECK_OK(sluice_accept(rig.listener, &rig.conn,
				       LANDING_WAIT_NS));
		landing_receive_up_to(&rig, 10000);
		pause();
	}
	rig.client = services_connect(&rig.s);
	landing_send(rig.client, 0, 10000);
	CHECK_SOON(!ioctl(rig.client, SIOCOUTQ, &status) && !status);
	tap_kill(pid);
	n = send(rig.client, "x", 1, MSG_NOSIGNAL);
	CHECK_EQ(n, -1);
	CHECK_EQ(errno, EPIPE);
	close(rig.client);
	services_refuses(&rig.s);
	services_close(&rig.s);
}

/* fds ------------------------------------------------------------------------ */

/* Refused where the kernel can (6.16); else closed, and nothing else is lost. */
TAP_TEST(fds_do_not_come)
{
	struct landing_rig rig;
	uint64_t sent = 0;
	int ends[2], r;
	char byte;

	landing_open(&rig, LANDING_YES, NULL);
	landing_until_steered(&rig, &sent);
	CHECK_SYS(pipe(ends));
	for (int i = 0; i < 3; i++) {
		r = services_send_fd(rig.client, ends[1]) ? errno : 0;
		tap_diag("%s", r ? strerror(r) : "sent");
		CHECK(!r || r == EPERM);
		if (!r) {
			/* it is one byte, whose value is another's */
			struct sluice_msg msg;

			CHECK_EQ(sluice_recv_wait(rig.conn, &msg,
						  LANDING_WAIT_NS),
				 1);
			CHECK_EQ(msg.len, 1);
			CHECK_OK(sluice_release(rig.conn, &msg));
		}
		landing_send(rig.client, sent, 100);
		sent += 100;
		landing_receive_up_to(&rig, sent);
	}
	close(ends[1]);
	CHECK_EQ(read(ends[0], &byte, 1), 0); /* nobody has it */
	close(ends[0]);
	landing_close(&rig);
}

/* Back-pressure -------------------------------------------------------------- */

/* What fits in pool and sockets is taken; then the client waits; nothing is lost. */
TAP_TEST(slow_receiver_stops_the_client)
{
	static unsigned char data[10000];
	struct landing_rig rig;
	uint64_t sent = 0;
	ssize_t n;

	landing_open(&rig, LANDING_YES, NULL);
	landing_until_steered(&rig, &sent);
	CHECK_SYS(fcntl(rig.client, F_SETFL, O_NONBLOCK));
	for (int stops = 0; stops < 3; stops++) {
		struct pollfd pollfd = { .fd = rig.client, .events = POLLOUT };

		/* until there is no room, and none comes by itself */
		do {
			landing_fill(data, sizeof(data), sent);
			n = send(rig.client, data, sizeof(data), MSG_NOSIGNAL);
			CHECK(n > 0 || errno == EAGAIN);
			sent += n > 0 ? (uint64_t)n : 0;
			CHECK_LE(sent - rig.received, 64 << 20);
		} while (n > 0 || poll(&pollfd, 1, 500) > 0);
		landing_receive_up_to(&rig, sent);
	}
	landing_close(&rig);
}

/* sluiced -------------------------------------------------------------------- */

static void start_again(struct landing_rig *rig)
{
	daemon_start(&rig->s.d,
		     (const char *[]){ "--config", "sluiced.conf", NULL });
}

static void bind_again(struct landing_rig *rig)
{
	struct sluice_conn *conn;

	CHECK_SOON(sluice_accept(rig->listener, &conn, 0) == -EAGAIN &&
		   services_status(&rig->s).backends_up == 1);
}

/* It goes on landing without sluiced, and with the next. */
TAP_TEST(sluiced_is_killed)
{
	struct landing_rig rig;
	uint64_t sent = 0, steered;

	landing_open(&rig, LANDING_YES, NULL);
	for (int i = 0; i < 3; i++) {
		landing_until_steered(&rig, &sent);
		daemon_kill(&rig.s.d);
		steered = landing_info(&rig).steered;
		for (int n = 0; n < 20; n++) {
			landing_send(rig.client, sent, 2000);
			sent += 2000;
			landing_receive_up_to(&rig, sent);
		}
		CHECK_EQ(landing_info(&rig).steered, steered + 20);
		start_again(&rig);
		landing_until_steered(&rig, &sent);
	}
	close(rig.client);
	rig.client = -1;
	CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	sluice_conn_close(rig.conn);
	rig.conn = NULL;
	/* and so do new ones, once the name is bound again */
	bind_again(&rig);
	landing_again(&rig);
	sent = 0;
	landing_until_steered(&rig, &sent);
	landing_close(&rig);
}

/*
 * The endpoint is lost: what comes is received from the spill socket. Whether that
 * was all nobody can say at the end, so it is an error.
 */
TAP_TEST(endpoint_is_destroyed)
{
	struct landing_rig rig;
	uint64_t sent = 0;

	landing_open(&rig, LANDING_YES "[daemon]\ngrace_seconds = 0\n", NULL);
	landing_until_steered(&rig, &sent);
	daemon_kill(&rig.s.d);
	start_again(&rig);
	CHECK_SOON(sluice_wait(rig.conn, SLUICE_RECV, 10000000) < 0 &&
		   landing_info(&rig).rx_reason == SLUICE_REASON_STEER_LOST);
	for (int i = 0; i < 20; i++) {
		landing_send(rig.client, sent, 2000);
		sent += 2000;
		landing_receive_up_to(&rig, sent);
	}
	close(rig.client);
	rig.client = -1;
	CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), -ECONNABORTED);
	bind_again(&rig);
	landing_close(&rig);
}

/* Requests ------------------------------------------------------------------- */

static int attach(int control, __u64 endpoint, int fd, __u32 conn, __u32 flags,
		  int *fds)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_ATTACH);
	int count = 0;

	frame.endpoint = endpoint;
	frame.attach.conn = conn;
	frame.attach.flags = flags;
	return daemon_call(control, &frame, fd, fds, &count);
}

static int client_of_binding(const struct services *s, int binder,
			     __u32 binding, int *fd)
{
	struct sluice_control frame =
		daemon_frame(SLUICE_CONTROL_SERVICE_ACCEPT);
	int fds[64], count = 0, client = services_connect(s);

	frame.accept.binding = binding;
	CHECK_EQ(daemon_call(binder, &frame, -1, fds, &count), 0);
	CHECK_EQ(count, 1);
	*fd = fds[0];
	return client;
}

/* What hostile ones may ask for, and what is refused changes nothing. */
TAP_TEST(attach_requests)
{
	struct sluice_control frame;
	struct services s;
	int binder, control, client, fd, pair[2], fds[64], count = 0;
	__u64 endpoint;
	__u32 binding;
	char byte;

	services_open(&s, SOCK_STREAM, 0, LANDING_YES);
	binder = daemon_connect(&s.d);
	frame = daemon_frame(SLUICE_CONTROL_SERVICE_BIND);
	strcpy((char *)frame.bind.name, "s");
	CHECK_EQ(daemon_call(binder, &frame, -1, NULL, NULL), 0);
	binding = frame.bind.binding;
	control = daemon_connect(&s.d);
	frame = daemon_frame(SLUICE_CONTROL_CREATE);
	frame.create.rings = 1;
	frame.create.ring_slots = 16;
	frame.create.conns = 16;
	CHECK_EQ(daemon_call(control, &frame, -1, fds, &count), 0);
	endpoint = frame.endpoint;
	while (count)
		close(fds[--count]);
	client = client_of_binding(&s, binder, binding, &fd);
	/* not of a service */
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CHECK_EQ(attach(control, endpoint, pair[0], 1, 0, fds), EPROTOTYPE);
	/* its other end, too */
	CHECK_EQ(attach(control, endpoint, client, 1, 0, fds), EPROTOTYPE);
	CHECK_EQ(attach(control, endpoint, fd, 1, SLUICE_ATTACH_F_HASH, fds),
		 EINVAL);
	CHECK_EQ(attach(control, endpoint, fd, 1, SLUICE_ATTACH_F_FRAMES, fds),
		 EINVAL);
	CHECK_EQ(attach(control, endpoint, fd, 1, SLUICE_ATTACH_F_LAGS, fds),
		 EINVAL);
	/* something to read */
	CHECK_EQ(send(client, "x", 1, 0), 1);
	CHECK_EQ(attach(control, endpoint, fd, 1, 0, fds), EAGAIN);
	CHECK_EQ(recv(fd, &byte, 1, 0), 1);
	CHECK_EQ(attach(control, endpoint, fd, 1, 0, fds), 0);
	CHECK_EQ(attach(control, endpoint, fd, 2, 0, fds + 2), EALREADY);
	/* HOLD: by the spill sockets, and the other one is not read */
	CHECK_EQ(send(client, "y", 1, 0), 1);
	CHECK_EQ(poll(&(struct pollfd){ .fd = fds[1], .events = POLLIN }, 1,
		      5000),
		 1);
	CHECK_EQ(recv(fds[1], &byte, 1, 0), 1);
	CHECK_EQ(byte, 'y');
	/* the spill sockets closed: pieces are lost, and counted; nobody is hurt */
	close(fds[0]);
	close(fds[1]);
	CHECK_EQ(send(client, "z", 1, MSG_NOSIGNAL), 1);
	CHECK_EQ(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	close(client);
	CHECK_EQ(recv(fd, &byte, 1, 0), 0);
	close(fd);
	close(pair[0]);
	close(pair[1]);
	close(control);
	close(binder);
	services_refuses(&s);
	services_close(&s);
}
