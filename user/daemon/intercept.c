/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Attaching bpf/connect.bpf.c to cgroups; intercept.h. */
#include "intercept.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <connect.h>
#include <connect.skel.h>

#include "log.h"

/* BPF_CGROUP_UNIX_CONNECT, which older headers do not have. */
#define UNIX_CONNECT ((enum bpf_attach_type)49)

void intercepts_open(struct intercepts *intercepts)
{
	struct connect_bpf *program = connect_bpf__open();
	int r = -errno;

	if (program) {
		bpf_program__set_type(program->progs.connect_unix,
				      BPF_PROG_TYPE_CGROUP_SOCK_ADDR);
		bpf_program__set_expected_attach_type(
			program->progs.connect_unix, UNIX_CONNECT);
		r = connect_bpf__load(program);
	}
	if (!r &&
	    getrandom(&program->bss->nonce, sizeof(program->bss->nonce), 0) < 0)
		r = -errno;
	intercepts->error = r;
	intercepts->program = r ? NULL : program;
	if (r)
		connect_bpf__destroy(program);
}

void intercepts_close(struct intercepts *intercepts)
{
	connect_bpf__destroy(intercepts->program);
	intercepts->program = NULL;
}

/* The program learns who must not be intercepted, if it is in such a cgroup. */
static void say_who_we_are(const struct connect_bpf *program)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	__u64 nonce = program->bss->nonce;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	memcpy(name.sun_path + 1, &nonce, sizeof(nonce));
	/* nobody is there: it is refused */
	if (!connect(fd, (struct sockaddr *)&name,
		     (socklen_t)(sizeof(name.sun_family) + 1 + sizeof(nonce))))
		log_warning("somebody has a name that only sluiced knows");
	close(fd);
}

static int attach(const struct connect_bpf *program,
		  struct intercept *intercept, const char *cgroup)
{
	int fd = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), link, r = 0;

	if (fd < 0)
		return -errno;
	link = bpf_link_create(bpf_program__fd(program->progs.connect_unix), fd,
			       UNIX_CONNECT, NULL);
	if (link < 0)
		r = link;
	else
		intercept->links[intercept->count++] = link;
	close(fd);
	return r;
}

int intercept_start(const struct intercepts *intercepts,
		    struct intercept *intercept,
		    const struct service_config *config)
{
	const struct connect_bpf *program = intercepts->program;
	struct connect_path from = { 0 }, to = { 0 };

	if (!*config->intercept)
		return 0;
	if (!program) {
		log_error("service %s: cannot intercept, which takes Linux "
			  "6.7: %s",
			  config->name, strerror(-intercepts->error));
		return intercepts->error;
	}
	strcpy(from.path, config->intercept);
	strcpy(to.path, config->listen);
	if (bpf_map__update_elem(program->maps.intercepts, &from, sizeof(from),
				 &to, sizeof(to), BPF_ANY)) {
		log_error("service %s: cannot intercept: %s", config->name,
			  strerror(errno));
		return -errno;
	}
	strcpy(intercept->path, config->intercept);
	for (unsigned int i = 0; i < config->cgroups.count; i++) {
		const char *cgroup = config->cgroups.path[i];
		int r = attach(program, intercept, cgroup);

		if (!r)
			continue;
		log_error("service %s: cannot intercept in %s: %s",
			  config->name, cgroup, strerror(-r));
		intercept_stop(intercepts, intercept);
		return r;
	}
	say_who_we_are(program);
	return 0;
}

void intercept_stop(const struct intercepts *intercepts,
		    struct intercept *intercept)
{
	struct connect_path from = { 0 };

	while (intercept->count)
		close(intercept->links[--intercept->count]);
	if (!*intercept->path)
		return;
	strcpy(from.path, intercept->path);
	bpf_map__delete_elem(intercepts->program->maps.intercepts, &from,
			     sizeof(from), 0);
	intercept->path[0] = 0;
}
