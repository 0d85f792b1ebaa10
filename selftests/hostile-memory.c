/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Breaches in shared memory: what is passed off as a link or as a segment, and
 * SEGMENT_ADD, field by field, with the limits on what is mapped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hostile.h"

/* What an fd may be ------------------------------------------------------- */

struct source {
	const char *name;
	/* An fd of `size` bytes of data, or what pretends to be that. */
	int (*make)(const struct source *source, const void *data, size_t size);
	unsigned int seals;
	long more; /* bytes in the file that nobody announced */
	size_t hole; /* bytes at the end that have no memory */
	bool fine;
};

static int make_memfd(const struct source *source, const void *data,
		      size_t size)
{
	size_t real = (size_t)((long)size + source->more);
	size_t backed = real - source->hole;
	int fd = CHECK_SYS(memfd_create("sluice-hostile",
					MFD_CLOEXEC | MFD_ALLOW_SEALING));

	CHECK_SYS(ftruncate(fd, (off_t)real));
	if (backed) {
		CHECK_SYS(fallocate(fd, 0, 0, (off_t)backed));
		CHECK_SYS(pwrite(fd, data, size < backed ? size : backed, 0));
	}
	CHECK_SYS(fcntl(fd, F_ADD_SEALS, (int)source->seals));
	return fd;
}

static int reopen(int fd, int flags)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = CHECK_SYS(open(path, flags | O_CLOEXEC));
	CHECK_SYS(close(fd));
	return again;
}

static int make_read_only(const struct source *source, const void *data,
			  size_t size)
{
	return reopen(make_memfd(source, data, size), O_RDONLY);
}

static int make_write_only(const struct source *source, const void *data,
			   size_t size)
{
	return reopen(make_memfd(source, data, size), O_WRONLY);
}

static int make_path(const struct source *source, const void *data, size_t size)
{
	return reopen(make_memfd(source, data, size), O_PATH);
}

static int make_never_sealable(const struct source *source, const void *data,
			       size_t size)
{
	int fd = CHECK_SYS(memfd_create("sluice-hostile", MFD_CLOEXEC));

	(void)source;
	CHECK_EQ(CHECK_SYS(write(fd, data, size)), size);
	return fd;
}

/* Before Linux 6.7 a memfd sealed against all writing cannot be shared. */
static int make_write_sealed(const struct source *source, const void *data,
			     size_t size)
{
	int fd = make_memfd(source, data, size);
	void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		tap_skip("this kernel maps no memfd with F_SEAL_WRITE");
	CHECK_SYS(munmap(map, size));
	return fd;
}

static int make_file(const struct source *source, const void *data, size_t size)
{
	int fd = CHECK_SYS(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));

	(void)source;
	CHECK_EQ(CHECK_SYS(write(fd, data, size)), size);
	return fd;
}

