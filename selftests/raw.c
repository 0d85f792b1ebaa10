/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The socket, memory and start of an end by hand; raw.h says what it is. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "raw.h"
#include "tap.h"

#define WAIT_MS (5000 * tap_slow)

/* Socket messages --------------------------------------------------------- */

void *raw_body(struct raw_message *m)
{
	return m->bytes + sizeof(m->frame);
}

void raw_drop(struct raw_message *m)
{
	while (m->fd_count)
		CHECK_SYS(close(m->fds[--m->fd_count]));
}

void raw_frame(struct raw_message *m, uint8_t type, uint16_t count,
	       uint32_t value, const void *body, size_t len)
{
	memset(m, 0, offsetof(struct raw_message, fds));
	m->frame.type = type;
	m->frame.count = count;
	m->frame.value = value;
	CHECK_LE(len, RAW_BYTES_MAX - sizeof(m->frame));
	if (len)
		memcpy(raw_body(m), body, len);
	m->len = sizeof(m->frame) + len;
}

void raw_attach(struct raw_message *m, int fd)
{
	CHECK_LT(m->fd_count, RAW_FDS_MAX);
	m->fds[m->fd_count++] = fd;
}

int raw_try_send(int sock, const struct raw_message *m)
{
	union {
		char bytes[CMSG_SPACE(RAW_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)m->bytes, m->len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;
	ssize_t n;

	if (m->fd_count) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(m->fd_count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(m->fd_count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), m->fds, m->fd_count * sizeof(int));
	}
	n = sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return -errno;
	CHECK_EQ(n, m->len);
	return 0;
}

void raw_send(int sock, struct raw_message *m)
{
	CHECK_OK(raw_try_send(sock, m));
	raw_drop(m);
}

/*
 * SO_TIMESTAMP tells a message of no bytes from the end of stream, which comes
 * without a time.
 */
static void take_control(struct raw_message *m, struct msghdr *msg)
{
	struct cmsghdr *cmsg;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		CHECK_EQ(cmsg->cmsg_level, SOL_SOCKET);
		if (cmsg->cmsg_type == SCM_TIMESTAMP)
			m->end = false;
		if (cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		m->fd_count = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) /
					     sizeof(int));
		memcpy(m->fds, CMSG_DATA(cmsg), m->fd_count * sizeof(int));
	}
}

