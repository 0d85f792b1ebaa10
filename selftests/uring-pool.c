/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pools as registered buffers: what files and sockets are read into is sent, and
 * what is sent is written, by slot where there is one; tables that are short, pools
 * that grow and shrink, what a receiver can and cannot do with a peer's memory.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "urings.h"

#define SOON (5 * SECOND * tap_slow)
#define SIZE 300000u
#define TABLE 8

static struct io_uring ring;
static struct sluice_uring_pool *registered;

static struct sluice_part part(struct sluice_buf *buf, uint32_t at,
			       uint32_t len)
{
	return (struct sluice_part){ .buf = buf, .offset = at, .len = len };
}

static void open_ring(const struct setup *setup, unsigned int table)
{
	int r = io_uring_queue_init(8, &ring, setup->flags);

	if (r == -EINVAL && setup->flags)
		tap_skip("no such ring in this kernel");
	CHECK_OK(r);
	if (table)
		CHECK_OK(io_uring_register_buffers_sparse(&ring, table));
}

static struct sluice_pool *new_pool(const struct sluice_pool_options *options)
{
	struct sluice_pool *pool;

	CHECK_OK(sluice_pool_new(&pool, options));
	return pool;
}

static struct sluice_uring_pool_info info_of(void)
{
	struct sluice_uring_pool_info info;

	sluice_uring_pool_info(registered, &info);
	return info;
}

/* Submits, and returns the result of the next CQE; flags NULL: it is the last. */
static int result(uint32_t *flags)
{
	struct io_uring_cqe *cqe;
	int r;

	CHECK_OK(io_uring_submit_and_wait(&ring, 1));
	CHECK_OK(io_uring_wait_cqe(&ring, &cqe));
	r = cqe->res;
	if (flags)
		*flags = cqe->flags;
	else
		CHECK_EQ(cqe->flags & IORING_CQE_F_MORE, 0);
	io_uring_cqe_seen(&ring, cqe);
	return r;
}

static struct io_uring_sqe *sqe(void)
{
	struct io_uring_sqe *s = io_uring_get_sqe(&ring);

	CHECK(s);
	return s;
}

/* A file of SIZE bytes that the key determines; unlinked already. */
static int new_file(uint64_t key)
{
	static uint8_t bytes[SIZE];
	int fd = CHECK_SYS(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));

	tap_fill(bytes, SIZE, key);
	CHECK_EQ(pwrite(fd, bytes, SIZE, 0), SIZE);
	return fd;
}

static void check_file(int fd, uint64_t key)
{
	static uint8_t bytes[SIZE];

	CHECK_EQ(pread(fd, bytes, SIZE, 0), SIZE);
	CHECK(tap_matches(bytes, SIZE, key));
}

/* A TCP connection over loopback. */
static void tcp_pair(int fds[2])
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
	};
	socklen_t len = sizeof(address);
	int listener = CHECK_SYS(socket(AF_INET, SOCK_STREAM, 0));

	if (bind(listener, (struct sockaddr *)&address, len))
		tap_skip("no loopback: %s", strerror(errno));
	CHECK_SYS(listen(listener, 1));
	CHECK_SYS(getsockname(listener, (struct sockaddr *)&address, &len));
	fds[0] = CHECK_SYS(socket(AF_INET, SOCK_STREAM, 0));
	CHECK_SYS(connect(fds[0], (struct sockaddr *)&address, len));
	fds[1] = CHECK_SYS(accept(listener, NULL, NULL));
	close(listener);
}

static void receive_all(int fd, uint64_t key)
{
	static uint8_t bytes[SIZE];

	CHECK_EQ(recv(fd, bytes, SIZE, MSG_WAITALL), SIZE);
	CHECK(tap_matches(bytes, SIZE, key));
}

/* Arguments ---------------------------------------------------------------- */

