/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Requests to sluiced, good and bad, from a client by hand. A bad one gets its
 * error, changes nothing, and the connection goes on; the rows that are wrong in
 * one thing are made from a request that is fine.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon.h"
#include "tap.h"

/* A client with an endpoint of two rings, and a socket to attach. */
struct world {
	struct daemon d;
	int fd; /* control connection */
	__u64 endpoint;
	int maps[8];
	int pair[2];
};

static void world_open(struct world *w)
{
	daemon_open(&w->d);
	daemon_start(&w->d, NULL);
	w->fd = daemon_connect(&w->d);
	w->endpoint = daemon_create(w->fd, 2, w->maps);
	CHECK_SYS(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, w->pair));
}

static void world_close(struct world *w)
{
	for (int i = 0; i < 8; i++)
		close(w->maps[i]);
	close(w->pair[0]);
	close(w->pair[1]);
	close(w->fd);
	CHECK_EQ(daemon_stop(&w->d), 0);
	daemon_close(&w->d);
}

TAP_TEST(create_attach_detach_destroy)
{
	struct sluice_control frame;
	struct sluice_control_use use;
	struct world w;

	world_open(&w);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 1, 0x10005, 0, w.pair[0]), 0);
	use = daemon_query(w.fd, 0);
	CHECK_EQ(use.endpoints, 1);
	CHECK_EQ(use.conns, 1);
	CHECK_EQ(use.version, SLUICE_STEER_VERSION);
	CHECK_EQ(use.flags, 0);
	/* ring 8 KiB, control 12 KiB, landing 64 KiB, doorbell 4 KiB */
	CHECK_EQ(use.map_bytes, 2 * (8192 + 12288 + 65536 + 4096));
	CHECK_EQ(daemon_detach(w.fd, w.endpoint, 1, 0x10005), 0);
	CHECK_EQ(daemon_detach(w.fd, w.endpoint, 1, 0x10005), ENOENT);
	CHECK_EQ(daemon_query(w.fd, 0).conns, 0);
	frame = daemon_frame(SLUICE_CONTROL_DESTROY);
	frame.endpoint = w.endpoint;
	CHECK_EQ(daemon_call(w.fd, &frame, -1, NULL, NULL), 0);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 1, 0, w.pair[0]), ENOENT);
	use = daemon_query(w.fd, 0);
	CHECK_EQ(use.endpoints, 0);
	CHECK_EQ(use.map_bytes, 0);
	world_close(&w);
}

/* Breaches ---------------------------------------------------------------- */

enum base { CREATE, CLAIM, DESTROY, ATTACH, DETACH, QUERY, LIST, DRAIN };

enum carried { AS_IS, NONE, TWO, MANY, FILE_, PIPE, MAP, TCP, STREAM, LONELY };

