/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Accept and connect by the application's ring. What comes of them waits in
 * uring.results until sluice_uring_events() takes it: until then it is the set's.
 */
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <unistd.h>

#include "listener.h"

/* Results ----------------------------------------------------------------- */

static void result_put(struct uring *uring, uint32_t ready, void *data,
		       struct sluice_conn *conn, int error)
{
	struct uring_result *result = malloc(sizeof(*result));

	if (!result) {
		sluice_conn_close(conn);
		return;
	}
	result->event = (struct sluice_event){
		.conn = conn, .data = data, .ready = ready, .error = error
	};
	list_append(&uring->results, &result->link);
}

bool result_take(struct uring *uring, struct sluice_event *event)
{
	struct uring_result *result;
	struct list *l = uring->results.next;

	if (list_empty(&uring->results))
		return false;
	list_remove(l);
	result = list_entry(l, struct uring_result, link);
	*event = result->event;
	free(result);
	return true;
}

void results_drop(struct uring *uring)
{
	struct sluice_event event;

	while (result_take(uring, &event))
		sluice_conn_close(event.conn);
}

/* Listeners --------------------------------------------------------------- */

/* A service's fd is its connection to sluiced. */
static enum uring_op way_of(const struct sluice_listener *listener)
{
	return listener->service ? OP_IN : OP_ACCEPT;
}

int sluice_uring_listen(struct sluice_set *set,
			struct sluice_listener *listener, void *data)
{
	struct uring_entry *entry;

	if (set_check(set) || listener->generation != process_generation())
		return -ECHILD;
	if (!set->uring)
		return -EINVAL;
	if (listener->uring)
		return -EEXIST;
	if (set->uring->stopping)
		return -ESHUTDOWN;
	entry = entry_new(set->uring, listener->fd);
	if (!entry)
		return -ENOMEM;
	entry->listener = listener;
	entry->data = data;
	listener->uring = entry;
	entry_want(entry, way_of(listener));
	return 0;
}

int sluice_uring_unlisten(struct sluice_set *set,
			  struct sluice_listener *listener)
{
	struct uring_entry *entry = listener->uring;

	if (set_check(set) || listener->generation != process_generation())
		return -ECHILD;
	if (!entry || entry->uring != set->uring)
		return -ENOENT;
	entry->leaving = true;
	entry_end(entry, UINT8_MAX);
	if (entry->flying | entry->cancelling)
		return -EAGAIN;
	listener->uring = NULL;
	entry->listener = NULL;
	entry_put(entry);
	return 0;
}

/*
 * An ACCEPT that flies holds the socket: shut down, it ends, and nobody can connect
 * any more. A service's connection to sluiced ends when its poll is cancelled.
 */
void uring_listener_close(struct sluice_listener *listener)
{
	struct uring_entry *entry = listener->uring;

	if (listener->generation != process_generation())
		return;
	listener->uring = NULL;
	entry->listener = NULL;
	entry->wanted = 0;
	if (entry->flying | entry->cancelling && !listener->service) {
		shutdown(listener->fd, SHUT_RDWR);
		listener->fd_kept = entry->owns_fd = true;
	}
	entry_end(entry, UINT8_MAX);
	entry_put(entry);
}

void accept_fill(struct uring_entry *entry, struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_ACCEPT;
	sqe->accept_flags = SOCK_CLOEXEC;
	if (!entry->uring->single_accept)
		sqe->ioprio = IORING_ACCEPT_MULTISHOT;
}

/* The listener goes on, whatever happened. */
static void again(struct uring_entry *entry)
{
	if (!entry->flying)
		entry_want(entry, way_of(entry->listener));
}

static void accepted(struct uring_entry *entry, int r, struct sluice_conn *conn)
{
	result_put(entry->uring, SLUICE_ACCEPTED, entry->data, conn, r);
}

void accept_digest(struct uring_entry *entry, const struct io_uring_cqe *cqe)
{
	struct sluice_conn *conn = NULL;
	int r = cqe->res;

	if (!entry->listener || entry->leaving || entry->uring->stopping) {
		if (r >= 0)
			close(r);
		return;
	}
	switch (-r) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED:
	case ECANCELED:
		break;
	case EINVAL:
		if (!entry->uring->single_accept) { /* before Linux 5.19 */
			entry->uring->single_accept = true;
			break;
		}
		/* fall through */
	default:
		if (r >= 0)
			r = listener_take(entry->listener, &conn, r);
		accepted(entry, r, r ? NULL : conn);
	}
	again(entry);
}

void accept_readable(struct uring_entry *entry)
{
	struct sluice_conn *conn = NULL;
	int r;

	for (;;) {
		r = sluice_accept(entry->listener, &conn, 0);
		if (r == -EAGAIN || r == -EINTR)
			break;
		accepted(entry, r, r ? NULL : conn);
		if (r)
			break;
	}
	again(entry);
}

/* Connects ---------------------------------------------------------------- */

static int connect_new(struct uring *uring, const char *name,
		       const struct sluice_options *options, void *data)
{
	struct uring_connect *connect = calloc(1, sizeof(*connect));
	struct uring_entry *entry = NULL;
	int r = -ENOMEM, fd = -1;

	if (connect)
		r = address_of(name, &connect->address, &connect->size);
	if (!r) {
		fd = client_socket(options, &connect->bound);
		r = fd < 0 ? fd : 0;
	}
	if (!r)
		r = conn_open(&connect->conn, fd, options, 0);
	if (r)
		goto fail;
	entry = entry_new(uring, fd);
	if (!entry) {
		conn_destroy(connect->conn);
		free(connect);
		return -ENOMEM;
	}
	entry->connect = connect;
	entry->data = data;
	entry_want(entry, OP_CONNECT);
	return 0;
fail:
	if (fd >= 0)
		close(fd);
	free(connect);
	return r;
}

int sluice_uring_connect(struct sluice_set *set, const char *name,
			 const struct sluice_options *in, void *data)
{
	struct sluice_options options;
	int r;

	if (set_check(set))
		return -ECHILD;
	if (!set->uring)
		return -EINVAL;
	if (set->uring->stopping)
		return -ESHUTDOWN;
	r = options_read(&options, in);
	if (!r && (options.aware_timeout_ns ||
		   options.flags & SLUICE_F_REQUIRE_AWARE))
		r = -EINVAL;
	return r ? r : connect_new(set->uring, name, &options, data);
}

void connect_fill(struct uring_entry *entry, struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_CONNECT;
	sqe->addr = (uint64_t)(uintptr_t)&entry->connect->address;
	sqe->off = entry->connect->size;
}

void connect_drop(struct uring_entry *entry)
{
	conn_destroy(entry->connect->conn);
	free(entry->connect);
	entry->connect = NULL;
}

void connect_digest(struct uring_entry *entry, int r)
{
	struct uring_connect *connect = entry->connect;
	struct sluice_conn *conn = connect->conn;
	struct uring *uring = entry->uring;

	/* A full backlog, at which a worker was interrupted. */
	if ((r == -EAGAIN || r == -EINTR) && !uring->stopping) {
		entry_want(entry, OP_CONNECT);
		return;
	}
	entry->connect = NULL;
	if (r) {
		conn_destroy(conn); /* and the fd */
	} else {
		r = conn_begin(conn, connect->bound);
		if (r)
			close(entry->fd);
	}
	free(connect);
	if (!uring->stopping)
		result_put(uring, SLUICE_CONNECTED, entry->data,
			   r ? NULL : conn, r);
	else if (!r)
		sluice_conn_close(conn);
}
