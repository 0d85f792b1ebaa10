/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Connections that come and go leave nothing behind: 10,000 with traffic both
 * ways, 1,000 plain ones, and more than 1,000 that fail, at every stage of the
 * handshake. Both ends are in one process, so that it counts for both.
 */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "life.h"
#include "raw.h"

#define SECOND 1000000000ll

static const struct lane lanes[] = LIFE_LANES;

/* What this process holds. */
struct use {
	int fds, memfds, mappings;
	size_t heap; /* 0 under a sanitizer, which looks for leaks itself */
	long resident;
};

static struct use use_now(void)
{
	return (struct use){
		.fds = tap_open_fds(),
		.memfds = life_memfds(),
		.mappings = tap_mappings(),
		.heap = mallinfo2().uordblks,
		.resident = tap_resident(),
	};
}

static void check_use(const struct use *before, uint64_t count)
{
	struct use now = use_now();

	CHECK_EQ(now.fds, before->fds);
	CHECK_EQ(now.memfds, before->memfds);
	CHECK_LE(now.mappings, before->mappings + 10);
	/*
	 * A quarter of the smallest block per connection, and what stdio takes:
	 * the allocator's caches, which count, fill as sizes happen to come.
	 */
	CHECK_LE(now.heap, before->heap + 1000 + 8 * count);
	/* A sanitizer keeps what was freed for a while. */
	CHECK_LE(now.resident,
		 before->resident + (tap_slow > 1 ? 400l << 20 : 512l << 10));
}

/* The same `count` times over, of which the first 100 are to warm up. */
static void repeat(void (*cycle)(uint64_t i, const void *arg), const void *arg,
		   uint64_t count)
{
	struct use before = { 0 };

	for (uint64_t i = 0; i < count + 100; i++) {
		if (i == 100)
			before = use_now();
		cycle(i, arg);
	}
	check_use(&before, count);
}

static struct sluice_listener *listener;
static const char *name;

/* A message of each of a few sizes, one of them inline. */
static void talk(struct sluice_conn *from, struct sluice_conn *to)
{
	static const uint32_t lens[] = { 20, 200, 5000, 60000 };
	struct sluice_msg msgs[4];
	struct sluice_buf *buf;

	for (int i = 0; i < 4; i++) {
		CHECK_OK(sluice_loan(from, lens[i], &buf));
		content_fill(buf->data, lens[i], i, 0);
		if (i) {
			CHECK_EQ(sluice_send_buf(from, buf, lens[i], 0, 0), 0);
			continue;
		}
		CHECK_EQ(sluice_send(from, buf->data, lens[i], 0, 0), 0);
		sluice_buf_unref(buf);
	}
	for (int i = 0; i < 4; i++) {
		CHECK_EQ(sluice_recv_wait(to, &msgs[i], 5 * SECOND), 1);
		CHECK_EQ(msgs[i].len, lens[i]);
		CHECK(content_matches(sluice_msg_data(&msgs[i]), lens[i], i,
				      0));
	}
	/* Some go back, some are held to the end. */
	CHECK_OK(sluice_release(to, &msgs[1]));
	CHECK_OK(sluice_release(to, &msgs[3]));
}

static void cycle_aware(uint64_t i, const void *arg)
{
	const struct lane *lane = &lanes[i % 3];
	struct sluice_conn *client, *server;
	struct sluice_msg msg;

	(void)arg;
	CHECK_OK(sluice_connect(&client, name,
				&ENDS_OPTIONS(.flags = lane->flags)));
	CHECK_OK(sluice_accept(listener, &server, 5 * SECOND));
	CHECK_EQ(sluice_recv(client, &msg), -EAGAIN);
	CHECK_EQ(sluice_recv(server, &msg), -EAGAIN);
	life_choose(client, lane);
	talk(client, server);
	talk(server, client);
	sluice_conn_close(i & 1 ? client : server);
	sluice_conn_close(i & 1 ? server : client);
}

static const struct place {
	const char *name;
	const char *path; /* NULL: an abstract name */
} places[] = { { "path", "./listener" }, { "abstract", NULL } };

TAP_EACH(aware, place, places)
{
	tap_limit(200);
	name = place->path ? place->path : life_name();
	CHECK_OK(sluice_listen(&listener, name, NULL));
	repeat(cycle_aware, NULL, 5000);
	sluice_listener_close(listener);
}

static void cycle_pair(uint64_t i, const void *arg)
{
	struct sluice_conn *conn[2];

	(void)arg;
	life_pair(conn, &lanes[i % 3]);
	talk(conn[0], conn[1]);
	talk(conn[1], conn[0]);
	ends_close(conn);
}

TAP_TEST(pairs)
{
	repeat(cycle_pair, NULL, 500);
}

/* Many that share one pool and get the same buffer, not all of it released. */
static struct sluice_pool *pool;
static struct sluice_buf *shared_buf;

