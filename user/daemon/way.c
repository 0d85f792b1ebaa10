/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Receive, send, receive: the two ways of each pair. way.h.
 *
 * EOF and an empty message are both a receive of 0 bytes; SO_TIMESTAMP tells them
 * apart: only a message has a time.
 *
 * A backend has begun once it has sent anything, or was sent more than one piece.
 * If it is reset before (the kernel does so if input is left unread, or if it has
 * never accepted), it has not read the one piece, and another backend may have it.
 */
#include "way.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_MAX 16384 /* one skb, which is read as a whole */

/* Pieces ------------------------------------------------------------------ */

static void drop(struct way *way, struct piece *piece)
{
	struct thread *thread = way->pair->thread;
	int buffer = piece->buffer;

	if (!piece->at)
		return;
	if (buffer == PIECE_OWN)
		free(piece->at);
	if (buffer == PIECE_HOME && piece->length > SWITCH_LARGEST)
		ring_give_home_back(way);
	piece->at = NULL;
	if (buffer >= 0)
		ring_give_back(thread, buffer);
}

/* Out of the thread's buffer, or the way's, if there is memory. */
static void make_own(struct thread *thread, struct piece *piece)
{
	int buffer = piece->buffer;
	unsigned char *copy;

	if (!piece->at || (buffer < 0 && buffer != PIECE_HOME))
		return;
	copy = malloc(piece->length ? piece->length : 1);
	if (!copy)
		return;
	memcpy(copy, piece->at, piece->length);
	piece->at = copy;
	piece->buffer = PIECE_OWN;
	if (buffer >= 0)
		ring_give_back(thread, buffer);
}

static bool hung_up(int fd)
{
	struct pollfd pollfd = { .fd = fd };

	return poll(&pollfd, 1, 0) == 1;
}

/* Ends -------------------------------------------------------------------- */

/* May the program pass on what comes? Only if nothing is left to look at here. */
static void set_flowing(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		const struct way *way = &pair->ways[i];
		struct switch_way *entry = way->entry;

		if (!entry)
			continue;
		entry->in = way->in;
		entry->out = way->out;
		entry->flowing = pair->begun && !pair->ending &&
				 !pair->waiting && !way->passed &&
				 !way->data.at;
	}
}

/* All that is under way completes at once. */
static void end(struct pair *pair, enum switch_end how)
{
	if (pair->ending)
		return;
	pair->end = how;
	/* the main thread is at it: when its answer comes */
	pair->doomed = pair->waiting;
	if (pair->doomed)
		return;
	pair->ending = true;
	set_flowing(pair);
	shutdown(pair->ways[0].in, SHUT_RDWR);
	shutdown(pair->ways[1].in, SHUT_RDWR);
}

void pair_close(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		struct way *way = &pair->ways[i];

		drop(way, &way->data);
		drop(way, &way->held);
		close(way->in);
	}
	drop(&pair->ways[0], &pair->first);
}

static void leave_if_over(struct pair *pair)
{
	if (!pair->ending || pair->operations)
		return;
	pair_close(pair);
	*pair->at = pair->next;
	if (pair->next)
		pair->next->at = pair->at;
	pair->event.end = pair->end;
	switch_tell(pair->thread, &pair->event);
}

static void end_if_both_passed(struct pair *pair)
{
	if (pair->ways[0].passed && pair->ways[1].passed)
		end(pair, SWITCH_DONE);
}

/* The sender will send no more, and all it sent was passed on. */
static void pass_end(struct way *way)
{
	way->passed = true;
	shutdown(way->out, SHUT_WR);
	if (hung_up(way->in))
		shutdown(way->out, SHUT_RDWR);
	else
		ring_watch_hangup(way);
	end_if_both_passed(way->pair);
}

/* The receiver has gone; its sender hears of it. */
static void receiver_gone(struct way *way)
{
	way->ended = true;
	way->passed = true;
	way->failed = false;
	shutdown(way->in, SHUT_RD);
	drop(way, &way->data);
	drop(way, &way->held);
	end_if_both_passed(way->pair);
}

/* Beginning --------------------------------------------------------------- */

static void begin(struct pair *pair)
{
	pair->begun = true;
	drop(&pair->ways[0], &pair->first);
}

/* A piece was sent to the backend: keep it if it is the only one. */
static void keep_first(struct way *way)
{
	struct pair *pair = way->pair;

	if (way->data.buffer == PIECE_FIRST)
		return; /* kept already */
	if (!pair->first.at && way->data.length <= FIRST_MAX) {
		make_own(pair->thread, &way->data);
		if (way->data.buffer == PIECE_OWN) {
			pair->first = way->data;
			way->data.at = NULL;
			return;
		}
	}
	begin(pair);
}

static void tell_unbegun(struct pair *pair)
{
	pair->event.end = SWITCH_UNBEGUN;
	switch_tell(pair->thread, &pair->event);
}

