/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Sealed memfds, and facts about this process: the generation (a page that the
 * kernel wipes in a child of fork) and the membarrier registration. All of it is
 * atomic: any thread may call.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/memfd.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8u /* Linux 6.3; without it the kernel log warns */
#endif

uint64_t process_generation(void)
{
	static _Atomic(_Atomic uint64_t *) page;
	_Atomic uint64_t *mine = atomic_load(&page), *other = NULL;
	uint64_t generation, none = 0;

	if (!mine) {
		mine = mmap(NULL, CONN_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mine == MAP_FAILED)
			return (uint64_t)getpid();
		madvise(mine, CONN_PAGE, MADV_WIPEONFORK);
		if (!atomic_compare_exchange_strong(&page, &other, mine)) {
			munmap(mine, CONN_PAGE);
			mine = other;
		}
	}
	generation = atomic_load(mine);
	if (!generation) {
		/* First use, or first use in a child. */
		generation = random_nonzero();
		if (!atomic_compare_exchange_strong(mine, &none, generation))
			generation = none;
	}
	return generation;
}

bool process_has_membarrier(void)
{
	static _Atomic int known; /* 0 not asked, 1 yes, -1 no */
	int state = atomic_load(&known);

	if (!state) {
		state = syscall(SYS_membarrier,
				MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0,
				0) ?
				-1 :
				1;
		atomic_store(&known, state);
	}
	return state > 0;
}

bool process_membarrier(void)
{
	return !syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}

int64_t coarse_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t deadline_after(int64_t timeout_ns)
{
	int64_t deadline;

	if (timeout_ns < 0 ||
	    __builtin_add_overflow(now_ns(), timeout_ns, &deadline))
		return INT64_MAX;
	return deadline;
}

uint64_t random_nonzero(void)
{
	uint64_t number = 0;

	while (!number)
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			number = (uint64_t)now_ns() ^ (uint64_t)getpid() << 48;
	return number;
}

int memory_new(const char *name, uint64_t size, bool huge, void **address,
	       int *out_fd)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	void *map;
	int fd, r;

	if (huge)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags);
	if (fd < 0)
		return -errno;
	map = MAP_FAILED;
	r = -1;
	if (!ftruncate(fd, (off_t)size) && !fallocate(fd, 0, 0, (off_t)size))
		map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_POPULATE, fd, 0);
	/* Sealed after it is mapped: this mapping is the last writable one. */
	if (map != MAP_FAILED && !madvise(map, size, MADV_DONTFORK))
		r = fcntl(fd, F_ADD_SEALS, SLUICE_SEALS);
	if (r) {
		r = -errno;
		if (map != MAP_FAILED)
			munmap(map, size);
		close(fd);
		return r;
	}
	*address = map;
	*out_fd = fd;
	return 0;
}