static void cycle_fan_out(uint64_t i, const void *arg)
{
	const struct lane *lane = &lanes[i % 3];
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	(void)arg;
	ends_pair(conn, &ENDS_OPTIONS(.flags = lane->flags, .pool = pool),
		  &ENDS_OPTIONS(.flags = lane->flags));
	sluice_buf_ref(shared_buf);
	CHECK_EQ(sluice_send_buf(conn[0], shared_buf, 5000, 0, 0), 0);
	sluice_conn_close(conn[0]);
	CHECK_EQ(sluice_recv_wait(conn[1], &msg, 5 * SECOND), 1);
	if (i % 2)
		CHECK_OK(sluice_release(conn[1], &msg));
	sluice_conn_close(conn[1]);
}

TAP_TEST(fan_out)
{
	struct sluice_pool_info info;

	CHECK_OK(sluice_pool_new(&pool, NULL));
	CHECK_OK(sluice_pool_loan(pool, 5000, &shared_buf));
	repeat(cycle_fan_out, NULL, 1000);
	sluice_buf_unref(shared_buf);
	CHECK_OK(sluice_pool_trim(pool));
	sluice_pool_info(pool, &info);
	CHECK_EQ(info.buffers_used, 0);
	CHECK_EQ(info.bytes, 0);
	sluice_pool_free(pool);
	CHECK_EQ(life_memfds(), 0);
	CHECK_EQ(tap_open_fds(), 3);
}

static void cycle_plain(uint64_t i, const void *arg)
{
	const uint32_t flags[3] = { 0, SLUICE_F_PLAIN, SLUICE_F_PLAIN };
	struct sluice_conn *client, *server;
	struct sluice_msg msg;
	int raw;

	(void)arg;
	CHECK_OK(sluice_connect(&client, name,
				&ENDS_OPTIONS(.flags = flags[i % 3])));
	if (i % 3) {
		CHECK_OK(sluice_accept(listener, &server, 5 * SECOND));
		talk(client, server);
		talk(server, client);
		sluice_conn_close(server);
	} else {
		/* An aware client of a server that knows nothing of sluice. */
		raw = CHECK_SYS(accept4(sluice_listener_fd(listener), NULL,
					NULL, SOCK_CLOEXEC));
		CHECK_EQ(sluice_send(client, "hello", 5, 0, 0), 0);
		CHECK_EQ(send(raw, "hello", 5, MSG_NOSIGNAL), 5);
		CHECK_EQ(sluice_recv_wait(client, &msg, 5 * SECOND), 1);
		close(raw);
	}
	sluice_conn_close(client);
}

TAP_TEST(plain)
{
	name = life_name();
	CHECK_OK(sluice_listen(&listener, name, NULL));
	repeat(cycle_plain, NULL, 1000);
	sluice_listener_close(listener);
}

/*
 * Handshakes that fail. A stage is one end by hand: what it says before it goes.
 */
enum says {
	NOTHING,
	HALF, /* of a HELLO or ACK */
	NO_FD, /* with it */
	WRONG_FD, /* not a memfd */
	WRONG_LINK, /* its magic */
	WRONG_ECHO,
	WRONG_MAJOR,
	ALL_OF_IT,
	AND_MORE, /* a segment that is used, and one that is not */
};

static const struct stage {
	const char *name;
	enum says says;
	int client; /* what the server of that client receives */
	int server; /* what the client of that server receives */
} stages[] = {
	/* 1 is a plain message. */
	{ "nothing", NOTHING, 0, 0 },
	{ "half", HALF, 1, 1 },
	{ "no_fd", NO_FD, -EPROTO, 1 },
	{ "wrong_fd", WRONG_FD, -EPROTO, -EPROTO },
	{ "wrong_link", WRONG_LINK, -EPROTO, -EPROTO },
	{ "wrong_echo", WRONG_ECHO, 1, 1 },
	{ "wrong_major", WRONG_MAJOR, -EPROTONOSUPPORT, -EPROTONOSUPPORT },
	{ "all_of_it", ALL_OF_IT, -ECONNRESET, -ECONNRESET },
	{ "and_more", AND_MORE, 1, 1 },
};

static void say(struct raw *raw, uint8_t type, uint64_t echo, enum says says)
{
	struct sluice_slot slot = raw_buffer(1, 0, 100, 0, 0);
	struct raw_memory memory;
	struct raw_message m;

	if (says == NOTHING)
		return;
	if (says == WRONG_LINK)
		raw->link->magic++;
	if (says == WRONG_MAJOR)
		raw->hello.major++;
	if (says == NO_FD)
		raw_memory_free(&raw->memory);
	if (says == WRONG_FD)
		CHECK_SYS(dup3(0, raw->memory.fd, O_CLOEXEC));
	raw_hello(raw, &m, type, says == WRONG_ECHO ? echo + 1 : echo);
	if (says == HALF)
		m.len /= 2;
	raw_send(raw->sock, &m);
	if (says != AND_MORE)
		return;
	raw_memory_new(&memory, 65536, SLUICE_SEALS, 0);
	for (uint32_t number = 0; number < 2; number++) {
		raw_segment(&m, number, &memory);
		raw_send(raw->sock, &m);
	}
	raw_data(&m, &slot, 1);
	raw_send(raw->sock, &m);
	raw_memory_free(&memory);
}

