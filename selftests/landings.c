/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Streams that land; landings.h. */
#include "landings.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tap.h"

static unsigned char byte_at(uint64_t position)
{
	return (unsigned char)(position * 0x9e3779b97f4a7c15ull >> 56);
}

void landing_fill(unsigned char *data, size_t len, uint64_t at)
{
	for (size_t i = 0; i < len; i++)
		data[i] = byte_at(at + i);
}

void landing_check(const unsigned char *data, size_t len, uint64_t at)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] != byte_at(at + i))
			CHECK_EQ(at + i, UINT64_MAX); /* says where */
	}
}

void landing_bind(struct landing_rig *rig, const uint32_t *landing)
{
	struct sluice_endpoint_options endpoint = {
		.size = sizeof(endpoint),
		.control = rig->s.d.control,
		.ring_slots = 64,
		.conns = 16,
	};
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_STEER,
		.endpoint_options = &endpoint,
	};

	if (landing)
		memcpy(endpoint.landing, landing, sizeof(endpoint.landing));
	CHECK_OK(sluice_service_bind(&rig->listener, "s", &options));
}

static void connect_one(struct landing_rig *rig)
{
	rig->client = services_connect(&rig->s);
	CHECK_OK(sluice_accept(rig->listener, &rig->conn, LANDING_WAIT_NS));
	rig->received = 0;
}

void landing_open(struct landing_rig *rig, const char *extra,
		  const uint32_t *landing)
{
	services_open(&rig->s, SOCK_STREAM, 0, extra);
	landing_bind(rig, landing);
	connect_one(rig);
}

void landing_again(struct landing_rig *rig)
{
	if (rig->conn)
		sluice_conn_close(rig->conn);
	if (rig->client >= 0)
		close(rig->client);
	connect_one(rig);
}

void landing_close(struct landing_rig *rig)
{
	if (rig->conn)
		sluice_conn_close(rig->conn);
	if (rig->client >= 0)
		close(rig->client);
	sluice_listener_close(rig->listener);
	services_refuses(&rig->s);
	services_close(&rig->s);
}

struct sluice_conn_info landing_info(const struct landing_rig *rig)
{
	struct sluice_conn_info info;

	sluice_conn_info(rig->conn, &info);
	return info;
}

/* One message: its bytes are those that come next. What sluice_recv() returns. */
int landing_receive(struct landing_rig *rig, int64_t timeout_ns)
{
	struct sluice_msg msg;
	int r = sluice_recv_wait(rig->conn, &msg, timeout_ns);

	if (r != 1)
		return r;
	landing_check(sluice_msg_data(&msg), msg.len, rig->received);
	rig->received += msg.len;
	CHECK_OK(sluice_release(rig->conn, &msg));
	return 1;
}

void landing_receive_up_to(struct landing_rig *rig, uint64_t bytes)
{
	while (rig->received < bytes)
		CHECK_EQ(landing_receive(rig, LANDING_WAIT_NS), 1);
	CHECK_EQ(rig->received, bytes);
}

/* Sends len bytes of the stream from `at` on. */
void landing_send(int fd, uint64_t at, size_t len)
{
	static __thread unsigned char data[LANDING_SEND_MAX];
	size_t sent = 0;

	CHECK_LE(len, sizeof(data));
	landing_fill(data, len, at);
	while (sent < len)
		sent += (size_t)CHECK_SYS(
			send(fd, data + sent, len - sent, MSG_NOSIGNAL));
}

/* What is sent from now on lands. */
void landing_until_steered(struct landing_rig *rig, uint64_t *sent)
{
	uint64_t before = landing_info(rig).steered;

	for (int i = 0; i < 100 && landing_info(rig).steered == before; i++) {
		landing_send(rig->client, *sent, 100);
		*sent += 100;
		landing_receive_up_to(rig, *sent);
		CHECK_EQ(landing_receive(rig, 0), -ETIMEDOUT);
	}
	CHECK_GT(landing_info(rig).steered, before);
}
