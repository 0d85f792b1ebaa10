/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The switch: carries what two connected sockets send to each other, STREAM or
 * SEQPACKET, where sockmap cannot. It is in user space; with the in-kernel switch
 * (loop.h) messages of SEQPACKET pairs that have begun pass without it.
 *
 * A pair has two ways. Each has one operation under way, a receive or a send, so
 * a slow receiver stops its own sender and nobody else, and what a way holds is
 * one message, or SWITCH_PIECE bytes of a stream. Boundaries are kept, and empty
 * messages; so is each side's shutdown(). A message that carries fds ends the
 * pair: sluiced would have to install them to pass them on.
 *
 * Some threads with an io_uring each; a pair stays with one. What a thread says
 * about its pairs comes as events, for which event_fd (eventfd) is written to.
 * All calls are the main thread's.
 */
#ifndef SLUICED_SWITCH_H
#define SLUICED_SWITCH_H

#include "pair.h"

#define SWITCH_PIECE 65536

enum switch_end {
	SWITCH_DONE, /* both ways have ended */
	SWITCH_FDS, /* a message carried fds, which are closed */
	SWITCH_SIZE, /* a message was larger than those without privilege can be */
	/*
	 * The backend went before it took anything: switch_resume() with another
	 * one, which gets what was sent, or switch_drop().
	 */
	SWITCH_UNBEGUN,
};

struct switch_event {
	struct switch_event *next;
	void *owner; /* as given to switch_add() */
	enum switch_end end;
};

struct switcher;
struct pair;
struct loop_program;

/*
 * Starts the threads, with the in-kernel switch if there is a program, which must
 * outlive them. 0 or -errno: -ENOSYS, -EPERM: no io_uring here.
 */
int switch_start(struct switcher **switcher, int event_fd,
		 const struct loop_program *program);

/*
 * Carries between two connected, blocking sockets. Takes the fds, unless it
 * returns NULL: no memory. traffic must outlive the pair, which is gone with its
 * event (but UNBEGUN).
 */
struct pair *switch_add(struct switcher *switcher, int client, int backend,
			int type, struct traffic *traffic, void *owner);
void switch_resume(struct pair *pair, int backend); /* takes the fd */
void switch_drop(struct pair *pair); /* SWITCH_DONE follows */

/* A list of events, or NULL. Each is part of its pair: switch_free() it. */
struct switch_event *switch_events(struct switcher *switcher);
/* Adds what the in-kernel switch has passed on for it. */
void switch_carried(const struct pair *pair, struct carried *carried);
/* A pair whose last event was taken. */
void switch_free(struct pair *pair);

/* Ends threads, and all pairs without an event. */
void switch_stop(struct switcher *switcher);

#endif