/* The backend sends no more. True: it never began, and another one may. */
static bool wait_for_another(struct pair *pair)
{
	struct way *way = &pair->ways[0];

	if (pair->begun || !pair->lost || hung_up(way->in))
		return false;
	pair->waiting = true;
	if (!way->sending)
		tell_unbegun(pair);
	return true;
}

static void set_timestamps(const struct pair *pair, int fd)
{
	int one = 1;

	if (pair->type != SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one));
}

static void next_piece(struct way *way);

static void resume(struct pair *pair, int backend)
{
	struct way *way = &pair->ways[0];

	close(way->out);
	way->out = pair->ways[1].in = backend;
	set_timestamps(pair, backend);
	way->failed = false;
	pair->lost = false;
	pair->ways[1].ended = false;
	way->passed = false; /* the first one was told, not this one */
	if (pair->first.at) {
		if (way->data.at)
			way->held = way->data;
		way->data = pair->first;
		way->data.buffer = PIECE_FIRST;
	}
	way->sent = 0;
	if (way->data.at)
		ring_send(way, MSG_DONTWAIT);
	else
		next_piece(way);
	ring_receive(&pair->ways[1]);
}

/* Ways -------------------------------------------------------------------- */

/* data is empty: what now? */
static void next_piece(struct way *way)
{
	if (way->held.at) {
		way->data = way->held;
		way->held.at = NULL;
		way->sent = 0;
		ring_send(way, MSG_DONTWAIT);
	} else if (way->ended) {
		if (!way->passed)
			pass_end(way);
	} else if (!way->receiving) {
		ring_receive(way);
	}
}

static void take_piece(struct way *way, struct piece piece)
{
	struct pair *pair = way->pair;

	if (way->from_backend && !pair->begun)
		begin(pair);
	if (way->passed) {
		drop(way, &piece);
	} else if (pair->waiting || way->data.at) {
		way->held = piece;
		make_own(pair->thread, &way->held);
		if (!way->data.at) {
			way->data = way->held;
			way->held.at = NULL;
		}
	} else {
		way->data = piece;
		way->sent = 0;
		ring_send(way, MSG_DONTWAIT);
	}
}

static void receive_end(struct way *way)
{
	struct pair *pair = way->pair;

	way->ended = true;
	if (way->from_backend) {
		if (wait_for_another(pair))
			return;
		if (pair->ways[0].failed)
			receiver_gone(&pair->ways[0]);
	}
	if (!way->passed && !way->data.at && !pair->waiting)
		pass_end(way);
}

static bool is_end(const struct way *way, int result)
{
	if (result)
		return result < 0;
	if (way->entry)
		return !way->entry->control_size;
	return way->pair->type == SOCK_STREAM || !way->header.msg_controllen;
}

static void on_receive(struct way *way, int result, struct piece piece)
{
	struct pair *pair = way->pair;
	unsigned int flags = way->entry ? way->entry->flags :
					  (unsigned int)way->header.msg_flags;

	way->receiving = false;
	if (pair->ending ||
	    (result < 0 && result != -ENOBUFS && result != -EINTR &&
	     result != -EAGAIN && result != -ECONNRESET)) {
		drop(way, &piece);
		if (!pair->ending)
			receive_end(way);
		return;
	}
	if (result == -ENOBUFS) {
		ring_starve(way);
	} else if (result < 0) {
		/* the reset is told once, and before what is queued */
		pair->lost |= way->from_backend && result == -ECONNRESET;
		ring_receive(way);
	} else if (flags & (MSG_CTRUNC | MSG_TRUNC)) {
		drop(way, &piece);
		end(pair, flags & MSG_CTRUNC ? SWITCH_FDS : SWITCH_SIZE);
	} else if (is_end(way, result)) {
		drop(way, &piece);
		receive_end(way);
	} else {
		take_piece(way, piece);
	}
}

/* The backend's own end may say that it never began: wait for it. */
static void on_send_error(struct way *way)
{
	struct pair *pair = way->pair;

	if (way->from_backend || pair->begun || pair->ways[1].passed)
		receiver_gone(way);
	else if (!pair->waiting)
		way->failed = true;
}

static void count(struct way *way, uint32_t bytes, bool whole)
{
	struct traffic *traffic = way->pair->traffic;

	atomic_fetch_add_explicit(&traffic->bytes[way->from_backend], bytes,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&traffic->messages[way->from_backend], whole,
				  memory_order_relaxed);
}

static void on_sent(struct way *way, uint32_t bytes)
{
	struct pair *pair = way->pair;

	way->sent += bytes;
	count(way, bytes, way->sent == way->data.length);
	if (way->sent < way->data.length) {
		if (!way->from_backend)
			begin(pair); /* it may have read a part */
		ring_send(way, MSG_DONTWAIT);
		return;
	}
	if (!way->from_backend && !pair->begun)
		keep_first(way);
	drop(way, &way->data);
	if (!pair->waiting)
		next_piece(way);
}

