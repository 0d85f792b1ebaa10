/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A service of STREAM, an aware backend of it in this process, and one plain
 * client: for the tests of landing. The client sends bytes each of which says where
 * in its stream it belongs.
 *
 *	struct landing_rig rig;
 *
 *	landing_open(&rig, LANDING_YES, NULL);
 *	landing_send(rig.client, 0, 1000);
 *	landing_receive_up_to(&rig, 1000);
 *	landing_close(&rig);
 */
#ifndef LANDINGS_H
#define LANDINGS_H

#include <sluice/sluice.h>

#include "services.h"

#define LANDING_YES "landing = yes\n"
#define LANDING_WAIT_NS 5000000000
#define LANDING_SEND_MAX (1u << 20)

struct landing_rig {
	struct services s;
	struct sluice_listener *listener;
	struct sluice_conn *conn; /* NULL: none */
	int client; /* -1: closed */
	uint64_t received; /* bytes */
};

/* landing: of the backend's endpoint, or NULL. */
void landing_open(struct landing_rig *rig, const char *extra,
		  const uint32_t *landing);
/* Only the listener, after services_open(). */
void landing_bind(struct landing_rig *rig, const uint32_t *landing);
/* Another client and conn in place of those there are. */
void landing_again(struct landing_rig *rig);
void landing_close(struct landing_rig *rig);

struct sluice_conn_info landing_info(const struct landing_rig *rig);

void landing_fill(unsigned char *data, size_t len, uint64_t at);
void landing_check(const unsigned char *data, size_t len, uint64_t at);
/* Sends len bytes of a stream from `at` on. */
void landing_send(int fd, uint64_t at, size_t len);
/* One message: its bytes are those that come next. What sluice_recv() returns. */
int landing_receive(struct landing_rig *rig, int64_t timeout_ns);
void landing_receive_up_to(struct landing_rig *rig, uint64_t bytes);
/* Sends and receives until what is sent lands; *sent: the client's bytes. */
void landing_until_steered(struct landing_rig *rig, uint64_t *sent);

#endif
