/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Finding, loading and pinning the BPF objects; programs.h says what they are. */
#include "programs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <steer.h> /* for the skeletons */

#include <conns.skel.h>
#include <guard.skel.h>
#include <sockets.skel.h>
#include <steer.skel.h>

#include "adopt.h"
#include "log.h"
#include "pins.h"
#include "stream.h"

/* libbpf's complaints are held back until it is clear that loading failed. */
static char complaints[4096];

static int collect(enum libbpf_print_level level, const char *format,
		   va_list args)
{
	size_t len = strlen(complaints);

	if (level == LIBBPF_WARN)
		vsnprintf(complaints + len, sizeof(complaints) - len, format,
			  args);
	return 0;
}

static void report_complaints(enum log_level level)
{
	char *rest = complaints, *line;

	while ((line = strsep(&rest, "\n"))) {
		if (*line)
			log_write(level, "%s", line);
	}
	complaints[0] = 0;
}

/* Says what is likely to be missing. */
static void explain(int error)
{
	const char *why =
		"see the lines above; `sluicectl probe` looks at this kernel "
		"feature by feature";

	report_complaints(LOG_LEVEL_ERROR);
	if (error == -EPERM || error == -EACCES)
		why = "sluiced starts with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN "
		      "and CAP_SYS_ADMIN (run it as root), and a kernel that "
		      "is not locked down for confidentiality";
	else if (access("/sys/kernel/btf/vmlinux", R_OK))
		why = "this kernel has no /sys/kernel/btf/vmlinux: it needs "
		      "CONFIG_DEBUG_INFO_BTF=y";
	else if (error == -ENOSYS)
		why = "this kernel has no bpf(): it needs CONFIG_BPF_SYSCALL=y";
	log_error("cannot load the BPF programs: %s: %s", strerror(-error),
		  why);
}

/* Loading ----------------------------------------------------------------- */

static int pin_maps(const struct programs *programs)
{
	const struct {
		const char *name;
		int fd;
	} maps[] = {
		{ "conns", programs->conns },
		{ "rings", programs->rings },
		{ "landings", programs->landings },
		{ "controls", programs->controls },
		{ "doorbells", programs->doorbells },
		{ "counters", programs->counters },
	};

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
		int r = pin_object(programs->pin_dir, maps[i].name, maps[i].fd);

		if (r && r != -EEXIST)
			return r;
	}
	return 0;
}

