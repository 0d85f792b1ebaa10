/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The in-kernel switch: that messages do not come to user space once a connection
 * has begun, and those that must do come. What they say is looked at by all other
 * tests of services, too, which use it where the kernel has it.
 *
 * Limit: 600 s
 */
#include <bpf/btf.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services.h"
#include "tap.h"

#define IN_KERNEL "[daemon]\nswitch = kernel\n"

static void open_in_kernel(struct services *s)
{
	struct btf *btf = btf__load_vmlinux_btf();
	int id = btf__find_by_name_kind(btf, "io_uring_bpf_ops",
					BTF_KIND_STRUCT);

	btf__free(btf);
	if (id < 0)
		tap_skip("the kernel has no io_uring_bpf_ops");
	services_open(s, SOCK_SEQPACKET, 1, IN_KERNEL);
}

/* There and back, through an echo. */
static void exchange(int fd, size_t len, uint64_t seed)
{
	char *data = malloc(len + 1);

	tap_fill(data, len, seed);
	CHECK_EQ(CHECK_SYS(send(fd, data, len, MSG_NOSIGNAL)), (ssize_t)len);
	CHECK_EQ(CHECK_SYS(recv(fd, data, len + 1, 0)), (ssize_t)len);
	CHECK(tap_matches(data, len, seed));
	free(data);
}

/*
 * What user space, at most, and the kernel have passed on. User space also takes
 * what came while it was at something else.
 */
static void passed(const struct services *s, uint64_t count, uint64_t user)
{
	CHECK_SOON(services_status(s).messages[1] +
			   services_status(s).kernel_messages[1] ==
		   count);
	for (int i = 0; i < 2; i++) {
		struct sluice_control_service record = services_status(s);

		CHECK_LE(record.messages[i], user);
		CHECK_EQ(record.messages[i] + record.kernel_messages[i], count);
	}
}

TAP_TEST(messages_stay_in_the_kernel)
{
	struct services s;
	int fd;

	open_in_kernel(&s);
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	for (size_t i = 0; i < 1000; i++)
		exchange(fd, i % 100 * 600, i);
	passed(&s, 1000, 50);
	close(fd);
	/* of a connection that is over */
	CHECK_SOON(!services_status(&s).relayed);
	passed(&s, 1000, 50);
	services_close(&s);
}

TAP_TEST(large_messages_come_to_user_space)
{
	struct services s;
	int fd;

	open_in_kernel(&s);
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	for (size_t i = 0; i < 100; i++)
		exchange(fd, i % 2 ? 200000 : 65536, i);
	passed(&s, 100, 75);
	CHECK_GE(services_status(&s).messages[0], 50);
	close(fd);
	services_close(&s);
}

TAP_TEST(many_connections)
{
	enum { COUNT = 300 };
	static int fds[COUNT];
	struct services s;

	open_in_kernel(&s);
	backend_start(&s, 0, BACKEND_ECHO);
	for (int i = 0; i < COUNT; i++)
		fds[i] = services_connect(&s);
	for (uint64_t round = 0; round < 10; round++) {
		for (uint64_t i = 0; i < COUNT; i++) {
			CHECK_SYS(send(fds[i], &i, sizeof(i), MSG_NOSIGNAL));
			CHECK_SYS(send(fds[i], &round, sizeof(round),
				       MSG_NOSIGNAL));
		}
		for (uint64_t i = 0; i < COUNT; i++) {
			uint64_t got = 0;

			CHECK_EQ(CHECK_SYS(recv(fds[i], &got, sizeof(got), 0)),
				 8);
			CHECK_EQ(got, i);
			CHECK_EQ(CHECK_SYS(recv(fds[i], &got, sizeof(got), 0)),
				 8);
			CHECK_EQ(got, round);
		}
	}
	passed(&s, 20 * COUNT, 10 * COUNT);
	for (int i = 0; i < COUNT; i++)
		close(fds[i]);
	services_close(&s);
}

/* Its sender stops; others go on, and nothing is lost when it reads again. */
/* A connection that flows, with the backend's end in *backend. */
static int flowing(const struct services *s, int listener, int *backend)
{
	int fd = services_connect(s);
	char byte = 'x';

	*backend = CHECK_SYS(accept(listener, NULL, NULL));
	CHECK_SYS(send(*backend, &byte, 1, MSG_NOSIGNAL));
	CHECK_EQ(CHECK_SYS(recv(fd, &byte, 1, 0)), 1);
	return fd;
}

TAP_TEST(a_slow_receiver_stops_its_own_sender)
{
	int listener, slow, slow_backend, other, other_backend;
	uint64_t sent = 0, got;
	struct services s;

	open_in_kernel(&s);
	listener = backend_listen(&s, 0);
	slow = flowing(&s, listener, &slow_backend);
	other = flowing(&s, listener, &other_backend);
	for (int full = 0; full < 100;) {
		if (send(slow, &sent, sizeof(sent),
			 MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(sent)) {
			sent++;
			continue;
		}
		full++;
		tap_sleep(1000000);
	}
	for (uint64_t i = 0; i < 1000; i++) {
		CHECK_SYS(send(other, &i, sizeof(i), MSG_NOSIGNAL));
		CHECK_EQ(CHECK_SYS(recv(other_backend, &got, sizeof(got), 0)),
			 8);
		CHECK_EQ(got, i);
	}
	for (uint64_t i = 0; i < sent; i++) {
		CHECK_EQ(CHECK_SYS(recv(slow_backend, &got, sizeof(got), 0)),
			 8);
		CHECK_EQ(got, i);
	}
	CHECK_SOON(services_status(&s).kernel_messages[0] == sent + 1000);
	close(slow);
	services_ends(slow_backend);
	close(other);
	services_ends(other_backend);
	close(slow_backend);
	close(other_backend);
	close(listener);
	services_close(&s);
}

/* While it flows: the backend dies, and its client is told. */
TAP_TEST(a_backend_that_dies)
{
	struct services s;
	char data[8];
	int fd;

	open_in_kernel(&s);
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	for (size_t i = 0; i < 10; i++)
		exchange(fd, 8, i);
	backend_kill(&s, 0);
	while (send(fd, data, sizeof(data), MSG_NOSIGNAL) == sizeof(data))
		;
	CHECK_SOON(!services_status(&s).relayed);
	close(fd);
	services_close(&s);
}

/* A sluiced that is killed leaves nothing: its ring and links go with it. */
TAP_TEST(killed_while_it_flows)
{
	struct services s;
	char data[8] = "";
	int fd;

	open_in_kernel(&s);
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	exchange(fd, 8, 1);
	exchange(fd, 8, 2);
	daemon_kill(&s.d);
	while (recv(fd, data, sizeof(data), 0) > 0)
		;
	close(fd);
	services_start_again(&s);
	fd = services_connect(&s);
	exchange(fd, 8, 3);
	close(fd);
	services_close(&s);
}
