/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Loading bpf/sockmap.bpf.c, and changing its maps; sockmap.h says more. */
#include "sockmap.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sockmap.skel.h>

#include "pins.h"

#define FLOWS_BYTES (SOCKMAP_FLOWS * sizeof(struct sockmap_flow))
#define LOOK_PACKET 64 /* bytes of a packet that the kernel takes for one */

/* The skeleton closes what is not duplicated. */
static int take(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int map_flows(struct sockmap *sockmap)
{
	void *at = mmap(NULL, FLOWS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			sockmap->flows_fd, 0);

	if (at == MAP_FAILED)
		return -errno;
	sockmap->flows = at;
	return 0;
}

int sockmap_open(struct sockmap *sockmap)
{
	struct sockmap_bpf *skel;
	int r;

	*sockmap = (struct sockmap){
		.redirect = -1,
		.look = -1,
		.sources = -1,
		.targets = -1,
		.flow_of = -1,
		.flows_fd = -1,
		.redirects = -1,
	};
	skel = sockmap_bpf__open();
	if (!skel)
		return -errno;
	bpf_program__set_expected_attach_type(skel->progs.redirect,
					      BPF_SK_SKB_VERDICT);
	r = sockmap_bpf__load(skel);
	if (r) {
		sockmap_bpf__destroy(skel);
		return r;
	}
	sockmap->redirect = take(bpf_program__fd(skel->progs.redirect));
	sockmap->look = take(bpf_program__fd(skel->progs.look));
	sockmap->sources = take(bpf_map__fd(skel->maps.sources));
	sockmap->targets = take(bpf_map__fd(skel->maps.targets));
	sockmap->flow_of = take(bpf_map__fd(skel->maps.flow_of));
	sockmap->flows_fd = take(bpf_map__fd(skel->maps.flows));
	sockmap->redirects = take(bpf_map__fd(skel->maps.redirects));
	sockmap_bpf__destroy(skel);
	if (sockmap->redirects < 0)
		r = -EMFILE;
	else if (bpf_prog_attach(sockmap->redirect, sockmap->sources,
				 BPF_SK_SKB_VERDICT, 0))
		r = -errno;
	else
		r = map_flows(sockmap);
	if (!r)
		r = fence_open(&sockmap->fence);
	if (r)
		sockmap_close(sockmap);
	return r;
}

void sockmap_close(struct sockmap *sockmap)
{
	const int fds[] = {
		sockmap->redirect,  sockmap->look,    sockmap->sources,
		sockmap->targets,   sockmap->flow_of, sockmap->flows_fd,
		sockmap->redirects,
	};

	if (sockmap->fence)
		fence_close(sockmap->fence);
	sockmap->fence = NULL;
	if (sockmap->flows)
		munmap(sockmap->flows, FLOWS_BYTES);
	sockmap->flows = NULL;
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
}

int sockmap_pin(const struct sockmap *sockmap, const char *pin_dir)
{
	const struct {
		const char *name;
		int fd;
	} objects[] = {
		{ "redirect", sockmap->redirect },
		{ "sources", sockmap->sources },
		{ "targets", sockmap->targets },
		{ "flow_of", sockmap->flow_of },
		{ "flows", sockmap->flows_fd },
		{ "redirects", sockmap->redirects },
	};

	for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
		int r;

		/* an earlier sluiced's, of no use any more */
		pin_remove(pin_dir, objects[i].name);
		r = pin_object(pin_dir, objects[i].name, objects[i].fd);
		if (r)
			return r;
	}
	return 0;
}

uint64_t sockmap_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) ? 0 :
								      cookie;
}

int sockmap_add_target(const struct sockmap *sockmap, int fd, uint64_t cookie)
{
	uint64_t socket = (uint64_t)fd;

	return bpf_map_update_elem(sockmap->targets, &cookie, &socket,
				   BPF_NOEXIST) ?
		       -errno :
		       0;
}

int sockmap_add_source(const struct sockmap *sockmap, int fd, uint64_t cookie,
		       uint32_t index)
{
	uint64_t socket = (uint64_t)fd;
	int r;

	if (bpf_map_update_elem(sockmap->flow_of, &cookie, &index, BPF_NOEXIST))
		return -errno;
	if (!bpf_map_update_elem(sockmap->sources, &cookie, &socket,
				 BPF_NOEXIST))
		return 0;
	r = -errno;
	sockmap_forget(sockmap, cookie);
	return r;
}

void sockmap_forget(const struct sockmap *sockmap, uint64_t cookie)
{
	bpf_map_delete_elem(sockmap->flow_of, &cookie);
}

uint32_t sockmap_look(const struct sockmap *sockmap, uint64_t cookie)
{
	uint64_t packet[LOOK_PACKET / sizeof(uint64_t)] = { cookie };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet,
		    .data_size_in = sizeof(packet), .repeat = 1);

	if (bpf_prog_test_run_opts(sockmap->look, &run))
		return 0;
	return run.retval;
}