static const struct breach {
	const char *name;
	enum base base;
	size_t at, width;
	__u64 value;
	enum carried fds;
	int grow; /* bytes more or less */
	int error;
} breaches[] = {
#define SET(field, value_)                                    \
	.at = offsetof(struct sluice_control, field),         \
	.width = sizeof(((struct sluice_control *)0)->field), \
	.value = (value_)
	{ "magic", QUERY, SET(magic, 0x43534c54), .error = EPROTO },
	{ "type_zero", QUERY, SET(type, 0), .error = EOPNOTSUPP },
	{ "type_unknown", QUERY, SET(type, 15), .error = EOPNOTSUPP },
	{ "type_huge", QUERY, SET(type, 65535), .error = EOPNOTSUPP },
	{ "flag_reply", QUERY, SET(flags, 1), .error = EINVAL },
	{ "flag_unknown", QUERY, SET(flags, 4), .error = EINVAL },
	{ "flag_all_where_it_is_not", CREATE, SET(flags, 2), .error = EINVAL },
	{ "error_in_request", QUERY, SET(error, 1), .error = EINVAL },
	{ "short", QUERY, .grow = -1, .error = EMSGSIZE },
	{ "header_only", CREATE, .grow = -40, .error = EMSGSIZE },
	{ "one_byte", CREATE, .grow = -63, .error = EMSGSIZE },
	{ "long", QUERY, .grow = 1, .error = EMSGSIZE },
	{ "very_long", QUERY, .grow = 4096, .error = EMSGSIZE },

	{ "create_with_number", CREATE, SET(endpoint, 1), .error = EINVAL },
	{ "create_no_rings", CREATE, SET(create.rings, 0), .error = EINVAL },
	{ "create_rings", CREATE, SET(create.rings, 17), .error = EINVAL },
	{ "create_no_slots", CREATE, SET(create.ring_slots, 0),
	  .error = EINVAL },
	{ "create_few_slots", CREATE, SET(create.ring_slots, 8),
	  .error = EINVAL },
	{ "create_odd_slots", CREATE, SET(create.ring_slots, 96),
	  .error = EINVAL },
	{ "create_many_slots", CREATE, SET(create.ring_slots, 131072),
	  .error = EINVAL },
	{ "create_no_conns", CREATE, SET(create.conns, 0), .error = EINVAL },
	{ "create_few_conns", CREATE, SET(create.conns, 8), .error = EINVAL },
	{ "create_odd_conns", CREATE, SET(create.conns, 17), .error = EINVAL },
	{ "create_many_conns", CREATE, SET(create.conns, 131072),
	  .error = EINVAL },
	{ "create_small_slots", CREATE, SET(create.landing[0], 4097),
	  .error = EINVAL },
	{ "create_small_overflow", CREATE, SET(create.landing[0], 0x10000000),
	  .error = EINVAL },
	{ "create_medium_slots", CREATE, SET(create.landing[1], 65537),
	  .error = EINVAL },
	{ "create_large_slots", CREATE, SET(create.landing[2], 0xffffffff),
	  .error = EINVAL },
	{ "create_resv0", CREATE, SET(create.__resv[0], 1), .error = EINVAL },
	{ "create_resv1", CREATE, SET(create.__resv[1], 1), .error = EINVAL },
	{ "create_resv2", CREATE, SET(create.__resv[2], 1), .error = EINVAL },
	{ "create_resv3", CREATE, SET(create.__resv[3], 1 << 31),
	  .error = EINVAL },
	{ "create_with_socket", CREATE, .fds = STREAM, .error = EBADMSG },

	{ "claim_without_fd", CLAIM, .fds = NONE, .error = EBADMSG },
	{ "claim_with_file", CLAIM, .fds = FILE_, .error = EBADF },
	{ "claim_with_two", CLAIM, .fds = TWO, .error = EBADMSG },
	{ "claim_body", CLAIM, SET(__resv[0], 1), .error = EINVAL },
	{ "claim_unknown", CLAIM, SET(endpoint, 77), .error = ENOENT },
	{ "claim_zero", CLAIM, SET(endpoint, 0), .error = ENOENT },
	{ "claim_of_a_claimed_one", CLAIM, .error = EBUSY },

	{ "destroy_unknown", DESTROY, SET(endpoint, 77), .error = ENOENT },
	{ "destroy_zero", DESTROY, SET(endpoint, 0), .error = ENOENT },
	{ "destroy_body", DESTROY, SET(__resv[39], 1), .error = EINVAL },
	{ "destroy_with_socket", DESTROY, .fds = STREAM, .error = EBADMSG },

	{ "attach_unknown", ATTACH, SET(endpoint, 77), .error = ENOENT },
	{ "attach_ring", ATTACH, SET(attach.ring, 2), .error = ERANGE },
	{ "attach_ring_huge", ATTACH, SET(attach.ring, 0xffffffff),
	  .error = ERANGE },
	{ "attach_flags", ATTACH, SET(attach.flags, 4), .error = EINVAL },
	{ "attach_hash_and_frames", ATTACH, SET(attach.flags, 3),
	  .error = EINVAL },
	{ "attach_resv0", ATTACH, SET(attach.__resv[0], 1), .error = EINVAL },
	{ "attach_resv6", ATTACH, SET(attach.__resv[6], 1), .error = EINVAL },
	{ "attach_without_fd", ATTACH, .fds = NONE, .error = EBADMSG },
	{ "attach_with_two", ATTACH, .fds = TWO, .error = EBADMSG },
	{ "attach_with_many", ATTACH, .fds = MANY, .error = EBADMSG },
	{ "attach_file", ATTACH, .fds = FILE_, .error = EBADF },
	{ "attach_pipe", ATTACH, .fds = PIPE, .error = EBADF },
	{ "attach_tcp", ATTACH, .fds = TCP, .error = EBADF },
	{ "attach_map", ATTACH, .fds = MAP, .error = ENOTSOCK },
	{ "attach_stream", ATTACH, .fds = STREAM, .error = EPROTOTYPE },
	{ "attach_unconnected", ATTACH, .fds = LONELY, .error = ENOTCONN },

	{ "detach_unknown", DETACH, SET(endpoint, 77), .error = ENOENT },
	{ "detach_ring", DETACH, SET(attach.ring, 2), .error = ERANGE },
	{ "detach_conn", DETACH, SET(attach.conn, 9), .error = ENOENT },
	{ "detach_flags", DETACH, SET(attach.flags, 1), .error = EINVAL },
	{ "detach_resv", DETACH, SET(attach.__resv[3], 1), .error = EINVAL },
	{ "detach_with_socket", DETACH, .fds = STREAM, .error = EBADMSG },

	{ "query_number", QUERY, SET(endpoint, 1), .error = EINVAL },
	{ "query_body", QUERY, SET(__resv[0], 1), .error = EINVAL },
	{ "query_with_socket", QUERY, .fds = STREAM, .error = EBADMSG },
	{ "list_body", LIST, SET(__resv[8], 1), .error = EINVAL },
	{ "list_with_file", LIST, .fds = FILE_, .error = EBADF },
	{ "drain_two", DRAIN, SET(drain.on, 2), .error = EINVAL },
	{ "drain_resv", DRAIN, SET(drain.__resv[8], 1), .error = EINVAL },
	{ "drain_number", DRAIN, SET(endpoint, 1), .error = EINVAL },
};

