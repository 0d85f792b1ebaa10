/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * queued, direct: libsluice without privilege, between two aware endpoints.
 */
#include "lanes.h"

static int direct_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = lanes_begin,
		.send = direct_send,
		.take = lanes_take,
		.done = lanes_done,
	};

	return loop_run(side, ops);
}

static int queued_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = lanes_begin,
		.send = queued_send,
		.take = lanes_take,
		.done = lanes_done,
	};
	int ret = loop_run(side, ops);

	if (ret)
		return ret;
	while ((ret = sluice_flush(conn)) == -EAGAIN) {
		if (room(side))
			return -1;
	}
	return ret ? lanes_failed(side, "sluice_flush", ret) : 0;
}

static int queued_open(struct bench_side *side)
{
	return lanes_open(side, SLUICE_LANE_QUEUED);
}

static int queued_close(struct bench_side *side)
{
	return lanes_close(side, SLUICE_LANE_QUEUED);
}

static int direct_open(struct bench_side *side)
{
	return lanes_open(side, SLUICE_LANE_DIRECT);
}

static int direct_close(struct bench_side *side)
{
	return lanes_close(side, SLUICE_LANE_DIRECT);
}

const struct bench_system bench_queued = {
	.name = "queued",
	.what = "sluice, queued lane: slots in socket messages, no copy; a stream "
		"sends 32 at once",
	.frames = true,
	.prepare = lanes_prepare,
	.open = queued_open,
	.run = queued_run,
	.close = queued_close,
};

const struct bench_system bench_direct = {
	.name = "direct",
	.what = "sluice, direct lane: slots in a ring in shared memory, no copy, "
		"one by one",
	.frames = true,
	.prepare = lanes_prepare,
	.open = direct_open,
	.run = direct_run,
	.close = direct_close,
};
