/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Probes of BPF programs on sockets, and of their maps. Programs are run by
 * sending a message to a socket that has them as its filter.
 */
#include "probe-bpf.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "bpf-insn.h"

#define MAP_TYPE_ARENA 33 /* Linux 6.9 */
#define PAGE 4096

enum probe_result counting_open(struct counting *counting,
				enum bpf_prog_type type,
				struct bpf_prog_load_opts *opts,
				char why[PROBE_WHY])
{
	enum probe_result result;
	struct bpf_insn insns[16];
	unsigned int n;

	counting->prog = -1;
	counting->map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "sluice_probe", 4, 8,
				       1, NULL);
	if (counting->map < 0)
		return probe_failed(why, "creating a map");
	n = insn_lookup(insns, counting->map);
	insns[n++] = INSN_SKIP_IF(BPF_JEQ, 0, 0, 2);
	insns[n++] = INSN_MOV(1, 1);
	insns[n++] = insn(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD);
	n += insn_return(insns + n, 0);
	counting->prog = bpf_prog_load(type, "sluice_probe", PROBE_LICENCE,
				       insns, n, opts);
	if (counting->prog >= 0)
		return PROBE_YES;
	result = probe_failed(why, "loading the program");
	counting_close(counting);
	return result;
}

__u64 counting_calls(const struct counting *counting)
{
	const __u32 key = 0;
	__u64 calls = 0;

	bpf_map_lookup_elem(counting->map, &key, &calls);
	return calls;
}

void counting_close(struct counting *counting)
{
	if (counting->prog >= 0)
		close(counting->prog);
	close(counting->map);
}

enum probe_result probe_bpf_load(char why[PROBE_WHY])
{
	struct counting counting;
	enum probe_result result;

	result = counting_open(&counting, BPF_PROG_TYPE_SOCKET_FILTER, NULL,
			       why);
	if (result == PROBE_YES)
		counting_close(&counting);
	return result;
}

enum probe_result probe_helpers(char why[PROBE_WHY])
{
	static const struct {
		enum bpf_func_id id;
		const char *name;
	} helpers[] = {
		{ BPF_FUNC_skb_load_bytes, "bpf_skb_load_bytes" },
		{ BPF_FUNC_probe_read_kernel, "bpf_probe_read_kernel" },
		{ BPF_FUNC_ringbuf_output, "bpf_ringbuf_output" },
		{ BPF_FUNC_get_socket_cookie, "bpf_get_socket_cookie" },
		{ BPF_FUNC_loop, "bpf_loop" },
	};
	/* libbpf takes a program that is refused for one that knows the helper. */
	enum probe_result result = probe_bpf_load(why);
	unsigned int i;

	for (i = 0;
	     result == PROBE_YES && i < sizeof(helpers) / sizeof(helpers[0]);
	     i++) {
		if (libbpf_probe_bpf_helper(BPF_PROG_TYPE_SOCKET_FILTER,
					    helpers[i].id, NULL) != 1)
			result =
				probe_no(why, "%s is refused", helpers[i].name);
	}
	return result;
}

enum probe_result probe_btf(char why[PROBE_WHY])
{
	struct btf *btf = btf__load_vmlinux_btf();

	if (!btf)
		return probe_failed(why, "/sys/kernel/btf/vmlinux");
	btf__free(btf);
	return PROBE_YES;
}

/* Sends one message to a socket with this filter; 0, 1 if it came out, -errno. */
static int filter_run(int prog, int type)
{
	char byte = 'x';
	int ends[2], ret;
	ssize_t n;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends))
		return -errno;
	ret = setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_BPF, &prog,
			 sizeof(prog));
	if (!ret)
		ret = send(ends[0], &byte, 1, MSG_DONTWAIT) == 1 ? 0 : -1;
	ret = ret ? -errno : 0;
	n = ret ? 0 : recv(ends[1], &byte, 1, MSG_DONTWAIT);
	close(ends[0]);
	close(ends[1]);
	return n > 0 ? 1 : ret;
}

static enum probe_result probe_filter(int type, char why[PROBE_WHY])
{
	struct counting counting;
	enum probe_result result;
	int ret;

	result = counting_open(&counting, BPF_PROG_TYPE_SOCKET_FILTER, NULL,
			       why);
	if (result != PROBE_YES)
		return result;
	ret = filter_run(counting.prog, type);
	if (ret < 0) {
		errno = -ret;
		result = probe_failed(why, "SO_ATTACH_BPF or send");
	} else if (!counting_calls(&counting)) {
		result = probe_no(why, "the filter never runs");
	} else if (ret) {
		result = probe_no(why, "it runs, but the message stays");
	}
	counting_close(&counting);
	return result;
}

enum probe_result probe_filter_seqpacket(char why[PROBE_WHY])
{
	return probe_filter(SOCK_SEQPACKET, why);
}

enum probe_result probe_filter_dgram(char why[PROBE_WHY])
{
	return probe_filter(SOCK_DGRAM, why);
}