static void on_send(struct way *way, int result)
{
	struct pair *pair = way->pair;

	way->sending = false;
	if (pair->ending)
		return;
	if (way->passed) {
		drop(way, &way->data);
	} else if (result == -EAGAIN || result == -EINTR) {
		make_own(pair->thread, &way->data);
		ring_send(way, 0);
	} else if (result < 0) {
		on_send_error(way);
	} else {
		on_sent(way, (uint32_t)result);
	}
	/* What was sent just before the backend went may be too much. */
	if (!pair->waiting || way->sending)
		return;
	if (!pair->begun) {
		tell_unbegun(pair);
		return;
	}
	pair->waiting = false;
	receiver_gone(way);
	pass_end(&pair->ways[1]);
}

void pair_hung_up(struct way *way)
{
	if (!way->pair->ending)
		shutdown(way->out, SHUT_RDWR);
}

/* The in-kernel switch ------------------------------------------------------- */

/*
 * The program has sent what the way received, and that failed, or was cut short;
 * the receive that was linked to it was not begun, and says nothing. From here on
 * it is as if the thread had received and sent.
 */
static void take_over_send(struct way *way)
{
	struct switch_way *entry = way->entry;

	way->receiving = false;
	way->sending = true;
	way->data = (struct piece){ way->home, entry->length, PIECE_HOME };
	way->sent = 0;
	entry->bytes -= entry->length;
	entry->messages--;
}

static bool is_programs(const struct way *way)
{
	return way->entry && way->receiving && !way->sending;
}

void pair_carried(const struct pair *pair, struct carried *carried)
{
	for (int i = 0; i < 2; i++) {
		const struct switch_way *entry = pair->ways[i].entry;

		if (!entry)
			continue;
		carried->bytes[i] +=
			__atomic_load_n(&entry->bytes, __ATOMIC_RELAXED);
		carried->messages[i] +=
			__atomic_load_n(&entry->messages, __ATOMIC_RELAXED);
	}
}

/* Pairs ------------------------------------------------------------------- */

struct pair *pair_new(struct thread *thread, int client, int backend, int type,
		      struct traffic *traffic, void *owner)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	if (!pair)
		return NULL;
	pair->event.owner = owner;
	pair->letter.pair = pair;
	pair->thread = thread;
	pair->traffic = traffic;
	pair->type = type;
	for (int i = 0; i < 2; i++) {
		struct way *way = &pair->ways[i];

		way->pair = pair;
		way->in = i ? backend : client;
		way->out = i ? client : backend;
		way->from_backend = i;
		if (type != SOCK_STREAM)
			ring_give_entry(way);
	}
	set_timestamps(pair, client);
	set_timestamps(pair, backend);
	return pair;
}

void pair_free(struct pair *pair)
{
	for (int i = 0; i < 2; i++)
		ring_take_entry(&pair->ways[i]);
	free(pair);
}

void pair_handle(struct pair *pair, enum letter_type type, int fd)
{
	struct thread *thread = pair->thread;

	switch (type) {
	case LETTER_ADD:
		pair->next = thread->pairs;
		pair->at = &thread->pairs;
		if (pair->next)
			pair->next->at = &pair->next;
		thread->pairs = pair;
		ring_receive(&pair->ways[0]);
		ring_receive(&pair->ways[1]);
		break;
	case LETTER_RESUME:
		pair->waiting = false;
		if (!pair->doomed) {
			resume(pair, fd);
			break;
		}
		close(fd);
		end(pair, pair->end);
		leave_if_over(pair);
		break;
	default:
		pair->waiting = false;
		end(pair, pair->doomed ? pair->end : SWITCH_DONE);
		leave_if_over(pair);
	}
}

static struct way *way_of(const struct thread *thread, __u64 data)
{
	__u64 index = data >> SWITCH_SHIFT & (SWITCH_WAYS - 1);

	if (data & SWITCH_OF_TABLE)
		return thread->of_entry[index];
	return (struct way *)(uintptr_t)(data & ~(__u64)SWITCH_OPERATION);
}

static struct piece piece_of(const struct thread *thread, const struct way *way,
			     const struct io_uring_cqe *cqe)
{
	struct piece piece = { .buffer = PIECE_HOME, .at = way->home };

	if (cqe->flags & IORING_CQE_F_BUFFER) {
		piece.buffer = (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
		piece.at = thread->memory + (size_t)piece.buffer * thread->size;
	}
	piece.length = cqe->res > 0 ? (uint32_t)cqe->res : 0;
	return piece;
}

void pair_complete(struct thread *thread, const struct io_uring_cqe *cqe)
{
	struct way *way = way_of(thread, cqe->user_data);
	struct pair *pair = way->pair;

	pair->operations--;
	switch (cqe->user_data & SWITCH_OPERATION) {
	case SWITCH_RECEIVE:
		on_receive(way, cqe->res, piece_of(thread, way, cqe));
		break;
	case SWITCH_SEND:
		if (is_programs(way))
			take_over_send(way);
		on_send(way, cqe->res);
		break;
	}
	set_flowing(pair);
	leave_if_over(pair);
}
