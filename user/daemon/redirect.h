/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Redirection: what one socket of a pair receives is sent on by the other inside
 * the kernel (bpf/sockmap.bpf.c), and never seen by sluiced. Each way of a pair
 * begins in user space, where its first bytes are relayed, and moves to the
 * kernel once nothing is left that could be overtaken. STREAM only.
 *
 * One thread relays, moves, and watches for ends; it sleeps while all that flows
 * is redirected. Events say what became of a pair; event_fd (eventfd) is written
 * to for each. All calls are made by one thread, the caller's.
 */
#ifndef SLUICED_REDIRECT_H
#define SLUICED_REDIRECT_H

#include <stdbool.h>

#include "pair.h"
#include "sockmap.h"

struct redirect;
struct redirect_pair;

/* How a way travels, and if in user space, why. */
enum redirect_state {
	REDIRECT_RELAY, /* user space: not moved yet */
	REDIRECT_HOLD, /* user space, but in the map: about to move */
	REDIRECT_ON, /* the kernel */
	REDIRECT_RACED, /* user space: data came while it moved */
	REDIRECT_REFUSED, /* user space for good: the kernel would not have it */
	REDIRECT_ENDED, /* its end was passed on */
};

enum redirect_end {
	REDIRECT_DONE, /* both ways have ended */
	/*
	 * The backend went before it sent anything, and all it was sent is still
	 * here: redirect_resume() with another, or redirect_drop().
	 */
	REDIRECT_UNBEGUN,
};
#define REDIRECT_ENDS (REDIRECT_UNBEGUN + 1)

struct redirect_event {
	struct redirect_event *next;
	void *owner; /* as given to redirect_add() */
	struct redirect_pair *pair;
	enum redirect_end end;
};

/* What the kernel carried, and how each way travels. */
struct redirect_status {
	enum redirect_state state[2];
	uint64_t bytes[2];
	uint64_t messages[2]; /* pieces: skbs */
	uint64_t lagged[2]; /* bytes that had come while it moved */
	int error[2]; /* of REFUSED: an errno */
};

/* Starts the thread. 0 or -errno. */
int redirect_start(struct redirect **redirect, const struct sockmap *sockmap,
		   int event_fd);

/*
 * Takes the fds of two connected STREAM sockets, and closes them before DONE;
 * NULL: no memory, they stay the caller's. traffic must outlive the pair.
 */
struct redirect_pair *redirect_add(struct redirect *redirect, int client,
				   int backend, struct traffic *traffic,
				   void *owner);

/* After UNBEGUN. resume takes the fd, which gets what the first one was sent. */
void redirect_resume(struct redirect_pair *pair, int backend);
/* At any time: closes both sockets; DONE follows. */
void redirect_drop(struct redirect_pair *pair);

void redirect_read(const struct redirect_pair *pair,
		   struct redirect_status *status);

/* A list of events, or NULL. Each is part of its pair. */
struct redirect_event *redirect_events(struct redirect *redirect);
/* After DONE was taken. */
void redirect_free(struct redirect_pair *pair);

/* Ends the thread, and all pairs whose DONE was not taken. */
void redirect_stop(struct redirect *redirect);

#endif