enum probe_result probe_filter_stream(char why[PROBE_WHY])
{
	return probe_filter(SOCK_STREAM, why);
}

/* A program that stores 42 at the start of the map that `outer` leads to. */
static int store_through(int outer)
{
	struct bpf_insn insns[24];
	unsigned int n;
	int prog, ret;

	n = insn_lookup(insns, outer);
	insns[n++] = INSN_SKIP_IF(BPF_JEQ, 0, 0, 7);
	insns[n++] = INSN_MOV_REG(1, 0);
	n += insn_lookup(insns + n, -1);
	insns[n++] = INSN_SKIP_IF(BPF_JEQ, 0, 0, 1);
	insns[n++] = INSN_STORE(BPF_DW, 0, 0, 42);
	n += insn_return(insns + n, 0);
	prog = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "sluice_probe",
			     PROBE_LICENCE, insns, n, NULL);
	if (prog < 0)
		return -errno;
	ret = filter_run(prog, SOCK_SEQPACKET);
	close(prog);
	return ret;
}

static enum probe_result try_frozen(int inner, int outer, char why[PROBE_WHY])
{
	const __u32 key = 0;
	volatile __u64 *view;
	enum probe_result result = PROBE_YES;
	void *memory;
	int ret;

	if (bpf_map_freeze(inner))
		return probe_failed(why, "BPF_MAP_FREEZE");
	if (bpf_map_update_elem(outer, &key, &inner, 0))
		return probe_failed(why, "putting an array into another map");
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, inner, 0);
	if (memory != MAP_FAILED) {
		munmap(memory, PAGE);
		return probe_no(why, "user space may still write");
	}
	memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, inner, 0);
	if (memory == MAP_FAILED)
		return probe_failed(why, "mapping a frozen array");
	view = memory;
	ret = store_through(outer);
	if (ret < 0) {
		errno = -ret;
		result = probe_failed(why, "running the program");
	} else if (*view != 42) {
		result = probe_no(why, "what BPF wrote does not show");
	}
	munmap(memory, PAGE);
	return result;
}

enum probe_result probe_frozen_array(char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_map_create_opts, inner_opts,
		    .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	LIBBPF_OPTS(bpf_map_create_opts, outer_opts);
	int template, inner, outer;
	enum probe_result result;

	template = bpf_map_create(BPF_MAP_TYPE_ARRAY, "sluice_probe", 4, 64, 1,
				  &inner_opts);
	inner = bpf_map_create(BPF_MAP_TYPE_ARRAY, "sluice_probe", 4, 64,
			       PAGE / 64, &inner_opts);
	outer_opts.inner_map_fd = (__u32) template;
	outer = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "sluice_probe", 4, 4,
			       1, &outer_opts);
	result = template <0 || inner < 0 || outer < 0 ?
				   probe_failed(why,
						"creating an array of maps") :
				   try_frozen(inner, outer, why);
	close(template);
	close(inner);
	close(outer);
	return result;
}

static int load_ringing(int ringbuf)
{
	struct bpf_insn insns[16];
	unsigned int n = 0;

	insns[n++] = INSN_STORE(BPF_DW, 10, -8, 0);
	n += insn_map(insns + n, 1, ringbuf);
	insns[n++] = INSN_MOV_REG(2, 10);
	insns[n++] = INSN_ADD(2, -8);
	insns[n++] = INSN_MOV(3, 8);
	insns[n++] = INSN_MOV(4, BPF_RB_FORCE_WAKEUP);
	insns[n++] = INSN_CALL(BPF_FUNC_ringbuf_output);
	n += insn_return(insns + n, 0);
	return bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "sluice_probe",
			     PROBE_LICENCE, insns, n, NULL);
}

enum probe_result probe_ringbuf(char why[PROBE_WHY])
{
	enum probe_result result = PROBE_YES;
	struct pollfd bell = { .events = POLLIN };
	int prog, ret;

	bell.fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "sluice_probe", 0, 0,
				 PAGE, NULL);
	if (bell.fd < 0)
		return probe_failed(why, "creating a ring buffer");
	prog = load_ringing(bell.fd);
	if (prog < 0) {
		result = probe_failed(why, "loading the program");
	} else {
		ret = filter_run(prog, SOCK_SEQPACKET);
		if (ret || poll(&bell, 1, 1000) != 1)
			result = probe_no(why, "poll() does not wake");
		close(prog);
	}
	close(bell.fd);
	return result;
}

enum probe_result probe_arena(char why[PROBE_WHY])
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	volatile char *memory;
	int map;

	map = bpf_map_create((enum bpf_map_type)MAP_TYPE_ARENA, "sluice_probe",
			     0, 0, 1, &opts);
	if (map < 0 && errno == EINVAL)
		return probe_no(why, "no such map type");
	if (map < 0)
		return probe_failed(why, "creating the map");
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
	close(map);
	if (memory == MAP_FAILED)
		return probe_failed(why, "mapping it");
	memory[0] = 1;
	munmap((void *)memory, PAGE);
	return PROBE_YES;
}
