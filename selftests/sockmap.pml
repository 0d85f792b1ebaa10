/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A stream moves from user space to the kernel (user/daemon/move.c, hold.c and
 * bpf/sockmap.bpf.c): a model for spin. sockmap-model.t.sh checks every
 * interleaving, also with parts of the rules removed.
 *
 * A thread sends MESSAGES pieces of a stream; CAP of them fill its send buffer.
 * Every step is one access to what is shared:
 *
 *   here       there
 *   queue      the source's receive queue; a recv() of several is one step
 *              (the kernel locks the queue meanwhile), and so is what the program
 *              gets: the first one, when another arrives
 *   source     the socket is in `sources`
 *   word, on   the word of the flow; forwarded: that of sluiced
 *   target     on its way to the receiver, in the kernel
 *   hold       on its way to sluiced, in the kernel; held: it is there
 *   charged    pieces charged to the sender, on their way or queued
 *
 * Order: the receiver gets each piece once, the one after the last. Nothing is
 * stuck: the run ends with all received; anything else is an invalid end state.
 *
 * What lags is received behind the fence: the look and the receive are one step, and
 * so they are in the kernel, whose lock of the queue is held from the one to the
 * other.
 *
 * Options:
 *   NO_HELD     the program goes ON though pieces that were held are on their way
 *   NO_SENT     sluiced says that it has forwarded before it has
 *   NO_SETTLE   ... though the source has not been seen empty
 *   NO_FENCE    what lags is received a step after the look
 *   NO_QUIET    ... though a piece may be on its way to `hold`
 *   NO_READ     ... though not all that came there was read
 *   NO_LAGGING  ... never
 */
#ifndef MESSAGES
#define MESSAGES 5
#endif
#ifndef CAP
#define CAP 2
#endif
#ifndef NO_HELD
#define NO_HELD 0
#endif
#ifndef NO_SENT
#define NO_SENT 0
#endif
#ifndef NO_SETTLE
#define NO_SETTLE 0
#endif
#ifndef NO_FENCE
#define NO_FENCE 0
#endif
#ifndef NO_QUIET
#define NO_QUIET 0
#endif
#ifndef NO_READ
#define NO_READ 0
#endif
#ifndef NO_LAGGING
#define NO_LAGGING 0
#endif

#define NEVER 255

chan queue = [MESSAGES] of { byte };
chan target = [MESSAGES] of { byte };
chan hold = [MESSAGES] of { byte };
chan held = [MESSAGES] of { byte };
byte charged, word, forwarded = NEVER;
bool source, on;
byte received; /* so many: the next one has this number */

#define ALL (received == MESSAGES)
#define QUIET (charged == len(queue))

inline deliver(m)
{
	assert(m == received); /* overtaken, or twice */
	received++
}

/* In the sender's send(). */
active proctype sender()
{
	byte m, got;
	bool arrives, direct;

	do
	:: m < MESSAGES ->
		atomic { charged < CAP -> charged++ };
		queue!m;
		arrives = source; /* whom the arrival is told to */
		atomic {
			if
			:: arrives && len(queue) > 0 -> queue?got
			:: !arrives || len(queue) == 0 -> goto sent
			fi
		};
		/* the program */
		atomic {
			direct = on;
			if
			:: !on && forwarded != NEVER &&
			   (forwarded == word || NO_HELD) &&
			   charged == 1 ->
				on = true;
				direct = true
			:: else
			fi;
			if
			:: !direct -> word++
			:: else
			fi
		};
		if
		:: direct -> target!got
		:: else -> hold!got
		fi;
sent:		atomic {
			m++;
			got = 0;
			arrives = false;
			direct = false
		}
	:: m == MESSAGES -> break
	od
}

/* The work queues of target and hold. */
active proctype worker()
{
	byte m;

	do
	:: target?m -> atomic { deliver(m); charged--; m = 0 }
	:: hold?m -> atomic { held!m; charged--; m = 0 }
	:: ALL -> break
	od
}

/* All that the program took was read, and what is charged is queued. */
#define NEXT ((QUIET || NO_QUIET) && \
	(word + direct + first == read || NO_READ))

inline take_lagging()
{
	i = 0;
	do
	:: i < lagging && nempty(queue) -> queue?m; charged--; deliver(m); i++
	:: i == lagging || empty(queue) -> break
	od;
	direct = direct + i;
	read = read + i;
	settled = (i == lagging)
}

/* sluiced: piece `read` is the next, by hold or out of the queue. */
active proctype engine()
{
	byte m, i, lagging, read, direct, first;
	bool settled;

	/* in user space */
	do
	:: atomic { queue?m -> charged-- }; deliver(m)
	:: atomic { empty(queue) -> first = received; read = first };
		source = true;
		goto moved
	:: ALL -> goto over
	od;

moved:	/* a source, and in HOLD */
	do
	:: ALL -> break
	:: held?m ->
		if
		:: NO_SENT && settled -> forwarded = read + 1 - first - direct
		:: else
		fi;
		deliver(m);
		read++
	:: !settled && empty(queue) -> settled = true
	:: !settled && NO_SETTLE -> settled = true
	:: !settled && nempty(queue) && !NO_LAGGING ->
		/* counted first: the fence opens for so many */
		lagging = len(queue);
		if
		:: !NO_FENCE ->
			atomic {
				if
				:: NEXT -> take_lagging()
				:: else
				fi
			}
		:: NO_FENCE && NEXT ->
			atomic { take_lagging() }
		:: NO_FENCE && !NEXT
		fi
	:: settled && word + direct + first == read && forwarded != word ->
		forwarded = read - first - direct
	od;
over:	m = 0
}
