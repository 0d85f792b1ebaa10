/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * fork() and exec(): what a child may do with the handles it inherited, that it
 * disturbs nothing of its parent, and that it can use the library anew.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "life.h"

#define SECOND 1000000000ll

static const struct lane lanes[] = LIFE_LANES;

/* A bit of everything that a process can hold. */
struct all {
	char path[32];
	struct sluice_listener *listener;
	struct sluice_pool *pool;
	struct sluice_conn *conn[2]; /* the first on the shared pool */
	struct sluice_conn *plain[2];
	struct sluice_set *set; /* with conn[1] */
	struct sluice_buf *buf; /* of the shared pool */
	struct sluice_msg inline_msg, view; /* received by conn[1], held */
};

static void all_new(struct all *all, const struct lane *lane)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	int i;

	strcpy(all->path, "./listener");
	CHECK_OK(sluice_listen(&all->listener, all->path, &options));
	CHECK_OK(sluice_pool_new(&all->pool, NULL));
	options.pool = all->pool;
	ends_pair(all->conn, &options, &ENDS_OPTIONS(.flags = lane->flags));
	life_choose(all->conn[0], lane);
	life_choose(all->conn[1], lane);
	CHECK_OK(sluice_pair(all->plain,
			     &ENDS_OPTIONS(.flags = SLUICE_F_PLAIN)));
	CHECK_OK(sluice_pool_loan(all->pool, 5000, &all->buf));
	content_fill(all->buf->data, 5000, 1, 0);
	CHECK_OK(sluice_send(all->conn[0], "inline", 6, 1, 0));
	for (i = 0; i < 2; i++) {
		sluice_buf_ref(all->buf);
		CHECK_OK(sluice_send_buf(all->conn[0], all->buf, 5000, 2, 0));
	}
	CHECK_EQ(sluice_recv_wait(all->conn[1], &all->inline_msg, -1), 1);
	CHECK_EQ(sluice_recv_wait(all->conn[1], &all->view, -1), 1);
	CHECK_OK(sluice_send(all->plain[0], "plain", 5, 0, 0));
	CHECK_OK(sluice_set_new(&all->set));
	CHECK_OK(sluice_set_add(all->set, all->conn[1], SLUICE_RECV, NULL));
}

static void all_close(struct all *all)
{
	sluice_set_free(all->set);
	sluice_buf_unref(all->buf);
	for (int i = 0; i < 2; i++) {
		sluice_conn_close(all->conn[i]);
		sluice_conn_close(all->plain[i]);
	}
	sluice_pool_free(all->pool);
	sluice_listener_close(all->listener);
	CHECK_EQ(life_memfds(), 0);
}

/* Everything works as if nobody had forked. */
static void all_works(struct all *all)
{
	struct sluice_conn *client, *server;
	struct sluice_event event;
	struct sluice_msg msg;

	CHECK_EQ(sluice_set_wait(all->set, &event, 1, 5 * SECOND, 0), 1);
	CHECK(event.conn == all->conn[1]);
	CHECK_EQ(sluice_recv(all->conn[1], &msg), 1);
	CHECK(content_matches(sluice_msg_data(&msg), 5000, 1, 0));
	CHECK_OK(sluice_release(all->conn[1], &msg));
	CHECK_EQ(sluice_set_wait(all->set, &event, 1, 0, 0), 0);
	CHECK(content_matches(sluice_msg_data(&all->view), 5000, 1, 0));
	CHECK_OK(sluice_release(all->conn[1], &all->view));
	for (int i = 0; i < 2; i++) {
		struct stream tx = { .key = i, .max_len = 9000 }, rx = tx;

		for (tx.next = rx.next = 0; rx.next < 200;) {
			CHECK_EQ(life_send(all->conn[i], &tx, FORM_MIXED, 0),
				 0);
			while (rx.next < tx.next)
				if (life_recv(all->conn[!i], &rx, NULL) ==
				    -EAGAIN)
					CHECK_OK(sluice_wait(all->conn[!i],
							     SLUICE_RECV, -1));
		}
	}
	CHECK_EQ(sluice_recv(all->plain[1], &msg), 1);
	CHECK_EQ(msg.len, 5);
	CHECK_OK(sluice_connect(&client, all->path, NULL));
	CHECK_OK(sluice_accept(all->listener, &server, 5 * SECOND));
	sluice_conn_close(client);
	sluice_conn_close(server);
}