static struct sluice_control base_frame(const struct world *w, enum base base)
{
	struct sluice_control frame = daemon_frame((__u16)(base + 1));

	if (base >= CLAIM && base <= DETACH)
		frame.endpoint = w->endpoint;
	if (base == CREATE)
		frame.create = (struct sluice_control_create){
			.rings = 1,
			.ring_slots = 16,
			.conns = 16,
		};
	if (base == ATTACH)
		frame.attach.conn = 5;
	return frame;
}

/* Fills fds; how many there are. */
static int carry(const struct world *w, const struct breach *breach, int *fds)
{
	const enum base base = breach->base;
	int pair[2], count = 1;

	switch (breach->fds) {
	case AS_IS:
		if (base != CLAIM && base != ATTACH)
			return 0;
		fds[0] =
			CHECK_SYS(dup(base == CLAIM ? w->maps[0] : w->pair[0]));
		break;
	case NONE:
		return 0;
	case TWO:
	case MANY:
		count = breach->fds == TWO ? 2 : 100;
		for (int i = 0; i < count; i++)
			fds[i] = CHECK_SYS(dup(w->pair[0]));
		break;
	case FILE_:
		fds[0] = CHECK_SYS(open("/dev/null", O_RDWR));
		break;
	case PIPE:
		CHECK_SYS(pipe(pair));
		close(pair[1]);
		fds[0] = pair[0];
		break;
	case MAP:
		fds[0] = CHECK_SYS(dup(w->maps[1]));
		break;
	case TCP:
		fds[0] = CHECK_SYS(socket(AF_INET, SOCK_STREAM, 0));
		break;
	case STREAM:
		CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		close(pair[1]);
		fds[0] = pair[0];
		break;
	case LONELY:
		fds[0] = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET, 0));
		break;
	}
	return count;
}