/* Takes the first answer and the end, or goes when it knows of them. */
static void expect(struct sluice_conn *conn, int result, bool receives)
{
	struct sluice_msg msg;
	int r;

	if (receives) {
		CHECK_EQ(sluice_recv_wait(conn, &msg, 5 * SECOND), result);
		while ((r = sluice_recv_wait(conn, &msg, 5 * SECOND)) == 1)
			;
		CHECK(r == 0 || r == -EPROTO || r == -EPROTONOSUPPORT ||
		      r == -ECONNRESET);
	} else {
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 5 * SECOND),
			 SLUICE_RECV);
	}
	sluice_conn_close(conn);
}

static void cycle_bad_client(uint64_t i, const void *arg)
{
	const struct stage *stage = arg;
	struct sluice_conn *server;
	struct raw raw;

	raw_init(&raw, raw_connect(name, i + 1), RAW_ALL);
	/* It may be gone before the accept. */
	if (stage->says != NOTHING || i & 1) {
		CHECK_OK(sluice_accept(listener, &server, 5 * SECOND));
		raw_meet(&raw, SLUICE_FRAME_HELLO);
		say(&raw, SLUICE_FRAME_HELLO_ACK, raw.peer.cookie, stage->says);
		raw_close(&raw);
	} else {
		raw_close(&raw);
		CHECK_OK(sluice_accept(listener, &server, 5 * SECOND));
	}
	expect(server, stage->client, i & 2);
}

TAP_EACH(bad_client, stage, stages)
{
	name = life_name();
	CHECK_OK(sluice_listen(&listener, name, NULL));
	repeat(cycle_bad_client, stage, 60);
	sluice_listener_close(listener);
}

static uint64_t number_of(int sock)
{
	struct sockaddr_un address = { 0 };
	socklen_t size = sizeof(address);
	unsigned long long number;

	CHECK_SYS(getpeername(sock, (struct sockaddr *)&address, &size));
	CHECK_EQ(sscanf(address.sun_path + 1, SLUICE_NAME_PREFIX "%16llx",
			&number),
		 1);
	return number;
}

static int raw_listener;

static void cycle_bad_server(uint64_t i, const void *arg)
{
	const struct stage *stage = arg;
	struct sluice_conn *client;
	struct raw raw;

	CHECK_OK(sluice_connect(&client, name, NULL));
	raw_init(&raw,
		 CHECK_SYS(accept4(raw_listener, NULL, NULL, SOCK_CLOEXEC)),
		 RAW_ALL);
	say(&raw, SLUICE_FRAME_HELLO, number_of(raw.sock), stage->says);
	raw_close(&raw);
	expect(client, stage->server, i & 1);
}

TAP_EACH(bad_server, stage, stages)
{
	name = life_name();
	raw_listener = raw_listen(name);
	repeat(cycle_bad_server, stage, 60);
	close(raw_listener);
}

static void cycle_refused(uint64_t i, const void *arg)
{
	struct sluice_conn *conn = NULL;

	(void)arg;
	switch (i % 4) {
	case 0:
		CHECK_EQ(sluice_connect(&conn, name, NULL), -ECONNREFUSED);
		break;
	case 1:
		CHECK_EQ(sluice_connect(&conn, "./nobody", NULL), -ENOENT);
		break;
	case 2:
		CHECK_EQ(sluice_connect(&conn, name,
					&ENDS_OPTIONS(.ring_slots = 3)),
			 -EINVAL);
		break;
	case 3:
		CHECK_EQ(sluice_listen(&listener, "/proc/x", NULL), -ENOENT);
	}
	CHECK(!conn);
}

TAP_TEST(refused)
{
	name = life_name();
	repeat(cycle_refused, NULL, 400);
}

/* A server that says nothing, to a client that wants it aware. */
static void cycle_not_aware(uint64_t i, const void *arg)
{
	struct sluice_conn *conn;

	(void)i;
	(void)arg;
	CHECK_EQ(sluice_connect(&conn, name,
				&ENDS_OPTIONS(.flags = SLUICE_F_REQUIRE_AWARE,
					      .aware_timeout_ns = 100000)),
		 -EPROTONOSUPPORT);
	close(CHECK_SYS(accept4(raw_listener, NULL, NULL, SOCK_CLOEXEC)));
}

TAP_TEST(not_aware)
{
	name = life_name();
	raw_listener = raw_listen(name);
	repeat(cycle_not_aware, NULL, 100);
	close(raw_listener);
}
