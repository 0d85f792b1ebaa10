/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Landing of STREAM: conns that begin and end in any way, with either side or
 * sluiced killed, and clients that send while their sockets are attached.
 *
 * Limit: 600 s
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <sys/socket.h>
#include <unistd.h>

#include "landings.h"
#include "tap.h"

/* Attaching while the client sends --------------------------------------------- */

struct sender {
	int fd;
	uint64_t sent;
	uint64_t pause; /* at most, in units that pass quickly */
	bool stop;
};

static void *send_on(void *arg)
{
	struct sender *sender = arg;
	uint64_t i;

	tap_random_stream(2);
	while (!__atomic_load_n(&sender->stop, __ATOMIC_RELAXED)) {
		size_t len = 1 + tap_random_below(3000);

		landing_send(sender->fd, sender->sent, len);
		sender->sent += len;
		for (i = tap_random_below(sender->pause + 1); i; i--)
			sched_yield();
	}
	return NULL;
}

/*
 * Wherever the first of what comes is met, before the program, by it, or left
 * behind by it (-EBUSY): it is in order, and all there.
 */
TAP_TEST(attached_while_the_client_sends)
{
	unsigned int lags = 0, landed = 0, early = 0;
	struct landing_rig rig;
	pthread_t thread;

	landing_open(&rig, LANDING_YES, NULL);
	for (int i = 0; i < 200; i++) {
		struct sender sender = { .pause = tap_random_below(20) };

		landing_again(&rig);
		sender.fd = rig.client;
		pthread_create(&thread, NULL, send_on, &sender);
		for (int n = 0; n < 30; n++)
			CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 1);
		__atomic_store_n(&sender.stop, true, __ATOMIC_RELAXED);
		while (pthread_tryjoin_np(thread, NULL))
			landing_receive(&rig, 1000000);
		landing_receive_up_to(&rig, sender.sent);
		lags += landing_info(&rig).steer_error == -EBUSY;
		early += landing_info(&rig).steer_error == -EAGAIN;
		landed += landing_info(&rig).steered > 0;
		close(rig.client);
		rig.client = -1;
		CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	}
	tap_diag("%u landed, %u lagged, %u were never found empty", landed,
		 lags, early);
	CHECK_GT(landed, 0);
	landing_close(&rig);
}
