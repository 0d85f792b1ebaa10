/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Sockets: listening, accepting, connecting, pairs and inherited fds. */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define REQUIRE_AWARE_NS 1000000000
#define STEER_AGAIN_NS 1000000000

int address_of(const char *name, struct sockaddr_un *address, socklen_t *size)
{
	size_t len = name ? strlen(name) : 0;

	if (!len || (name[0] == '@' && len == 1))
		return -EINVAL;
	if (len >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, name, len);
	*size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (name[0] == '@')
		address->sun_path[0] = 0;
	else
		(*size)++;
	return 0;
}

static int new_socket(int flags)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);

	return fd < 0 ? -errno : fd;
}

/*
 * Is the path a socket that nobody holds any more? Asked with the wrong type, so
 * that a server does not see a client: a live one answers EPROTOTYPE.
 */
static bool path_is_dead(const struct sockaddr_un *address, socklen_t size)
{
	struct stat st;
	int fd, r;

	if (lstat(address->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	r = connect(fd, (const struct sockaddr *)address, size) ? errno : 0;
	close(fd);
	return r == ECONNREFUSED;
}

static int bind_and_listen(int fd, const char *name, int backlog)
{
	struct sockaddr_un address;
	socklen_t size;
	int r;

	r = address_of(name, &address, &size);
	if (r)
		return r;
	r = bind(fd, (struct sockaddr *)&address, size) ? errno : 0;
	if (r == EADDRINUSE && name[0] != '@' && path_is_dead(&address, size) &&
	    !unlink(address.sun_path))
		r = bind(fd, (struct sockaddr *)&address, size) ? errno : 0;
	if (!r && listen(fd, backlog))
		r = errno;
	return -r;
}

/* The caller's need not outlive the call. */
static int copy_pool_options(struct sluice_listener *listener)
{
	struct sluice_pool_options *o = &listener->pool_options;
	int r;

	r = options_copy(o, sizeof(*o), listener->options.pool_options);
	if (!r)
		r = pool_check_options(o);
	if (r)
		return r;
	o->size = sizeof(*o);
	if (o->class_count) {
		memcpy(listener->classes, o->classes,
		       o->class_count * sizeof(*o->classes));
		o->classes = listener->classes;
	}
	listener->options.pool_options = o;
	return 0;
}

/* Likewise; and what is wrong with them is wrong now, sluiced or not. */
static int copy_endpoint_options(struct sluice_listener *listener)
{
	struct sluice_endpoint_options *o = &listener->endpoint_options;
	struct sluice_options *options = &listener->options;
	int r;

	listener->steer_again = INT64_MIN;
	if (!(options->flags & SLUICE_F_STEER))
		return 0;
	if (options->endpoint)
		return endpoint_has_conns(options->endpoint, options->ring) ?
			       0 :
			       -EINVAL;
	r = endpoint_options_read(o, options->endpoint_options);
	if (!r && !endpoint_options_have_conns(o, options->ring))
		r = -EINVAL;
	if (!r && strlen(o->control) >= sizeof(listener->control))
		r = -ENAMETOOLONG;
	if (r)
		return r;
	strcpy(listener->control, o->control);
	o->control = listener->control;
	options->endpoint_options = o;
	return 0;
}

/*
 * Makes the endpoint for all that is accepted. sluiced may come later than the
 * listener, and a child of fork() has no use for its parent's.
 */
static void make_endpoint(struct sluice_listener *listener)
{
	struct sluice_options *o = &listener->options;
	int64_t now;

	if (!(o->flags & SLUICE_F_STEER))
		return;
	if (o->endpoint && o->endpoint->generation == process_generation() &&
	    (!o->endpoint_options || !endpoint_error(o->endpoint)))
		return;
	if (o->endpoint) {
		endpoint_put(o->endpoint);
		o->endpoint = NULL;
		listener->steer_again = INT64_MIN;
		listener->steer_error = -ECHILD;
	}
	now = now_ns();
	if (!o->endpoint_options || now < listener->steer_again)
		return;
	listener->steer_again = now + STEER_AGAIN_NS;
	listener->steer_error =
		sluice_endpoint_new(&o->endpoint, o->endpoint_options);
}

/* Without a socket. */
static int listener_new(struct sluice_listener **out,
			const struct sluice_options *options)
{
	struct sluice_listener *listener = calloc(1, sizeof(*listener));
	int r;

	if (!listener)
		return -ENOMEM;
	listener->generation = process_generation();
	r = options_read(&listener->options, options);
	if (!r && listener->options.pool_options)
		r = copy_pool_options(listener);
	if (!r)
		r = copy_endpoint_options(listener);
	if (r)
		free(listener);
	else
		*out = listener;
	return r;
}

static void listener_start(struct sluice_listener *listener)
{
	if (listener->options.endpoint)
		endpoint_ref(listener->options.endpoint);
	make_endpoint(listener);
}

int sluice_service_bind(struct sluice_listener **out, const char *name,
			const struct sluice_options *in)
{
	struct sluice_options options = { 0 };
	struct sluice_endpoint_options endpoint;
	struct sluice_listener *listener;
	int r = 0;

	if (in)
		r = options_copy(&options, sizeof(options), in);
	if (!r)
		r = endpoint_options_read(&endpoint, options.endpoint_options);
	if (r)
		return r;
	options.size = sizeof(options);
	/* they say here where sluiced is, steered or not */
	if (!(options.flags & SLUICE_F_STEER))
		options.endpoint_options = NULL;
	r = listener_new(&listener, &options);
	if (r)
		return r;
	r = service_open(&listener->service, name, endpoint.control);
	if (r) {
		free(listener);
		return r;
	}
	listener->fd = service_fd(listener->service);
	listener_start(listener);
	*out = listener;
	return 0;
}

int sluice_listen(struct sluice_listener **out, const char *name,
		  const struct sluice_options *options)
{
	struct sluice_listener *listener;
	struct stat st;
	int r;

	r = listener_new(&listener, options);
	if (r)
		return r;
	/* Others may accept from it too: accept() must not block when they win. */
	listener->fd = new_socket(SOCK_NONBLOCK);
	if (listener->fd < 0) {
		r = listener->fd;
		goto fail;
	}
	r = bind_and_listen(listener->fd, name, (int)listener->options.backlog);
	if (r) {
		close(listener->fd);
		goto fail;
	}
	if (name[0] != '@' && !lstat(name, &st)) {
		memcpy(listener->path, name, strlen(name));
		listener->dev = st.st_dev;
		listener->ino = st.st_ino;
	}
	listener_start(listener);
	*out = listener;
	return 0;
fail:
	free(listener);
	return r;
}

int sluice_listener_fd(const struct sluice_listener *listener)
{
	return listener->fd;
}

void sluice_listener_close(struct sluice_listener *listener)
{
	struct stat st;

	if (!listener)
		return;
	if (listener->uring)
		uring_listener_close(listener);
	if (listener->path[0] && listener->generation == process_generation() &&
	    !lstat(listener->path, &st) && st.st_dev == listener->dev &&
	    st.st_ino == listener->ino)
		unlink(listener->path);
	if (listener->options.endpoint)
		endpoint_put(listener->options.endpoint);
	if (listener->service)
		service_close(listener->service);
	else if (!listener->fd_kept)
		close(listener->fd);
	free(listener);
}

int conn_open(struct sluice_conn **out, int fd,
	      const struct sluice_options *options, int steer_error)
{
	struct sluice_conn *conn;
	struct conn_core *core;
	socklen_t size;
	int r, fl, type;

	r = conn_new(&conn, options);
	if (r)
		return r;
	core = core_of(conn);
	core->fd = fd;
	fl = fcntl(fd, F_GETFL);
	core->blocking = fl >= 0 && !(fl & O_NONBLOCK);
	size = sizeof(type);
	core->stream = !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) &&
		       type == SOCK_STREAM;
	r = steer_open(conn, steer_error);
	if (r) {
		core->fd = -1; /* stays the caller's */
		conn_destroy(conn);
		return r;
	}
	*out = conn;
	return 0;
}

int conn_begin(struct sluice_conn *conn, uint64_t bound)
{
	struct conn_core *core = core_of(conn);
	socklen_t size = sizeof(core->credentials);
	int r;

	getsockopt(core->fd, SOL_SOCKET, SO_PEERCRED, &core->credentials,
		   &size);
	r = hello_start(conn, bound);
	if (r) {
		core->fd = -1; /* stays the caller's */
		conn_destroy(conn);
		return r;
	}
	steer_settle(conn);
	return 0;
}

/* Of a connected socket. *out is set on success only. */
static int conn_start(struct sluice_conn **out, int fd,
		      const struct sluice_options *options, uint64_t bound,
		      int steer_error)
{
	struct sluice_conn *conn;
	int r;

	r = conn_open(&conn, fd, options, steer_error);
	if (!r)
		r = conn_begin(conn, bound);
	if (!r)
		*out = conn;
	return r;
}

/*
 * STREAM has no frames, and on DGRAM no fds could be told from the peer's: there is
 * no HELLO. Both need a peer.
 */
static bool plain_is_right(int fd, struct sluice_options *options)
{
	struct sockaddr_un peer;
	socklen_t size = sizeof(peer);

	if (options->flags & (SLUICE_F_AWARE | SLUICE_F_REQUIRE_AWARE))
		return false;
	options->flags |= SLUICE_F_PLAIN;
	return !getpeername(fd, (struct sockaddr *)&peer, &size);
}

int sluice_conn_from_fd(struct sluice_conn **conn, int fd,
			const struct sluice_options *in)
{
	struct sluice_options options;
	socklen_t size = sizeof(int);
	int type, domain, r;

	r = options_read(&options, in);
	if (r)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size))
		return errno == ENOTSOCK ? -EPROTOTYPE : -errno;
	if (domain != AF_UNIX ||
	    (type != SOCK_SEQPACKET && !plain_is_right(fd, &options)))
		return -EPROTOTYPE;
	if (fcntl(fd, F_SETFD, FD_CLOEXEC))
		return -errno;
	return conn_start(conn, fd, &options, 0, 0);
}

