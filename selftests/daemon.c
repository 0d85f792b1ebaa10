/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A sluiced of a test's own, and a client by hand; daemon.h says how. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "tap.h"

#define NOBODY 65534
#define FDS_MAX 253

static long bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* The place ---------------------------------------------------------------- */

/* A program that passes everything: what sluiced needs is more, but of the kind. */
static void need_bpf(void)
{
	const struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = -1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (__u64)(uintptr_t)code,
		.insn_cnt = 2,
		.license = (__u64)(uintptr_t) "Dual BSD/GPL",
	};
	long fd;

	if (geteuid())
		tap_skip("sluiced needs root");
	fd = bpf(BPF_PROG_LOAD, &attr);
	if (fd < 0)
		tap_skip("bpf(): %s", strerror(errno));
	close((int)fd);
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		tap_skip("no /sys/kernel/btf/vmlinux");
}

void daemon_open(struct daemon *d)
{
	need_bpf();
	*d = (struct daemon){ 0 };
	CHECK(getcwd(d->dir, sizeof(d->dir)));
	snprintf(d->control, sizeof(d->control), "%s/control", d->dir);
	snprintf(d->bpf, sizeof(d->bpf), "%s/bpf", d->dir);
	snprintf(d->pins, sizeof(d->pins), "%s/pins", d->bpf);
	snprintf(d->log, sizeof(d->log), "%s/sluiced.log", d->dir);
	CHECK_SYS(unshare(CLONE_NEWNS));
	CHECK_SYS(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	CHECK_SYS(mkdir(d->bpf, 0755));
	if (mount("bpf", d->bpf, "bpf", 0, NULL)) {
		int error = errno;

		rmdir(d->bpf);
		tap_skip("cannot mount a BPF file system: %s", strerror(error));
	}
	CHECK_SYS(chmod(d->dir, 0755)); /* other users get to the socket */
}

static void remove_file(const struct daemon *d, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", d->dir, name);
	if (unlink(path))
		CHECK_EQ(errno, ENOENT);
}

void daemon_close(struct daemon *d)
{
	if (d->pid)
		daemon_stop(d);
	CHECK_SYS(umount(d->bpf));
	CHECK_SYS(rmdir(d->bpf));
	remove_file(d, "sluiced.log");
	remove_file(d, "sluiced.conf");
	remove_file(d, "control"); /* one that is killed leaves it */
}

/* The process -------------------------------------------------------------- */

static void run(const struct daemon *d, const char *const *args)
{
	const char *argv[32] = {
		tap_bin("sluiced"),
		"--config",
		"/dev/null",
		"--control",
		d->control,
		"--pins",
		d->pins,
		"--log-level",
		"debug",
	};
	int fd, count = 9;

	for (; args && *args; args++) {
		CHECK_LT(count, 31);
		argv[count++] = *args; /* the last of an option counts */
	}
	fd = CHECK_SYS(open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0644));
	CHECK_SYS(dup2(fd, 1));
	CHECK_SYS(dup2(fd, 2));
	close(fd);
	execv(argv[0], (char *const *)argv);
	TAP_FAIL("%s: %s", argv[0], strerror(errno));
}

static void show_log(const struct daemon *d)
{
	FILE *log = fopen(d->log, "re");
	char line[512];

	while (log && fgets(line, sizeof(line), log)) {
		line[strcspn(line, "\n")] = 0;
		tap_diag("  %s", line);
	}
	if (log)
		fclose(log);
}

static int exit_code(pid_t pid)
{
	int status = tap_reap(pid);

	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int daemon_try(struct daemon *d, const char *const *args)
{
	pid_t pid = tap_fork();

	if (!pid)
		run(d, args);
	return exit_code(pid);
}

void daemon_start(struct daemon *d, const char *const *args)
{
	size_t from = daemon_log_size(d);
	int64_t until = tap_now() + 30000000000ll * tap_slow;

	CHECK_EQ(d->pid, 0);
	d->pid = tap_fork();
	if (!d->pid)
		run(d, args);
	while (!daemon_said(d, from, "ready\n")) {
		int status;

		if (waitpid(d->pid, &status, WNOHANG) || tap_now() > until) {
			show_log(d);
			TAP_FAIL("sluiced does not start");
		}
		tap_sleep(2000000);
	}
}

void daemon_kill(struct daemon *d)
{
	tap_kill(d->pid);
	d->pid = 0;
}

int daemon_stop(struct daemon *d)
{
	pid_t pid = d->pid;
	int code;

	CHECK_SYS(kill(pid, SIGTERM));
	d->pid = 0;
	code = exit_code(pid);
	if (code)
		show_log(d);
	return code;
}

size_t daemon_log_size(const struct daemon *d)
{
	struct stat st;

	return stat(d->log, &st) ? 0 : (size_t)st.st_size;
}

bool daemon_said(const struct daemon *d, size_t from, const char *text)
{
	FILE *log = fopen(d->log, "re");
	char line[2048];
	bool found = false;

	if (!log)
		return false;
	CHECK_SYS(fseek(log, (long)from, SEEK_SET));
	while (!found && fgets(line, sizeof(line), log))
		found = strstr(line, text);
	fclose(log);
	return found;
}

int daemon_fds(const struct daemon *d)
{
	char path[64];
	DIR *dir;
	int count = -2; /* . and .. */

	snprintf(path, sizeof(path), "/proc/%d/fd", d->pid);
	dir = opendir(path);
	CHECK(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

__u32 daemon_map_id(int fd)
{
	struct bpf_map_info info = { 0 };
	union bpf_attr attr = {
		.info = { .bpf_fd = (__u32)fd,
			  .info_len = sizeof(info),
			  .info = (__u64)(uintptr_t)&info },
	};

	CHECK_SYS(bpf(BPF_OBJ_GET_INFO_BY_FD, &attr));
	return info.id;
}

bool daemon_map_exists(__u32 id)
{
	union bpf_attr attr = { .map_id = id };
	long fd = bpf(BPF_MAP_GET_FD_BY_ID, &attr);

	if (fd < 0) {
		CHECK_EQ(errno, ENOENT);
		return false;
	}
	close((int)fd);
	return true;
}

const char *daemon_config(const struct daemon *d, const char *text)
{
	static char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/sluiced.conf", d->dir);
	file = fopen(path, "we");
	CHECK(file);
	CHECK_GE(fputs(text, file), 0);
	CHECK_EQ(fclose(file), 0);
	return path;
}

/* A client ----------------------------------------------------------------- */

int daemon_connect(const struct daemon *d)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));

	(void)d;
	/* from the case's directory: others may not get there by its path */
	strcpy(name.sun_path, "control");
	CHECK_SYS(connect(fd, (struct sockaddr *)&name, sizeof(name)));
	return fd;
}

