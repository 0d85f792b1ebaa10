/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Discovery and negotiation: PROTOCOL.md section 5. From the socket's names to
 * PHASE_PLAIN or PHASE_AWARE.
 */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define NAME_DIGITS 16
#define NAME_LEN (1 + sizeof(SLUICE_NAME_PREFIX) - 1 + NAME_DIGITS)

bool name_parse(const struct sockaddr_un *address, socklen_t size,
		uint64_t *number)
{
	const char *digits = address->sun_path + NAME_LEN - NAME_DIGITS;
	uint64_t n = 0;
	int i;

	if (size != offsetof(struct sockaddr_un, sun_path) + NAME_LEN ||
	    address->sun_path[0] ||
	    memcmp(address->sun_path + 1, SLUICE_NAME_PREFIX,
		   sizeof(SLUICE_NAME_PREFIX) - 1))
		return false;
	for (i = 0; i < NAME_DIGITS; i++) {
		char c = digits[i];

		if (c >= '0' && c <= '9')
			n = n << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			n = n << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	*number = n;
	return n != 0;
}

int name_bind(int fd, uint64_t *number)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	do {
		*number = random_nonzero();
		snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1,
			 SLUICE_NAME_PREFIX "%016llx",
			 (unsigned long long)*number);
		if (!bind(fd, (struct sockaddr *)&address,
			  offsetof(struct sockaddr_un, sun_path) + NAME_LEN))
			return 0;
	} while (errno == EADDRINUSE);
	return -errno;
}

static int hello_send(struct sluice_conn *conn, uint8_t type, uint64_t echo)
{
	struct conn_core *core = core_of(conn);
	struct sluice_frame frame = { .type = type,
				      .value = sizeof(core->hello) };
	/* Steering is of DATA frames: the peer is to keep to them. */
	uint64_t direct = core->flags & SLUICE_F_STEER ? 0 : SLUICE_FEAT_DIRECT;
	int r;

	if (!(core->flags & SLUICE_F_NO_DIRECT) && !core->link) {
		r = link_new(core, &core->link_fd);
		if (r)
			return r;
	}
	core->registered = process_has_membarrier();
	core->hello = (struct sluice_hello){
		.magic = SLUICE_HELLO_MAGIC,
		.major = SLUICE_MAJOR,
		.minor = SLUICE_MINOR,
		.features = (core->link ? SLUICE_FEAT_LINK | direct : 0) |
			    (core->registered ? SLUICE_FEAT_MEMBARRIER : 0),
		.cookie = core->hello.cookie ? core->hello.cookie :
					       random_nonzero(),
		.echo = echo,
		.map_limit = core->options.map_limit,
		.link_size = core->link ? core->link_size : 0,
		.hold_limit = core->options.hold_limit,
		.segment_limit = SLUICE_SEGMENTS_MAX,
	};
	r = frame_send(conn, &frame, &core->hello, sizeof(core->hello),
		       core->link_fd);
	if (r)
		return r;
	if (core->link_fd >= 0)
		close(core->link_fd);
	core->link_fd = -1;
	core->hello_sent = true;
	return 0;
}

/* A peer that has gone already may have left messages: no error. */
static int hello_first(struct sluice_conn *conn, uint64_t echo)
{
	int r = hello_send(conn, SLUICE_FRAME_HELLO, echo);

	return r == -EPIPE ? 0 : r;
}

int hello_start(struct sluice_conn *conn, uint64_t bound)
{
	struct conn_core *core = core_of(conn);
	struct sockaddr_un self, peer;
	socklen_t self_size = sizeof(self), peer_size = sizeof(peer);
	const socklen_t unnamed = sizeof(sa_family_t);
	uint64_t number;

	if (core->flags & SLUICE_F_PLAIN)
		return 0;
	if (core->flags & SLUICE_F_AWARE) {
		core->phase = PHASE_PAIR;
		return hello_first(conn, 0);
	}
	if (getsockname(core->fd, (struct sockaddr *)&self, &self_size) ||
	    getpeername(core->fd, (struct sockaddr *)&peer, &peer_size))
		return -errno;
	if (bound || name_parse(&self, self_size, &bound)) {
		core->phase = PHASE_CLIENT;
		core->expect_echo = bound;
	} else if (name_parse(&peer, peer_size, &number)) {
		core->phase = PHASE_SERVER;
		return hello_first(conn, number);
	} else if (self_size == unnamed && peer_size == unnamed) {
		/* One end of a pair; the other may say that it is aware. */
		core->phase = PHASE_CLIENT;
	}
	return 0;
}