TAP_TEST(errors)
{
	struct sluice_pool *pool = new_pool(NULL), *other = new_pool(NULL);
	struct io_uring_sqe s, untouched;
	struct sluice_buf *buf, *foreign;
	struct sluice_part p;

	open_ring(&setups[BASIC], 0);
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0, 1),
		 -ENXIO);
	CHECK_OK(io_uring_register_buffers_sparse(&ring, TABLE));
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0, 0),
		 -EINVAL);
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0,
				       TABLE + 1),
		 -EINVAL);
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, ring.ring_fd, TABLE,
				       1),
		 -EINVAL);
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, ring.ring_fd,
				       UINT32_MAX, 2),
		 -EINVAL);
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, 999, 0, 1), -EBADF);
	CHECK_EQ(sluice_uring_pool_new(&registered, pool, 0, 0, 1),
		 -EOPNOTSUPP);
	CHECK_OK(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0,
				       TABLE));
	CHECK_OK(sluice_pool_loan(pool, 1000, &buf));
	CHECK_OK(sluice_pool_loan(other, 1000, &foreign));
	memset(&s, 0x55, sizeof(s));
	untouched = s;
	p = part(foreign, 0, 10);
	CHECK_EQ(sluice_uring_buf_index(registered, foreign), -EINVAL);
	CHECK_EQ(sluice_uring_read(registered, &s, 0, &p, 0), -EINVAL);
	CHECK_EQ(sluice_uring_recv(registered, &s, 0, &p, 0), -EINVAL);
	p = part(buf, 0, buf->capacity + 1);
	CHECK_EQ(sluice_uring_read(registered, &s, 0, &p, 0), -EINVAL);
	CHECK_EQ(sluice_uring_recv(registered, &s, 0, &p, 0), -EINVAL);
	p = part(buf, buf->capacity + 1, 0);
	CHECK_EQ(sluice_uring_write(registered, &s, 0, &p, 0), -EINVAL);
	p = part(buf, 1, UINT32_MAX);
	CHECK_EQ(sluice_uring_send_zc(registered, &s, 0, &p, 0), -EINVAL);
	sluice_buf_unref(buf);
	p = part(buf, 0, 10);
	CHECK_EQ(sluice_uring_read(registered, &s, 0, &p, 0), -EINVAL);
	CHECK_EQ(sluice_uring_buf_index(registered, buf), -EINVAL);
	CHECK_MEM(&s, &untouched, sizeof(s));
	CHECK_EQ(info_of().segments, 0);
	sluice_uring_pool_free(registered);
	sluice_uring_pool_free(NULL);
	sluice_buf_unref(foreign);
	sluice_pool_free(pool);
	sluice_pool_free(other);
	io_uring_queue_exit(&ring);
}

/* From file and socket to the peer, and to files and sockets ---------------- */

TAP_EACH(file_to_peer, setup, setups)
{
	struct sluice_conn *conn[2];
	int file = new_file(1), copy = new_file(2);
	struct sluice_part p;
	struct sluice_buf *buf;
	struct sluice_msg msg;

	open_ring(setup, TABLE);
	kind_pair(conn, &kinds[setup->files ? QUEUED : DIRECT], NULL, NULL);
	CHECK_OK(sluice_uring_pool_new(&registered, sluice_conn_pool(conn[0]),
				       ring.ring_fd, 2, TABLE - 2));
	CHECK_OK(sluice_loan(conn[0], SIZE, &buf));
	p = part(buf, 0, SIZE);
	CHECK_EQ(sluice_uring_read(registered, sqe(), file, &p, 0), 1);
	CHECK_EQ(result(NULL), SIZE);
	CHECK_EQ(sluice_uring_buf_index(registered, buf), 2);
	/* and what is there is written, too */
	CHECK_EQ(sluice_uring_write(registered, sqe(), copy, &p, 0), 1);
	CHECK_EQ(result(NULL), SIZE);
	check_file(copy, 1);
	CHECK_OK(sluice_send_buf(conn[0], buf, SIZE, 0, 0));
	CHECK_EQ(sluice_recv_wait(conn[1], &msg, SOON), 1);
	CHECK_EQ(msg.len, SIZE);
	CHECK(tap_matches(sluice_msg_data(&msg), SIZE, 1));
	CHECK_OK(sluice_release(conn[1], &msg));
	CHECK_EQ(info_of().segments, 1);
	CHECK_GE(info_of().bytes, SIZE);
	sluice_uring_pool_free(registered);
	ends_close(conn);
	close(file);
	close(copy);
	io_uring_queue_exit(&ring);
}

