/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Mappings of peers' memory, and how much of it there may be in this process.
 *
 * A peer with many conns here may pass one segment on all of them. It is mapped
 * once: a mapping of each conn's own would cost page tables, and a TLB entry for
 * every message. Memfds are told apart by inode number, which the kernel
 * gives 64 bits and never twice (tmpfs, since 5.9; not on hugetlbfs, so huge
 * pages are never shared).
 *
 * Any thread may call. A child of fork() has none of the mappings
 * (MADV_DONTFORK), and its conns are not used: it leaves what was the parent's.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <search.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

struct mapping {
	dev_t device;
	ino_t inode;
	void *address;
	uint64_t size;
	uint32_t refs;
	bool huge;
};

/* All below: under the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t generation; /* of the process that has the mappings */
static void *by_file, *by_address; /* trees; those on huge pages: not by file */
static uint64_t mapped_limit = 16ull << 30;
static uint64_t mapped_bytes;

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

/* The lock is not to be another thread's, in a child that lacks that thread. */
static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork, after_fork);
}

static int compare_files(const void *a, const void *b)
{
	const struct mapping *x = a, *y = b;

	if (x->device != y->device)
		return x->device < y->device ? -1 : 1;
	return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static int compare_addresses(const void *a, const void *b)
{
	const struct mapping *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static void keep(void *mapping)
{
	(void)mapping;
}

static void forget_parents_mappings(void)
{
	if (generation == process_generation())
		return;
	generation = process_generation();
	tdestroy(by_file, keep);
	tdestroy(by_address, free);
	by_file = by_address = NULL;
	mapped_bytes = 0;
}

static int refuse(const char **why, const char *text)
{
	*why = text;
	return -EPROTO;
}

static int check(int fd, uint64_t size, bool huge, struct stat *st,
		 const char **why)
{
	struct statfs fs;
	int seals;

	/* First: on a foreign FUSE file fstat can block, only memfds answer. */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return refuse(why, "shared memory is not a memfd");
	if ((seals & SLUICE_SEALS) != SLUICE_SEALS)
		return refuse(why, "memfd lacks seals");
	if (fstat(fd, st))
		return refuse(why, "memfd cannot be examined");
	if (st->st_size < 0 || (uint64_t)st->st_size != size)
		return refuse(why, "memfd has another size than announced");
	if ((uint64_t)st->st_blocks * 512 < size)
		return refuse(why, "memfd is sparse");
	if (fstatfs(fd, &fs) || (fs.f_type == HUGETLBFS_MAGIC) != huge)
		return refuse(why, "memfd has other pages than announced");
	return 0;
}

static struct mapping *find_same(const struct mapping *other)
{
	struct mapping **found = tfind(other, &by_file, compare_files);

	return found && !other->huge ? *found : NULL;
}

static void forget(struct mapping *mapping)
{
	mapped_bytes -= mapping->size;
	tdelete(mapping, &by_address, compare_addresses);
	if (!mapping->huge)
		tdelete(mapping, &by_file, compare_files);
}

static int remember(struct mapping *mapping)
{
	mapped_bytes += mapping->size;
	if (tsearch(mapping, &by_address, compare_addresses) &&
	    (mapping->huge || tsearch(mapping, &by_file, compare_files)))
		return 0;
	forget(mapping);
	return -ENOMEM;
}

static int map(struct mapping *mapping, int fd, const char **why)
{
	void *address;
	int r;

	if (mapped_bytes + mapping->size > mapped_limit) {
		*why = "memory of all peers is over the limit here";
		return -ENOMEM;
	}
	address = mmap(NULL, mapping->size, PROT_READ,
		       MAP_SHARED | MAP_POPULATE, fd, 0);
	if (address == MAP_FAILED) {
		r = errno == EACCES ? -EPROTO : -errno;
		*why = r == -EPROTO ? "memfd is not open for reading" :
				      "memfd cannot be mapped";
		return r;
	}
	madvise(address, mapping->size, MADV_DONTFORK);
	mapping->address = address;
	r = remember(mapping);
	if (r) {
		munmap(address, mapping->size);
		*why = "out of memory";
	}
	return r;
}

/* That another fd of the file was is no answer. */
static bool readable(int fd)
{
	return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY;
}

int memory_map_foreign(int fd, uint64_t size, bool huge, void **address,
		       const char **why)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct mapping *mapping, *same;
	struct stat st;
	int r = check(fd, size, huge, &st, why);

	if (r)
		return r;
	mapping = calloc(1, sizeof(*mapping));
	if (!mapping) {
		*why = "out of memory";
		return -ENOMEM;
	}
	mapping->device = st.st_dev;
	mapping->inode = st.st_ino;
	mapping->size = size;
	mapping->huge = huge;
	pthread_once(&once, watch_forks);
	pthread_mutex_lock(&lock);
	forget_parents_mappings();
	same = readable(fd) ? find_same(mapping) : NULL;
	r = same ? 0 : map(mapping, fd, why);
	if (same || r)
		free(mapping);
	if (!r) {
		mapping = same ? same : mapping;
		mapping->refs++;
		*address = mapping->address;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

void memory_unmap_foreign(const void *address)
{
	const struct mapping key = { .address = (void *)(uintptr_t)address };
	struct mapping **found, *last = NULL;

	pthread_mutex_lock(&lock);
	found = tfind(&key, &by_address, compare_addresses);
	if (found && !--(*found)->refs) {
		last = *found;
		forget(last);
	}
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	munmap(last->address, last->size);
	free(last);
}

void sluice_map_limit_set(uint64_t bytes)
{
	pthread_mutex_lock(&lock);
	mapped_limit = bytes;
	pthread_mutex_unlock(&lock);
}
