/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Frames of a conn by the application's ring: received by a multishot RECVMSG into
 * buffers that the set shares, sent by one SEND at a time.
 *
 * RECVMSG and not RECV: SEGMENT_ADD carries an fd, which RECV would drop. The end
 * of a stream and an empty message look the same in a CQE, as they do to recvmsg();
 * both end the multishot, and then control_drain() has the rule (frame.c).
 *
 * A frame is copied to private memory and its buffer given back at once, so buffers
 * run out only while CQEs wait to be digested.
 */
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <sys/mman.h>

/* Room for so many fds: those past the one that is right are a breach. */
#define CONTROL_SIZE CMSG_SPACE(FRAME_FDS_MAX * sizeof(int))
#define PAYLOAD_AT (sizeof(struct io_uring_recvmsg_out) + CONTROL_SIZE)
/* What is longer than any frame can be is cut off, and MSG_TRUNC says so. */
#define BUFFER_SIZE (PAYLOAD_AT + SLUICE_FRAME_SIZE_MAX)
/* From one to the next: headers are aligned. */
#define BUFFER_STRIDE ((BUFFER_SIZE + 63) / 64 * 64)
_Static_assert(sizeof(((struct frame *)0)->body) ==
		       SLUICE_FRAME_SIZE_MAX - sizeof(struct sluice_frame),
	       "a frame takes what a buffer has");

/* How long a closed conn's last frames may take. A guess, as in conn.c. */
#define LINGER_NS 1000000000

/* Of each RECVMSG; the kernel reads it when the SQE is submitted. */
static const struct msghdr receive_into = { .msg_controllen = CONTROL_SIZE };

/* Buffers ----------------------------------------------------------------- */

static void buffer_give(struct uring *uring, uint16_t number)
{
	struct io_uring_buf *buf =
		&uring->ring->bufs[uring->tail & (uring->buffers - 1)];

	/* Not `resv`, which in the first one is the tail. */
	buf->addr =
		(uint64_t)(uintptr_t)(uring->memory + number * BUFFER_STRIDE);
	buf->len = BUFFER_SIZE;
	buf->bid = number;
	/* Pairs with the kernel's acquire load: the buffer before the tail. */
	__atomic_store_n(&uring->ring->tail, ++uring->tail, __ATOMIC_RELEASE);
}

void frames_open(struct uring *uring, uint32_t buffers)
{
	size_t ring_size = buffers * sizeof(struct io_uring_buf);
	struct io_uring_buf_reg reg = { .ring_entries = buffers,
					.bgid = uring->group };
	void *map;
	uint32_t i;

	ring_size = (ring_size + CONN_PAGE - 1) / CONN_PAGE * CONN_PAGE;
	map = mmap(NULL, ring_size + buffers * BUFFER_STRIDE,
		   PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED) {
		uring->multishot_error = -errno;
		return;
	}
	/* The kernel goes on to write to it: a child's copy would move it. */
	madvise(map, ring_size + buffers * BUFFER_STRIDE, MADV_DONTFORK);
	reg.ring_addr = (uint64_t)(uintptr_t)map;
	uring->multishot_error = uring_register(
		uring->ring_fd, IORING_REGISTER_PBUF_RING, &reg, 1);
	if (uring->multishot_error) {
		munmap(map, ring_size + buffers * BUFFER_STRIDE);
		return;
	}
	uring->ring = map;
	uring->ring_size = ring_size;
	uring->memory = (uint8_t *)map + ring_size;
	uring->buffers = buffers;
	for (i = 0; i < buffers; i++)
		buffer_give(uring, (uint16_t)i);
}

void frames_close(struct uring *uring)
{
	struct io_uring_buf_reg reg = { .bgid = uring->group };

	if (!uring->buffers || set_check(uring->set))
		return;
	uring_register(uring->ring_fd, IORING_UNREGISTER_PBUF_RING, &reg, 1);
	munmap(uring->ring, uring->ring_size + uring->buffers * BUFFER_STRIDE);
}

/* Receiving --------------------------------------------------------------- */