/* A send may be in pieces, each with a CQE that says that the buffer is free. */
static int zc_result(void)
{
	uint32_t flags;
	int r = result(&flags);

	if (r == -EINVAL)
		tap_skip("no SEND_ZC in this kernel");
	if (flags & IORING_CQE_F_MORE) {
		CHECK_OK(result(&flags));
		CHECK(flags & IORING_CQE_F_NOTIF);
	}
	return r;
}

TAP_TEST(socket_to_pool)
{
	struct sluice_pool *pool = new_pool(NULL);
	struct sluice_buf *buf;
	struct sluice_part p;
	int fds[2];

	open_ring(&setups[BASIC], TABLE);
	CHECK_OK(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0,
				       TABLE));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	CHECK_OK(sluice_pool_loan(pool, 4000, &buf));
	CHECK_EQ(send(fds[0], "hello", 5, 0), 5);
	p = part(buf, 100, 50);
	CHECK_EQ(sluice_uring_recv(registered, sqe(), fds[1], &p, 0), 0);
	CHECK_EQ(result(NULL), 5);
	CHECK_MEM((uint8_t *)buf->data + 100, "hello", 5);
	/* It says so where it is not for. */
	CHECK_EQ(sluice_uring_send_zc(registered, sqe(), fds[1], &p, 0), 1);
	CHECK_EQ(zc_result(), -EOPNOTSUPP);
	sluice_buf_unref(buf);
	sluice_uring_pool_free(registered);
	sluice_pool_free(pool);
	close(fds[0]);
	close(fds[1]);
	io_uring_queue_exit(&ring);
}

TAP_TEST(pool_to_tcp)
{
	struct sluice_pool *pool = new_pool(NULL);
	struct sluice_buf *buf;
	struct sluice_part p;
	int fds[2];
	pid_t pid;

	open_ring(&setups[BASIC], TABLE);
	tcp_pair(fds);
	CHECK_OK(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0,
				       TABLE));
	CHECK_OK(sluice_pool_loan(pool, SIZE, &buf));
	tap_fill(buf->data, SIZE, 3);
	pid = tap_fork();
	if (!pid) {
		close(fds[0]);
		receive_all(fds[1], 3);
		_exit(0);
	}
	close(fds[1]);
	for (p = part(buf, 0, SIZE); p.len; p.len = SIZE - p.offset) {
		CHECK_EQ(sluice_uring_send_zc(registered, sqe(), fds[0], &p, 0),
			 1);
		p.offset += (uint32_t)CHECK_OK(zc_result());
	}
	tap_join(pid);
	close(fds[0]);
	sluice_buf_unref(buf);
	sluice_uring_pool_free(registered);
	sluice_pool_free(pool);
	io_uring_queue_exit(&ring);
}

/* Growing and shrinking ----------------------------------------------------- */

#define BUFS 40

