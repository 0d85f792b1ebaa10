/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A conn from its making to its end: options, errors, close, what it tells of
 * itself. socket.c gives it its socket, hello.c its peer.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert(sizeof(struct sluice_conn) <= CONN_PAGE, "hot part: one page");
_Static_assert(sizeof(struct conn_core) <= CONN_PAGE, "the rest: one page");

#define HOLD_LIMIT_DEFAULT 256
#define HOLD_LIMIT_MIN 16
#define RING_SLOTS_DEFAULT 256
#define MAP_LIMIT_DEFAULT (1ull << 30)
#define BACKLOG_DEFAULT 128

/* How long close() waits for room for a batch and BYE. A guess. */
#define LINGER_NS 1000000000

const char *sluice_version(void)
{
	return SLUICE_VERSION;
}

int options_copy(void *out, size_t size, const void *in)
{
	const uint8_t *bytes = in;
	size_t given, i;

	memcpy(&given, in, sizeof(given));
	if (given < sizeof(given))
		return -EINVAL;
	for (i = size; i < given; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(out, in, given < size ? given : size);
	return 0;
}

int options_read(struct sluice_options *o, const struct sluice_options *in)
{
	const uint32_t known = SLUICE_F_AWARE | SLUICE_F_REQUIRE_AWARE |
			       SLUICE_F_PLAIN | SLUICE_F_NO_DIRECT |
			       SLUICE_F_MAP_HUGE | SLUICE_F_STEER;
	int r;

	*o = (struct sluice_options){ .size = sizeof(*o) };
	if (in) {
		r = options_copy(o, sizeof(*o), in);
		if (r)
			return r;
	}
	if (!o->ring_slots)
		o->ring_slots = RING_SLOTS_DEFAULT;
	if (!o->hold_limit)
		o->hold_limit = HOLD_LIMIT_DEFAULT;
	if (!o->map_limit)
		o->map_limit = MAP_LIMIT_DEFAULT;
	if (!o->backlog)
		o->backlog = BACKLOG_DEFAULT;
	if (!o->spin_ns)
		o->spin_ns = SLUICE_SPIN_DEFAULT_NS;
	if (o->no_spin == 1)
		o->spin_ns = 0;
	if (o->endpoint)
		o->flags |= SLUICE_F_STEER;
	if (o->flags & ~known || o->no_spin > 1 || o->resv ||
	    o->ring_slots < SLUICE_RING_SLOTS_MIN ||
	    o->ring_slots > SLUICE_RING_SLOTS_MAX ||
	    o->ring_slots & (o->ring_slots - 1) ||
	    o->hold_limit < HOLD_LIMIT_MIN || o->hold_limit > SLUICE_HOLD_MAX ||
	    (o->flags & SLUICE_F_PLAIN &&
	     o->flags & (SLUICE_F_AWARE | SLUICE_F_REQUIRE_AWARE)) ||
	    (o->pool && (o->pool_options || !pool_of(o->pool)->shared)) ||
	    (o->endpoint && o->endpoint_options) ||
	    (!(o->flags & SLUICE_F_STEER) && (o->endpoint_options || o->ring)))
		return -EINVAL;
	return 0;
}

int conn_new(struct sluice_conn **out, const struct sluice_options *options)
{
	struct sluice_conn *conn;
	struct conn_core *core;
	struct pool *pool;
	int r;

	conn = mmap(NULL, CONN_PAGE * 2, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (conn == MAP_FAILED)
		return -errno;
	/* In a child of fork() the hot path finds NULLs and asks us. */
	madvise(conn, CONN_PAGE, MADV_WIPEONFORK);
	core = core_of(conn);
	core->generation = process_generation();
	core->options = *options;
	core->flags = options->flags;
	core->fd = core->link_fd = -1;
	core->steer.spill[0] = core->steer.spill[1] = -1;
	core->steer.epoll_fd = core->steer.event_fd = -1;
	list_init(&core->pool_link);
	list_init(&core->set_link);
	list_init(&core->waiter_link);
	if (options->pool) {
		pool = pool_of(options->pool);
		r = pool->generation == core->generation ? 0 : -ECHILD;
	} else {
		r = pool_new(&pool, options->pool_options);
	}
	if (r) {
		munmap(conn, CONN_PAGE * 2);
		return r;
	}
	pool_reap(pool);
	core->pool = pool;
	hot_open(conn);
	pool->live_conns++;
	list_append(&pool->conns, &core->pool_link);
	*out = conn;
	return 0;
}

void conn_peer_gone(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t id;

	core->eof = true;
	conn->tx_ring = NULL;
	core->stage_count = 0;
	core->doorbell_due = core->bye_due = core->hello_due = false;
	if (conn->tx_out)
		for (id = 0; id < core->peer.hold_limit; id++)
			conn_take_back(conn, id);
	for (id = 0; id < SLUICE_SEGMENTS_MAX; id++) {
		if (!bit_get(conn->tx_announced, id))
			continue;
		bit_clear(conn->tx_announced, id);
		pool_forget(core->pool, id);
	}
	memset(core->del_due, 0, sizeof(core->del_due));
	memset(core->del_sent, 0, sizeof(core->del_sent));
	memset(core->ack_due, 0, sizeof(core->ack_due));
}

int conn_fail(struct sluice_conn *conn, int error, const char *text)
{
	struct conn_core *core = core_of(conn);
	struct sluice_frame frame = { .type = SLUICE_FRAME_ERROR };
	size_t len = strlen(text);

	if (core->error)
		return core->error;
	core->error = error;
	if (len >= sizeof(core->error_text))
		len = sizeof(core->error_text) - 1;
	memcpy(core->error_text, text, len);
	if (core->hello_sent && core->phase != PHASE_PLAIN && !core->eof) {
		if (len > SLUICE_FRAME_TEXT_MAX)
			len = SLUICE_FRAME_TEXT_MAX;
		frame.count = (uint16_t)len;
		frame.value = (uint32_t)-error;
		/* Advice: a peer whose socket is full sees EOF only. */
		frame_send(conn, &frame, text, len, -1);
	}
	if (core->fd >= 0)
		shutdown(core->fd, SHUT_RDWR);
	conn->rx_ring = NULL;
	conn->releases = NULL;
	core->pending_count = 0;
	conn_peer_gone(conn);
	return error;
}

static void free_memory(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t i;

	if (core->plain_held)
		for (i = 0; i < core->options.hold_limit; i++)
			free(core->plain_held[i]);
	free(core->plain_held);
	for (i = 0; i < core->plain_count; i++)
		free(core->plain[core->plain_first + i].data);
	free(core->flight);
	free(core->plain_spare);
	free(core->rx_segments);
	free(core->inbox);
	free(core->pending_ids);
	free(core->stage);
	free(core->rx_held);
	free(core->tx_ids);
	free(core->tx_out);
	munmap(conn, CONN_PAGE * 2);
}

/*
 * A child of fork() drops its copies. Links and pools were not mapped there,
 * and other memory may lie at their addresses by now: nothing is unmapped.
 */
static void unmap_all(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t i;

	for (i = 0; i < conn->rx_segment_count; i++)
		if (core->rx_segments[i].base)
			memory_unmap_foreign(core->rx_segments[i].base);
	link_unmap(core);
}

void conn_destroy(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct pool *pool = core->pool;

	if (!conn_check(core)) {
		uring_keep_fd(core);
		set_forget(conn);
		/* A child of fork() may hold the fd: closing would not do. */
		if (core->fd >= 0)
			shutdown(core->fd, SHUT_RDWR);
		conn_peer_gone(conn);
		unmap_all(conn);
	}
	steer_close(conn);
	if (core->fd >= 0 && !core->fd_kept)
		close(core->fd);
	if (core->link_fd >= 0)
		close(core->link_fd);
	list_remove(&core->waiter_link);
	list_remove(&core->pool_link);
	if (!core->closing)
		pool->live_conns--;
	free_memory(conn);
	pool_put(pool);
}

int sluice_conn_shutdown(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	if (core->error || core->shut)
		return core->error;
	/* It may be aware, or plain, since we looked last. */
	if (core->phase != PHASE_AWARE)
		hello_process(conn);
	if (core->error)
		return core->error;
	core->shut = true;
	conn->tx_ring = NULL;
	/* A client that shut down before our HELLO came would take BYE for plain. */
	if (!core->hello_sent || core->phase == PHASE_PLAIN ||
	    (core->phase == PHASE_SERVER && socket_hung_up(core->fd))) {
		shutdown(core->fd, SHUT_WR);
		return 0;
	}
	core->bye_due = !core->eof;
	r = control_push(conn, true);
	return r == -EAGAIN || r == -EPIPE ? 0 : r;
}

void sluice_conn_abort(struct sluice_conn *conn, const char *text)
{
	if (!conn)
		return;
	if (!conn_check(core_of(conn)))
		conn_fail(conn, -ECANCELED, text);
	conn_destroy(conn);
}

/* Gives what is due to the socket some time, then lets go of the conn. */
void sluice_conn_close(struct sluice_conn *conn)
{
	struct conn_core *core;
	struct pool *pool;
	int64_t end;

	if (!conn)
		return;
	core = core_of(conn);
	if (conn_check(core)) {
		conn_destroy(conn);
		return;
	}
	sluice_conn_shutdown(conn);
	if (uring_close_later(conn))
		return;
	end = now_ns() + LINGER_NS;
	while (!core->error && control_push(conn, true) == -EAGAIN &&
	       now_ns() < end) {
		struct pollfd p = { .fd = core->fd, .events = POLLOUT };

		poll(&p, 1, (int)((end - now_ns()) / 1000000) + 1);
		if (p.revents & (POLLHUP | POLLERR))
			break;
	}
	conn_harvest(conn);
	if (core->pool->shared && conn_out(core) && !core->eof) {
		/*
		 * The peer may still read buffers of a pool that goes on to be
		 * used. pool_reap() ends this conn when they are back, and a
		 * set that it is in still listens for that.
		 */
		core->closing = true;
		set_keep_closing(conn);
		steer_close(conn);
		core->inbox_count = 0;
		core->pool->live_conns--;
		list_remove(&core->pool_link);
		list_append(&core->pool->closing, &core->pool_link);
		shutdown(core->fd, SHUT_WR);
		pool_put(core->pool);
		return;
	}
	pool = core->pool->held ? core->pool : NULL;
	conn_destroy(conn);
	if (pool)
		pool_reap(pool);
}

int sluice_conn_fd(const struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	return core->steer.ring && !conn_check(core) ? steer_fd(core) :
						       core->fd;
}

struct sluice_pool *sluice_conn_pool(struct sluice_conn *conn)
{
	return &core_of(conn)->pool->hot;
}

const char *sluice_lane_name(uint32_t lane)
{
	static const char *const names[] = { "plain", "queued", "direct",
					     "steered" };

	return lane < ARRAY_SIZE(names) ? names[lane] : "unknown";
}

const char *sluice_reason_text(uint32_t reason)
{
	static const char *const texts[] = {
		[SLUICE_REASON_NONE] = "the best there is",
		[SLUICE_REASON_PEER_PLAIN] = "the peer is plain",
		[SLUICE_REASON_UNDECIDED] = "the peer has not said hello yet",
		[SLUICE_REASON_NO_LINK] = "this side offers no link",
		[SLUICE_REASON_PEER_NO_LINK] = "the peer offers no link",
		[SLUICE_REASON_CHOSEN] = "chosen by the sender",
		[SLUICE_REASON_STARTING] = "the switch is still to come",
		[SLUICE_REASON_SELF_PLAIN] = "this side was told to be plain",
		[SLUICE_REASON_PEER_NO_DIRECT] = "the peer reads no ring",
		[SLUICE_REASON_NO_SLUICED] = "sluiced is not there",
		[SLUICE_REASON_STEER_REFUSED] = "sluiced refused to steer",
		[SLUICE_REASON_STEER_LOST] = "sluiced has dropped the endpoint",
	};

	return reason < ARRAY_SIZE(texts) ? texts[reason] : "unknown";
}

static uint32_t aware_reason(const struct conn_core *core, uint32_t lane,
			     bool chosen, const struct sluice_hello *receiver)
{
	if (lane == SLUICE_LANE_DIRECT)
		return SLUICE_REASON_NONE;
	if (!(core->hello.features & SLUICE_FEAT_LINK))
		return SLUICE_REASON_NO_LINK;
	if (!core->both_link)
		return SLUICE_REASON_PEER_NO_LINK;
	if (!(receiver->features & SLUICE_FEAT_DIRECT))
		return SLUICE_REASON_PEER_NO_DIRECT;
	return chosen ? SLUICE_REASON_CHOSEN : SLUICE_REASON_STARTING;
}

/* Of a conn with F_STEER, whose phase is settled. */
static void steer_info(const struct conn_core *core,
		       struct sluice_conn_info *info)
{
	const struct steering *s = &core->steer;
	int lost = s->ring ? steer_lost(core) : 0, error = lost;

	info->steered = s->steered;
	info->spilled = s->spilled;
	if (s->word)
		info->steer_conn = s->conn;
	if (!error && (!s->word || s->lags))
		error = s->error;
	info->steer_error = error;
	if (lost) {
		info->rx_reason = SLUICE_REASON_STEER_LOST;
	} else if (!error) {
		info->rx_lane = SLUICE_LANE_STEERED;
		info->rx_reason = SLUICE_REASON_NONE;
	} else if (error == -ENOENT || error == -ECONNREFUSED ||
		   error == -ETIMEDOUT) {
		info->rx_reason = SLUICE_REASON_NO_SLUICED;
	} else {
		info->rx_reason = SLUICE_REASON_STEER_REFUSED;
	}
}

void sluice_conn_info(struct sluice_conn *conn, struct sluice_conn_info *info)
{
	struct conn_core *core = core_of(conn);
	uint32_t reason;

	if (!conn_check(core))
		conn_harvest(conn);
	*info = (struct sluice_conn_info){
		.peer_pid = core->credentials.pid,
		.peer_uid = core->credentials.uid,
		.peer_gid = core->credentials.gid,
		.error = core->error,
		.error_text = core->error_text,
		.out_buffers = conn_out(core),
		.held_buffers = conn->rx_held_count,
		.mapped_bytes = core->mapped_bytes,
		.frames_sent = core->frames_sent,
		.frames_received = core->frames_received,
		.doorbells_sent = core->doorbells_sent,
		.sleeps = core->sleeps,
	};
	if (core->phase == PHASE_AWARE) {
		info->features = core->hello.features & core->peer.features;
		info->tx_lane = core->tx_lane;
		info->tx_reason = aware_reason(core, core->tx_lane,
					       core->tx_chosen, &core->peer);
		info->rx_lane = core->rx_lane;
		info->rx_reason = aware_reason(core, core->rx_lane,
					       core->rx_switched, &core->hello);
		if (core->flags & SLUICE_F_STEER)
			steer_info(core, info);
		return;
	}
	reason = core->flags & SLUICE_F_PLAIN ? SLUICE_REASON_SELF_PLAIN :
		 core->phase == PHASE_PLAIN   ? SLUICE_REASON_PEER_PLAIN :
						SLUICE_REASON_UNDECIDED;
	info->tx_lane = info->rx_lane = SLUICE_LANE_PLAIN;
	info->tx_reason = info->rx_reason = reason;
	if (core->flags & SLUICE_F_STEER && core->phase == PHASE_PLAIN)
		steer_info(core, info);
}
