/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Probes without BPF: memory, membarrier, sockets, io_uring, settings.
 */
#include "probe-bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <liburing.h>

#include "bpf-insn.h"

#include <sluice/uapi.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

#define BPFFS "/sys/fs/bpf"
#define HUGE_PAGE (2ul << 20)

static int map_writable(int fd, size_t size)
{
	void *memory =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED)
		return -errno;
	munmap(memory, size);
	return 0;
}

static enum probe_result try_seals(int fd, size_t size, char why[PROBE_WHY])
{
	char *own, path[40];
	int again, ret;

	if (ftruncate(fd, (off_t)size))
		return probe_failed(why, "ftruncate");
	own = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (own == MAP_FAILED)
		return probe_failed(why, "mmap");
	ret = fcntl(fd, F_ADD_SEALS, SLUICE_SEALS) ? -errno : 0;
	if (!ret)
		own[0] = 1; /* the owner's mapping stays writable */
	munmap(own, size);
	if (ret) {
		errno = -ret;
		return probe_failed(why, "F_SEAL_FUTURE_WRITE");
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	ret = map_writable(fd, size);
	if (ret && again >= 0)
		ret = map_writable(again, size);
	if (again >= 0)
		close(again);
	return ret ? PROBE_YES :
		     probe_no(why, "a sealed memfd can be mapped for writing");
}

enum probe_result probe_memfd_seals(char why[PROBE_WHY])
{
	int fd = memfd_create("sluice-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	enum probe_result result;

	if (fd < 0)
		return probe_failed(why, "memfd_create");
	result = try_seals(fd, 4096, why);
	close(fd);
	return result;
}

enum probe_result probe_memfd_huge(char why[PROBE_WHY])
{
	int fd = memfd_create("sluice-probe",
			      MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	enum probe_result result = PROBE_YES;

	if (fd < 0)
		return probe_failed(why, "memfd_create(MFD_HUGETLB)");
	if (fallocate(fd, 0, 0, HUGE_PAGE))
		result = probe_no(why,
				  "no free huge page (%s); "
				  "sysctl vm.nr_hugepages reserves some",
				  strerror(errno));
	close(fd);
	return result;
}

enum probe_result probe_membarrier(char why[PROBE_WHY])
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0,
		    0) ||
	    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0))
		return probe_failed(why, "membarrier");
	return PROBE_YES;
}

enum probe_result probe_io_uring(char why[PROBE_WHY])
{
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int ret = io_uring_queue_init(2, &ring, 0);

	if (ret == -EPERM)
		return probe_no(why, "refused: see sysctl "
				     "kernel.io_uring_disabled, or seccomp");
	if (ret) {
		errno = -ret;
		return probe_failed(why, "io_uring_setup");
	}
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	ret = io_uring_submit_and_wait(&ring, 1);
	if (ret == 1)
		ret = io_uring_peek_cqe(&ring, &cqe);
	io_uring_queue_exit(&ring);
	errno = -ret;
	return ret ? probe_failed(why, "io_uring_enter") : PROBE_YES;
}

static int send_fd(int socket, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec payload = { .iov_base = "x", .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &payload,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	return sendmsg(socket, &msg, MSG_DONTWAIT) == 1 ? 0 : -errno;
}

enum probe_result probe_passrights(char why[PROBE_WHY])
{
	enum probe_result result = PROBE_YES;
	const int off = 0;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return probe_failed(why, "socketpair");
	if (setsockopt(ends[0], SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off)))
		result = probe_failed(why, "SO_PASSRIGHTS");
	else if (!send_fd(ends[1], ends[1]))
		result = probe_no(why, "fds are taken all the same");
	close(ends[0]);
	close(ends[1]);
	return result;
}

enum probe_result probe_bpffs(char why[PROBE_WHY])
{
	struct statfs fs;

	if (statfs(BPFFS, &fs))
		return probe_failed(why, BPFFS);
	if ((unsigned int)fs.f_type != BPF_FS_MAGIC)
		return probe_no(why, "not there: mount -t bpf bpf " BPFFS);
	return PROBE_YES;
}

/* The file, also where nobody mounted securityfs; a private mount then. */
static int open_lockdown(void)
{
	int fd = open("/sys/kernel/security/lockdown", O_RDONLY | O_CLOEXEC);
	int tree;

	if (fd >= 0)
		return fd;
	tree = private_mount("securityfs");
	if (tree < 0)
		return -1;
	fd = openat(tree, "lockdown", O_RDONLY | O_CLOEXEC);
	close(tree);
	return fd;
}

/* "none [integrity] confidentiality" */
enum probe_result probe_lockdown(char why[PROBE_WHY])
{
	char text[80], *mode, *end;
	int fd = open_lockdown();
	ssize_t n;

	if (fd < 0) {
		if (errno != ENOENT)
			return probe_failed(why, "securityfs");
		snprintf(why, PROBE_WHY, "the kernel has no lockdown");
		return PROBE_YES;
	}
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	mode = strchr(text, '[');
	end = mode ? strchr(mode, ']') : NULL;
	if (!end)
		return probe_no(why, "cannot read lockdown");
	*end = 0;
	return strcmp(mode + 1, "none") ?
		       probe_no(why, "lockdown: %s", mode + 1) :
		       PROBE_YES;
}

/* Whether somebody without any privilege can load a program. */
enum probe_result probe_unprivileged_bpf(char why[PROBE_WHY])
{
	int status = 0;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return probe_failed(why, "fork");
	if (!pid) {
		struct bpf_insn insns[2];

		if (!geteuid() && (setgid(65534) || setuid(65534)))
			_exit(2);
		_exit(bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "probe",
				    PROBE_LICENCE, insns, insn_return(insns, 0),
				    NULL) < 0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	    WEXITSTATUS(status) > 1) {
		snprintf(why, PROBE_WHY, "cannot become nobody");
		return PROBE_UNKNOWN;
	}
	return WEXITSTATUS(status) ?
		       probe_no(why, "as is usual: sysctl "
				     "kernel.unprivileged_bpf_disabled") :
		       PROBE_YES;
}