TAP_TEST(grows)
{
	const uint32_t class = 65536;
	struct sluice_pool *pool =
		new_pool(&ENDS_POOL(.classes = &class, .class_count = 1));
	struct sluice_buf *bufs[BUFS], *again;
	struct sluice_pool_info info;
	int file = new_file(4), fixed = 0, i;
	struct sluice_part p;

	open_ring(&setups[BASIC], TABLE);
	CHECK_OK(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0, 3));
	for (i = 0; i < BUFS; i++) {
		CHECK_OK(sluice_pool_loan(pool, class, &bufs[i]));
		p = part(bufs[i], 0, class);
		fixed += CHECK_OK(
			sluice_uring_read(registered, sqe(), file, &p, 0));
		CHECK_EQ(result(NULL), class);
		CHECK(tap_matches(bufs[i]->data, class, 4));
	}
	sluice_pool_info(pool, &info);
	CHECK_GT(info.segments, 3);
	CHECK_EQ(info_of().segments, 3);
	CHECK_GT(fixed, 0);
	CHECK_LT(fixed, BUFS);
	CHECK_EQ(sluice_uring_buf_index(registered, bufs[BUFS - 1]), -ENOSPC);
	/* The first segments go; their slots are there for the last one. */
	for (i = 0; i < BUFS - 1; i++)
		sluice_buf_unref(bufs[i]);
	CHECK_GT(sluice_pool_trim(pool), 0);
	CHECK_EQ(info_of().segments, 0);
	CHECK_EQ(info_of().bytes, 0);
	p = part(bufs[BUFS - 1], 0, class);
	CHECK_EQ(sluice_uring_read(registered, sqe(), file, &p, 0), 1);
	CHECK_EQ(result(NULL), class);
	CHECK_EQ(info_of().segments, 1);
	/* A new segment with an old number is not the old memory. */
	for (i = 0; i < 3; i++) {
		CHECK_OK(sluice_pool_loan(pool, class, &again));
		memset(again->data, 0, class);
		p = part(again, 0, class);
		CHECK_OK(sluice_uring_read(registered, sqe(), file, &p, 0));
		CHECK_EQ(result(NULL), class);
		CHECK(tap_matches(again->data, class, 4));
		sluice_buf_unref(again);
		CHECK_OK((int)sluice_pool_trim(pool));
	}
	sluice_buf_unref(bufs[BUFS - 1]);
	sluice_uring_pool_free(registered);
	sluice_pool_free(pool);
	close(file);
	io_uring_queue_exit(&ring);
}

/* The pool may go first, also that of a conn. */
TAP_TEST(pool_goes)
{
	struct sluice_conn *conn[2];
	struct io_uring_sqe s;
	struct sluice_buf *buf, copy;
	struct sluice_part p;

	open_ring(&setups[BASIC], TABLE);
	kind_pair(conn, &kinds[DIRECT], NULL, NULL);
	CHECK_OK(sluice_uring_pool_new(&registered, sluice_conn_pool(conn[0]),
				       ring.ring_fd, 0, TABLE));
	CHECK_OK(sluice_loan(conn[0], 5000, &buf));
	CHECK_EQ(sluice_uring_buf_index(registered, buf), 0);
	copy = *buf;
	ends_close(conn);
	CHECK_EQ(info_of().segments, 0);
	p = part(&copy, 0, 10);
	CHECK_EQ(sluice_uring_read(registered, &s, 0, &p, 0), -EINVAL);
	sluice_uring_pool_free(registered);
	io_uring_queue_exit(&ring);
}

/* A child's copy of a pool must not empty its parent's table. */
TAP_TEST(child_of_fork)
{
	struct sluice_pool *pool = new_pool(NULL);
	int file = new_file(5);
	struct io_uring_sqe s;
	struct sluice_buf *buf;
	struct sluice_part p;
	pid_t pid;

	open_ring(&setups[BASIC], TABLE);
	CHECK_OK(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0,
				       TABLE));
	CHECK_OK(sluice_pool_loan(pool, SIZE, &buf));
	p = part(buf, 0, SIZE);
	CHECK_EQ(sluice_uring_buf_index(registered, buf), 0);
	pid = tap_fork();
	if (!pid) {
		CHECK_EQ(sluice_uring_read(registered, &s, file, &p, 0),
			 -ECHILD);
		CHECK_EQ(sluice_uring_pool_new(&registered, pool, ring.ring_fd,
					       0, 1),
			 -ECHILD);
		sluice_pool_free(pool);
		sluice_uring_pool_free(registered);
		_exit(0);
	}
	tap_join(pid);
	CHECK_EQ(sluice_uring_read(registered, sqe(), file, &p, 0), 1);
	CHECK_EQ(result(NULL), SIZE);
	CHECK(tap_matches(buf->data, SIZE, 5));
	sluice_buf_unref(buf);
	sluice_uring_pool_free(registered);
	sluice_pool_free(pool);
	close(file);
	io_uring_queue_exit(&ring);
}