static const char *hello_wrong(const struct sluice_hello *hello)
{
	bool link = hello->features & SLUICE_FEAT_LINK;
	size_t i;

	if (!hello->cookie)
		return "hello has no cookie";
	if (hello->hold_limit < 16 || hello->hold_limit > SLUICE_HOLD_MAX)
		return "hello has a bad hold_limit";
	if (hello->segment_limit > SLUICE_SEGMENTS_MAX)
		return "hello has a bad segment_limit";
	if (link ? hello->link_size < sizeof(struct sluice_link) ||
			    hello->link_size > SLUICE_LINK_SIZE_MAX :
		   hello->link_size != 0)
		return "hello has a bad link_size";
	if (hello->features & SLUICE_FEAT_DIRECT && !link)
		return "hello has the direct lane without a link";
	for (i = 0; i < ARRAY_SIZE(hello->__resv); i++)
		if (hello->__resv[i])
			return "hello has a reserved field that is not zero";
	return NULL;
}

/* Both hellos are known: both directions start in the queued lane. */
static int establish(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t mine = core->options.hold_limit,
		 theirs = core->peer.hold_limit;
	bool forever = core->options.spin_ns == SLUICE_SPIN_FOREVER;
	uint32_t i;
	int r;

	core->rx_held = calloc(mine, sizeof(*core->rx_held));
	core->tx_ids = calloc(theirs, sizeof(*core->tx_ids));
	core->tx_out = calloc(theirs, sizeof(*core->tx_out));
	core->stage = calloc(SLUICE_FRAME_SLOTS_MAX, sizeof(*core->stage));
	if (!core->both_link) {
		link_unmap(core);
		core->pending_ids = calloc(mine, sizeof(*core->pending_ids));
	}
	if (!core->rx_held || !core->tx_ids || !core->tx_out || !core->stage ||
	    (!core->both_link && !core->pending_ids))
		return conn_fail(conn, -ENOMEM, "out of memory");
	for (i = 0; i < theirs; i++)
		core->tx_ids[i] = theirs - 1 - i;
	conn->tx_ids = core->tx_ids;
	conn->tx_id_count = theirs;
	conn->tx_out = core->tx_out;
	conn->rx_held = core->rx_held;
	conn->rx_hold_limit = mine;
	conn->rx_spins = core->options.spin_ns ? 256 : 0;
	core->peer_registered = core->peer.features & SLUICE_FEAT_MEMBARRIER;
	core->tx_lane = core->rx_lane = SLUICE_LANE_QUEUED;
	core->phase = PHASE_AWARE;
	if (!core->pool->shared) {
		/* Grow no further than the only peer will map. */
		if (core->pool->limit > core->peer.map_limit)
			core->pool->limit = core->peer.map_limit;
		core->pool->segment_limit = core->peer.segment_limit;
	}
	if (!core->both_link)
		return 0;
	hot_open(conn);
	core->rx_word.may_spin = core->tx_word.may_spin =
		!core->peer_registered || process_has_membarrier();
	if (forever) {
		word_spin(&core->rx_word, 0, true);
		word_spin(&core->tx_word, 0, true);
	}
	if (!list_empty(&core->pool->waiters))
		words_sleep(NULL, &core->tx_word, core->peer_registered);
	core->want_direct = core->peer.features & SLUICE_FEAT_DIRECT;
	if (core->shut)
		return 0;
	r = send_switch(conn);
	return r == -EAGAIN || r == -EPIPE ? 0 : r;
}

/* The HELLO_ACK to a HELLO that was accepted. */
static int hello_answer(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r;

	r = hello_send(conn, SLUICE_FRAME_HELLO_ACK, core->peer.cookie);
	core->hello_due = r == -EAGAIN;
	if (r == -EAGAIN)
		return 0;
	/* Frames of a peer that has gone already (BYE) are still to be read. */
	if (r && r != -EPIPE)
		return conn_fail(conn, r, "cannot make a link");
	return establish(conn);
}