bool frames_wanted(const struct conn_core *core)
{
	const struct uring *uring = core->uring->uring;

	return !uring->multishot_error && core->phase == PHASE_AWARE &&
	       !core->steer.ring && !core->rx_ring && !core->bye_seen &&
	       !core->eof && !core->error && !core->closing &&
	       !core->draining && core->inbox_count < INBOX_MAX / 2;
}

void frames_fill_recv(struct uring_entry *entry, struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_RECVMSG;
	sqe->ioprio = IORING_RECV_MULTISHOT;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = entry->uring->group;
	sqe->addr = (uint64_t)(uintptr_t)&receive_into;
	sqe->len = 1;
	sqe->msg_flags = MSG_CMSG_CLOEXEC;
	entry->core->ring_reads = true;
	entry->uring->info.receives++;
	entry->uring->info.receiving++;
}

/* Copies what is in a buffer. false: it is shorter than its own header. */
static bool unpack(const struct uring *uring, uint16_t number, uint32_t len,
		   struct frame *frame, uint32_t *flags)
{
	uint8_t *data = uring->memory + number * BUFFER_STRIDE;
	struct io_uring_recvmsg_out out;
	struct msghdr msg = { 0 };

	frame->fd_count = 0;
	if (number >= uring->buffers || len < PAYLOAD_AT || len > BUFFER_SIZE)
		return false;
	memcpy(&out, data, sizeof(out));
	msg.msg_control = data + sizeof(out);
	msg.msg_controllen = out.controllen;
	frame->fd_count = fds_take(&msg, frame->fds, FRAME_FDS_MAX);
	if (out.flags & MSG_CTRUNC && frame->fd_count == FRAME_FDS_MAX)
		frame->fd_count++; /* as frame_recv() would say */
	*flags = out.flags;
	len -= PAYLOAD_AT;
	frame->body_len = len; /* with the header, for now */
	data += PAYLOAD_AT;
	memcpy(&frame->header, data,
	       len < sizeof(frame->header) ? len : sizeof(frame->header));
	if (len > sizeof(frame->header))
		memcpy(frame->body, data + sizeof(frame->header),
		       len - sizeof(frame->header));
	return true;
}

/* A message has come, as frame_recv() and drain() take it. */
static void take(struct sluice_conn *conn, struct frame *frame, uint32_t flags)
{
	struct conn_core *core = core_of(conn);

	conn_disarm(conn);
	core->idle_recvs = core->idle_sends = 0;
	if (core->error || core->eof)
		return;
	/* Perhaps the end: then the socket says so again. */
	if (!frame->body_len && !frame->fd_count && socket_hung_up(core->fd))
		return;
	core->frames_received++;
	if (frame->body_len < sizeof(frame->header) || flags & MSG_TRUNC) {
		conn_fail(conn, -EPROTO, "frame has a wrong length");
		return;
	}
	frame->body_len -= sizeof(frame->header);
	control_frame(conn, frame);
}

/* A SWITCH may be all that came: the lane is known once it is followed. */
static void settle(struct uring_entry *entry)
{
	struct conn_core *core = entry->core;

	recv_ready(conn_of(core));
	conn_disarm(conn_of(core));
	set_make_hot(core);
	if (entry->flying & OP_BIT(OP_RECV) && !frames_wanted(core))
		entry_end(entry, OP_BIT(OP_RECV));
}

void frames_received(struct uring_entry *entry, const struct io_uring_cqe *cqe)
{
	struct uring *uring = entry->uring;
	struct conn_core *core = entry->core;
	bool ended = !(entry->flying & OP_BIT(OP_RECV));
	struct frame frame = { .fd_count = 0 };
	uint16_t number = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
	uint32_t flags = 0;
	bool came = false;

	if (ended)
		uring->info.receiving--;
	if (cqe->flags & IORING_CQE_F_BUFFER) {
		came = cqe->res >= 0 &&
		       unpack(uring, number, (uint32_t)cqe->res, &frame,
			      &flags);
		if (number < uring->buffers)
			buffer_give(uring, number);
	}
	if (cqe->res == -ENOBUFS)
		uring->info.starved++;
	if (core && ended)
		core->ring_reads = false;
	if (core && came) {
		uring->info.frames_received++;
		take(conn_of(core), &frame, flags);
	}
	frame_close(&frame);
	if (!core)
		return;
	if (ended && cqe->res == -EINVAL) /* a kernel before 6.0 */
		uring->multishot_error = -EINVAL;
	if (core->closing) {
		uring_await(core);
		return;
	}
	/* The end, an error that the socket will say again, or it was empty. */
	if (ended && !core->error && cqe->res != -ECANCELED)
		control_drain(conn_of(core));
	settle(entry);
}

