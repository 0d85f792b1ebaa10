/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Edges of sending and receiving, in each lane: every length that is special,
 * arguments that are refused, what a batch costs.
 */
#include <stdlib.h>
#include <string.h>

#include "ends.h"
#include "internal.h"

#define LONG 1048576

static const struct lane {
	const char *name;
	uint32_t flags;
	bool chosen;
} lanes[] = {
	{ "direct", 0, false },
	{ "queued", SLUICE_F_NO_DIRECT, false },
	{ "chosen", 0, true },
};

static void lane_pair(struct sluice_conn *conn[2], const struct lane *lane,
		      const struct sluice_options *more)
{
	struct sluice_options options = more ? *more : ENDS_OPTIONS();
	struct sluice_conn_info info;
	int i;

	options.flags |= lane->flags;
	ends_pair(conn, &options, NULL);
	for (i = 0; i < 2; i++) {
		if (lane->chosen)
			CHECK_OK(sluice_conn_set_lane(conn[i],
						      SLUICE_LANE_QUEUED));
		sluice_conn_info(conn[i], &info);
		CHECK_EQ(info.tx_lane, lane->flags || lane->chosen ?
					       SLUICE_LANE_QUEUED :
					       SLUICE_LANE_DIRECT);
	}
}

TAP_EACH(lengths, lane, lanes)
{
	static const uint32_t lens[] = { 0,	1,     31,	 32,
					 33,	255,   256,	 257,
					 4095,	4096,  4097,	 65535,
					 65536, 65537, LONG - 1, LONG };
	uint8_t *data = malloc(LONG);
	struct sluice_conn *conn[2];
	struct sluice_buf *buf;
	struct sluice_msg msg;
	unsigned int i;
	int way;

	CHECK(data);
	lane_pair(conn, lane, NULL);
	for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		for (way = 0; way < 2; way++) {
			content_fill(data, lens[i], i, 0);
			if (way) {
				CHECK_OK(sluice_loan(conn[0], lens[i], &buf));
				memcpy(buf->data, data, lens[i]);
				CHECK_OK(sluice_send_buf(conn[0], buf, lens[i],
							 ~0ull - i, 0));
			} else {
				CHECK_OK(sluice_send(conn[0],
						     lens[i] ? data : NULL,
						     lens[i], ~0ull - i, 0));
			}
			memset(data, 0, lens[i]);
			CHECK_EQ(sluice_recv(conn[1], &msg), 1);
			CHECK_EQ(msg.len, lens[i]);
			CHECK_EQ(msg.tag, ~0ull - i);
			CHECK_EQ(msg.flags, 0);
			CHECK(content_matches(sluice_msg_data(&msg), msg.len, i,
					      0));
			CHECK_OK(sluice_release(conn[1], &msg));
			/* Inline ones have nothing to give back. */
			CHECK_EQ(sluice_release(conn[1], &msg),
				 way || lens[i] > 32 ? -EINVAL : 0);
		}
	}
	CHECK_EQ(sluice_send(conn[0], data, 1ull << 32, 0, 0), -EMSGSIZE);
	CHECK_EQ(sluice_send(conn[0], data, (1u << 30) + 1, 0, 0), -EMSGSIZE);
	CHECK_EQ(sluice_send(conn[0], data, 1, 0, 2), -EINVAL);
	CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	ends_close(conn);
	free(data);
}

/* Others may give each part a tag of its own: that of the first counts. */
TAP_TEST(tag_of_the_first_part)
{
	struct sluice_conn *conn[2];
	struct sluice_part parts[2];
	struct sluice_slot *ring;
	struct sluice_link *link;
	uint64_t tag = 0;
	size_t len = 9;
	uint8_t byte;
	int i;

	ends_pair(conn, NULL, NULL);
	for (i = 0; i < 2; i++) {
		CHECK_OK(sluice_loan(conn[0], 1, &parts[i].buf));
		*(uint8_t *)parts[i].buf->data = 0x55;
		parts[i].offset = 0;
		parts[i].len = (uint32_t)i; /* the first one is empty */
	}
	CHECK_OK(sluice_send_parts(conn[0], parts, 2, 7, 0));
	link = core_of(conn[0])->link;
	ring = (void *)((uint8_t *)link + link->ring_offset);
	CHECK_EQ(ring[1].tag, 7);
	ring[1].tag = 8;
	CHECK_EQ(sluice_recv_copy(conn[1], &byte, 1, &len, &tag), 1);
	CHECK_EQ(len, 1);
	CHECK_EQ(byte, 0x55);
	CHECK_EQ(tag, 7);
	ends_close(conn);
}

