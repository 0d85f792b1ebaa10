/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The loop of the main thread; server.h says what else is its. */
#include "server.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <guard.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "foreign.h"
#include "log.h"
#include "loop.h"
#include "metrics.h"
#include "options.h"
#include "privileges.h"
#include "request.h"
#include "run.h"
#include "service.h"

#define EVENTS_PER_ROUND 64

int64_t server_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int server_watch(struct server *server, struct source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (!epoll_ctl(server->epoll, EPOLL_CTL_MOD, source->fd, &event) ||
	    (errno == ENOENT &&
	     !epoll_ctl(server->epoll, EPOLL_CTL_ADD, source->fd, &event)))
		return 0;
	return -errno;
}

void server_free_later(struct server *server, struct source *source)
{
	source->fd = -1;
	source->gone = server->gone;
	server->gone = source;
}

static void free_gone(struct server *server)
{
	while (server->gone) {
		struct source *source = server->gone;

		server->gone = source->gone;
		free(source);
	}
}

/* Signals ----------------------------------------------------------------- */

/* What cannot change while sluiced runs stays, and it says so. */
static void keep_fixed(const struct config *old, struct config *new)
{
	if (strcmp(old->path, new->path) || old->mode != new->mode ||
	    strcmp(old->group, new->group) ||
	    strcmp(old->pin_dir, new->pin_dir) ||
	    old->conn_counts != new->conn_counts ||
	    old->switch_engine != new->switch_engine ||
	    strcmp(old->metrics_socket, new->metrics_socket) ||
	    old->metrics_mode != new->metrics_mode ||
	    strcmp(old->metrics_group, new->metrics_group))
		log_warning(
			"paths, modes and groups of sockets, pin_dir, "
			"conn_counts and switch change at the next start only");
	strcpy(new->path, old->path);
	new->mode = old->mode;
	strcpy(new->group, old->group);
	strcpy(new->pin_dir, old->pin_dir);
	new->conn_counts = old->conn_counts;
	new->switch_engine = old->switch_engine;
	strcpy(new->metrics_socket, old->metrics_socket);
	new->metrics_mode = old->metrics_mode;
	strcpy(new->metrics_group, old->metrics_group);
}

static void reload(struct server *server)
{
	struct config config;
	char error[512];

	sd_notify(0, "RELOADING=1");
	if (options_config(server->options, &config, error, sizeof(error))) {
		log_error("%s; the old configuration stays", error);
		config_free(&config);
	} else {
		keep_fixed(&server->config, &config);
		config_free(&server->config);
		server->config = config;
		services_apply(server);
		metrics_write(server, server_now());
		log_set_level(config.log_level);
		log_info("configuration read again");
	}
	sd_notify(0, "READY=1");
}

static void on_signal(struct server *server, struct source *source,
		      uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	while (read(source->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			reload(server);
		} else {
			log_info("%s: ending", strsignal((int)info.ssi_signo));
			server->stopping = true;
		}
	}
}

static void on_jobs(struct server *server, struct source *source,
		    uint32_t events)
{
	struct job *jobs = worker_done(server->worker), *job;

	(void)source;
	(void)events;
	while ((job = jobs)) {
		jobs = job->next;
		request_finish(server, job);
	}
}

/* Starting ---------------------------------------------------------------- */

static int on_refusal(void *arg, void *data, size_t size)
{
	const struct guard_refusal *refusal = data;

	(void)size;
	client_refused(arg, refusal->cookie, refusal->frame.type,
		       refusal->frame.serial, refusal->fds);
	return 0;
}

static void on_refusals(struct server *server, struct source *source,
			uint32_t events)
{
	(void)source;
	(void)events;
	ring_buffer__consume(server->refused);
}

static int watch_refusals(struct server *server)
{
	server->refused = ring_buffer__new(server->programs.refusals,
					   on_refusal, server, NULL);
	if (!server->refused)
		return -errno;
	server->refusals = (struct source){
		.ready = on_refusals,
		.fd = ring_buffer__epoll_fd(server->refused),
	};
	return server_watch(server, &server->refusals, EPOLLIN);
}

static int start_loop(struct server *server)
{
	sigset_t signals;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	server->epoll = epoll_create1(EPOLL_CLOEXEC);
	server->signals = (struct source){
		.ready = on_signal,
		.fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK),
	};
	server->jobs = (struct source){
		.ready = on_jobs,
		.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	};
	if (server->epoll < 0 || server->signals.fd < 0 || server->jobs.fd < 0)
		return -errno;
	r = server_watch(server, &server->signals, EPOLLIN);
	return r ? r : server_watch(server, &server->jobs, EPOLLIN);
}

/* 0, or -errno if it must be there and cannot. */
static int load_switch(struct server *server)
{
	enum switch_engine engine = server->config.switch_engine;
	int r;

	if (engine == SWITCH_ENGINE_USER)
		return 0;
	r = loop_load(&server->loop);
	if (!r)
		return 0;
	if (engine == SWITCH_ENGINE_AUTO) {
		log_debug("the switch is in user space: %s", strerror(-r));
		return 0;
	}
	log_error("switch = kernel: %s (see uring-ops in sluicectl probe)",
		  strerror(-r));
	return r;
}

