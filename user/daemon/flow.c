/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Relaying one direction in user space; flow.h says what else there is. */
#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define PIECES_PER_TURN 16 /* then others get theirs */

/* Ends -------------------------------------------------------------------- */

static void finish(struct flow *flow)
{
	free(flow->data);
	flow->data = NULL;
	flow->length = flow->sent = 0;
	flow->stuck = false;
	flow->look_at = 0;
	flow->state = REDIRECT_ENDED;
}

void flow_end(struct flow *flow)
{
	shutdown(flow_out(flow)->fd, SHUT_WR);
	finish(flow);
}

void flow_break(struct flow *flow)
{
	if (flow->state == REDIRECT_ENDED)
		return;
	shutdown(flow_in(flow)->fd, SHUT_RD);
	finish(flow);
}

/* Sending ----------------------------------------------------------------- */

static bool keep(struct flow *flow, const unsigned char *data, size_t len)
{
	flow->data = malloc(len);
	if (!flow->data)
		return false;
	memcpy(flow->data, data, len);
	flow->length = len;
	flow->sent = 0;
	flow->stuck = true;
	return true;
}

/* Bytes sent, 0 if there is no room now, or -errno. */
static ssize_t send_some(struct flow *flow, const unsigned char *data,
			 size_t len)
{
	ssize_t n = send(flow_out(flow)->fd, data, len,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return -errno;
	flow->pair->traffic->bytes[flow->way] += (uint64_t)n;
	return n;
}

static bool broken(struct flow *flow, ssize_t error)
{
	if (flow->way == PAIR_TO_BACKEND && error != -ENOMEM &&
	    redirect_unbegun(flow->pair))
		return false;
	flow_break(flow);
	return false;
}

bool flow_send(struct flow *flow, const unsigned char *data, size_t len)
{
	ssize_t n = send_some(flow, data, len);

	if (n < 0)
		return broken(flow, n);
	if ((size_t)n == len)
		return true;
	if (!keep(flow, data + n, len - (size_t)n))
		return broken(flow, -ENOMEM);
	return flow_flush(flow);
}

bool flow_flush(struct flow *flow)
{
	while (flow->sent < flow->length) {
		ssize_t n = send_some(flow, flow->data + flow->sent,
				      flow->length - flow->sent);

		if (n < 0)
			return broken(flow, n);
		flow->stuck = !n;
		if (!n)
			return false;
		flow->sent += (size_t)n;
	}
	flow->stuck = false;
	free(flow->data);
	flow->data = NULL;
	flow->length = flow->sent = 0;
	return true;
}

/* Relaying ---------------------------------------------------------------- */

/* Another backend may have to get it. */
static void keep_first(struct redirect_pair *pair, const unsigned char *data,
		       size_t len)
{
	unsigned char *first;

	if (pair->begun)
		return;
	first = pair->first_length + len <= FLOW_FIRST_MAX ?
			realloc(pair->first, pair->first_length + len) :
			NULL;
	if (!first) {
		pair->begun = true;
		return;
	}
	memcpy(first + pair->first_length, data, len);
	pair->first = first;
	pair->first_length += len;
}

static bool relay_piece(struct flow *flow, const unsigned char *data,
			size_t len)
{
	struct redirect_pair *pair = flow->pair;

	pair->traffic->messages[flow->way]++;
	if (flow->way == PAIR_TO_BACKEND)
		keep_first(pair, data, len);
	else
		pair->begun = true;
	return flow_send(flow, data, len);
}

static void relay(struct flow *flow)
{
	unsigned char *scratch = redirect_scratch(flow);
	ssize_t n;

	for (int i = 0; i < PIECES_PER_TURN; i++) {
		n = recv(flow_in(flow)->fd, scratch, FLOW_PIECE, MSG_DONTWAIT);
		if (n > 0) {
			if (!relay_piece(flow, scratch, (size_t)n))
				return;
		} else if (n < 0 && errno == EINTR) {
			continue;
		} else if (n < 0 && errno == EAGAIN) {
			move_idle(flow);
			return;
		} else {
			if (n < 0 && flow->way == PAIR_TO_CLIENT &&
			    redirect_unbegun(flow->pair))
				return;
			redirect_half_closed(flow);
			flow_end(flow);
			return;
		}
	}
}

void flow_run(struct flow *flow)
{
	if (flow->state == REDIRECT_ENDED || flow->pair->waiting)
		return;
	if (flow->data && !flow_flush(flow))
		return;
	if (flow_in_map(flow))
		hold_run(flow);
	else
		relay(flow);
}

/* What to watch for ------------------------------------------------------- */

uint32_t flow_wants_in(const struct flow *flow)
{
	if (flow->state == REDIRECT_ENDED || flow->in_ended)
		return 0;
	if (!flow_in_map(flow))
		return flow->stuck ? 0 : EPOLLIN;
	return EPOLLRDHUP; /* the program takes the rest */
}

uint32_t flow_wants_out(const struct flow *flow)
{
	return flow->stuck ? EPOLLOUT : 0;
}
