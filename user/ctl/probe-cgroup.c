/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Probes of cgroup programs. Each makes a cgroup of its own for one child, in a
 * private mount of the hierarchy, and removes it.
 */
#include "probe-bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <liburing.h>

#include "bpf-insn.h"

#define ATTACH_UNIX_CONNECT 49 /* BPF_CGROUP_UNIX_CONNECT, Linux 6.7 */
#define URING_CMD_SETSOCKOPT 3 /* SOCKET_URING_OP_SETSOCKOPT, Linux 6.7 */
#define OPTION_LEVEL 0x534c /* nobody's */
#define OPTION_NAME 1

int private_mount(const char *type)
{
	int fs = fsopen(type, FSOPEN_CLOEXEC), tree = -1, error;

	if (fs < 0)
		return -1;
	if (!fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		tree = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	error = errno;
	close(fs);
	errno = error;
	return tree;
}

struct group {
	int tree; /* the hierarchy */
	int fd; /* the cgroup */
	char name[32];
};

static enum probe_result group_open(struct group *group, char why[PROBE_WHY])
{
	enum probe_result result;

	group->tree = private_mount("cgroup2");
	if (group->tree < 0)
		return probe_failed(why, "mounting cgroup2");
	snprintf(group->name, sizeof(group->name), "sluice-probe-%d", getpid());
	if (mkdirat(group->tree, group->name, 0700)) {
		result = probe_failed(why, "making a cgroup");
		close(group->tree);
		return result;
	}
	group->fd = openat(group->tree, group->name,
			   O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return PROBE_YES;
}

static void group_close(struct group *group)
{
	close(group->fd);
	unlinkat(group->tree, group->name, AT_REMOVEDIR);
	close(group->tree);
}

/* What try() returns to a child in the cgroup: 0 or a positive errno; or -1. */
static int group_run(const struct group *group, int (*try)(void))
{
	int status = 0, procs;
	pid_t pid = fork();

	if (!pid) {
		procs = openat(group->fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
		if (procs < 0 || write(procs, "0", 1) != 1)
			_exit(255);
		close(procs);
		_exit(try());
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	    WEXITSTATUS(status) == 255)
		return -1;
	return WEXITSTATUS(status);
}

/* Attaches prog to a new cgroup and calls try() there; *got is its answer. */
static enum probe_result in_group(int prog, int type, int (*try)(void),
				  int *got, char why[PROBE_WHY])
{
	enum probe_result result;
	struct group group;

	result = group_open(&group, why);
	if (result != PROBE_YES)
		return result;
	if (bpf_prog_attach(prog, group.fd, (enum bpf_attach_type)type, 0))
		result = probe_failed(why, "attaching to a cgroup");
	else if ((*got = group_run(&group, try)) < 0)
		result = probe_no(why, "cannot start a process in a cgroup");
	group_close(&group);
	return result;
}

/* Connects to a socket that listens in the same process. */
static int try_connect(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(name);
	int server, client;

	server = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (bind(server, (struct sockaddr *)&name, sizeof(sa_family_t)) ||
	    listen(server, 1) ||
	    getsockname(server, (struct sockaddr *)&name, &len))
		return errno;
	return connect(client, (struct sockaddr *)&name, len) ? errno : 0;
}

enum probe_result probe_connect_unix(char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		    .expected_attach_type =
			    (enum bpf_attach_type)ATTACH_UNIX_CONNECT);
	struct counting counting;
	enum probe_result result;
	int got = 0;

	result = counting_open(&counting, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, &opts,
			       why);
	if (result != PROBE_YES)
		return result;
	result = in_group(counting.prog, ATTACH_UNIX_CONNECT, try_connect, &got,
			  why);
	if (result == PROBE_YES && !counting_calls(&counting))
		result = probe_no(why, "the program does not run");
	else if (result == PROBE_YES && got != EPERM)
		result = probe_no(why, "connect() is not denied");
	counting_close(&counting);
	return result;
}

/* if (ctx->level == OPTION_LEVEL) ctx->optlen = -1 (handled); return 1 */
static int load_sockopt(void)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		    .expected_attach_type = BPF_CGROUP_SETSOCKOPT);
	struct bpf_insn insns[8];
	unsigned int n = 0;

	insns[n++] =
		INSN_LOAD(BPF_W, 2, 1, offsetof(struct bpf_sockopt, level));
	insns[n++] = INSN_SKIP_IF(BPF_JNE, 2, OPTION_LEVEL, 2);
	insns[n++] = INSN_MOV(2, -1);
	insns[n++] = insn(BPF_STX | BPF_MEM | BPF_W, 1, 2,
			  offsetof(struct bpf_sockopt, optlen), 0);
	n += insn_return(insns + n, 1);
	return bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCKOPT, "sluice_probe",
			     PROBE_LICENCE, insns, n, &opts);
}

static enum probe_result probe_sockopt(int (*try)(void), char why[PROBE_WHY])
{
	enum probe_result result;
	int prog = load_sockopt(), got = 0;

	if (prog < 0)
		return probe_failed(why, "loading the program");
	result = in_group(prog, BPF_CGROUP_SETSOCKOPT, try, &got, why);
	if (result == PROBE_YES && got)
		result = probe_no(why, "setting the option: %s", strerror(got));
	close(prog);
	return result;
}

static int try_setsockopt(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), value = 0;

	return setsockopt(fd, OPTION_LEVEL, OPTION_NAME, &value,
			  sizeof(value)) ?
		       errno :
		       0;
}

enum probe_result probe_cgroup_sockopt(char why[PROBE_WHY])
{
	return probe_sockopt(try_setsockopt, why);
}

/* struct io_uring_sqe as the command has it; older headers lack the names. */
struct sqe_sockopt {
	__u8 opcode, flags;
	__u16 ioprio;
	__s32 fd;
	__u32 cmd_op, pad;
	__u32 level, optname;
	__u32 len, cmd_flags;
	__u64 user_data;
	__u16 buf, personality;
	__u32 optlen;
	__u64 optval, pad2;
};

_Static_assert(sizeof(struct sqe_sockopt) == sizeof(struct io_uring_sqe), "");

static int try_uring_setsockopt(void)
{
	struct sqe_sockopt sqe = {
		.opcode = IORING_OP_URING_CMD,
		.fd = socket(AF_UNIX, SOCK_SEQPACKET, 0),
		.cmd_op = URING_CMD_SETSOCKOPT,
		.level = OPTION_LEVEL,
		.optname = OPTION_NAME,
		.optlen = sizeof(int),
	};
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int ret, value = 0;

	sqe.optval = (__u64)(uintptr_t)&value;
	ret = io_uring_queue_init(2, &ring, 0);
	if (ret)
		return -ret;
	memcpy(io_uring_get_sqe(&ring), &sqe, sizeof(sqe));
	ret = io_uring_submit_and_wait(&ring, 1);
	if (ret < 0)
		return -ret;
	ret = io_uring_peek_cqe(&ring, &cqe);
	return ret ? -ret : -cqe->res;
}

enum probe_result probe_uring_sockopt(char why[PROBE_WHY])
{
	return probe_sockopt(try_uring_setsockopt, why);
}
