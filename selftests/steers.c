/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What the tests of the steered lane share; steers.h says how. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#define WAIT_NS (20 * SECOND * tap_slow)
#define LEN_MAX (1u << 20)

void steers_start(struct daemon *d)
{
	daemon_open(d);
	daemon_start(d, NULL);
	CHECK_SYS(setenv("SLUICE_CONTROL", d->control, 1));
}

void steers_stop(struct daemon *d)
{
	daemon_close(d);
}

void steers_open(struct sluice_conn **conn, int *peer,
		 const struct sluice_options *in)
{
	struct sluice_options options = ENDS_OPTIONS();
	int fds[2];

	if (in)
		options = *in;
	options.flags |= SLUICE_F_STEER | SLUICE_F_PLAIN;
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	CHECK_OK(sluice_conn_from_fd(conn, fds[0], &options));
	*peer = fds[1];
}

bool steers_on(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return info.rx_lane == SLUICE_LANE_STEERED;
}

void steers_pair(struct sluice_conn **conn, int *peer,
		 const struct sluice_options *options)
{
	struct sluice_conn_info info;

	steers_open(conn, peer, options);
	sluice_conn_info(*conn, &info);
	CHECK_EQ(info.steer_error, 0);
	CHECK_EQ(info.rx_lane, SLUICE_LANE_STEERED);
	CHECK_EQ(info.rx_reason, SLUICE_REASON_NONE);
}

uint64_t steers_steered(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return info.steered;
}

uint64_t steers_spilled(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return info.spilled;
}

/* Messages ---------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x7fb5d329728ea185ull;
	x ^= x >> 27;
	x *= 0x81dadef4bc2dd44dull;
	return x ^ x >> 33;
}

size_t steers_len(uint64_t key, uint64_t index, size_t max)
{
	uint64_t r = mix(key * 0x9e3779b97f4a7c15ull + index);
	size_t limit;

	switch (r % 8) {
	case 0 ... 3:
		limit = 40;
		break;
	case 4 ... 5:
		limit = 5000;
		break;
	case 6:
		limit = 66000;
		break;
	default:
		limit = max;
	}
	return r / 8 % ((limit < max ? limit : max) + 1);
}

void steers_fill(void *data, size_t len, uint64_t key, uint64_t index)
{
	tap_fill(data, len, key ^ mix(index));
	if (len >= sizeof(index))
		memcpy(data, &index, sizeof(index));
}

void steers_check(const void *data, size_t len, uint64_t key, uint64_t index,
		  size_t max)
{
	static _Thread_local uint8_t want[LEN_MAX];
	uint64_t got;

	if (len >= sizeof(got)) {
		memcpy(&got, data, sizeof(got));
		CHECK_EQ(got, index);
	}
	CHECK_EQ(len, steers_len(key, index, max));
	steers_fill(want, len, key, index);
	CHECK_MEM(data, want, len);
}

void steers_send(int fd, uint64_t key, uint64_t index, size_t max)
{
	static _Thread_local uint8_t data[LEN_MAX];
	size_t len = steers_len(key, index, max);

	steers_fill(data, len, key, index);
	CHECK_EQ(CHECK_SYS(send(fd, data, len, MSG_NOSIGNAL)), (ssize_t)len);
}

void steers_wait(struct sluice_conn *conn, struct sluice_msg *msg)
{
	CHECK_EQ(sluice_recv_wait(conn, msg, WAIT_NS), 1);
}

void steers_recv(struct sluice_conn *conn, uint64_t key, uint64_t index,
		 size_t max)
{
	struct sluice_msg msg;

	steers_wait(conn, &msg);
	steers_check(sluice_msg_data(&msg), msg.len, key, index, max);
	CHECK_OK(sluice_release(conn, &msg));
}
