/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The library while sluiced is killed, stopped, away, back, or has dropped the
 * endpoint: senders stream all the time, plain and aware ones, to a listener and
 * to an explicit endpoint, and nothing is lost or out of order.
 *
 * Limit: 400 s
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"
#include "steers.h"

#define LEN_MAX 5000
/* A restart, a call within a second, and other tests on the machine. */
#define SOON(expr) CHECK_WITHIN(30, expr)
#define STREAMS_MAX 40

/* What senders and receiver share. */
struct shared {
	atomic_bool stop;
	_Atomic uint64_t sent[STREAMS_MAX]; /* all of it, when it has ended */
};

enum kind { PAIR, CLIENT_PLAIN, CLIENT_AWARE };

struct stream_in {
	struct sluice_conn *conn;
	uint64_t key; /* of the first message: which of shared.sent */
	_Atomic uint64_t next;
	atomic_bool known; /* key */
	_Atomic uint32_t reason;
	_Atomic int error;
	_Atomic uint64_t steered, spilled;
};

/* Streams live and die in the receiver's thread; main starts and stops all else. */
struct scene {
	struct daemon d;
	struct shared *shared;
	const char *name;
	struct sluice_listener *listener;
	struct sluice_endpoint *endpoint;
	struct sluice_set *set;
	struct stream_in in[STREAMS_MAX];
	_Atomic uint32_t accepted; /* in[] up to there, pairs first */
	uint32_t senders;
	pid_t pid[STREAMS_MAX];
	pthread_t thread;
	atomic_bool pause, paused, finish;
	_Atomic uint32_t ended;
};

/* Senders ------------------------------------------------------------------ */

static void send_one(struct sluice_conn *conn, int fd, uint64_t key,
		     uint64_t index)
{
	uint8_t data[LEN_MAX + 8];
	size_t len = steers_len(key, index, LEN_MAX);
	int r;

	if (!conn) {
		steers_send(fd, key, index, LEN_MAX);
		return;
	}
	steers_fill(data, len, key, index);
	while ((r = sluice_send(conn, data, len, 0, 0)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, 60 * SECOND));
	CHECK_OK(r);
}

/*
 * The first message is the key. It pauses so often that the receiver keeps up: what
 * is behind stays in the queue, and nothing is steered before that is empty.
 */
static void sender_main(struct shared *shared, uint64_t key,
			struct sluice_conn *conn, int fd)
{
	uint64_t i;

	tap_random_stream(1 + key);
	if (conn)
		CHECK_OK(sluice_send(conn, &key, sizeof(key), 0, 0));
	else
		CHECK_EQ(send(fd, &key, sizeof(key), 0), sizeof(key));
	for (i = 0; !shared->stop; i++) {
		send_one(conn, fd, key, i);
		if (tap_random_below(30) == 0)
			tap_sleep(MS + (int64_t)tap_random_below(4 * MS));
	}
	shared->sent[key] = i;
	sluice_conn_close(conn);
}

static void start_sender(struct scene *scene, enum kind kind, int fd)
{
	uint64_t key = scene->senders++;
	struct sluice_options plain = ENDS_OPTIONS(.flags = SLUICE_F_PLAIN),
			      aware = ENDS_OPTIONS(
					      .aware_timeout_ns = 20 * SECOND,
					      .flags = SLUICE_F_REQUIRE_AWARE);
	struct sluice_conn *conn = NULL;

	CHECK_LT(key, STREAMS_MAX);
	scene->pid[key] = tap_fork();
	if (scene->pid[key])
		return;
	if (kind != PAIR)
		CHECK_OK(
			sluice_connect(&conn, scene->name,
				       kind == CLIENT_PLAIN ? &plain : &aware));
	sender_main(scene->shared, key, conn, fd);
	_exit(0);
}

/* Receiver ------------------------------------------------------------------ */

static void publish(struct stream_in *in)
{
	struct sluice_conn_info info;

	sluice_conn_info(in->conn, &info);
	in->steered = info.steered;
	in->spilled = info.spilled;
	in->reason = info.rx_reason;
	in->error = info.steer_error;
}

static void check_message(struct stream_in *in, const struct sluice_msg *msg)
{
	if (in->known) {
		steers_check(sluice_msg_data(msg), msg->len, in->key,
			     in->next++, LEN_MAX);
		return;
	}
	CHECK_EQ(msg->len, sizeof(in->key));
	memcpy(&in->key, sluice_msg_data(msg), sizeof(in->key));
	CHECK_LT(in->key, STREAMS_MAX);
	in->known = true;
}