/* No more memory may be pinned: it goes by address. */
TAP_TEST(memlock)
{
	const struct rlimit none = { 0 };
	struct sluice_pool *pool = new_pool(NULL);
	int file = new_file(6), r;
	struct sluice_buf *buf;
	struct sluice_part p;

	open_ring(&setups[BASIC], TABLE);
	CHECK_OK(sluice_uring_pool_new(&registered, pool, ring.ring_fd, 0,
				       TABLE));
	CHECK_SYS(setrlimit(RLIMIT_MEMLOCK, &none));
	if (!getuid())
		CHECK_SYS(setresuid(65534, 65534, 65534));
	CHECK_OK(sluice_pool_loan(pool, SIZE, &buf));
	p = part(buf, 0, SIZE);
	r = CHECK_OK(sluice_uring_read(registered, sqe(), file, &p, 0));
	CHECK_EQ(result(NULL), SIZE);
	CHECK(tap_matches(buf->data, SIZE, 6));
	/* The limit is that of the ring's maker, who was root perhaps. */
	if (!r) {
		CHECK_EQ(sluice_uring_buf_index(registered, buf), -ENOMEM);
		CHECK_EQ(info_of().refused, 1);
	}
	sluice_buf_unref(buf);
	CHECK_GT(sluice_pool_trim(pool), 0);
	CHECK_EQ(info_of().refused, 0);
	sluice_uring_pool_free(registered);
	sluice_pool_free(pool);
	close(file);
	io_uring_queue_exit(&ring);
}

/* The receiver -------------------------------------------------------------- */

/* A peer's memory is read-only: what reads it works, what pins or writes it not. */
TAP_TEST(peers_segment)
{
	int file = new_file(7), out = new_file(8), fds[2], r;
	struct sluice_conn *conn[2];
	struct sluice_buf *buf;
	struct sluice_msg msg;
	struct iovec iov;
	uint32_t sent;
	pid_t pid;

	open_ring(&setups[BASIC], TABLE);
	kind_pair(conn, &kinds[DIRECT], NULL, NULL);
	CHECK_OK(sluice_loan(conn[0], SIZE, &buf));
	CHECK_EQ(pread(file, buf->data, SIZE, 0), SIZE);
	CHECK_OK(sluice_send_buf(conn[0], buf, SIZE, 0, 0));
	CHECK_EQ(sluice_recv_wait(conn[1], &msg, SOON), 1);
	iov.iov_base = (void *)(uintptr_t)sluice_msg_data(&msg);
	iov.iov_len = SIZE;
	CHECK_EQ(io_uring_register_buffers_update_tag(&ring, 0, &iov, NULL, 1),
		 -EFAULT);
	io_uring_prep_read(sqe(), file, iov.iov_base, SIZE, 0);
	CHECK_EQ(result(NULL), -EFAULT);
	io_uring_prep_write(sqe(), out, iov.iov_base, SIZE, 0);
	CHECK_EQ(result(NULL), SIZE);
	check_file(out, 7);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	CHECK_EQ(send(fds[0], "x", 1, 0), 1);
	io_uring_prep_recv(sqe(), fds[1], iov.iov_base, 1, 0);
	CHECK_EQ(result(NULL), -EFAULT);
	close(fds[0]);
	close(fds[1]);
	tcp_pair(fds);
	pid = tap_fork();
	if (!pid) {
		close(fds[0]);
		receive_all(fds[1], 7);
		_exit(0);
	}
	close(fds[1]);
	for (sent = 0; sent < SIZE; sent += (uint32_t)r) {
		io_uring_prep_send_zc(sqe(), fds[0],
				      (uint8_t *)iov.iov_base + sent,
				      SIZE - sent, 0, 0);
		r = CHECK_OK(zc_result());
	}
	tap_join(pid);
	close(fds[0]);
	CHECK_OK(sluice_release(conn[1], &msg));
	ends_close(conn);
	close(file);
	close(out);
	io_uring_queue_exit(&ring);
}
