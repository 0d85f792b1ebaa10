/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What pools are made of: huge pages, io_uring's fixed buffers, and that a peer
 * can only read.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ends.h"

#define SIZE 65536
#define HUGE_PAGE (2 << 20)

/* Huge pages ---------------------------------------------------------------- */

#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"
#define WANTED 6

/* The setting's value, after writing `value` unless that is negative. */
static long huge_pages(long value)
{
	FILE *file;
	long now = -1;

	if (value >= 0) {
		file = fopen(NR_HUGEPAGES, "we");
		if (!file)
			return -1;
		fprintf(file, "%ld\n", value);
		fclose(file);
	}
	file = fopen(NR_HUGEPAGES, "re");
	if (!file)
		return -1;
	if (fscanf(file, "%ld", &now) != 1)
		now = -1;
	fclose(file);
	return now;
}

/* Free pages of 2 MiB, by /proc/meminfo. */
static long free_huge_pages(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	long pages = 0, kb = 0;
	char line[128];

	CHECK(file);
	while (fgets(line, sizeof(line), file)) {
		sscanf(line, "HugePages_Free: %ld", &pages);
		sscanf(line, "Hugepagesize: %ld", &kb);
	}
	fclose(file);
	return kb == 2048 ? pages : 0;
}

static void send_through(struct sluice_conn *conn[2], size_t size)
{
	struct sluice_buf *buf;
	struct sluice_msg msg;

	CHECK_OK(sluice_loan(conn[0], size, &buf));
	content_fill(buf->data, size, 3, 0);
	CHECK_OK(sluice_send_buf(conn[0], buf, (uint32_t)size, 0, 0));
	CHECK_EQ(sluice_recv(conn[1], &msg), 1);
	CHECK(content_matches(sluice_msg_data(&msg), size, 3, 0));
	CHECK_OK(sluice_release(conn[1], &msg));
}

static void huge_pair(struct sluice_conn *conn[2], uint32_t peers_flags)
{
	static const struct sluice_pool_options pool = {
		.size = sizeof(pool),
		.flags = SLUICE_POOL_F_HUGE,
	};
	struct sluice_options a = ENDS_OPTIONS(.pool_options = &pool);
	struct sluice_options b = ENDS_OPTIONS(.flags = peers_flags);

	ends_pair(conn, &a, &b);
}

TAP_TEST(huge_pages_fall_back)
{
	struct sluice_segment_info segment;
	struct sluice_pool_info info;
	struct sluice_conn *conn[2];

	if (free_huge_pages())
		tap_skip("there are free huge pages");
	huge_pair(conn, 0);
	send_through(conn, 5000);
	send_through(conn, 3 << 20);
	sluice_pool_info(sluice_conn_pool(conn[0]), &info);
	CHECK_LT(info.huge_error, 0);
	CHECK_OK(sluice_pool_segment(sluice_conn_pool(conn[0]), 0, &segment));
	CHECK_EQ(segment.alignment, 4096);
	ends_close(conn);
}

static void use_huge_pages(void)
{
	struct sluice_segment_info segment;
	struct sluice_pool_info info;
	struct sluice_conn_info conn_info;
	struct sluice_conn *conn[2];
	struct sluice_pool *pool;
	struct sluice_buf *buf;
	struct sluice_msg msg;
	long before = free_huge_pages();

	huge_pair(conn, SLUICE_F_MAP_HUGE);
	pool = sluice_conn_pool(conn[0]);
	send_through(conn, 5000);
	CHECK_EQ(free_huge_pages(), before - 1);
	send_through(conn, 4 << 20);
	CHECK_EQ(free_huge_pages(), before - 3);
	sluice_pool_info(pool, &info);
	CHECK_EQ(info.huge_error, 0);
	CHECK_OK(sluice_pool_segment(pool, 0, &segment));
	CHECK_EQ(segment.alignment, HUGE_PAGE);
	CHECK_EQ((uintptr_t)segment.address % HUGE_PAGE, 0);
	CHECK_EQ(segment.length, HUGE_PAGE);
	ends_close(conn);
	CHECK_EQ(free_huge_pages(), before);

	/* A peer that did not agree to them refuses. */
	huge_pair(conn, 0);
	CHECK_OK(sluice_loan(conn[0], 5000, &buf));
	CHECK_OK(sluice_send_buf(conn[0], buf, 5000, 0, 0));
	CHECK_EQ(sluice_recv_wait(conn[1], &msg, 0), -EPROTO);
	sluice_conn_info(conn[1], &conn_info);
	CHECK(strstr(conn_info.error_text, "huge"));
	ends_close(conn);
	CHECK_EQ(free_huge_pages(), before);

	if (before > 30)
		return; /* more than a pool's limit: they do not run out */
	/* When they run out in the middle, the pool grows on small ones. */
	huge_pair(conn, SLUICE_F_MAP_HUGE);
	send_through(conn, 5000);
	CHECK_EQ(free_huge_pages(), before - 1);
	send_through(conn, (size_t)before << 22);
	send_through(conn, 70000);
	CHECK_EQ(free_huge_pages(), before - 1);
	sluice_pool_info(sluice_conn_pool(conn[0]), &info);
	CHECK_LT(info.huge_error, 0);
	ends_close(conn);
	CHECK_EQ(free_huge_pages(), before);
}