static int accept_one(struct sluice_listener *listener)
{
	int fd;

	if (listener->service)
		return service_accept(listener->service);
	fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A socket of any type that a service may have. */
static int start_accepted(struct sluice_listener *listener,
			  struct sluice_conn **conn, int fd)
{
	struct sluice_options options = listener->options;
	socklen_t size = sizeof(int);
	int type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size))
		return -errno;
	if (type != SOCK_SEQPACKET)
		options.flags |= SLUICE_F_PLAIN;
	return conn_start(conn, fd, &options, 0, listener->steer_error);
}

int listener_take(struct sluice_listener *listener, struct sluice_conn **conn,
		  int fd)
{
	int r;

	make_endpoint(listener);
	r = start_accepted(listener, conn, fd);
	if (r)
		close(fd);
	return r;
}

int sluice_accept(struct sluice_listener *listener, struct sluice_conn **conn,
		  int64_t timeout_ns)
{
	struct pollfd p = { .fd = listener->fd, .events = POLLIN };
	int64_t deadline = deadline_after(timeout_ns), left;
	struct timespec t;
	int fd, r;

	for (;;) {
		fd = accept_one(listener);
		if (fd >= 0)
			break;
		if (fd != -EAGAIN && fd != -ECONNABORTED)
			return fd;
		left = timeout_ns ? deadline - now_ns() : 0;
		if (left <= 0)
			return -EAGAIN;
		t.tv_sec = left / 1000000000;
		t.tv_nsec = left % 1000000000;
		r = ppoll(&p, 1, deadline == INT64_MAX ? NULL : &t, NULL);
		if (r < 0)
			return -errno;
	}
	return listener_take(listener, conn, fd);
}