int raw_try_recv(int sock, struct raw_message *m, int timeout_ms)
{
	union {
		char bytes[CMSG_SPACE(RAW_FDS_MAX * sizeof(int)) + 64];
		struct cmsghdr align;
	} control;
	struct iovec iov = { m->bytes, sizeof(m->bytes) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct pollfd wait = { .fd = sock, .events = POLLIN };
	const int on = 1;
	ssize_t n;

	CHECK_SYS(setsockopt(sock, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)));
	if (!CHECK_SYS(poll(&wait, 1, timeout_ms)))
		return -EAGAIN;
	n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && errno != ECONNRESET)
		return -errno;
	CHECK(!(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	m->len = n < 0 ? 0 : (size_t)n;
	m->fd_count = 0;
	m->end = n <= 0;
	if (n >= 0)
		take_control(m, &msg);
	return 0;
}

void raw_recv(int sock, struct raw_message *m)
{
	CHECK_OK(raw_try_recv(sock, m, WAIT_MS));
}

/* Memory ------------------------------------------------------------------ */

void raw_memory_new(struct raw_memory *memory, size_t size, unsigned int seals,
		    unsigned int flags)
{
	void *base;

	memory->size = size;
	memory->base = NULL;
	memory->fd = CHECK_SYS(
		memfd_create("sluice-raw", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	CHECK_SYS(ftruncate(memory->fd, (off_t)size));
	if (size) {
		if (!(flags & RAW_SPARSE))
			CHECK_SYS(fallocate(memory->fd, 0, 0, (off_t)size));
		base = CHECK_SYS(mmap(NULL, size, PROT_READ | PROT_WRITE,
				      MAP_SHARED, memory->fd, 0));
		memory->base = base;
	}
	CHECK_SYS(fcntl(memory->fd, F_ADD_SEALS, (int)seals));
}

void raw_memory_free(struct raw_memory *memory)
{
	if (memory->base)
		CHECK_SYS(munmap(memory->base, memory->size));
	if (memory->fd >= 0)
		CHECK_SYS(close(memory->fd));
	memory->base = NULL;
	memory->fd = -1;
}

/* Endpoints --------------------------------------------------------------- */

static void link_init(struct raw *raw)
{
	struct sluice_link *link;
	uint32_t i;

	raw_memory_new(&raw->memory, 8192, SLUICE_SEALS, 0);
	link = (void *)raw->memory.base;
	link->magic = SLUICE_LINK_MAGIC;
	link->major = SLUICE_MAJOR;
	link->minor = SLUICE_MINOR;
	link->size = 8192;
	link->ring_offset = sizeof(*link);
	link->ring_slots = 64;
	link->ring_first = 0xfffffff0;
	link->release_offset = sizeof(*link) + 64 * sizeof(struct sluice_slot);
	link->release_slots = 256;
	link->release_first = 0xfffffff4;
	link->rx_first = 0xfffffff8;
	link->rx_head = link->rx_first;
	link->rx_state = SLUICE_STATE_MAY_SLEEP;
	link->tx_state = SLUICE_STATE_MAY_SLEEP;

	raw->link = link;
	raw->ring = (void *)(raw->memory.base + link->ring_offset);
	raw->releases = (void *)(raw->memory.base + link->release_offset);
	raw->ring_mask = link->ring_slots - 1;
	raw->release_mask = link->release_slots - 1;
	raw->tx_position = link->ring_first;
	raw->release_position = link->release_first;
	for (i = 0; i < link->ring_slots; i++)
		raw->ring[(link->ring_first + i) & raw->ring_mask].seq =
			link->ring_first + i + 1 - link->ring_slots;
	for (i = 0; i < link->release_slots; i++)
		raw->releases[(link->release_first + i) & raw->release_mask]
			.seq =
			link->release_first + i + 1 - link->release_slots;
	raw->hello.link_size = link->size;
}

void raw_init(struct raw *raw, int sock, uint64_t features)
{
	memset(raw, 0, sizeof(*raw));
	raw->sock = sock;
	raw->memory.fd = -1;
	raw->hello.magic = SLUICE_HELLO_MAGIC;
	raw->hello.major = SLUICE_MAJOR;
	raw->hello.minor = SLUICE_MINOR;
	raw->hello.features = features;
	raw->hello.cookie = tap_random() | 1;
	raw->hello.map_limit = 1ull << 30;
	raw->hello.hold_limit = 256;
	raw->hello.segment_limit = 64;
	if (features & SLUICE_FEAT_LINK)
		link_init(raw);
}

void raw_close(struct raw *raw)
{
	unsigned int i;

	for (i = 0; i < SLUICE_SEGMENTS_MAX; i++)
		if (raw->segments[i].base)
			CHECK_SYS(munmap((void *)raw->segments[i].base,
					 raw->segments[i].size));
	if (raw->peer_memory)
		CHECK_SYS(
			munmap((void *)raw->peer_memory, raw->peer.link_size));
	raw_memory_free(&raw->memory);
	if (raw->sock >= 0)
		CHECK_SYS(close(raw->sock));
	memset(raw, 0, sizeof(*raw));
	raw->sock = raw->memory.fd = -1;
}

void raw_hello(struct raw *raw, struct raw_message *m, uint8_t type,
	       uint64_t echo)
{
	raw->hello.echo = echo;
	raw_frame(m, type, 0, sizeof(raw->hello), &raw->hello,
		  sizeof(raw->hello));
	if (raw->memory.fd >= 0)
		raw_attach(m, CHECK_SYS(fcntl(raw->memory.fd, F_DUPFD_CLOEXEC,
					      0)));
}

void raw_meet(struct raw *raw, uint8_t type)
{
	struct raw_message m;

	raw_recv(raw->sock, &m);
	CHECK_EQ(m.end, false);
	CHECK_EQ(m.frame.type, type);
	CHECK_EQ(m.frame.value, sizeof(raw->peer));
	CHECK_EQ(m.len, sizeof(m.frame) + sizeof(raw->peer));
	memcpy(&raw->peer, raw_body(&m), sizeof(raw->peer));
	CHECK_EQ(raw->peer.magic, SLUICE_HELLO_MAGIC);
	CHECK_EQ(m.fd_count, raw->peer.features & SLUICE_FEAT_LINK ? 1 : 0);
	if (m.fd_count) {
		raw->peer_memory =
			CHECK_SYS(mmap(NULL, raw->peer.link_size, PROT_READ,
				       MAP_SHARED, m.fds[0], 0));
		raw->peer_link = (const void *)raw->peer_memory;
		raw->harvested = raw->peer_link->release_first;
	}
	raw_drop(&m);
}

static socklen_t name_to_address(const char *name, struct sockaddr_un *address)
{
	size_t len = strlen(name);

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	CHECK_LT(len, sizeof(address->sun_path));
	memcpy(address->sun_path, name, len);
	if (name[0] == '@')
		address->sun_path[0] = 0;
	else
		len++;
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

int raw_connect(const char *name, uint64_t r)
{
	struct sockaddr_un address;
	char own[64];
	socklen_t len;
	int sock;

	sock = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	if (r) {
		snprintf(own, sizeof(own), "@" SLUICE_NAME_PREFIX "%016llx",
			 (unsigned long long)r);
		len = name_to_address(own, &address);
		CHECK_SYS(bind(sock, (struct sockaddr *)&address, len));
	}
	len = name_to_address(name, &address);
	CHECK_SYS(connect(sock, (struct sockaddr *)&address, len));
	return sock;
}

int raw_listen(const char *name)
{
	struct sockaddr_un address;
	socklen_t len = name_to_address(name, &address);
	int sock;

	sock = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	CHECK_SYS(bind(sock, (struct sockaddr *)&address, len));
	CHECK_SYS(listen(sock, 16));
	return sock;
}
