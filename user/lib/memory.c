/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Sealed memfds, mappings of foreign ones, and facts about this process.
 *
 * The only process-wide state of the library is here: the generation (a page
 * that the kernel wipes in a child of fork), the membarrier registration and
 * the count of mapped foreign bytes. All of it is atomic: any thread may call.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/memfd.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8u /* Linux 6.3; without it the kernel log warns */
#endif

static _Atomic uint64_t mapped_limit = 16ull << 30;
static _Atomic uint64_t mapped_bytes;

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

static int refuse(const char **why, const char *text)
{
	*why = text;
	return -EPROTO;
}

int memory_map_foreign(int fd, uint64_t size, bool huge, void **address,
		       const char **why)
{
	struct statfs fs;
	struct stat st;
	void *map;
	int seals, r;

	/* First: on a foreign FUSE file fstat can block, only memfds answer. */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return refuse(why, "shared memory is not a memfd");
	if ((seals & SLUICE_SEALS) != SLUICE_SEALS)
		return refuse(why, "memfd lacks seals");
	if (fstat(fd, &st))
		return refuse(why, "memfd cannot be examined");
	if (st.st_size < 0 || (uint64_t)st.st_size != size)
		return refuse(why, "memfd has another size than announced");
	if ((uint64_t)st.st_blocks * 512 < size)
		return refuse(why, "memfd is sparse");
	if (fstatfs(fd, &fs) || (fs.f_type == HUGETLBFS_MAGIC) != huge)
		return refuse(why, "memfd has other pages than announced");
	if (atomic_fetch_add(&mapped_bytes, size) + size >
	    atomic_load(&mapped_limit)) {
		atomic_fetch_sub(&mapped_bytes, size);
		*why = "memory of all peers is over the limit here";
		return -ENOMEM;
	}
	map = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED) {
		r = errno == EACCES ? -EPROTO : -errno;
		*why = r == -EPROTO ? "memfd is not open for reading" :
				      "memfd cannot be mapped";
		atomic_fetch_sub(&mapped_bytes, size);
		return r;
	}
	madvise(map, size, MADV_DONTFORK);
	*address = map;
	return 0;
}

void memory_unmap_foreign(const void *address, uint64_t size)
{
	munmap((void *)(uintptr_t)address, size);
	atomic_fetch_sub(&mapped_bytes, size);
}

void sluice_map_limit_set(uint64_t bytes)
{
	atomic_store(&mapped_limit, bytes);
}