static void take(struct scene *scene, struct stream_in *in)
{
	struct sluice_msg msg;
	int r = 0, n;

	for (n = 0; n < 16; n++) {
		r = sluice_recv(in->conn, &msg);
		if (r != 1)
			break;
		check_message(in, &msg);
		CHECK_OK(sluice_release(in->conn, &msg));
	}
	publish(in);
	if (r == 1 || r == -EAGAIN)
		return;
	CHECK_EQ(r, 0);
	CHECK_EQ(in->next, scene->shared->sent[in->key]);
	sluice_conn_close(in->conn);
	in->conn = NULL;
	scene->ended++;
}

static void enter(struct scene *scene, struct sluice_conn *conn)
{
	struct stream_in *in = &scene->in[scene->accepted];

	in->conn = conn;
	publish(in);
	CHECK_OK(sluice_set_add(scene->set, conn, SLUICE_RECV, in));
	scene->accepted++;
}

static void *receiver_main(void *arg)
{
	struct scene *scene = arg;
	struct sluice_event events[8];
	struct sluice_conn *conn;
	int n, r;

	while (!scene->finish || scene->ended < scene->accepted ||
	       scene->accepted < scene->senders) {
		if (scene->pause) {
			scene->paused = true;
			tap_sleep(MS);
			continue;
		}
		scene->paused = false;
		r = sluice_accept(scene->listener, &conn, 0);
		if (r != -EAGAIN) {
			CHECK_OK(r);
			enter(scene, conn);
		}
		n = CHECK_OK(
			sluice_set_wait(scene->set, events, 8, 10 * MS, 0));
		while (n--)
			take(scene, events[n].data);
	}
	return NULL;
}

/* The scene ------------------------------------------------------------------ */

/* Two pairs on the explicit endpoint, two plain clients and two aware ones. */
static void scene_open(struct scene *scene)
{
	struct sluice_options steer = ENDS_OPTIONS(.flags = SLUICE_F_STEER),
			      explicit = ENDS_OPTIONS();
	struct sluice_conn *conn;
	int i, peer;

	steers_start(&scene->d);
	scene->shared = life_shared();
	scene->name = life_name();
	CHECK_OK(sluice_set_new(&scene->set));
	CHECK_OK(sluice_listen(&scene->listener, scene->name, &steer));
	CHECK_OK(sluice_endpoint_new(&scene->endpoint, NULL));
	explicit.endpoint = scene->endpoint;
	for (i = 0; i < 2; i++) {
		steers_pair(&conn, &peer, &explicit);
		enter(scene, conn);
		start_sender(scene, PAIR, peer);
		close(peer);
		start_sender(scene, CLIENT_PLAIN, -1);
		start_sender(scene, CLIENT_AWARE, -1);
	}
	CHECK_EQ(pthread_create(&scene->thread, NULL, receiver_main, scene), 0);
	SOON(scene->accepted == scene->senders);
}

/* Each of the first `count` gets more messages; steered: in the ring. */
static void all_get_more(struct scene *scene, uint32_t count, bool steered)
{
	uint64_t before[STREAMS_MAX];
	struct stream_in *in;
	uint32_t i;

	for (i = 0; i < count; i++)
		before[i] = steered ? scene->in[i].steered : scene->in[i].next;
	for (i = 0; i < count; i++) {
		in = &scene->in[i];
		SOON((steered ? in->steered : in->next) > before[i] + 20);
	}
}

static void scene_close(struct scene *scene)
{
	uint64_t messages = 0, steered = 0;
	uint32_t i;

	scene->shared->stop = true;
	scene->finish = true;
	CHECK_EQ(pthread_join(scene->thread, NULL), 0);
	for (i = 0; i < scene->senders; i++) {
		tap_join(scene->pid[i]);
		messages += scene->in[i].next;
		steered += scene->in[i].steered;
	}
	tap_diag("%llu messages, %llu steered", (unsigned long long)messages,
		 (unsigned long long)steered);
	sluice_listener_close(scene->listener);
	sluice_endpoint_free(scene->endpoint);
	sluice_set_free(scene->set);
	steers_stop(&scene->d);
}

static bool connected(struct scene *scene)
{
	struct sluice_endpoint_info info;

	sluice_endpoint_info(scene->endpoint, &info);
	return info.connected;
}

static int endpoint_error(struct scene *scene)
{
	struct sluice_endpoint_info info;

	sluice_endpoint_info(scene->endpoint, &info);
	return info.error;
}

static uint32_t endpoints(struct scene *scene)
{
	int fd = daemon_connect(&scene->d);
	uint32_t count = daemon_query(fd, SLUICE_CONTROL_F_ALL).endpoints;

	close(fd);
	return count;
}

