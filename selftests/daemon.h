/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A sluiced of a test's own: in the case's directory, with a BPF file system
 * that is mounted for this case only. Needs root and BPF: daemon_open() skips
 * the case where either is missing.
 *
 *	struct daemon d;
 *
 *	daemon_open(&d);
 *	daemon_start(&d, NULL);		// ready when it returns
 *	... d.control is the path of its control socket
 *	daemon_close(&d);
 */
#ifndef DAEMON_H
#define DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <sluice/uapi.h>

struct daemon {
	pid_t pid; /* 0: not running */
	char dir[192]; /* the case's */
	char control[256];
	char bpf[256]; /* mount point */
	char pins[300]; /* pin directory, below it */
	char log[256]; /* what every start has said */
};

/* Makes the mount namespace of the case and the mount. */
void daemon_open(struct daemon *d);

/*
 * Starts sluiced with more arguments (NULL-terminated, or NULL) and waits until
 * it listens. The second waits for its end instead and returns its exit code.
 */
void daemon_start(struct daemon *d, const char *const *args);
int daemon_try(struct daemon *d, const char *const *args);

void daemon_kill(struct daemon *d); /* SIGKILL */
int daemon_stop(struct daemon *d); /* SIGTERM; its exit code */

/* Stops it if it runs, and removes all that it left. */
void daemon_close(struct daemon *d);

/* Whether the log has the text, from its byte `from` on; how long it is. */
bool daemon_said(const struct daemon *d, size_t from, const char *text);
size_t daemon_log_size(const struct daemon *d);

/* A configuration file in the case's directory, for --config; static memory. */
const char *daemon_config(const struct daemon *d, const char *text);

/* How many fds it has open. */
int daemon_fds(const struct daemon *d);

/* Ids of BPF maps; whether one is still there. */
__u32 daemon_map_id(int fd);
bool daemon_map_exists(__u32 id);

/* A client's part ---------------------------------------------------------- */

/* A connection to the control socket, also as nobody; the cwd is the case's. */
int daemon_connect(const struct daemon *d);

/* fds stay the caller's. */
void daemon_send(int fd, const void *bytes, size_t len, const int *fds,
		 int fd_count);

/* A reply, its fds (up to 64), and the bytes that follow it in `more`. */
void daemon_receive(int fd, struct sluice_control *reply, int *fds,
		    int *fd_count, void *more, size_t *more_len);

/*
 * Sends a frame, with `send_fd` unless that is -1, and takes the reply over it,
 * whose serial and type must be those of the request. Returns its error.
 */
int daemon_call(int fd, struct sluice_control *frame, int send_fd, int *fds,
		int *fd_count);

/* A frame of that type, with magic and a serial of its own. */
struct sluice_control daemon_frame(__u16 type);

/* CREATE with small maps; fds gets rings * 4. Returns the endpoint's number. */
__u64 daemon_create(int fd, __u32 rings, int *fds);
/* ATTACH and DETACH; they return the reply's error. */
int daemon_attach(int fd, __u64 endpoint, __u32 ring, __u32 conn, __u32 flags,
		  int socket);
int daemon_detach(int fd, __u64 endpoint, __u32 ring, __u32 conn);

/* QUERY, with those flags. */
struct sluice_control_use daemon_query(int fd, __u16 flags);

/* From here on this process is nobody. */
void daemon_become_nobody(void);

#endif
