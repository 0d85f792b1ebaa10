/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Asks sluiced to account for an io_uring, over a control connection that the
 * caller keeps: closing it is all that ends it.
 */
#include "steering.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#define REPLY_TIMEOUT_NS 5000000000

/* Its socket is of this call only: there is room for the request. */
static int call(int socket, struct sluice_control *request)
{
	const int64_t deadline = deadline_after(REPLY_TIMEOUT_NS);
	struct pollfd readable = { .fd = socket, .events = POLLIN };
	int r = daemon_send(socket, request, -1);

	while (!r) {
		const int64_t left = deadline - now_ns();

		r = daemon_receive(socket, request, NULL, NULL);
		if (r == 1)
			return -(int)request->error;
		if (r == 0)
			return -ECONNREFUSED;
		if (r != -EAGAIN)
			break;
		if (left <= 0)
			return -ETIMEDOUT;
		r = poll(&readable, 1, (int)(left / 1000000) + 1) < 0 &&
				    errno != EINTR ?
			    -errno :
			    0;
	}
	return r;
}

int sluice_uring_follow(const char *control, int ring_fd, uint64_t match,
			uint64_t mask, uint32_t buffer_first,
			uint32_t buffer_count)
{
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_URING_FOLLOW,
		.uring = {
			.fd = (uint32_t)ring_fd,
			.match = match,
			.mask = mask,
			.buffer_first = buffer_first,
			.buffer_count = buffer_count,
		},
	};
	struct sockaddr_un address;
	socklen_t size;
	int socket, r;

	if (ring_fd < 0)
		return -EBADF;
	r = address_of(control_path(control), &address, &size);
	if (r)
		return r;
	socket = daemon_connect(&address, size);
	if (socket < 0)
		return socket;
	r = call(socket, &request);
	if (!r)
		return socket;
	close(socket);
	return r;
}