/* Answers to a child that uses what it inherited. */
static void refused(struct all *all)
{
	struct sluice_msg msg[2], view = all->view;
	struct sluice_part part = { .buf = all->buf, .len = 10 };
	struct sluice_conn *own[2], *both[4];
	struct sluice_event event;
	struct sluice_buf *buf;
	uint8_t data[100] = { 0 };
	uint64_t tag;
	short events;
	size_t len;

	memcpy(both, all->conn, sizeof(all->conn));
	memcpy(both + 2, all->plain, sizeof(all->plain));
	for (int i = 0; i < 4; i++) {
		struct sluice_conn *conn = both[i];

		CHECK_EQ(sluice_send(conn, NULL, 0, 0, 0), -ECHILD);
		CHECK_EQ(sluice_send(conn, data, 10, 0, 0), -ECHILD);
		CHECK_EQ(sluice_send(conn, data, 100, 0, 0), -ECHILD);
		CHECK_EQ(sluice_send_buf(conn, all->buf, 10, 0, 0), -ECHILD);
		CHECK_EQ(sluice_send_parts(conn, &part, 1, 0, 0), -ECHILD);
		CHECK_EQ(sluice_flush(conn), -ECHILD);
		CHECK_EQ(sluice_loan(conn, 10, &buf), -ECHILD);
		CHECK_EQ(sluice_recv(conn, msg), -ECHILD);
		CHECK_EQ(sluice_recv_batch(conn, msg, 2), -ECHILD);
		CHECK_EQ(sluice_recv_wait(conn, msg, -1), -ECHILD);
		CHECK_EQ(sluice_recv_copy(conn, data, 100, &len, &tag),
			 -ECHILD);
		CHECK_EQ(sluice_release(conn, &view), -ECHILD);
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, -1), -ECHILD);
		CHECK_EQ(sluice_arm(conn, SLUICE_SEND, &events), -ECHILD);
		CHECK_EQ(sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED),
			 -ECHILD);
		CHECK_EQ(sluice_conn_shutdown(conn), -ECHILD);
	}
	CHECK_EQ(sluice_pool_loan(all->pool, 10, &buf), -ECHILD);
	CHECK_EQ(sluice_pool_trim(all->pool), -ECHILD);
	CHECK_EQ(sluice_set_wait(all->set, &event, 1, -1, 0), -ECHILD);
	CHECK_EQ(sluice_set_change(all->set, all->conn[1], SLUICE_SEND),
		 -ECHILD);
	CHECK_EQ(sluice_set_remove(all->set, all->conn[1]), -ECHILD);
	CHECK_EQ(sluice_pair(own, &ENDS_OPTIONS(.pool = all->pool)), -ECHILD);
	CHECK_OK(sluice_pair(own, NULL));
	CHECK_EQ(sluice_set_add(all->set, own[0], SLUICE_RECV, NULL), -ECHILD);
	ends_close(own);
}

TAP_EACH(child_is_refused, lane, lanes)
{
	struct all all;
	pid_t pid;

	all_new(&all, lane);
	pid = tap_fork();
	if (!pid) {
		refused(&all);
		_exit(0);
	}
	tap_join(pid);
	all_works(&all);
	all_close(&all);
}

