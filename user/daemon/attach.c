/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* ATTACH and DETACH of connections. */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sdt.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "foreign.h"
#include "log.h"
#include "request.h"
#include "service.h"
#include "stream.h"

/*
 * What is asked of the socket can be asked of any fd without waiting for whoever
 * serves it. 0 or an errno.
 */
static int check_socket(int fd, __u32 *type, __u64 *cookie)
{
	struct sockaddr_un name;
	socklen_t len = sizeof(int);
	int domain, kind;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
		return errno;
	if (domain != AF_UNIX)
		return EAFNOSUPPORT;
	len = sizeof(kind);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len))
		return errno;
	len = sizeof(name);
	if (getpeername(fd, (struct sockaddr *)&name, &len))
		return errno;
	len = sizeof(*cookie);
	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &len))
		return errno;
	*type = (__u32)kind;
	return 0;
}

/* Sockets that died without a DETACH are looked for before a refusal. */
static bool has_conn_quota(const struct request *request)
{
	const struct limits *limits = &request->server->config.limits;
	const struct endpoint *endpoint = request->endpoint;

	for (int look = 0; look < 2; look++) {
		if (endpoint->user->conns < limits->conns_per_uid &&
		    endpoint->conns < limits->conns_per_endpoint)
			return true;
		if (!look)
			sweep_for_quota(request->server);
	}
	return false;
}

/* Of a service whose configuration says so; pieces are not hashed, nor frames. */
static int check_stream(const struct request *request, __u64 cookie)
{
	if (!services_may_land(request->server, cookie))
		return EPROTOTYPE;
	if (request->frame.attach.flags)
		return EINVAL;
	if (client_fds_owed(request->server, request->client->user) + 2 >
	    FDS_OWED_MAX)
		return EBUSY;
	return 0;
}

static int check_attach(const struct request *request)
{
	const struct sluice_control_attach *attach = &request->frame.attach;

	if (attach->ring >= request->endpoint->identity.geometry.rings)
		return ERANGE;
	if (attach->flags & ~(SLUICE_ATTACH_F_HASH | SLUICE_ATTACH_F_FRAMES) ||
	    (attach->flags & SLUICE_ATTACH_F_HASH &&
	     attach->flags & SLUICE_ATTACH_F_FRAMES))
		return EINVAL;
	if (request->server->draining)
		return ESHUTDOWN;
	return 0;
}

/*
 * A new filter is charged to the socket before the old one is let go, and before
 * 6.9 (net.core.optmem_max: 20 KiB) there is not room for two of this size: then
 * the old one goes first. The socket has no entry yet, so that messages go to
 * its queue with either program, and without one.
 */
static int attach_program(int fd, int program)
{
	for (int tries = 0; tries < 2; tries++) {
		if (!setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program,
				sizeof(program)))
			return 0;
		if (errno != ENOMEM ||
		    setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &program,
			       sizeof(program)))
			return -1;
	}
	return -1;
}

static void forget(struct server *server, __u64 cookie)
{
	struct conn *conn = conn_find(&server->tables, cookie);

	bpf_map_delete_elem(server->programs.conns, &cookie);
	if (conn && conn->state == CONN_ATTACHED)
		conn_free(&server->tables, conn);
}

/* Its entry is there. What the kernel did while it was inserted takes a worker. */
static int attach_stream(struct request *request, __u64 cookie)
{
	struct server *server = request->server;
	struct job *job = NULL;
	int r = stream_attach(&server->programs, request->fd, cookie,
			      request->fds);

	if (r == STREAM_LAGS) {
		job = request_job(JOB_SETTLE, request->endpoint);
		if (job)
			job->socket = fcntl(request->fd, F_DUPFD_CLOEXEC, 3);
		if (!job || job->socket < 0) {
			/* in the map, and cannot be left there: end it */
			request->endpoint->jobs -= !!job;
			free(job);
			shutdown(request->fd, SHUT_RDWR);
			close(request->fds[0]);
			close(request->fds[1]);
			r = -EIO;
		}
	}
	if (r < 0) {
		forget(server, cookie);
		return -r;
	}
	request->client->fds_owed += 2;
	if (!r) {
		request->fd_count = 2;
		request->frame.attach.flags = 0;
		return 0;
	}
	job->cookie = cookie;
	job->fds[0] = request->fds[0];
	job->fds[1] = request->fds[1];
	request_submit(server, job, request);
	return LATER;
}

