/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A receiver in the steered lane: with sluiced running, what clients send lands
 * in this process's memory, whether they know of sluice or not.
 *
 *   steered NAME [MESSAGES]   serves one client; ends with it, or after so many
 *
 * NAME is a path, or @NAME for an abstract name. The environment's SLUICE_CONTROL
 * is sluiced's control socket, if it is not at the usual place.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/sluice.h>

/* Takes messages until the client has closed; the last ret of a receive. */
static int serve(struct sluice_conn *conn, unsigned long limit)
{
	unsigned long count = 0, bytes = 0;
	struct sluice_conn_info info;
	struct sluice_msg msg;
	int ret = 1;

	while (count < limit && (ret = sluice_recv_wait(conn, &msg, -1)) == 1) {
		if (!count++)
			printf("The first message begins with \"%.*s\".\n",
			       msg.len < 24 ? (int)msg.len : 24,
			       (const char *)sluice_msg_data(&msg));
		bytes += msg.len;
		sluice_release(conn, &msg);
	}
	sluice_conn_info(conn, &info);
	printf("%lu messages, %lu bytes, from process %d of user %u.\n", count,
	       bytes, (int)info.peer_pid, info.peer_uid);
	printf("%llu of them were found in shared memory, %llu read from the "
	       "socket.\n",
	       (unsigned long long)info.steered,
	       (unsigned long long)info.spilled);
	return ret;
}

int main(int argc, char **argv)
{
	const struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_STEER,
	};
	struct sluice_listener *listener;
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	int ret;

	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: steered NAME [MESSAGES]\n");
		return 2;
	}
	setlinebuf(stdout);
	ret = sluice_listen(&listener, argv[1], &options);
	if (!ret) {
		printf("Listening at %s.\n", argv[1]);
		ret = sluice_accept(listener, &conn, -1);
	}
	if (!ret) {
		sluice_conn_info(conn, &info);
		printf("A client; its messages come in the %s lane%s%s.\n",
		       sluice_lane_name(info.rx_lane),
		       info.rx_lane == SLUICE_LANE_STEERED ? "" : ": ",
		       info.rx_lane == SLUICE_LANE_STEERED ?
			       "" :
			       sluice_reason_text(info.rx_reason));
		ret = serve(conn,
			    argc == 3 ? strtoul(argv[2], NULL, 10) : -1ul);
		sluice_conn_close(conn);
		sluice_listener_close(listener);
	}
	if (ret < 0)
		fprintf(stderr, "steered: %s\n", strerror(-ret));
	return ret < 0;
}
