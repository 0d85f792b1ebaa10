/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The control socket: made at its path, or handed over by systemd. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
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

static int bind_path(struct server *server)
{
	struct socket_file *file = &server->file;
	int fd;

	*file = (struct socket_file){
		.path = server->config.path,
		.type = SOCK_SEQPACKET,
		.mode = (mode_t)server->config.mode,
		.owner = "",
		.group = server->config.group,
	};
	fd = socket_file_bind(file);
	if (fd < 0)
		return fd;
	server->listener.fd = fd;
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
	socket_file_remove(&server->file);
	if (server->listener.fd >= 0)
		close(server->listener.fd);
	server->listener.fd = -1;
}
