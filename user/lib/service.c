/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A backend of a service: bound over a control connection of its own, on which
 * sluiced answers each ACCEPT with the socket of a client. There is one ACCEPT at a
 * time; the next one says that the last socket was taken.
 *
 * When sluiced is gone, it is called once a second, and the name is bound again.
 */
#include "listener.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BIND_TIMEOUT_NS 5000000000
#define CALL_AGAIN_NS 1000000000

struct service {
	uint64_t generation; /* of the process that made it */
	char name[SLUICE_SERVICE_NAME_SIZE];
	struct sockaddr_un address;
	socklen_t address_size;
	int epoll_fd; /* has both of these */
	int timer_fd;
	int fd; /* to sluiced, or -1 */
	uint32_t binding; /* 0: the answer is to come */
};

static void set_timer(struct service *service, int64_t ns)
{
	struct itimerspec when = { .it_value = { .tv_sec = ns / 1000000000,
						 .tv_nsec = ns % 1000000000 } };

	timerfd_settime(service->timer_fd, 0, &when, NULL);
}

static int watch(struct service *service, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return epoll_ctl(service->epoll_fd, EPOLL_CTL_ADD, fd, &event) ?
		       -errno :
		       0;
}

static void lost(struct service *service)
{
	/* a child of fork() may hold it, and the entry with it */
	epoll_ctl(service->epoll_fd, EPOLL_CTL_DEL, service->fd, NULL);
	close(service->fd);
	service->fd = -1;
	service->binding = 0;
	set_timer(service, CALL_AGAIN_NS);
}

static int send_bind(struct service *service)
{
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_SERVICE_BIND,
	};

	memcpy(request.bind.name, service->name, sizeof(service->name));
	return daemon_send(service->fd, &request, -1);
}

static int ask(struct service *service)
{
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_SERVICE_ACCEPT,
		.accept = { .binding = service->binding },
	};

	return daemon_send(service->fd, &request, -1);
}

static int call(struct service *service)
{
	int r;

	set_timer(service, CALL_AGAIN_NS);
	r = daemon_connect(&service->address, service->address_size);
	if (r < 0)
		return r;
	service->fd = r;
	r = watch(service, service->fd);
	if (!r)
		r = send_bind(service);
	if (r)
		lost(service);
	else
		set_timer(service, 0);
	return r;
}

/* The reply's fd, -EAGAIN if it has none to give, or why it was refused. */
static int on_reply(struct service *service, const struct sluice_control *reply,
		    int fd)
{
	bool bind = reply->type == SLUICE_CONTROL_SERVICE_BIND;

	if (bind == !!service->binding || (bind ? fd >= 0 : fd < 0))
		return reply->error ? -(int)reply->error : -EPROTO;
	if (reply->error)
		return -(int)reply->error;
	if (bind)
		service->binding = reply->bind.binding;
	if (ask(service))
		return -EPROTO;
	return bind ? -EAGAIN : fd;
}

/* As on_reply(); the connection is lost unless it is an fd or -EAGAIN. */
static int receive(struct service *service)
{
	struct sluice_control reply;
	unsigned int count = 1;
	int r, fd = -1;

	r = daemon_receive(service->fd, &reply, &fd, &count);
	if (r == -EAGAIN)
		return r;
	if (r == 1)
		r = on_reply(service, &reply, count ? fd : -1);
	else
		r = -ECONNREFUSED;
	if (r >= 0 || r == -EAGAIN)
		return r;
	if (count && fd >= 0)
		close(fd);
	lost(service);
	return r;
}

int service_accept(struct service *service)
{
	uint64_t expirations;
	int r;

	if (service->generation != process_generation())
		return -ECHILD;
	if (service->fd < 0) {
		if (read(service->timer_fd, &expirations, sizeof(expirations)) <
		    0)
			return -EAGAIN;
		call(service);
		return -EAGAIN;
	}
	r = receive(service);
	/* what goes wrong here may be right after the next call */
	return r >= 0 ? r : -EAGAIN;
}

static int wait_bound(struct service *service)
{
	int64_t deadline = deadline_after(BIND_TIMEOUT_NS), left;
	struct pollfd p = { .fd = service->fd, .events = POLLIN };
	int r;

	while (!service->binding) {
		r = receive(service);
		if (service->binding)
			break;
		if (r != -EAGAIN)
			return r;
		left = deadline - now_ns();
		if (left <= 0)
			return -ETIMEDOUT;
		poll(&p, 1, (int)(left / 1000000) + 1);
	}
	return 0;
}

int service_open(struct service **out, const char *name, const char *control)
{
	struct service *service;
	int r;

	if (!name || !*name)
		return -EINVAL;
	if (strlen(name) >= SLUICE_SERVICE_NAME_SIZE)
		return -ENAMETOOLONG;
	service = calloc(1, sizeof(*service));
	if (!service)
		return -ENOMEM;
	service->generation = process_generation();
	service->fd = -1;
	strcpy(service->name, name);
	service->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	service->timer_fd =
		timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	r = address_of(control, &service->address, &service->address_size);
	if (!r && (service->epoll_fd < 0 || service->timer_fd < 0))
		r = -errno;
	if (!r)
		r = watch(service, service->timer_fd);
	if (!r)
		r = call(service);
	if (!r)
		r = wait_bound(service);
	if (r)
		service_close(service);
	else
		*out = service;
	return r;
}

int service_fd(const struct service *service)
{
	return service->epoll_fd;
}

void service_close(struct service *service)
{
	if (service->fd >= 0)
		close(service->fd);
	if (service->epoll_fd >= 0)
		close(service->epoll_fd);
	if (service->timer_fd >= 0)
		close(service->timer_fd);
	free(service);
}