/* A HELLO or HELLO_ACK whose echo is right. */
static int hello_accept(struct sluice_conn *conn, struct frame *frame)
{
	struct conn_core *core = core_of(conn);
	const struct sluice_hello *hello = &frame->hello;
	const char *wrong;
	int r;

	if (hello->major != SLUICE_MAJOR)
		return conn_fail(conn, -EPROTONOSUPPORT,
				 "hello has another major version");
	wrong = hello_wrong(hello);
	if (wrong)
		return conn_fail(conn, -EPROTO, wrong);
	core->peer = *hello;
	core->both_link = hello->features & SLUICE_FEAT_LINK &&
			  !(core->flags & SLUICE_F_NO_DIRECT);
	if (core->both_link) {
		r = link_map(core, frame->fds[0], hello->link_size);
		if (r)
			return r;
	}
	return core->hello_sent ? establish(conn) : hello_answer(conn);
}

static bool looks_right(const struct sluice_frame *header,
			const struct sluice_hello *hello, size_t len,
			uint8_t type, uint64_t echo)
{
	return len >= sizeof(*header) + sizeof(*hello) &&
	       len <= SLUICE_FRAME_SIZE_MAX && header->type == type &&
	       !header->flags && !header->count &&
	       len == sizeof(*header) + header->value &&
	       hello->magic == SLUICE_HELLO_MAGIC && hello->echo == echo;
}

static bool fds_right(const struct frame *frame)
{
	return frame->fd_count ==
	       (frame->hello.features & SLUICE_FEAT_LINK ? 1u : 0u);
}

/* PHASE_CLIENT and PHASE_SERVER: is the next message the one that counts? */
static int hello_peek(struct sluice_conn *conn, uint8_t type)
{
	struct conn_core *core = core_of(conn);
	struct {
		struct sluice_frame header;
		struct sluice_hello hello;
	} peek;
	struct frame frame;
	size_t n;
	int r;

	r = plain_look(core, MSG_PEEK, &peek, sizeof(peek), &n);
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	if (!r || !looks_right(&peek.header, &peek.hello, n, type,
			       core->expect_echo)) {
		/* Not the first message, or no more to come: plain for good. */
		if (!r || type == SLUICE_FRAME_HELLO)
			core->phase = PHASE_PLAIN;
		return 1;
	}
	r = frame_recv(conn, &frame, MSG_DONTWAIT);
	if (r != 1)
		return r < 0 ? r : 0;
	if (!fds_right(&frame)) {
		if (type == SLUICE_FRAME_HELLO) {
			/* A plain server's message that looks like one. */
			core->phase = PHASE_PLAIN;
			r = plain_append(core, &frame, n);
			frame_close(&frame);
			return r;
		} else {
			r = conn_fail(conn, -EPROTO,
				      "hello has a wrong number of fds");
		}
	} else if (core->shut && !core->hello_sent) {
		/* Too late to answer: the server sees EOF, we stay plain. */
		core->phase = PHASE_PLAIN;
	} else {
		r = hello_accept(conn, &frame);
	}
	frame_close(&frame);
	return r < 0 ? r : 0;
}

static int hello_pair(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct frame frame;
	size_t len;
	int r;

	r = frame_recv(conn, &frame, MSG_DONTWAIT);
	if (r == -EAGAIN || r == -EINTR)
		return 0;
	if (r == 0) {
		conn_peer_gone(conn);
		return 0;
	}
	if (r < 0)
		return conn_fail(conn, r, "first message is no hello");
	len = sizeof(frame.header) + frame.body_len;
	if ((looks_right(&frame.header, &frame.hello, len, SLUICE_FRAME_HELLO,
			 0) ||
	     looks_right(&frame.header, &frame.hello, len,
			 SLUICE_FRAME_HELLO_ACK, core->hello.cookie)) &&
	    fds_right(&frame))
		r = hello_accept(conn, &frame);
	else
		r = conn_fail(conn, -EPROTO, "first message is no hello");
	frame_close(&frame);
	return r < 0 ? r : 0;
}

static int hello_step(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (core->hello_due)
		return hello_answer(conn);
	switch (core->phase) {
	case PHASE_CLIENT:
		return hello_peek(conn, SLUICE_FRAME_HELLO);
	case PHASE_SERVER:
		core->expect_echo = core->hello.cookie;
		return hello_peek(conn, SLUICE_FRAME_HELLO_ACK);
	case PHASE_PAIR:
		return hello_pair(conn);
	default:
		return 0;
	}
}

int hello_process(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r;

	if (core->eof || core->error)
		return core->error;
	r = hello_step(conn);
	if (core->steer.ring)
		steer_settle(conn);
	return r;
}
