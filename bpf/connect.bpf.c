/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Transparent services: what a process of a chosen cgroup connects to a server's
 * own path goes to the service. Linux 6.7 or later. sluiced attaches it by links
 * that nobody pins: when sluiced ends, however it does, connects go to the path
 * that they name again.
 *
 * Paths are compared as they are given: absolute, as in the configuration.
 *
 * sluiced's own connects, to the server behind the service, stay as they are. It
 * makes itself known by connecting to an abstract name that nobody else knows: so
 * its id here does not depend on namespaces.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "connect.h"
#include "vmlinux.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PROCEED 1
#define FAMILY_SIZE 2 /* bytes before the path */

extern void *bpf_cast_to_kern_ctx(void *context) __ksym;
extern int bpf_sock_addr_set_sun_path(struct bpf_sock_addr_kern *address,
				      const __u8 *sun_path,
				      __u32 sun_path__sz) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECT_INTERCEPTS);
	__type(key, struct connect_path);
	__type(value, struct connect_path);
} intercepts SEC(".maps");

__u64 nonce; /* set before it is attached, not 0 */
__u32 own; /* thread group of sluiced, once it is known */

static __always_inline __u32 thread_group(void)
{
	return (__u32)(bpf_get_current_pid_tgid() >> 32);
}

/* Whether it is the name that sluiced says who it is with. */
static __always_inline int is_nonce(const void *address, __u32 size)
{
	__u64 number = 0;

	if (size != FAMILY_SIZE + 1 + sizeof(number))
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number),
			      address + FAMILY_SIZE + 1);
	return nonce && number == nonce;
}

/* Its type and attach type are set when it is loaded: libbpf may not know them. */
SEC("cgroup/connect_unix")
int connect_unix(struct bpf_sock_addr *context)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(context);
	const void *address = BPF_CORE_READ(kern, uaddr);
	__u32 size = BPF_CORE_READ(kern, uaddrlen);
	struct connect_path path = { 0 }, *service;

	if (size <= FAMILY_SIZE || size > FAMILY_SIZE + CONNECT_PATH)
		return PROCEED;
	size -= FAMILY_SIZE;
	/* what lies behind the address is not part of it */
	bpf_probe_read_kernel_str(path.path, size + 1, address + FAMILY_SIZE);
	if (!path.path[0]) {
		if (is_nonce(address, size + FAMILY_SIZE))
			own = thread_group();
		return PROCEED;
	}
	service = bpf_map_lookup_elem(&intercepts, &path);
	if (service && thread_group() != own)
		bpf_sock_addr_set_sun_path(kern, (__u8 *)service->path,
					   CONNECT_PATH);
	return PROCEED;
}