static int open_programs(struct server *server)
{
	int r = programs_open(&server->programs, server->config.pin_dir,
			      server->config.conn_counts);

	server->no_bpf = r && r != -EBUSY;
	if (r)
		return r;
	server->sockmap_error = sockmap_open(&server->sockmap);
	if (!server->sockmap_error)
		sockmap_pin(&server->sockmap, server->config.pin_dir);
	/* also if no service lands: one that a reload brings finds it */
	programs_open_stream(&server->programs);
	intercepts_open(&server->intercepts);
	urings_open(&server->urings, server->config.pin_dir);
	return load_switch(server);
}

int server_start(struct server *server)
{
	int r;

	privileges_raise_files();
	r = start_loop(server);
	if (r)
		log_error("cannot start: %s", strerror(-r));
	if (!r)
		r = open_programs(server);
	if (!r) {
		r = maps_grace_init();
		r = r ? r : watch_refusals(server);
		r = r ? r : foreign_init();
		if (r)
			log_error("cannot start: %s", strerror(-r));
	}
	if (!r)
		r = takeover(server);
	if (!r)
		r = listener_open(server);
	if (!r)
		scrape_open(server);
	if (!r)
		services_clear(&server->config);
	if (!r)
		r = privileges_drop(services_have_owners(&server->config),
				    services_redirect(&server->config) ||
					    services_land(&server->config));
	if (!r)
		r = worker_start(&server->worker, &server->programs,
				 server->jobs.fd);
	server->sweep_at = server_now();
	if (r)
		return r;
	services_apply(server);
	metrics_write(server, server_now());
	return 0;
}

/* Running ----------------------------------------------------------------- */

static void run_deadlines(struct server *server)
{
	int64_t now = server_now();

	if (server->listen_at && now >= server->listen_at)
		listener_resume(server);
	if (server->orphans_until && now >= server->orphans_until)
		takeover_expire(server);
	if (server->services->tick_at && now >= server->services->tick_at)
		services_tick(server);
	if (server->urings.tidy_at && now >= server->urings.tidy_at)
		uring_tidy(&server->urings);
	metrics_tick(server, now);
	if (now >= server->sweep_at) {
		sweep(server);
		urings_sweep(server);
		server->sweep_at = now + (int64_t)server->config.sweep_seconds *
						 1000000000;
	}
}

/* Milliseconds until something is due, for epoll_wait(). */
static int time_left(const struct server *server)
{
	int64_t next = server->sweep_at, left;
	int64_t metrics = metrics_due(&server->metrics);

	if (server->listen_at && server->listen_at < next)
		next = server->listen_at;
	if (server->orphans_until && server->orphans_until < next)
		next = server->orphans_until;
	if (server->services->tick_at && server->services->tick_at < next)
		next = server->services->tick_at;
	if (server->urings.tidy_at && server->urings.tidy_at < next)
		next = server->urings.tidy_at;
	if (metrics && metrics < next)
		next = metrics;
	left = next - server_now();
	return left <= 0 ? 0 : (int)(left / 1000000 + 1);
}

int server_run(struct server *server)
{
	struct epoll_event events[EVENTS_PER_ROUND];
	int count;

	while (!server->stopping) {
		count = epoll_wait(server->epoll, events, EVENTS_PER_ROUND,
				   time_left(server));
		if (count < 0 && errno != EINTR) {
			log_error("epoll_wait: %s", strerror(errno));
			return -errno;
		}
		for (int i = 0; i < count; i++) {
			struct source *source = events[i].data.ptr;

			if (source->fd >= 0)
				source->ready(server, source, events[i].events);
		}
		client_reap(server);
		free_gone(server);
		run_deadlines(server);
	}
	return 0;
}

/* Ending ------------------------------------------------------------------ */

/* Messages go to the sockets' queues from here on. */
static void remove_all(struct server *server)
{
	uint64_t cookie;

	while (!bpf_map_get_next_key(server->programs.conns, NULL, &cookie) &&
	       !bpf_map_delete_elem(server->programs.conns, &cookie))
		;
	for (uint32_t ring = 0; ring < STEER_RINGS; ring++) {
		if (server->tables.endpoints[ring])
			maps_withdraw(&server->programs, ring);
	}
	programs_unpin(&server->programs);
	log_info("removed what was pinned");
}

void server_stop(struct server *server)
{
	listener_close(server);
	scrape_close(server);
	metrics_remove(server);
	free_gone(server);
	services_stop(server);
	loop_unload(server->loop);
	if (server->worker)
		worker_stop(server->worker);
	if (server->worker && server->config.unload)
		remove_all(server);
	urings_close(&server->urings, server->config.pin_dir);
	intercepts_close(&server->intercepts);
	if (!server->sockmap_error)
		sockmap_close(&server->sockmap);
	programs_close(&server->programs);
}