TAP_EACH(scatter_limits, lane, lanes)
{
	const bool direct = !lane->flags && !lane->chosen;
	struct sluice_options options =
		ENDS_OPTIONS(.ring_slots = 16, .hold_limit = 32);
	struct sluice_part parts[SLUICE_PARTS_MAX + 1];
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	struct sluice_buf *buf, *foreign;
	unsigned int i;

	lane_pair(conn, lane, &options);
	CHECK_OK(sluice_loan(conn[0], 1000, &buf));
	for (i = 0; i <= SLUICE_PARTS_MAX; i++)
		parts[i] = (struct sluice_part){ buf, 0, 1 };
	CHECK_EQ(sluice_send_parts(conn[0], parts, 0, 0, 0), -EINVAL);
	CHECK_EQ(sluice_send_parts(conn[0], parts, 65, 0, 0), -EINVAL);
	CHECK_EQ(sluice_send_parts(conn[0], parts, 1, 0, 2), -EINVAL);
	CHECK_EQ(sluice_send_parts(conn[0], parts, 33, 0, 0), -EMSGSIZE);
	parts[0].offset = buf->capacity;
	CHECK_EQ(sluice_send_parts(conn[0], parts, 1, 0, 0), -EINVAL);
	parts[0].offset = UINT32_MAX;
	CHECK_EQ(sluice_send_parts(conn[0], parts, 1, 0, 0), -EINVAL);
	parts[0].offset = 0;
	CHECK_OK(sluice_loan(conn[1], 10, &foreign));
	parts[0].buf = foreign;
	CHECK_EQ(sluice_send_parts(conn[0], parts, 1, 0, 0), -EINVAL);
	CHECK_EQ(sluice_send_buf(conn[0], foreign, 1, 0, 0), -EINVAL);
	CHECK_EQ(sluice_send_buf(conn[0], buf, buf->capacity + 1, 0, 0),
		 -EINVAL);
	sluice_buf_unref(foreign);
	parts[0].buf = buf;
	for (i = 1; i < 17; i++)
		sluice_buf_ref(buf);
	/* Seventeen do not fit into a ring of sixteen. */
	CHECK_EQ(sluice_send_parts(conn[0], parts, 17, 0, 0),
		 direct ? -EMSGSIZE : 0);
	CHECK_EQ(buf->refs, 17);
	if (direct) {
		CHECK_OK(sluice_send_parts(conn[0], parts, 16, 0, 0));
		sluice_buf_unref(buf);
	}
	for (i = direct ? 16 : 17; i-- > 0;) {
		CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK_EQ(msg.flags, i ? SLUICE_MSG_F_MORE : 0);
		CHECK_OK(sluice_release(conn[1], &msg));
	}
	CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	ends_close(conn);
}

/* A batch is one frame for 64 messages, or one doorbell. */
TAP_EACH(batch_cost, lane, lanes)
{
	const bool direct = !lane->flags && !lane->chosen;
	struct sluice_conn_info before, after;
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	short events;
	int i;

	lane_pair(conn, lane, NULL);
	CHECK_EQ(sluice_arm(conn[1], SLUICE_RECV, &events), 0);
	sluice_conn_info(conn[0], &before);
	for (i = 0; i < 64; i++)
		CHECK_OK(sluice_send(conn[0], &i, sizeof(i), 0,
				     SLUICE_SEND_F_BATCH));
	sluice_conn_info(conn[0], &after);
	CHECK_EQ(after.frames_sent, before.frames_sent);
	CHECK_OK(sluice_flush(conn[0]));
	sluice_conn_info(conn[0], &after);
	CHECK_EQ(after.frames_sent, before.frames_sent + 1);
	CHECK_EQ(after.doorbells_sent, before.doorbells_sent + direct);
	for (i = 0; i < 64; i++) {
		CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK_MEM(sluice_msg_data(&msg), &i, sizeof(i));
	}
	CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	ends_close(conn);
}