/* The skeleton closes what is not duplicated. */
static int take(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int load(struct programs *programs, bool conn_counts)
{
	struct steer_bpf *skel = steer_bpf__open();
	int r = skel ? 0 : -errno;

	if (!r) {
		/* The compiler sees a const; the program is not loaded yet. */
		*(volatile __u32 *)&skel->rodata->steer_config.conn_counts =
			conn_counts;
		r = steer_bpf__load(skel);
	}
	if (r) {
		explain(r);
		steer_bpf__destroy(skel);
		return r;
	}
	programs->steer = take(bpf_program__fd(skel->progs.steer));
	programs->conns = take(bpf_map__fd(skel->maps.conns));
	programs->rings = take(bpf_map__fd(skel->maps.rings));
	programs->landings = take(bpf_map__fd(skel->maps.landings));
	programs->controls = take(bpf_map__fd(skel->maps.controls));
	programs->doorbells = take(bpf_map__fd(skel->maps.doorbells));
	programs->counters = take(bpf_map__fd(skel->maps.counters));
	steer_bpf__destroy(skel);
	if (programs->counters < 0)
		return -EMFILE;
	r = pin_maps(programs);
	if (!r)
		r = pin_object(programs->pin_dir, "steer", programs->steer);
	if (r)
		log_error("%s: cannot pin: %s", programs->pin_dir,
			  strerror(-r));
	return r;
}

static int load_guard(struct programs *programs)
{
	struct guard_bpf *skel = guard_bpf__open_and_load();
	int r = -errno;

	if (!skel) {
		explain(r);
		return r;
	}
	programs->guard = take(bpf_program__fd(skel->progs.guard));
	programs->refusals = take(bpf_map__fd(skel->maps.refusals));
	guard_bpf__destroy(skel);
	return programs->refusals < 0 ? -EMFILE : 0;
}

static int load_socket_list(struct programs *programs)
{
	struct sockets_bpf *skel = sockets_bpf__open_and_load();
	struct bpf_link *link = NULL;
	int r = -errno;

	if (skel) {
		link = bpf_program__attach_iter(skel->progs.socket_list, NULL);
		r = link ? 0 : -errno;
	}
	if (link)
		programs->socket_list = take(bpf_link__fd(link));
	bpf_link__destroy(link);
	sockets_bpf__destroy(skel);
	if (r)
		explain(r);
	return r;
}

/* `cat DIR/connections`: a convenience, so a failure is no reason to stop. */
static void pin_conn_list(struct programs *programs)
{
	struct conns_bpf *skel = conns_bpf__open();
	struct bpf_link *link = NULL;
	int r = -errno;

	if (skel) {
		bpf_map__set_pin_path(skel->maps.sluice_conns, NULL);
		r = bpf_map__reuse_fd(skel->maps.sluice_conns, programs->conns);
		r = r ? r : conns_bpf__load(skel);
		link = r ? NULL :
			   bpf_program__attach_iter(skel->progs.conn_list,
						    NULL);
		if (!r)
			r = link ? pin_object(programs->pin_dir, "connections",
					      bpf_link__fd(link)) :
				   -errno;
	}
	bpf_link__destroy(link);
	conns_bpf__destroy(skel);
	if (r && r != -EEXIST)
		log_warning("%s/connections: cannot pin the list: %s",
			    programs->pin_dir, strerror(-r));
	complaints[0] = 0;
}

void programs_open_stream(struct programs *programs)
{
	int r = stream_open(programs);

	if (!r)
		return;
	log_warning("what plain clients send over STREAM cannot be landed: %s",
		    strerror(-r));
	report_complaints(LOG_LEVEL_DEBUG);
	if (programs->streams >= 0)
		close(programs->streams);
	programs->streams = -1;
}

/* Opening ----------------------------------------------------------------- */

int programs_open(struct programs *programs, const char *pin_dir,
		  bool conn_counts)
{
	int r;

	*programs = (struct programs){
		.pin_dir = pin_dir,
		.lock = -1,
		.steer = -1,
		.conns = -1,
		.rings = -1,
		.landings = -1,
		.controls = -1,
		.doorbells = -1,
		.counters = -1,
		.guard = -1,
		.refusals = -1,
		.socket_list = -1,
		.stream_look = -1,
		.streams = -1,
	};
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	libbpf_set_print(collect);
	programs->lock = pins_lock(pin_dir);
	if (programs->lock < 0)
		return programs->lock;
	programs->steer = pin_open(pin_dir, "steer");
	if (programs->steer >= 0) {
		programs->adopted = true;
		r = adopt_maps(programs);
		if (!r)
			r = pin_maps(programs);
	} else if (programs->steer == -ENOENT) {
		r = pins_remove(pin_dir);
		if (!r)
			r = load(programs, conn_counts);
	} else {
		r = programs->steer;
		log_error("%s/steer: %s", pin_dir, strerror(-r));
	}
	if (!r)
		r = load_guard(programs);
	if (!r)
		r = load_socket_list(programs);
	if (!r)
		pin_conn_list(programs);
	return r;
}

int programs_walk_sockets(const struct programs *programs,
			  void (*found)(__u64 cookie, void *arg), void *arg)
{
	int fd = bpf_iter_create(programs->socket_list);
	__u64 cookies[512];
	ssize_t len;

	if (fd < 0)
		return -errno;
	/* the program writes whole cookies; so does each read return them */
	while ((len = read(fd, cookies, sizeof(cookies))) > 0) {
		for (size_t i = 0; i < (size_t)len / sizeof(cookies[0]); i++)
			found(cookies[i], arg);
		if (len % (ssize_t)sizeof(cookies[0])) {
			len = -1;
			errno = EPROTO;
			break;
		}
	}
	len = len < 0 ? -errno : 0;
	close(fd);
	return (int)len;
}

void programs_unpin(const struct programs *programs)
{
	if (!pins_remove(programs->pin_dir) && rmdir(programs->pin_dir))
		log_warning("%s: cannot remove: %s", programs->pin_dir,
			    strerror(errno));
}

void programs_close(struct programs *programs)
{
	const int fds[] = {
		programs->steer,    programs->conns,
		programs->rings,    programs->landings,
		programs->controls, programs->doorbells,
		programs->counters, programs->guard,
		programs->refusals, programs->socket_list,
		programs->lock,	    programs->stream_look,
		programs->streams,
	};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
}
