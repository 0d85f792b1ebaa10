/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The control socket: made at its path, or handed over by systemd. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "client.h"
#include "log.h"

#define BACKLOG 128
#define ACCEPTS_PER_ROUND 16
#define REST_NS 100000000

static void ready(struct server *server, struct source *source, uint32_t events)
{
	(void)events;
	for (int i = 0; i < ACCEPTS_PER_ROUND; i++) {
		int fd = accept4(source->fd, NULL, NULL,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			client_open(server, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
		    errno == ENOBUFS) {
			log_client("cannot accept clients now: %s",
				   strerror(errno));
			listener_rest(server);
		}
		return;
	}
}

void listener_rest(struct server *server)
{
	if (!server->listening)
		return;
	epoll_ctl(server->epoll, EPOLL_CTL_DEL, server->listener.fd, NULL);
	server->listening = false;
	server->listen_at = server_now() + REST_NS;
}

void listener_resume(struct server *server)
{
	if (server->listening || server->listener.fd < 0)
		return;
	server->listening = !server_watch(server, &server->listener, EPOLLIN);
	server->listen_at = server->listening ? 0 : server_now() + REST_NS;
}

/* From socket activation: 0, or -errno; listener.fd stays -1 without one. */
static int take_over_socket(struct server *server)
{
	int count = sd_listen_fds(1);

	if (count <= 0)
		return count;
	if (count > 1 || sd_is_socket(SD_LISTEN_FDS_START, AF_UNIX,
				      SOCK_SEQPACKET, 1) <= 0) {
		log_error("socket activation: one listening AF_UNIX SEQPACKET "
			  "socket is needed (ListenSequentialPacket=)");
		return -EINVAL;
	}
	if (fcntl(SD_LISTEN_FDS_START, F_SETFL, O_NONBLOCK))
		return -errno;
	server->listener.fd = SD_LISTEN_FDS_START;
	log_info("listening on the socket that was handed over");
	return 0;
}

/* Removes a socket that nobody listens on. */
static int clear_path(const struct sockaddr_un *name)
{
	struct stat st;
	int fd, r;

	if (lstat(name->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)name, sizeof(*name)) ? errno :
									0;
	close(fd);
	if (r != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(name->sun_path) ? -errno : 0;
}

/* Nobody can connect before listen(): so access is right from the start. */
static int set_access(const struct config *config)
{
	struct group *group = NULL;

	errno = 0;
	if (*config->group && !(group = getgrnam(config->group))) {
		log_error("group %s, of the control socket, is not there",
			  config->group);
		return errno ? -errno : -ESRCH;
	}
	if (group && chown(config->path, (uid_t)-1, group->gr_gid))
		return -errno;
	return chmod(config->path, (mode_t)config->mode) ? -errno : 0;
}

static void make_parent(const char *path)
{
	char *copy = strdup(path);

	/* binding says what is wrong if this does not help */
	if (copy && mkdir(dirname(copy), 0755) && errno != EEXIST)
		log_debug("%s: %s", copy, strerror(errno));
	free(copy);
}

static int bind_path(struct server *server)
{
	const struct config *config = &server->config;
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd, r;

	strcpy(name.sun_path, config->path);
	make_parent(config->path);
	r = clear_path(&name);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&name, sizeof(name))) {
		r = -errno;
		close(fd);
		return r;
	}
	server->bound = true;
	server->listener.fd = fd;
	r = set_access(config);
	if (r)
		return r;
	return listen(fd, BACKLOG) ? -errno : 0;
}

int listener_open(struct server *server)
{
	int r;

	server->listener = (struct source){ .ready = ready, .fd = -1 };
	r = take_over_socket(server);
	if (!r && server->listener.fd < 0)
		r = bind_path(server);
	if (r == -EADDRINUSE)
		log_error("%s: another sluiced listens there",
			  server->config.path);
	else if (r)
		log_error("%s: %s", server->config.path, strerror(-r));
	if (!r)
		listener_resume(server);
	return r;
}

void listener_close(struct server *server)
{
	if (server->bound && unlink(server->config.path) && errno != ENOENT)
		log_warning("%s: cannot remove: %s", server->config.path,
			    strerror(errno));
	if (server->listener.fd >= 0)
		close(server->listener.fd);
	server->bound = false;
	server->listener.fd = -1;
}
