/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Probes of tracing programs, which run for an instant, count, and change
 * nothing.
 */
#include "probe-bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <liburing.h>

/*
 * Attaches a counting program to `hook` and calls provoke(), after which it must
 * have been called.
 */
static enum probe_result probe_hook(const char *hook, enum bpf_prog_type type,
				    enum bpf_attach_type attach,
				    void (*provoke)(void), char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = attach);
	struct counting counting;
	enum probe_result result;
	int id, fd;

	id = libbpf_find_vmlinux_btf_id(hook, attach);
	if (id <= 0)
		return probe_no(why, "the kernel has no %s", hook);
	opts.attach_btf_id = (__u32)id;
	result = counting_open(&counting, type, &opts, why);
	if (result != PROBE_YES)
		return result;
	fd = bpf_raw_tracepoint_open(NULL, counting.prog);
	if (fd < 0) {
		result = probe_failed(why, "attaching");
	} else {
		provoke();
		if (!counting_calls(&counting))
			result = probe_no(why, "attached, but never called");
		close(fd);
	}
	counting_close(&counting);
	return result;
}

static void provoke_io_uring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0))
		return;
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	io_uring_submit(&ring);
	io_uring_queue_exit(&ring);
}

static void provoke_socket(void)
{
	close(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static void provoke_read(void)
{
	int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
	char byte;

	if (read(fd, &byte, 1) < 0)
		errno = 0; /* the call is what counts */
	close(fd);
}

enum probe_result probe_tp_io_uring(char why[PROBE_WHY])
{
	/* The newer name first, then that of Linux 6.1. */
	const char *hook = "io_uring_submit_req";

	if (libbpf_find_vmlinux_btf_id(hook, BPF_TRACE_RAW_TP) <= 0)
		hook = "io_uring_submit_sqe";
	return probe_hook(hook, BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP,
			  provoke_io_uring, why);
}

enum probe_result probe_fentry(char why[PROBE_WHY])
{
	return probe_hook("vfs_read", BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY,
			  provoke_read, why);
}

enum probe_result probe_lsm(char why[PROBE_WHY])
{
	return probe_hook("socket_create", BPF_PROG_TYPE_LSM, BPF_LSM_MAC,
			  provoke_socket, why);
}

enum probe_result probe_iter_unix(char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		    .expected_attach_type = BPF_TRACE_ITER);
	struct counting counting;
	enum probe_result result;
	int id, link, iter = -1;
	char byte;

	id = libbpf_find_vmlinux_btf_id("unix", BPF_TRACE_ITER);
	if (id <= 0)
		return probe_no(why, "the kernel has no iter/unix");
	opts.attach_btf_id = (__u32)id;
	result = counting_open(&counting, BPF_PROG_TYPE_TRACING, &opts, why);
	if (result != PROBE_YES)
		return result;
	link = bpf_link_create(counting.prog, 0, BPF_TRACE_ITER, NULL);
	if (link >= 0)
		iter = bpf_iter_create(link);
	if (iter < 0 || read(iter, &byte, 1) < 0)
		result = probe_failed(why, "running the iterator");
	else if (!counting_calls(&counting))
		result = probe_no(why, "it lists nothing");
	if (iter >= 0)
		close(iter);
	if (link >= 0)
		close(link);
	counting_close(&counting);
	return result;
}

/* Type information of a program with nothing but an int; NULL: none. */
static struct btf *own_btf(void)
{
	struct btf *btf = btf__new_empty();

	if (btf && btf__add_int(btf, "int", sizeof(int), BTF_INT_SIGNED) > 0 &&
	    !btf__load_into_kernel(btf))
		return btf;
	btf__free(btf);
	return NULL;
}

/*
 * Whether the kernel makes a map for such operations: then it knows them. It
 * wants the type information of the program they are to come from as well.
 */
enum probe_result probe_uring_ops(char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_map_create_opts, opts);
	enum probe_result result = PROBE_YES;
	struct btf *btf = btf__load_vmlinux_btf(), *own;
	__s64 size;
	int id, map;

	if (!btf)
		return probe_failed(why, "/sys/kernel/btf/vmlinux");
	id = btf__find_by_name_kind(btf, "bpf_struct_ops_io_uring_bpf_ops",
				    BTF_KIND_STRUCT);
	size = id > 0 ? btf__resolve_size(btf, (__u32)id) : 0;
	btf__free(btf);
	if (id <= 0)
		return probe_no(why, "the kernel has no io_uring_bpf_ops");
	own = own_btf();
	if (!own)
		return probe_failed(why, "loading type information");
	opts.btf_fd = (__u32)btf__fd(own);
	opts.btf_vmlinux_value_type_id = (__u32)id;
	map = bpf_map_create(BPF_MAP_TYPE_STRUCT_OPS, "sluice_probe", 4,
			     (__u32)size, 1, &opts);
	if (map < 0)
		result = probe_failed(why, "creating the map");
	else
		close(map);
	btf__free(own);
	return result;
}
