/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Probes of what services need: sockets in a sockmap, what its verdict program gets,
 * and a receive that stands still.
 */
#include "probe-bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAIT_MS 1000

static enum probe_result probe_sockmap(int type, char why[PROBE_WHY])
{
	enum probe_result result = PROBE_YES;
	const __u32 key = 0;
	int map, ends[2];
	__u64 value;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends))
		return probe_failed(why, "socketpair");
	map = bpf_map_create(BPF_MAP_TYPE_SOCKMAP, "sluice_probe", 4, 8, 1,
			     NULL);
	value = (__u64)ends[0];
	if (map < 0)
		result = probe_failed(why, "creating a sockmap");
	else if (bpf_map_update_elem(map, &key, &value, 0))
		result = probe_failed(why, "inserting the socket");
	close(map);
	close(ends[0]);
	close(ends[1]);
	return result;
}

enum probe_result probe_sockmap_stream(char why[PROBE_WHY])
{
	return probe_sockmap(SOCK_STREAM, why);
}

enum probe_result probe_sockmap_dgram(char why[PROBE_WHY])
{
	return probe_sockmap(SOCK_DGRAM, why);
}

enum probe_result probe_sockmap_seqpacket(char why[PROBE_WHY])
{
	return probe_sockmap(SOCK_SEQPACKET, why);
}

/* One byte to a socket in the map: the program must get it, and nobody else. */
static enum probe_result try_verdict(const struct counting *counting, int map,
				     const int *ends, char why[PROBE_WHY])
{
	const __u32 key = 0;
	__u64 value = (__u64)ends[0];
	char byte = 'x';
	int charged = -1;

	if (bpf_prog_attach(counting->prog, map, BPF_SK_SKB_VERDICT, 0))
		return probe_failed(why, "attaching to a sockmap");
	if (bpf_map_update_elem(map, &key, &value, 0))
		return probe_failed(why, "inserting the socket");
	if (send(ends[1], &byte, 1, MSG_NOSIGNAL) != 1)
		return probe_failed(why, "sending");
	if (counting_calls(counting) != 1)
		return probe_no(why, "the program never runs");
	if (recv(ends[0], &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
		return probe_no(why, "it runs, but the bytes stay");
	if (ioctl(ends[1], SIOCOUTQ, &charged) || charged)
		return probe_no(why, "its sender still pays for them");
	return PROBE_YES;
}

/* What it returns is SK_DROP: it takes the piece. */
enum probe_result probe_landing_stream(char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		    .expected_attach_type = BPF_SK_SKB_VERDICT);
	struct counting counting;
	enum probe_result result;
	int map, ends[2];

	result = counting_open(&counting, BPF_PROG_TYPE_SK_SKB, &opts, why);
	if (result != PROBE_YES)
		return result;
	map = bpf_map_create(BPF_MAP_TYPE_SOCKMAP, "sluice_probe", 4, 8, 1,
			     NULL);
	if (map < 0) {
		result = probe_failed(why, "creating a sockmap");
	} else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
		result = probe_failed(why, "socketpair");
	} else {
		result = try_verdict(&counting, map, ends, why);
		close(ends[0]);
		close(ends[1]);
	}
	if (map >= 0)
		close(map);
	counting_close(&counting);
	return result;
}

struct still {
	int fd; /* has a byte */
	char *page;
	ssize_t result;
};

static void *receive_still(void *arg)
{
	struct still *still = arg;

	still->result = recv(still->fd, still->page, 1, 0);
	return NULL;
}

/* A receive in another thread stands still at the page until that is there. */
static enum probe_result try_fault(int fault_fd, char *page, const int *ends,
				   char why[PROBE_WHY])
{
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)page,
			   .len = (size_t)sysconf(_SC_PAGESIZE) },
	};
	struct pollfd pollfd = { .fd = fault_fd, .events = POLLIN };
	struct still still = { .fd = ends[0], .page = page };
	int queued = 0, faults;
	pthread_t thread;

	if (send(ends[1], "x", 1, MSG_NOSIGNAL) != 1)
		return probe_failed(why, "sending");
	errno = pthread_create(&thread, NULL, receive_still, &still);
	if (errno)
		return probe_failed(why, "starting a thread");
	faults = poll(&pollfd, 1, WAIT_MS);
	ioctl(ends[0], SIOCINQ, &queued);
	ioctl(fault_fd, UFFDIO_ZEROPAGE, &zero);
	pthread_join(thread, NULL);
	if (faults != 1)
		return probe_no(why, "a receive does not wait for the page");
	if (queued != 1)
		return probe_no(why, "it has taken before it waits");
	if (still.result != 1 || *page != 'x')
		return probe_no(why, "a receive that waited fails");
	return PROBE_YES;
}

static enum probe_result try_page(int fault_fd, char *page, size_t size,
				  char why[PROBE_WHY])
{
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)page, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = { .api = UFFD_API };
	enum probe_result result;
	int ends[2];

	if (ioctl(fault_fd, UFFDIO_API, &api) ||
	    ioctl(fault_fd, UFFDIO_REGISTER, &range))
		return probe_failed(why, "watching a page");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return probe_failed(why, "socketpair");
	result = try_fault(fault_fd, page, ends, why);
	close(ends[0]);
	close(ends[1]);
	return result;
}

enum probe_result probe_userfaultfd(char why[PROBE_WHY])
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	enum probe_result result;
	char *page;
	int fd;

	/* of the kernel's faults, too: not UFFD_USER_MODE_ONLY */
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return probe_failed(why, "userfaultfd()");
	page = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED) {
		result = probe_failed(why, "mapping a page");
	} else {
		result = try_page(fd, page, size, why);
		munmap(page, size);
	}
	close(fd);
	return result;
}
