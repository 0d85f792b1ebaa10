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
 * A sender that is full is waited for until it has told of its last piece
 * (telling); one that is only calm is left out, where bytes decide.
 *
 * Options:
 *   NO_HELD     the program goes ON though pieces that were held are on their way
 *   NO_SENT     sluiced says that it has forwarded before it has
 *   NO_SETTLE   ... though the source has not been seen empty
 *   NO_SKIP     ... though it has sent on pieces that are still to come by hold
 *   NO_QUIET    what lags is sent on though something may be moving
 *   RECEIVE     ... is received at any time, not only when the sender is full
 *   NO_WAIT     a full sender may be about to tell of its last piece
 *   IN_PIECES   what was peeked is received in several calls
 *   LATE        the socket becomes a source after that
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
#ifndef NO_SKIP
#define NO_SKIP 0
#endif
#ifndef NO_QUIET
#define NO_QUIET 0
#endif
#ifndef NO_WAIT
#define NO_WAIT 0
#endif
#ifndef RECEIVE
#define RECEIVE 0
#endif
#ifndef IN_PIECES
#define IN_PIECES 0
#endif
#ifndef LATE
#define LATE 0
#endif

#define NEVER 255

chan queue = [MESSAGES] of { byte };
chan target = [MESSAGES] of { byte };
chan hold = [MESSAGES] of { byte };
chan held = [MESSAGES] of { byte };
byte charged, word, forwarded = NEVER;
bool source, on, telling;
byte received; /* so many: the next one has this number */

#define ALL (received == MESSAGES)
#define QUIET (charged == len(queue))
#define FULL (charged == CAP && (!telling || NO_WAIT))

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
		atomic { queue!m; telling = true };
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
			telling = false;
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

/* sluiced: piece `done` is the next to be sent on, `read` to come by hold. */
active proctype engine()
{
	byte m, i, peeked, read, done, direct, first;
	bool settled;

	/* in user space */
	do
	:: atomic { queue?m -> charged-- }; deliver(m)
	:: atomic { empty(queue) -> first = received; read = first; done = first };
		source = true;
		goto moved
	:: atomic { FULL && QUIET -> peeked = len(queue) };
		/* full: peek and send on */
		i = 0;
		do
		:: i < peeked -> deliver(received); i++
		:: i == peeked -> break
		od;
		if
		:: !LATE -> on = true; source = true
		:: LATE
		fi;
		if
		:: !IN_PIECES -> d_step {
			i = 0;
			do
			:: i < peeked -> queue?m; charged--; i++
			:: i == peeked -> break
			od
		   }
		:: IN_PIECES ->
			i = 0;
			do
			:: i < peeked ->
				atomic {
					if
					:: queue?m -> charged--
					:: empty(queue)
					fi
				};
				i++
			:: i == peeked -> break
			od
		fi;
		if
		:: LATE -> on = true; source = true
		:: !LATE
		fi;
		goto over
	:: ALL -> goto over
	od;

moved:	/* a source, and in HOLD */
	do
	:: ALL -> break
	:: held?m ->
		if
		:: read >= done ->
			if
			:: NO_SENT && settled -> forwarded = read + 1 - first - direct
			:: else
			fi;
			deliver(m);
			done = read + 1
		:: else
		fi;
		read++
	:: !settled && empty(queue) -> settled = true
	:: !settled && NO_SETTLE -> settled = true
	:: !settled && nempty(queue) ->
		/* peek; then: has anything moved? */
		d_step {
			peeked = len(queue);
			i = 0;
			if
			:: peeked -> queue?<m>
			:: else
			fi
		};
		atomic {
			if
			:: (QUIET && word + direct + first == read) || NO_QUIET
			:: else -> peeked = 0
			fi
		};
		/* from the first one peeked; those that were sent on are skipped */
		i = 0;
		do
		:: i < peeked ->
			if
			:: read + i >= done ->
				deliver(m + i);
				done = read + i + 1
			:: else
			fi;
			i++
		:: i == peeked -> break
		od;
		if
		:: peeked && (FULL || RECEIVE) && QUIET &&
		   word + direct + first == read ->
			d_step {
				i = 0;
				do
				:: i < peeked && len(queue) > 0 ->
					queue?m; charged--; i++
				:: i == peeked || len(queue) == 0 -> break
				od;
			};
			direct = direct + peeked;
			read = read + peeked;
			settled = true
		:: else
		fi
	:: settled && word + direct + first == read &&
	   (done == read || NO_SKIP) && forwarded != word ->
		forwarded = read - first - direct
	od;
over:	m = 0
}
