/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A client of sluiced's control socket: one request at a time.
 */
#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/time.h>
#include <unistd.h>

/* sluiced answers within milliseconds, unless it is stuck. */
#define REPLY_SECONDS 10

static int connect_to(const char *path)
{
	const struct timeval limit = { .tv_sec = REPLY_SECONDS };
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(name.sun_path))
		return -ENAMETOOLONG;
	strcpy(name.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) &&
	    !connect(fd, (struct sockaddr *)&name, sizeof(name)))
		return fd;
	error = errno;
	close(fd);
	return -error;
}

int control_open(const struct ctl_options *options, bool quiet)
{
	const char *path = options->control;
	int fd = connect_to(path), conns;

	if (fd >= 0)
		return fd;
	if (fd != -ENOENT && fd != -ECONNREFUSED) {
		if (!quiet)
			ctl_failed("cannot connect to %s: %s%s", path,
				   strerror(-fd),
				   fd == -EACCES ? " (root may, and the group "
						   "in sluiced.conf)" :
						   "");
		return -CTL_FAILED;
	}
	if (quiet)
		return -CTL_NO_SLUICED;
	conns = pins_conns(options->pins);
	if (conns >= 0)
		ctl_failed("no sluiced at %s, but its programs are in %s, with "
			   "%d connections that go on: start sluiced to take "
			   "over, or see sluicectl unload",
			   path, options->pins, conns);
	else
		ctl_failed("no sluiced at %s: start it (see sluiced(8)), or "
			   "give its --control",
			   path);
	return -CTL_NO_SLUICED;
}

int control_ask(int fd, struct sluice_control *call, void *data, size_t *size)
{
	static __u32 serial;
	struct sluice_control reply;
	struct iovec parts[2] = {
		{ .iov_base = &reply, .iov_len = sizeof(reply) },
		{ .iov_base = data, .iov_len = data ? *size : 0 },
	};
	struct msghdr msg = { .msg_iov = parts, .msg_iovlen = data ? 2 : 1 };
	ssize_t n;

	call->magic = SLUICE_CONTROL_MAGIC;
	call->serial = ++serial;
	if (send(fd, call, sizeof(*call), MSG_NOSIGNAL) != sizeof(*call))
		return ctl_failed("sluiced: %s", strerror(errno));
	n = recvmsg(fd, &msg, 0);
	if (n < 0)
		return ctl_failed("sluiced does not answer: %s",
				  strerror(errno));
	if (n < (ssize_t)sizeof(reply) || msg.msg_flags & MSG_TRUNC ||
	    reply.magic != SLUICE_CONTROL_MAGIC || reply.type != call->type ||
	    reply.serial != call->serial ||
	    !(reply.flags & SLUICE_CONTROL_F_REPLY))
		return ctl_failed(n ? "sluiced answers nonsense: is it of "
				      "another version?" :
				      "sluiced has closed the connection");
	*call = reply;
	if (size)
		*size = (size_t)n - sizeof(reply);
	return 0;
}

int control_call(int fd, struct sluice_control *call, void *data, size_t *size)
{
	if (control_ask(fd, call, data, size))
		return CTL_FAILED;
	if (call->error)
		return ctl_failed("sluiced refuses: %s",
				  strerror((int)call->error));
	return 0;
}

static __u16 whose(void)
{
	return geteuid() ? 0 : SLUICE_CONTROL_F_ALL;
}

int control_query(int fd, struct sluice_control_use *use)
{
	struct sluice_control call = {
		.type = SLUICE_CONTROL_QUERY,
		.flags = whose(),
	};
	const int ret = control_call(fd, &call, NULL, NULL);

	*use = call.use;
	return ret;
}

int control_records(int fd, __u16 type, __u64 after, void *into,
		    size_t record_size, unsigned int max, unsigned int *count)
{
	struct sluice_control call = {
		.type = type,
		/* root's alone, and all there is */
		.flags = type == SLUICE_CONTROL_SERVICES ? 0 : whose(),
		.endpoint = after,
	};
	char data[65536];
	size_t size = sizeof(data);

	if (control_call(fd, &call, data, &size))
		return CTL_FAILED;
	*count = call.list.count;
	if (*count > max || (*count && call.list.record_size < record_size) ||
	    (size_t)*count * call.list.record_size != size)
		return ctl_failed("sluiced lists nonsense: is it of another "
				  "version?");
	for (unsigned int i = 0; i < *count; i++)
		memcpy((char *)into + i * record_size,
		       data + (size_t)i * call.list.record_size, record_size);
	return 0;
}

/* The next records above `after` into space for SLUICE_LIST_MAX. */
static int list_some(int fd, __u64 after, struct sluice_control_record *into,
		     unsigned int *count)
{
	int ret = control_records(fd, SLUICE_CONTROL_LIST, after, into,
				  sizeof(*into), SLUICE_LIST_MAX, count);

	for (unsigned int i = 0; i < *count && !ret; i++)
		into[i].comm[sizeof(into[i].comm) - 1] = 0;
	return ret;
}

int control_list(int fd, struct sluice_control_record **records,
		 unsigned int *count)
{
	struct sluice_control_record *all = NULL, *more;
	unsigned int got = 0;
	__u64 after = 0;

	*records = NULL;
	*count = 0;
	do {
		more = realloc(all, (*count + SLUICE_LIST_MAX) * sizeof(*all));
		if (!more || list_some(fd, after, more + *count, &got)) {
			free(more ? more : all);
			return more ? CTL_FAILED : ctl_failed("out of memory");
		}
		all = more;
		*count += got;
		if (got && all[*count - 1].endpoint <= after) {
			free(all);
			return ctl_failed("sluiced lists the same twice");
		}
		after = got ? all[*count - 1].endpoint : after;
	} while (got);
	*records = all;
	return 0;
}