/* Its copies go, in any order; the parent's stay. */
TAP_EACH(child_closes, lane, lanes)
{
	struct all all;
	pid_t pid;

	all_new(&all, lane);
	for (int pool_first = 0; pool_first < 2; pool_first++) {
		pid = tap_fork();
		if (!pid) {
			if (pool_first) {
				sluice_pool_free(all.pool);
				all.pool = NULL;
			}
			all_close(&all);
			CHECK_EQ(tap_open_fds(), 3);
			exit(0);
		}
		tap_join(pid);
	}
	CHECK_SYS(access(all.path, F_OK));
	all_works(&all);
	all_close(&all);
	CHECK_EQ(access(all.path, F_OK), -1);
	CHECK_EQ(tap_open_fds(), 3);
}

/* Pools and links do not exist in a child, the peer's views neither. */
TAP_TEST(child_has_no_pool)
{
	static const struct lane direct = { "direct", 0, false };
	struct all all;

	all_new(&all, &direct);
	for (int i = 0; i < 3; i++) {
		volatile uint8_t *at =
			i == 2 ? (uint8_t *)(uintptr_t)sluice_msg_data(
					 &all.view) :
				 all.buf->data;
		int status;
		pid_t pid;

		pid = tap_fork();
		if (!pid) {
			/* A sanitizer would make a report of it. */
			signal(SIGSEGV, SIG_DFL);
			if (i == 0)
				*at = 1;
			_exit(*at);
		}
		status = tap_reap(pid);
		CHECK(WIFSIGNALED(status));
		CHECK_EQ(WTERMSIG(status), SIGSEGV);
	}
	all_works(&all);
	all_close(&all);
}

static void run_stream(struct sluice_conn *conn, void *arg)
{
	life_stream_both(conn, *(uint64_t *)arg);
	sluice_conn_close(conn);
	_exit(0); /* with all that it inherited */
}

TAP_EACH(child_uses_library, lane, lanes)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	struct sluice_conn *conn, *childs;
	uint64_t keys[2] = { 1, 2 };
	struct all all;
	pid_t pid, grandchild;

	all_new(&all, lane);
	/* Its peers: the parent, and a child of its own that inherits from both. */
	pid = ends_fork(&conn, &options, &options, run_stream, &keys[0]);
	grandchild = tap_fork();
	if (!grandchild) {
		sluice_conn_close(conn);
		all_close(&all);
		pid = ends_fork(&childs, &options, &options, run_stream,
				&keys[1]);
		life_stream_both(childs, keys[1]);
		sluice_conn_close(childs);
		tap_join(pid);
		CHECK_EQ(tap_open_fds(), 3);
		exit(0);
	}
	life_stream_both(conn, keys[0]);
	sluice_conn_close(conn);
	tap_join(pid);
	tap_join(grandchild);
	all_works(&all);
	all_close(&all);
}

/* A child that lives on with its copies does not keep a connection open. */
TAP_EACH(parent_closes, lane, lanes)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	struct stream tx = { .key = 3, .max_len = 5000 }, rx = tx;
	struct stream lost = { .key = 4, .max_len = 5000 };
	struct sluice_conn *conn[2];
	pid_t pid;
	int r = 0;

	ends_pair(conn, &options, NULL);
	life_choose(conn[1], lane);
	life_send_all(conn[0], &tx, 20, FORM_BUFFER);
	life_send_all(conn[1], &lost, 20, FORM_BUFFER);
	pid = tap_fork();
	if (!pid)
		pause();
	sluice_conn_close(conn[0]);
	CHECK_EQ(life_drain(conn[1], &rx, NULL), 0);
	CHECK_EQ(rx.next, 20);
	for (int i = 0; i < 1000 && (!r || r == -EAGAIN); i++)
		r = life_send(conn[1], &lost, FORM_MIXED, 0);
	CHECK_EQ(r, -EPIPE);
	CHECK_EQ(life_used(conn[1]), 0);
	sluice_conn_close(conn[1]);
	tap_kill(pid);
}