static void try_breach(const struct world *w, const struct breach *breach)
{
	struct sluice_control frame = base_frame(w, breach->base), reply;
	char bytes[8192] = { 0 };
	size_t len = (size_t)((int)sizeof(frame) + breach->grow);
	int fds[128], count = carry(w, breach, fds);

	memcpy((char *)&frame + breach->at, &breach->value, breach->width);
	memcpy(bytes, &frame, sizeof(frame));
	daemon_send(w->fd, bytes, len, fds, count);
	daemon_receive(w->fd, &reply, NULL, NULL, NULL, NULL);
	if ((int)reply.error != breach->error)
		TAP_FAIL("%s: error %u instead of %d", breach->name,
			 reply.error, breach->error);
	CHECK_EQ(reply.magic, SLUICE_CONTROL_MAGIC);
	CHECK_EQ(reply.flags, SLUICE_CONTROL_F_REPLY);
	if (len >= 16) {
		CHECK_EQ(reply.serial, frame.serial);
		CHECK_EQ(reply.type, frame.type);
	}
	for (size_t i = 0; i < sizeof(reply.__resv); i++)
		CHECK_EQ(reply.__resv[i], 0);
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

TAP_TEST(each_breach_has_its_error)
{
	struct sluice_control_use before, after;
	struct world w;
	int fds;

	world_open(&w);
	before = daemon_query(w.fd, 0);
	fds = daemon_fds(&w.d);
	for (size_t i = 0; i < sizeof(breaches) / sizeof(breaches[0]); i++)
		try_breach(&w, &breaches[i]);
	after = daemon_query(w.fd, 0);
	CHECK_MEM(&before, &after, sizeof(before));
	CHECK_EQ(daemon_fds(&w.d), fds);
	/* what they were made from is fine */
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 5, 0, w.pair[0]), 0);
	world_close(&w);
}

TAP_TEST(empty_message_is_not_the_end)
{
	struct sluice_control reply;
	struct world w;

	world_open(&w);
	daemon_send(w.fd, "", 0, NULL, 0);
	daemon_receive(w.fd, &reply, NULL, NULL, NULL, NULL);
	CHECK_EQ(reply.error, EMSGSIZE);
	CHECK_EQ(reply.serial, 0);
	CHECK_EQ(daemon_query(w.fd, 0).endpoints, 1);
	world_close(&w);
}

/* Until its first reply a client has not shown that it is guarded. */
TAP_TEST(fds_before_the_first_reply_end_the_connection)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_ATTACH);
	struct world w;
	char byte;
	int fd;

	world_open(&w);
	CHECK_SYS(kill(w.d.pid, SIGSTOP)); /* before it has accepted */
	fd = daemon_connect(&w.d);
	frame.endpoint = w.endpoint;
	daemon_send(fd, &frame, sizeof(frame), w.pair, 1);
	CHECK_SYS(kill(w.d.pid, SIGCONT));
	CHECK_EQ(recv(fd, &byte, 1, 0), 0);
	CHECK_EQ(daemon_query(w.fd, 0).conns, 0);
	close(fd);
	world_close(&w);
}

TAP_TEST(requests_before_accept_are_answered)
{
	struct sluice_control frames[4], reply;
	struct world w;
	int fd;

	world_open(&w);
	CHECK_SYS(kill(w.d.pid, SIGSTOP));
	fd = daemon_connect(&w.d);
	for (int i = 0; i < 4; i++) {
		frames[i] = daemon_frame(SLUICE_CONTROL_QUERY);
		daemon_send(fd, &frames[i], sizeof(frames[i]), NULL, 0);
	}
	CHECK_SYS(kill(w.d.pid, SIGCONT));
	for (int i = 0; i < 4; i++) {
		daemon_receive(fd, &reply, NULL, NULL, NULL, NULL);
		CHECK_EQ(reply.error, 0);
		CHECK_EQ(reply.serial, frames[i].serial);
	}
	close(fd);
	world_close(&w);
}

/* Attaching ---------------------------------------------------------------- */

TAP_TEST(attach_twice)
{
	struct world w;
	int other[2];

	world_open(&w);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, other));
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 5, 0, w.pair[0]), 0);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 6, 0, w.pair[0]), EALREADY);
	/* index 5 of 64 again, with another generation */
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 0x10005, 0, other[0]),
		 EEXIST);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 1, 0x10005, 0, other[0]), 0);
	CHECK_EQ(daemon_detach(w.fd, w.endpoint, 0, 0x10005), ENOENT);
	CHECK_EQ(daemon_detach(w.fd, w.endpoint, 0, 5), 0);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 0x20005,
			       SLUICE_ATTACH_F_HASH, w.pair[0]),
		 0);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 1, 7, SLUICE_ATTACH_F_FRAMES,
			       w.pair[1]),
		 0);
	CHECK_EQ(daemon_query(w.fd, 0).conns, 3);
	close(other[0]);
	close(other[1]);
	world_close(&w);
}