/* In a child, so that a failure does not keep the pages. */
TAP_TEST(huge_pages)
{
	long before = huge_pages(-1), got;
	int status;
	pid_t child;

	if (before < 0)
		tap_skip("there is no %s", NR_HUGEPAGES);
	if (free_huge_pages() >= WANTED) {
		use_huge_pages();
		return;
	}
	got = huge_pages(before + WANTED);
	if (got < before + WANTED) {
		if (got > before)
			huge_pages(before);
		tap_skip("%s does not give %d pages", NR_HUGEPAGES, WANTED);
	}
	child = tap_fork();
	if (!child) {
		use_huge_pages();
		exit(0);
	}
	status = tap_reap(child);
	CHECK_EQ(huge_pages(before), before);
	CHECK_EQ(status, 0);
}

/* io_uring ------------------------------------------------------------------ */

static void ring_open(struct io_uring *ring)
{
	int r = io_uring_queue_init(8, ring, 0);

	if (r == -ENOSYS || r == -EPERM)
		tap_skip("io_uring is not available (%s)", strerror(-r));
	CHECK_OK(r);
}

static int registered_pages(struct io_uring *ring, void *address,
			    uint64_t length)
{
	struct iovec iov = { .iov_base = address, .iov_len = length };

	return io_uring_register_buffers(ring, &iov, 1);
}