/* Sending ----------------------------------------------------------------- */

int uring_frame_send(struct conn_core *core, const struct sluice_frame *header,
		     const void *body, size_t body_len)
{
	struct uring_entry *entry = core->uring;
	struct flight *flight;

	/* An ERROR is the last that the socket is used for. */
	if (!entry->uring->collects || entry->uring->stopping ||
	    entry->leaving || header->type == SLUICE_FRAME_ERROR)
		return 1;
	flight = malloc(sizeof(*flight) + sizeof(*header) + body_len);
	if (!flight)
		return 1;
	flight->len = sizeof(*header) + body_len;
	memcpy(flight->data, header, sizeof(*header));
	if (body_len)
		memcpy(flight->data + sizeof(*header), body, body_len);
	core->flight = flight;
	core->frames_sent++;
	entry_want(entry, OP_SEND);
	return 0;
}

void frames_fill_send(struct uring_entry *entry, struct io_uring_sqe *sqe)
{
	entry->flight = entry->core->flight;
	sqe->opcode = IORING_OP_SEND;
	sqe->addr = (uint64_t)(uintptr_t)entry->flight->data;
	sqe->len = (uint32_t)entry->flight->len;
	sqe->msg_flags = MSG_NOSIGNAL;
	entry->uring->info.sends++;
}

/* A closed conn's last frame has left, or will not leave by the ring. */
static void drained(struct conn_core *core)
{
	struct sluice_conn *conn = conn_of(core);

	core->draining = false;
	list_remove(&core->uring->draining);
	if (core->flight)
		set_forget(conn);
	sluice_conn_close(conn);
}

static bool may_be_tried_again(int result)
{
	switch (-result) {
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
	case EINTR:
	case ECANCELED:
		return true;
	default:
		return false; /* sent, or the peer is gone: EOF will tell */
	}
}

void frames_sent(struct uring_entry *entry, int result)
{
	struct conn_core *core = entry->core;
	struct flight *flight = entry->flight;

	entry->flight = NULL;
	if (!core) {
		free(flight);
		return;
	}
	if (!may_be_tried_again(result)) {
		core->flight = NULL;
		free(flight);
	} else {
		entry_want(entry, OP_SEND);
	}
	if (!core->draining) {
		conn_disarm(conn_of(core));
		set_make_hot(core);
	} else if (!core->flight || entry->uring->stopping) {
		drained(core);
	}
}

/* Closing ----------------------------------------------------------------- */

bool uring_close_later(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct uring_entry *entry = core->uring;

	if (!entry || !core->flight || core->error || core->eof ||
	    entry->uring->stopping || entry->leaving)
		return false;
	core->draining = true;
	set_keep_closing(conn);
	entry->deadline = now_ns() + LINGER_NS;
	list_append(&entry->uring->draining, &entry->draining);
	return true;
}

void frames_stop(struct uring *uring)
{
	struct uring_entry *entry;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &uring->draining) {
		entry = list_entry(l, struct uring_entry, draining);
		if (!(entry->flying & OP_BIT(OP_SEND)))
			drained(entry->core);
	}
}

void frames_expire(struct uring *uring)
{
	struct uring_entry *entry;
	int64_t now;

	if (list_empty(&uring->draining))
		return;
	now = now_ns();
	while (!list_empty(&uring->draining)) {
		entry = list_entry(uring->draining.next, struct uring_entry,
				   draining);
		if (now < entry->deadline)
			return;
		conn_destroy(conn_of(entry->core));
	}
}