TAP_TEST(attach_dgram_and_listener)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int dgram[2], listener;
	struct world w;

	world_open(&w);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, dgram));
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 1, 0, dgram[0]), 0);
	listener = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	CHECK_SYS(bind(listener, (struct sockaddr *)&name,
		       sizeof(name.sun_family)));
	CHECK_SYS(listen(listener, 1));
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 2, 0, listener), ENOTCONN);
	close(listener);
	close(dgram[0]);
	close(dgram[1]);
	world_close(&w);
}

TAP_TEST(attach_locked_filter_is_refused)
{
	struct world w;
	int one = 1;

	world_open(&w);
	CHECK_SYS(setsockopt(w.pair[0], SOL_SOCKET, SO_LOCK_FILTER, &one,
			     sizeof(one)));
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 1, 0, w.pair[0]), EPERM);
	CHECK_EQ(daemon_query(w.fd, 0).conns, 0);
	world_close(&w);
}

/* sluiced keeps no copy of the socket: its peer sees the end at once. */
TAP_TEST(attached_socket_ends_with_its_owner)
{
	struct world w;
	char byte;

	world_open(&w);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 1, 0, w.pair[0]), 0);
	CHECK_SYS(close(w.pair[0]));
	CHECK_EQ(recv(w.pair[1], &byte, 1, 0), 0);
	w.pair[0] = -1;
	world_close(&w);
}

/* Reports ------------------------------------------------------------------ */

static __u32 list(int fd, __u16 flags, __u64 after,
		  struct sluice_control_record *records)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_LIST);
	size_t len = SLUICE_LIST_MAX * sizeof(*records);

	frame.flags = flags;
	frame.endpoint = after;
	daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	daemon_receive(fd, &frame, NULL, NULL, records, &len);
	CHECK_EQ(frame.error, 0);
	CHECK_EQ(frame.list.record_size, sizeof(*records));
	CHECK_EQ(len, frame.list.count * sizeof(*records));
	return frame.list.count;
}

TAP_TEST(list_goes_through_all)
{
	struct sluice_control_record records[SLUICE_LIST_MAX];
	__u64 last = 0, numbers[40];
	__u32 seen = 0, count;
	struct world w;
	int fds[4];

	world_open(&w);
	CHECK_EQ(list(w.fd, 0, 0, records), 1);
	CHECK_EQ(records[0].endpoint, w.endpoint);
	CHECK_EQ(records[0].rings, 2);
	CHECK_EQ(records[0].ring_slots, 64);
	CHECK_EQ(records[0].conn_limit, 64);
	CHECK_EQ(records[0].landing[0], 1);
	CHECK_EQ(records[0].uid, getuid());
	CHECK_EQ(records[0].pid, getpid());
	CHECK_EQ(records[0].flags, 0);
	CHECK_NE(records[0].comm[0], 0);
	for (int i = 0; i < 40; i++) {
		numbers[i] = daemon_create(w.fd, 1, fds);
		for (int j = 0; j < 4; j++)
			close(fds[j]);
	}
	last = w.endpoint;
	while ((count = list(w.fd, SLUICE_CONTROL_F_ALL, last, records))) {
		for (__u32 i = 0; i < count; i++)
			CHECK_EQ(records[i].endpoint, numbers[seen++]);
		last = records[count - 1].endpoint;
	}
	CHECK_EQ(seen, 40);
	world_close(&w);
}

TAP_TEST(drain_refuses_what_is_new)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_DRAIN);
	struct sluice_control create;
	struct world w;

	world_open(&w);
	frame.drain.on = 1;
	CHECK_EQ(daemon_call(w.fd, &frame, -1, NULL, NULL), 0);
	CHECK_EQ(frame.use.endpoints, 1);
	CHECK_EQ(frame.use.flags, SLUICE_USE_F_DRAINING);
	CHECK_EQ(daemon_query(w.fd, 0).flags, SLUICE_USE_F_DRAINING);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 1, 0, w.pair[0]),
		 ESHUTDOWN);
	create = base_frame(&w, CREATE);
	CHECK_EQ(daemon_call(w.fd, &create, -1, NULL, NULL), ESHUTDOWN);
	frame = daemon_frame(SLUICE_CONTROL_DRAIN);
	CHECK_EQ(daemon_call(w.fd, &frame, -1, NULL, NULL), 0);
	CHECK_EQ(daemon_attach(w.fd, w.endpoint, 0, 1, 0, w.pair[0]), 0);
	world_close(&w);
}