static int make_directory(const struct source *source, const void *data,
			  size_t size)
{
	(void)source, (void)data, (void)size;
	return CHECK_SYS(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static int make_device(const struct source *source, const void *data,
		       size_t size)
{
	char path[32];

	(void)data, (void)size;
	snprintf(path, sizeof(path), "/dev/%s", source->name);
	return CHECK_SYS(open(path, O_RDWR | O_CLOEXEC));
}

static int make_pipe(const struct source *source, const void *data, size_t size)
{
	int ends[2];

	(void)source, (void)data, (void)size;
	CHECK_SYS(pipe2(ends, O_CLOEXEC));
	CHECK_SYS(close(ends[1]));
	return ends[0];
}

static int make_socket(const struct source *source, const void *data,
		       size_t size)
{
	(void)source, (void)data, (void)size;
	return CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static int make_epoll(const struct source *source, const void *data,
		      size_t size)
{
	(void)source, (void)data, (void)size;
	return CHECK_SYS(epoll_create1(EPOLL_CLOEXEC));
}

static int make_eventfd(const struct source *source, const void *data,
			size_t size)
{
	(void)source, (void)data, (void)size;
	return CHECK_SYS(eventfd(0, EFD_CLOEXEC));
}

#define ALL SLUICE_SEALS

static const struct source sources[] = {
	{ "sealed", .make = make_memfd, .seals = ALL, .fine = true },
	{ "read-only", .make = make_read_only, .seals = ALL, .fine = true },
	{ "write-sealed", .make = make_write_sealed,
	  .seals = ALL | F_SEAL_WRITE, .fine = true },
	{ "unsealed", .make = make_memfd },
	{ "no-shrink-seal", .make = make_memfd, .seals = ALL & ~F_SEAL_SHRINK },
	{ "no-grow-seal", .make = make_memfd, .seals = ALL & ~F_SEAL_GROW },
	{ "no-future-write-seal", .make = make_memfd,
	  .seals = ALL & ~F_SEAL_FUTURE_WRITE },
	{ "no-seal-seal", .make = make_memfd, .seals = ALL & ~F_SEAL_SEAL },
	{ "only-seal-seal", .make = make_never_sealable },
	{ "sparse", .make = make_memfd, .seals = ALL, .hole = 8192 },
	{ "last-page-missing", .make = make_memfd, .seals = ALL, .hole = 4096 },
	{ "empty", .make = make_memfd, .seals = ALL, .more = -8192 },
	{ "too-short", .make = make_memfd, .seals = ALL, .more = -4096 },
	{ "too-short-by-a-byte", .make = make_memfd, .seals = ALL, .more = -1 },
	{ "too-long", .make = make_memfd, .seals = ALL, .more = 4096 },
	{ "too-long-by-a-byte", .make = make_memfd, .seals = ALL, .more = 1 },
	{ "write-only", .make = make_write_only, .seals = ALL },
	{ "o-path", .make = make_path, .seals = ALL },
	{ "file", .make = make_file },
	{ "directory", .make = make_directory },
	{ "null", .make = make_device },
	{ "zero", .make = make_device },
	{ "pipe", .make = make_pipe },
	{ "socket", .make = make_socket },
	{ "epoll", .make = make_epoll },
	{ "eventfd", .make = make_eventfd },
};

TAP_EACH(link_memory, row, sources)
{
	struct world world;
	struct raw_message m;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO_ACK,
		  world.raw.peer.cookie);
	raw_drop(&m);
	raw_attach(&m, row->make(row, world.raw.memory.base,
				 world.raw.memory.size));
	raw_send(world.raw.sock, &m);
	world_judge(&world, row->fine);
}

/* Two pages, so that the sizes of the table fit. */
#define SEGMENT 8192

static void segment_body(struct raw_message *m, uint32_t number, uint64_t size,
			 int fd)
{
	struct sluice_segment body = { .size = size };

	raw_frame(m, SLUICE_FRAME_SEGMENT_ADD, 0, number, &body, sizeof(body));
	raw_attach(m, fd);
}

TAP_EACH(segment_memory, row, sources)
{
	struct sluice_slot slot = raw_buffer(0, 100, SEGMENT - 100, 0, 1);
	uint8_t data[SEGMENT];
	struct raw_message m;
	struct sluice_msg msg;
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	world_meet(&world);
	tap_fill(data, sizeof(data), 1);
	segment_body(&m, 0, sizeof(data), row->make(row, data, sizeof(data)));
	raw_send(world.raw.sock, &m);
	if (row->fine) {
		raw_data(&m, &slot, 1);
		raw_send(world.raw.sock, &m);
		world_take(&world, &msg);
		CHECK_EQ(msg.len, SEGMENT - 100);
		CHECK_MEM(sluice_msg_data(&msg), data + 100, msg.len);
		CHECK_OK(sluice_release(world.conn, &msg));
	}
	world_judge(&world, row->fine);
}

/* SEGMENT_ADD ------------------------------------------------------------- */

/* Of a 64 KiB segment, number 0. */
static const struct change adds[] = {
	{ "unchanged", .fine = true },
	{ "bytes-8", .grow = -16 },
	{ "bytes-23", .grow = -1 },
	{ "bytes-25", .grow = 1 },
	{ "bytes-4104", .grow = 4080 },
	{ "flags-ack", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "count", HEAD(count, 1) },
	{ "number-1", HEAD(value, 1), .fine = true },
	{ "number-1024", HEAD(value, 1024) },
	{ "number-65536", HEAD(value, 65536) },
	{ "number-largest", HEAD(value, 0xffffffff) },
	{ "fds-0", .fds = NO_FDS },
	{ "fds-2", .fds = 2 },
	{ "fds-16", .fds = 16 },
	{ "fds-253", .fds = 253 },
	{ "size-0", BODY(segment, size, 0) },
	{ "size-odd", BODY(segment, size, 65535) },
	{ "size-over-a-page", BODY(segment, size, 65536 - 512) },
	{ "size-less", BODY(segment, size, 61440) },
	{ "size-more", BODY(segment, size, 69632) },
	{ "size-63-bits", BODY(segment, size, 1ull << 63) },
	{ "size-largest", BODY(segment, size, ~4095ull) },
	{ "size-wraps", BODY(segment, size, (1ull << 32) + 65536) },
	{ "flags-huge", BODY(segment, flags, SLUICE_SEGMENT_F_HUGE) },
	{ "flags-unknown", BODY(segment, flags, 2) },
	{ "flags-last", BODY(segment, flags, 1u << 31) },
	{ "resv", BODY(segment, __resv, 1) },
};

TAP_EACH(segment_add, row, adds)
{
	struct raw_memory memory;
	struct raw_message m;
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	world_meet(&world);
	raw_memory_new(&memory, WORLD_SEGMENT, SLUICE_SEALS, 0);
	raw_segment(&m, 0, &memory);
	raw_memory_free(&memory);
	change_frame(row, &m);
	raw_send(world.raw.sock, &m);
	world_judge(&world, row->fine);
}

TAP_TEST(segment_twice)
{
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	world_meet(&world);
	world_segment(&world, 3);
	world_segment(&world, 4);
	world_fine(&world);
	world_segment(&world, 3);
	world_judge(&world, false);
}

/* Numbers end at the limit that the conn announced itself. */
TAP_TEST(segment_number_limit)
{
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	world_meet(&world);
	world_segment(&world, world.raw.peer.segment_limit - 1);
	world_fine(&world);
	world_segment(&world, world.raw.peer.segment_limit);
	world_judge(&world, false);
}

static void add_bytes(struct world *world, uint32_t number, size_t size)
{
	struct raw_memory memory;
	struct raw_message m;

	raw_memory_new(&memory, size, SLUICE_SEALS, 0);
	raw_segment(&m, number, &memory);
	raw_memory_free(&memory);
	raw_send(world->raw.sock, &m);
}

static void delete_segment(struct world *world, uint32_t number)
{
	struct raw_message m;
	struct sluice_msg msg;

	raw_frame(&m, SLUICE_FRAME_SEGMENT_DEL, 0, number, NULL, 0);
	raw_send(world->raw.sock, &m);
	CHECK_EQ(world_recv(world, &msg, 0), -EAGAIN);
	raw_await(&world->raw, &m, SLUICE_FRAME_SEGMENT_DEL);
	CHECK_EQ(m.frame.flags, SLUICE_FRAME_F_ACK);
	CHECK_EQ(m.frame.value, number);
}

/* Just as many bytes as map_limit says; what is deleted counts no more. */
static const struct limit {
	const char *name;
	size_t size;
	bool fine;
} limits[] = {
	{ "exact", 512 << 10, true },
	{ "page-over", (512 << 10) + 4096, false },
	{ "twice", 1 << 20, false },
};

TAP_EACH(map_limit, row, limits)
{
	struct sluice_options options = {
		.size = sizeof(options),
		.map_limit = 1 << 20,
	};
	struct sluice_conn_info info;
	struct world world;

	world_open(&world, &options, RAW_ALL);
	world_meet(&world);
	CHECK_EQ(world.raw.peer.map_limit, 1 << 20);
	add_bytes(&world, 0, 512 << 10);
	add_bytes(&world, 1, 512 << 10);
	delete_segment(&world, 0);
	add_bytes(&world, 2, row->size);
	if (row->fine) {
		world_fine(&world);
		sluice_conn_info(world.conn, &info);
		CHECK_EQ(info.mapped_bytes, 1 << 20);
	}
	world_judge(&world, row->fine);
}

/*
 * Over the limit of the whole process a conn ends, whichever it hits, with the
 * reason; the peer broke nothing.
 */
TAP_TEST(map_limit_of_process)
{
	struct sluice_conn_info info;
	struct raw_message m = { .end = false }, last;
	struct sluice_msg msg;
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	world_meet(&world);
	sluice_map_limit_set(16 << 20);
	add_bytes(&world, 0, 1 << 20);
	world_fine(&world);
	add_bytes(&world, 1, 16 << 20);
	CHECK_EQ(world_recv(&world, &msg, 5000000000ll * tap_slow), -ENOMEM);
	sluice_conn_info(world.conn, &info);
	CHECK_EQ(info.error, -ENOMEM);
	CHECK(info.error_text[0]);
	do {
		last = m;
		raw_recv(world.raw.sock, &m);
		raw_drop(&m);
	} while (!m.end);
	CHECK_EQ(last.frame.type, SLUICE_FRAME_ERROR);
	CHECK_EQ(last.frame.value, ENOMEM);
	world_close(&world);
}

/* -1: this machine has no free page of 2 MiB. */
static int huge_memfd(size_t size)
{
	int fd = memfd_create("sluice-hostile",
			      MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) || fallocate(fd, 0, 0, (off_t)size)) {
		CHECK_SYS(close(fd));
		return -1;
	}
	CHECK_SYS(fcntl(fd, F_ADD_SEALS, ALL));
	return fd;
}

/* Pages other than those announced. */
TAP_TEST(huge_pages_undeclared)
{
	const size_t size = 2 << 20;
	struct raw_message m;
	struct world world;
	int fd = huge_memfd(size);

	if (fd < 0)
		tap_skip("no huge pages are free (vm.nr_hugepages)");
	CHECK_SYS(close(fd));
	world_open(&world, NULL, RAW_ALL);
	world_meet(&world);
	segment_body(&m, 0, size, huge_memfd(size));
	raw_send(world.raw.sock, &m);
	world_judge(&world, false);
}