/* A client that comes now; its place in scene.in. */
static struct stream_in *newcomer(struct scene *scene, enum kind kind)
{
	uint32_t i = scene->accepted;

	start_sender(scene, kind, -1);
	SOON(scene->accepted == i + 1);
	SOON(scene->in[i].known);
	return &scene->in[i];
}

/* sluiced comes back ---------------------------------------------------------- */

static const struct end {
	const char *name;
	bool kill; /* or stop */
	int rounds;
	int64_t away_ns; /* at most */
} restarts[] = {
	{ "killed", true, 6, 300 * MS },
	{ "stopped", false, 2, 300 * MS },
	{ "away", true, 2, 4 * SECOND },
};

/* It takes its endpoints up again, and newcomers are steered once it is back. */
TAP_EACH(restarted, end, restarts)
{
	static struct scene scene;
	struct stream_in *late;
	int i;

	tap_limit(120);
	scene_open(&scene);
	all_get_more(&scene, scene.accepted, true);
	for (i = 0; i < end->rounds; i++) {
		if (end->kill)
			daemon_kill(&scene.d);
		else
			CHECK_EQ(daemon_stop(&scene.d), 0);
		SOON(!connected(&scene));
		late = newcomer(&scene, i % 2 ? CLIENT_AWARE : CLIENT_PLAIN);
		SOON(late->reason == SLUICE_REASON_NO_SLUICED);
		CHECK(late->error == -ECONNREFUSED || late->error == -ENOENT);
		/* What was attached before goes on being steered. */
		all_get_more(&scene, 6, true);
		tap_sleep(
			end->away_ns / 2 +
			(int64_t)tap_random_below((uint64_t)end->away_ns / 2));
		daemon_start(&scene.d, NULL);
		SOON(connected(&scene));
		SOON(late->reason == SLUICE_REASON_NONE);
		all_get_more(&scene, scene.accepted, true);
		CHECK_EQ(endpoints(&scene), 2);
		CHECK_EQ(endpoint_error(&scene), 0);
	}
	scene_close(&scene);
}

/* It has dropped the endpoint ------------------------------------------------- */

/* The receiver calls nothing for longer than the grace time. */
static void oversleep(struct scene *scene)
{
	const char *args[] = {
		"--config",
		daemon_config(&scene->d, "[daemon]\ngrace_seconds = 0\n"), NULL
	};

	scene->pause = true;
	SOON(scene->paused);
	daemon_kill(&scene->d);
	daemon_start(&scene->d, args);
	SOON(endpoints(scene) == 0);
	scene->pause = false;
}

/* The administrator removes all pins; programs go on, and nobody knows of them. */
static void unload(struct scene *scene)
{
	pid_t pid;

	daemon_kill(&scene->d);
	pid = tap_fork();
	if (!pid) {
		CHECK(freopen("/dev/null", "w", stdout));
		execl(tap_bin("sluicectl"), "sluicectl", "unload", "--force",
		      "--pins", scene->d.pins, "--control", scene->d.control,
		      NULL);
		TAP_FAIL("sluicectl: %s", strerror(errno));
	}
	tap_join(pid);
	all_get_more(scene, 6, true);
	daemon_start(&scene->d, NULL);
}

/* sluiced is stopped, and takes its endpoints with it. */
static void stop_with_unload(struct scene *scene)
{
	const char *args[] = { "--unload", NULL };

	CHECK_EQ(daemon_stop(&scene->d), 0);
	daemon_start(&scene->d, args);
	SOON(connected(scene));
	all_get_more(scene, 6, true);
	CHECK_EQ(daemon_stop(&scene->d), 0);
	all_get_more(scene, 6, false);
	daemon_start(&scene->d, NULL);
}

static const struct loss {
	const char *name;
	void (*lose)(struct scene *scene);
} losses[] = {
	{ "overslept", oversleep },
	{ "unloaded", unload },
	{ "stopped", stop_with_unload },
};

/*
 * All go on through their sockets and say why. The listener gets another
 * endpoint, for those who come now; an explicit one is the program's to replace.
 */