int attach_settled(struct server *server, struct job *job)
{
	bool waited = !foreign_close(job->socket, FOREIGN_WAIT_NS);

	if (job->error) {
		log_client("uid %u: a piece of a stream was lost while its "
			   "socket was attached: %s",
			   job->uid, strerror(-job->error));
		forget(server, job->cookie);
		close(job->fds[0]);
		close(job->fds[1]);
	}
	if (waited)
		client_waited(server, job->endpoint->user);
	return job->error ? 0 : 2;
}

int request_attach(struct request *request)
{
	const struct sluice_control_attach *attach = &request->frame.attach;
	struct tables *tables = &request->server->tables;
	const struct programs *programs = &request->server->programs;
	struct endpoint *endpoint = request->endpoint;
	const struct identity *identity = &endpoint->identity;
	bool hash = attach->flags & SLUICE_ATTACH_F_HASH;
	struct steer_conn_entry entry = {
		.ring = identity->ring_first + attach->ring,
		.conn = attach->conn,
		.hash_first = hash ? identity->ring_first : 0,
		.hash_count = hash ? identity->geometry.rings : 0,
		.endpoint = identity->number,
		.uid = request->client->user->uid,
		.flags = attach->flags & SLUICE_ATTACH_F_FRAMES,
	};
	struct conn *conn;
	__u64 cookie;
	socklen_t len = sizeof(entry.netns);
	int r = check_attach(request);

	if (!r)
		r = check_socket(request->fd, &entry.type, &cookie);
	if (!r && entry.type == SOCK_STREAM)
		r = check_stream(request, cookie);
	if (r)
		return r;
	conn = conn_find(tables, cookie);
	if (conn) /* it must not come back before its grace period is over */
		return conn->state == CONN_DETACHING ? EBUSY : EALREADY;
	conn = conn_at(endpoint, attach->ring, attach->conn);
	if (conn && conn->state != CONN_GONE)
		return EEXIST;
	if (!has_conn_quota(request))
		return EDQUOT;
	if (getsockopt(request->fd, SOL_SOCKET, SO_NETNS_COOKIE, &entry.netns,
		       &len) ||
	    (entry.type != SOCK_STREAM &&
	     attach_program(request->fd, programs->steer)))
		return errno;
	if (conn)
		conn_free(tables, conn);
	if (conn_add(tables, endpoint, attach->ring, attach->conn, cookie,
		     entry.netns))
		return ENOMEM;
	if (!bpf_map_update_elem(programs->conns, &cookie, &entry,
				 BPF_NOEXIST)) {
		STAP_PROBE5(sluiced, attach, request->client->pid, entry.uid,
			    entry.endpoint, entry.conn, cookie);
		return entry.type == SOCK_STREAM ?
			       attach_stream(request, cookie) :
			       0;
	}
	r = errno == E2BIG ? ENOSPC : errno;
	conn_free(tables, conn_find(tables, cookie));
	return r;
}

int request_detach(struct request *request)
{
	const struct sluice_control_attach *attach = &request->frame.attach;
	struct server *server = request->server;
	struct endpoint *endpoint = request->endpoint;
	__u64 cookie;
	struct conn *conn;
	struct job *job;

	if (attach->ring >= endpoint->identity.geometry.rings)
		return ERANGE;
	conn = conn_at(endpoint, attach->ring, attach->conn);
	if (!conn || conn->number != attach->conn)
		return ENOENT;
	if (conn->state == CONN_DETACHING)
		return EALREADY;
	job = request_job(JOB_GRACE, endpoint);
	if (!job)
		return ENOMEM;
	cookie = conn->cookie;
	if (conn->state == CONN_ATTACHED &&
	    bpf_map_delete_elem(server->programs.conns, &cookie))
		log_error("socket %llu: cannot remove its entry: %s", cookie,
			  strerror(errno));
	conn_leave(&server->tables, conn, CONN_DETACHING);
	job->conn = conn;
	request_submit(server, job, request);
	return LATER;
}