/* Waits for the server's HELLO as long as the options say. */
static int wait_aware(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int64_t timeout = core->options.aware_timeout_ns, deadline;
	bool require = core->flags & SLUICE_F_REQUIRE_AWARE;
	struct pollfd p = { .fd = core->fd, .events = POLLIN };
	int r;

	if (require && !timeout)
		timeout = REQUIRE_AWARE_NS;
	deadline = deadline_after(timeout);
	while (timeout && core->phase == PHASE_CLIENT) {
		int64_t left = deadline - now_ns();
		struct timespec t = { .tv_sec = left / 1000000000,
				      .tv_nsec = left % 1000000000 };

		if (timeout > 0 && left <= 0)
			break;
		if (ppoll(&p, 1, timeout < 0 ? NULL : &t, NULL) < 0)
			return -errno;
		r = hello_process(conn);
		if (r < 0)
			return r;
	}
	return require && core->phase != PHASE_AWARE ? -EPROTONOSUPPORT : 0;
}

int client_socket(const struct sluice_options *options, uint64_t *bound)
{
	int fd = new_socket(0), r;

	*bound = 0;
	if (fd < 0 || options->flags & SLUICE_F_PLAIN)
		return fd;
	r = name_bind(fd, bound);
	if (!r)
		return fd;
	close(fd);
	return r;
}

int sluice_connect(struct sluice_conn **conn, const char *name,
		   const struct sluice_options *in)
{
	struct sluice_options options;
	struct sockaddr_un address;
	uint64_t bound = 0;
	socklen_t size;
	int fd, r;

	r = options_read(&options, in);
	if (!r)
		r = address_of(name, &address, &size);
	if (r)
		return r;
	fd = client_socket(&options, &bound);
	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&address, size))
		r = -errno;
	if (!r)
		r = conn_start(conn, fd, &options, bound, 0);
	if (r) {
		close(fd);
		return r;
	}
	r = wait_aware(*conn);
	if (r) {
		sluice_conn_close(*conn);
		*conn = NULL;
	}
	return r;
}

int sluice_pair(struct sluice_conn *conn[2], const struct sluice_options *in)
{
	struct sluice_options options;
	int fds[2], i, r;

	r = options_read(&options, in);
	if (r)
		return r;
	if (!(options.flags & SLUICE_F_PLAIN))
		options.flags |= SLUICE_F_AWARE;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	r = conn_start(&conn[0], fds[0], &options, 0, 0);
	if (r) {
		close(fds[0]);
		close(fds[1]);
		return r;
	}
	r = conn_start(&conn[1], fds[1], &options, 0, 0);
	if (r) {
		close(fds[1]);
		sluice_conn_close(conn[0]);
		return r;
	}
	for (i = 0; i < 2 && !r; i++)
		r = hello_process(conn[i]);
	if (r < 0) {
		sluice_conn_close(conn[0]);
		sluice_conn_close(conn[1]);
	}
	return r;
}