TAP_EACH(dropped, loss, losses)
{
	struct sluice_options options = ENDS_OPTIONS();
	static struct scene scene;
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	uint64_t steered[6];
	int i, peer;

	tap_limit(120);
	scene_open(&scene);
	all_get_more(&scene, 6, true);
	loss->lose(&scene);
	SOON(endpoint_error(&scene) == -ENOENT);
	CHECK(!connected(&scene));
	for (i = 0; i < 6; i++) {
		SOON(scene.in[i].reason == SLUICE_REASON_STEER_LOST);
		CHECK_EQ(scene.in[i].error, -ENOENT);
		steered[i] = scene.in[i].steered;
	}
	all_get_more(&scene, 6, false);
	tap_sleep(100 * MS);
	for (i = 0; i < 6; i++)
		steered[i] = scene.in[i].steered;
	all_get_more(&scene, 6, false);
	for (i = 0; i < 6; i++)
		CHECK_EQ(scene.in[i].steered, steered[i]);
	for (i = 0; i < 4; i++) {
		struct stream_in *in =
			newcomer(&scene, i % 2 ? CLIENT_AWARE : CLIENT_PLAIN);

		SOON(in->reason == SLUICE_REASON_NONE);
		SOON(in->steered > 20);
	}
	CHECK_EQ(endpoints(&scene), 1);
	options.endpoint = scene.endpoint;
	steers_open(&conn, &peer, &options);
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.rx_reason, SLUICE_REASON_STEER_LOST);
	CHECK_EQ(info.steer_error, -ENOENT);
	sluice_conn_close(conn);
	close(peer);
	scene_close(&scene);
}

/* A worker reads what there is, and then learns that nothing will come. */
TAP_TEST(worker_learns)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.flags = SLUICE_ENDPOINT_F_HASH, .rings = 2);
	struct sluice_options options = ENDS_OPTIONS();
	const char *args[] = { "--unload", NULL };
	uint64_t i, here = 0, home = 0;
	struct sluice_ring *ring;
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	uint32_t number;
	int peer, r;

	daemon_open(&d);
	daemon_start(&d, args);
	CHECK_SYS(setenv("SLUICE_CONTROL", d.control, 1));
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	ring = sluice_endpoint_ring(options.endpoint, 1);
	steers_pair(&conn, &peer, &options);
	for (i = 0; i < 100; i++)
		CHECK_EQ(send(peer, &i, sizeof(i), 0), sizeof(i));
	CHECK_EQ(daemon_stop(&d), 0);
	daemon_start(&d, NULL);
	CHECK_EQ(send(peer, &i, sizeof(i), 0), sizeof(i));
	while ((r = sluice_ring_wait(ring, 10 * SECOND, 0)) == 0) {
		r = sluice_ring_recv(ring, &msg, &number);
		if (r != 1)
			break;
		here++;
	}
	CHECK_EQ(r, -ENOLINK);
	CHECK_EQ(sluice_ring_arm(ring), 1);
	while (sluice_recv_wait(conn, &msg, 0) == 1)
		home++;
	CHECK_GT(here, 0);
	CHECK_EQ(here + home, 101);
	sluice_conn_close(conn);
	sluice_endpoint_free(options.endpoint);
	close(peer);
	steers_stop(&d);
}

/* It refuses newcomers -------------------------------------------------------- */

static void drain(struct scene *scene)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_DRAIN);
	int fd = daemon_connect(&scene->d);

	frame.drain.on = 1;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), 0);
	close(fd);
}

static void tighten(struct scene *scene)
{
	const char *args[] = { "--config", NULL, NULL };

	CHECK_EQ(daemon_stop(&scene->d), 0);
	args[1] = daemon_config(&scene->d, "");
	daemon_start(&scene->d, args);
	SOON(connected(scene));
	SOON(endpoints(scene) == 2);
	daemon_config(&scene->d, "[limits]\nconns_per_uid = 3\n"
				 "endpoints_per_uid = 1\n");
	CHECK_SYS(kill(scene->d.pid, SIGHUP));
	SOON(daemon_said(&scene->d, 0, "configuration read again"));
}

static const struct refusal {
	const char *name;
	void (*refuse)(struct scene *scene);
	int error;
} refusals[] = {
	{ "draining", drain, -ESHUTDOWN },
	{ "quota", tighten, -EDQUOT },
};

/* What it has is steered as before; newcomers are not, and say why. */
TAP_EACH(refused, refusal, refusals)
{
	static struct scene scene;
	int i;

	scene_open(&scene);
	all_get_more(&scene, 6, true);
	refusal->refuse(&scene);
	for (i = 0; i < 4; i++) {
		struct stream_in *in =
			newcomer(&scene, i % 2 ? CLIENT_AWARE : CLIENT_PLAIN);

		SOON(in->reason == SLUICE_REASON_STEER_REFUSED);
		CHECK_EQ(in->error, refusal->error);
	}
	all_get_more(&scene, 6, true);
	all_get_more(&scene, scene.accepted, false);
	scene_close(&scene);
}