/* A file goes into a loaned buffer by the kernel's hand, and to the peer. */
TAP_TEST(fixed_buffers)
{
	struct sluice_segment_info segment;
	uint8_t *data = malloc(SIZE);
	struct sluice_conn *conn[2];
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct sluice_buf *buf;
	struct sluice_msg msg;
	struct io_uring ring;
	int fd, i;

	CHECK(data);
	ring_open(&ring);
	content_fill(data, SIZE, 9, 0);
	fd = CHECK_SYS(open("file", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	CHECK_EQ(write(fd, data, SIZE), SIZE);
	ends_pair(conn, NULL, NULL);
	CHECK_OK(sluice_loan(conn[0], 4096, &buf));
	CHECK_OK(sluice_pool_segment(sluice_conn_pool(conn[0]), 0, &segment));
	CHECK_OK(registered_pages(&ring, segment.address, segment.length));
	for (i = 0; i < SIZE / 4096; i++) {
		if (i)
			CHECK_OK(sluice_loan(conn[0], 4096, &buf));
		CHECK_EQ(buf->segment, segment.segment);
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_read_fixed(sqe, fd, buf->data, 4096,
					 (unsigned int)i * 4096, 0);
		CHECK_EQ(io_uring_submit(&ring), 1);
		CHECK_OK(io_uring_wait_cqe(&ring, &cqe));
		CHECK_EQ(cqe->res, 4096);
		io_uring_cqe_seen(&ring, cqe);
		CHECK_OK(sluice_send_buf(conn[0], buf, 4096, 0, 0));
		CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK_MEM(sluice_msg_data(&msg), data + i * 4096, 4096);
		CHECK_OK(sluice_release(conn[1], &msg));
	}
	/* While it is registered, it can be retired and its number be reused. */
	CHECK_OK(sluice_pool_trim(sluice_conn_pool(conn[0])));
	io_uring_queue_exit(&ring);
	ends_close(conn);
	close(fd);
	unlink("file");
	free(data);
}

static struct sluice_msg receive_view(struct sluice_conn *conn)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
	CHECK_EQ(msg.len, SIZE);
	CHECK(content_matches(msg.view, SIZE, 4, 0));
	return msg;
}

static void send_view(struct sluice_conn *conn)
{
	struct sluice_buf *buf;
	int r;

	while ((r = sluice_loan(conn, SIZE, &buf)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
	content_fill(buf->data, SIZE, 4, 0);
	while ((r = sluice_send_buf(conn, buf, SIZE, 0, 0)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
}

TAP_TEST(peers_segment_cannot_be_registered)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	struct io_uring ring;

	ring_open(&ring);
	ends_pair(conn, NULL, NULL);
	send_view(conn[0]);
	msg = receive_view(conn[1]);
	CHECK_EQ(registered_pages(&ring, (void *)(uintptr_t)msg.view, SIZE),
		 -EFAULT);
	CHECK_OK(sluice_release(conn[1], &msg));
	io_uring_queue_exit(&ring);
	ends_close(conn);
}

/* Read-only ----------------------------------------------------------------- */

/*
 * What the child tries with the page at `page` of its peer. The result goes by
 * exit status; none of it may change what the parent then finds.
 */
static void try_store(uint8_t *page)
{
	signal(SIGSEGV, SIG_DFL); /* a sanitizer would only report it */
	*(volatile uint8_t *)page = 0xee;
}

static void try_mprotect(uint8_t *page)
{
	CHECK_EQ(mprotect(page, SIZE, PROT_READ | PROT_WRITE), -1);
	CHECK_EQ(errno, EACCES);
	CHECK_EQ(mprotect(page, SIZE, PROT_READ | PROT_EXEC | PROT_WRITE), -1);
	CHECK_EQ(errno, EACCES);
}

/* No fd of it is left to map it again. */
static void try_fds(uint8_t *page)
{
	char path[64], target[64];
	ssize_t len;
	int fd;

	(void)page;
	for (fd = 0; fd < 1024; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		len = readlink(path, target, sizeof(target) - 1);
		target[len > 0 ? len : 0] = 0;
		CHECK(!strstr(target, "memfd:"));
	}
}

/* Root finds the file through its mappings; the seal holds for root, too. */
static void try_map_files(uint8_t *page)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	uintptr_t from = 0, to = 0;
	char line[256], path[128];
	int fd;

	CHECK(maps);
	while (fgets(line, sizeof(line), maps)) {
		CHECK_EQ(sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to), 2);
		if ((uintptr_t)page >= from && (uintptr_t)page < to)
			break;
	}
	fclose(maps);
	CHECK(strstr(line, "memfd:sluice"));
	CHECK(strstr(line, " r--s "));
	snprintf(path, sizeof(path),
		 "/proc/self/map_files/%" PRIxPTR "-%" PRIxPTR, from, to);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		CHECK(errno == EPERM || errno == EACCES);
		return;
	}
	CHECK_EQ(pwrite(fd, "x", 1, 0), -1);
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) ==
			 MAP_FAILED,
		 1);
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(ftruncate(fd, 0), -1);
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			   4096),
		 -1);
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	CHECK_EQ(errno, EPERM);
	close(fd);
}

static const struct attempt {
	const char *name;
	void (*try)(uint8_t *page);
	int signal;
} attempts[] = {
	{ "store", try_store, SIGSEGV },
	{ "mprotect", try_mprotect, 0 },
	{ "fds", try_fds, 0 },
	{ "map-files", try_map_files, 0 },
};

static void attempt_child(struct sluice_conn *conn, void *arg)
{
	const struct attempt *attempt = arg;
	struct sluice_msg msg = receive_view(conn);

	attempt->try((uint8_t *)(uintptr_t)msg.view);
	CHECK(content_matches(msg.view, SIZE, 4, 0));
	CHECK_OK(sluice_release(conn, &msg));
}

TAP_EACH(peers_view_is_read_only, attempt, attempts)
{
	struct sluice_options options = ENDS_OPTIONS(.no_spin = 1);
	struct sluice_segment_info segment;
	struct sluice_conn *conn;
	int status;
	pid_t pid;

	pid = ends_fork(&conn, &options, &options, attempt_child,
			(void *)attempt);
	send_view(conn);
	status = tap_reap(pid);
	if (attempt->signal)
		CHECK(WIFSIGNALED(status) &&
		      WTERMSIG(status) == attempt->signal);
	else
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK_OK(sluice_pool_segment(sluice_conn_pool(conn), 0, &segment));
	CHECK(content_matches(segment.address, SIZE, 4, 0));
	sluice_conn_close(conn);
}