union control {
	char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct cmsghdr align;
};

void daemon_send(int fd, const void *bytes, size_t len, const int *fds,
		 int fd_count)
{
	union control control = { 0 };
	struct iovec iov = { (void *)bytes, len };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd_count) {
		message.msg_control = control.bytes;
		message.msg_controllen =
			CMSG_SPACE((size_t)fd_count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len =
			CMSG_LEN((size_t)fd_count * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds,
		       (size_t)fd_count * sizeof(int));
	}
	CHECK_EQ(CHECK_SYS(sendmsg(fd, &message, MSG_NOSIGNAL)), (ssize_t)len);
}

void daemon_receive(int fd, struct sluice_control *reply, int *fds,
		    int *fd_count, void *more, size_t *more_len)
{
	union control control;
	struct iovec iov[2] = { { reply, sizeof(*reply) },
				{ more, more ? *more_len : 0 } };
	struct msghdr message = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t len = CHECK_SYS(recvmsg(fd, &message, MSG_CMSG_CLOEXEC));
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	size_t fd_bytes = 0;

	CHECK_GE(len, (ssize_t)sizeof(*reply));
	CHECK_EQ(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC), 0);
	if (more_len)
		*more_len = (size_t)len - sizeof(*reply);
	if (header) {
		CHECK_EQ(header->cmsg_type, SCM_RIGHTS);
		fd_bytes = header->cmsg_len - CMSG_LEN(0);
		CHECK(fds);
		memcpy(fds, CMSG_DATA(header), fd_bytes);
	}
	if (fd_count)
		*fd_count = (int)(fd_bytes / sizeof(int));
}

struct sluice_control daemon_frame(__u16 type)
{
	static __u32 serial;

	return (struct sluice_control){
		.magic = SLUICE_CONTROL_MAGIC,
		.type = type,
		.serial = ++serial,
	};
}

int daemon_call(int fd, struct sluice_control *frame, int send_fd, int *fds,
		int *fd_count)
{
	struct sluice_control request = *frame;

	daemon_send(fd, frame, sizeof(*frame), &send_fd, send_fd >= 0);
	daemon_receive(fd, frame, fds, fd_count, NULL, NULL);
	CHECK_EQ(frame->magic, SLUICE_CONTROL_MAGIC);
	CHECK_EQ(frame->type, request.type);
	CHECK_EQ(frame->flags, SLUICE_CONTROL_F_REPLY);
	CHECK_EQ(frame->serial, request.serial);
	return (int)frame->error;
}

__u64 daemon_create(int fd, __u32 rings, int *fds)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_CREATE);
	int count;

	frame.create.rings = rings;
	frame.create.ring_slots = 64;
	frame.create.conns = 64;
	frame.create.landing[0] = 1;
	CHECK_EQ(daemon_call(fd, &frame, -1, fds, &count), 0);
	CHECK_EQ(count, (int)rings * 4);
	CHECK_NE(frame.endpoint, 0);
	return frame.endpoint;
}

int daemon_attach(int fd, __u64 endpoint, __u32 ring, __u32 conn, __u32 flags,
		  int socket)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_ATTACH);

	frame.endpoint = endpoint;
	frame.attach.ring = ring;
	frame.attach.conn = conn;
	frame.attach.flags = flags;
	return daemon_call(fd, &frame, socket, NULL, NULL);
}

int daemon_detach(int fd, __u64 endpoint, __u32 ring, __u32 conn)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_DETACH);

	frame.endpoint = endpoint;
	frame.attach.ring = ring;
	frame.attach.conn = conn;
	return daemon_call(fd, &frame, -1, NULL, NULL);
}

struct sluice_control_use daemon_query(int fd, __u16 flags)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_QUERY);

	frame.flags = flags;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), 0);
	return frame.use;
}

void daemon_become_nobody(void)
{
	CHECK_SYS(setgroups(0, NULL));
	CHECK_SYS(setresgid(NOBODY, NOBODY, NOBODY));
	CHECK_SYS(setresuid(NOBODY, NOBODY, NOBODY));
}
