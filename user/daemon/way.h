/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Inside the switch: a thread and its pairs. switch.c has the threads
 * and their mail, ring.c an io_uring of each, way.c what is done for pairs. All
 * but the mail is the thread's alone.
 *
 * Buffers: a receive keeps none until there is something to receive; then it has
 * one of the thread's. It goes back when its content is sent. What
 * cannot be sent at once moves to memory of the way's own, so that slow receivers
 * cannot use up the buffers of others.
 *
 * With the in-kernel switch a way of messages has an entry in the table that the
 * thread shares with the program, and a home: a buffer that it always receives to,
 * whose memory is given back after large messages. Once its pair has begun, the
 * way is flowing: then the program passes on what comes, and the thread sees what
 * the program leaves to it. `receiving` stays as it is meanwhile.
 */
#ifndef SLUICED_WAY_H
#define SLUICED_WAY_H

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "loop.h"
#include "switch.h"

#define BUFFERS 32 /* of a thread; a power of two */

enum letter_type { LETTER_ADD, LETTER_RESUME, LETTER_DROP, LETTER_STOP };

struct letter {
	struct letter *next;
	struct pair *pair;
	enum letter_type type;
	int fd; /* RESUME */
};

struct thread {
	struct switcher *switcher;
	pthread_t id;
	sem_t started;
	int error; /* of the start */
	int mail_fd;
	pthread_mutex_t lock; /* of the letters */
	struct letter *letters, **letters_last;
	struct letter last;
	/* the thread's alone */
	struct io_uring ring;
	struct io_uring_buf_ring *buffers;
	unsigned char *memory;
	uint32_t size; /* of a buffer: as large as messages may be */
	int epoll; /* of senders that have shut down, until they are gone */
	uint64_t mails; /* read from mail_fd */
	bool stopping;
	unsigned int buffers_out; /* of BUFFERS: with pieces */
	struct way *starved, **starved_last; /* found no buffer */
	struct loop loop; /* without a region: none */
	/* the main thread's: free entries of the table, and how many */
	uint16_t *free_ways;
	struct way **of_entry; /* written before an entry's first use */
	unsigned int free_count;
	struct pair *pairs;
};

/* What was received; at NULL: nothing. */
struct piece {
	unsigned char *at;
	uint32_t length;
	int buffer; /* of the thread's, or PIECE_* */
};

#define PIECE_OWN (-1) /* memory of its own */
#define PIECE_FIRST (-2) /* pair->first, which stays there */
#define PIECE_HOME (-3) /* the way's home, which stays */

/* One direction. */
struct way {
	struct pair *pair;
	struct way *next_starved;
	int in, out;
	bool from_backend;
	bool receiving, sending; /* such an operation is under way */
	bool ended; /* nothing more will be received */
	bool passed; /* and out was told, or has gone */
	bool failed; /* the backend went while data was sent to it */
	struct piece data; /* that is to be sent */
	uint32_t sent; /* bytes of it */
	struct piece held; /* that was received when there was data already */
	struct switch_way *entry; /* of the table, or NULL */
	unsigned char *home;
	struct msghdr header;
	struct iovec iov;
	/* Room for the time that tells a message from the end, not for fds. */
	char control[CMSG_SPACE(sizeof(struct timeval))]
		__attribute__((aligned(8)));
};

struct pair {
	struct switch_event event; /* first: what switch_events() returns */
	struct letter letter;
	struct thread *thread;
	struct pair *next, **at;
	struct traffic *traffic;
	int type;
	unsigned int operations; /* under way */
	enum switch_end end;
	bool ending;
	bool waiting; /* UNBEGUN */
	bool doomed; /* ends when it no longer waits */
	bool lost; /* the backend was reset */
	bool begun; /* it has sent something, or was sent too much to keep */
	struct piece
		first; /* all that the backend was sent, until it has begun */
	struct way ways[2]; /* [1]: from the backend */
};

struct pair *pair_new(struct thread *thread, int client, int backend, int type,
		      struct traffic *traffic, void *owner);
void pair_handle(struct pair *pair, enum letter_type type, int fd);

/* For the main thread: adds what the program has passed on. */
void pair_carried(const struct pair *pair, struct carried *carried);
void pair_free(struct pair *pair);

void pair_hung_up(struct way *way);
void pair_complete(struct thread *thread, const struct io_uring_cqe *cqe);

/* ring.c ------------------------------------------------------------------- */

/* A piece's buffer. */
void ring_give_back(struct thread *thread, int buffer);
/* The way found none, and receives later. It is an operation, too. */
void ring_starve(struct way *way);
void ring_receive(struct way *way);
void ring_send(struct way *way, int flags); /* what is left of data */
/* pair_hung_up() once the way's sender has gone for good. */
void ring_watch_hangup(struct way *way);

/* 0 or -errno. program: of the in-kernel switch, or NULL. */
int thread_open(struct thread *thread, const struct loop_program *program);
/* For the main thread: an entry and a home for a way; without, it does, too. */
void ring_give_entry(struct way *way);
void ring_take_entry(struct way *way);
void ring_give_home_back(struct way *way); /* its memory */
/* Waits for operations and handles what comes. True: there is mail. */
bool thread_round(struct thread *thread);
void thread_close(struct thread *thread); /* with its pairs */
/* Closes both sockets and frees all but the pair. */
void pair_close(struct pair *pair);

void switch_tell(struct thread *thread, struct switch_event *event);

#endif