/* Only 0, 1, 2 and what ls itself opens reach a program. */
static int inherited(posix_spawn_file_actions_t *actions, int in)
{
	char *argv[] = { "ls", "/proc/self/fd", NULL }, *envp[] = { NULL };
	char text[4096];
	ssize_t len, all = 0;
	int lines = 0;
	pid_t pid;

	CHECK_EQ(posix_spawn(&pid, "/bin/ls", actions, NULL, argv, envp), 0);
	/* The other end of the pipe is open here, so there is no EOF. */
	tap_join(pid);
	while ((len = read(in, text, sizeof(text))) > 0)
		for (all = 0; all < len; all++)
			lines += text[all] == '\n';
	return lines;
}

static void *churn(void *arg)
{
	_Atomic bool *stop = arg;
	struct sluice_listener *listener;
	struct sluice_conn *conn[4];
	struct stream tx = { .key = 1, .max_len = 9000 };
	struct stream rx = tx;

	while (!atomic_load(stop)) {
		/* A program that starts may still hold the last one's socket. */
		const char *name = life_name();

		CHECK_OK(sluice_listen(&listener, name, NULL));
		CHECK_OK(sluice_connect(&conn[0], name, NULL));
		CHECK_OK(sluice_accept(listener, &conn[1], -1));
		CHECK_OK(sluice_pair(conn + 2, NULL));
		life_send_all(conn[2], &tx, tx.next + 10, FORM_BUFFER);
		while (rx.next < tx.next)
			if (life_recv(conn[3], &rx, NULL) == -EAGAIN)
				CHECK_OK(sluice_wait(conn[3], SLUICE_RECV, -1));
		for (int i = 0; i < 4; i++)
			sluice_conn_close(conn[i]);
		sluice_listener_close(listener);
	}
	return NULL;
}

TAP_TEST(exec_inherits_nothing)
{
	static const struct lane direct = { "direct", 0, false };
	posix_spawn_file_actions_t actions;
	_Atomic bool stop = false;
	pthread_t thread;
	struct all all;
	int out[2];

	all_new(&all, &direct);
	for (int fd = 3, open = tap_open_fds(); open > 3; fd++) {
		int flags = fcntl(fd, F_GETFD);

		if (flags < 0)
			continue;
		CHECK(flags & FD_CLOEXEC);
		open--;
	}
	CHECK_SYS(pipe2(out, O_CLOEXEC | O_NONBLOCK));
	CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
	CHECK_EQ(posix_spawn_file_actions_adddup2(&actions, out[1], 1), 0);
	CHECK_EQ(inherited(&actions, out[0]), 4);
	/* And at no moment: another thread makes and unmakes everything. */
	CHECK_EQ(pthread_create(&thread, NULL, churn, &stop), 0);
	for (int i = 0; i < 100; i++)
		CHECK_EQ(inherited(&actions, out[0]), 4);
	atomic_store(&stop, true);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	posix_spawn_file_actions_destroy(&actions);
	all_works(&all);
	all_close(&all);
}

/* Parent and child may both be process 1, each of its own namespace. */
static void first_process(void)
{
	static const struct lane direct = { "direct", 0, false };
	struct all all;
	pid_t pid;

	CHECK_EQ(getpid(), 1);
	all_new(&all, &direct);
	CHECK_SYS(unshare(CLONE_NEWPID));
	pid = fork();
	if (!pid) {
		CHECK_EQ(getpid(), 1);
		refused(&all);
		all_close(&all);
		_exit(0);
	}
	tap_join(pid);
	all_works(&all);
	all_close(&all);
	_exit(0);
}

TAP_TEST(child_with_the_same_pid)
{
	int user = geteuid() ? CLONE_NEWUSER : 0;
	pid_t outer, pid;

	outer = tap_fork();
	if (!outer) {
		if (unshare(user | CLONE_NEWPID))
			tap_skip("no pid namespaces: %s", strerror(errno));
		/* tap_fork() would miss its parent, which has no pid there. */
		pid = fork();
		if (!pid)
			first_process();
		tap_join(pid);
		_exit(0);
	}
	tap_join(outer);
}
