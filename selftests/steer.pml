/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Order between ring and queue (PROTOCOL.md section 15): a model for spin.
 *
 * Three threads send FIRST, SECOND and THIRD messages on one socket that is
 * steered, to one receiver. steer-model.t.sh checks every interleaving, also with parts of the
 * protocol removed. Every step is one access to what is shared:
 *
 *   here       PROTOCOL.md
 *   word       the connection's word
 *   slot       of the ring: 0 until it is published; tail, head: positions of it
 *   queue      the receiving socket's queue
 *   charged    messages charged to the sending socket, those on their way and
 *              half received included: "alone" is charged == 1
 *
 * At any message a sender may find the ring or the landing pool full, and the
 * receiver may hold at any time, HOLDS times in all. In ON the receiver does not
 * look at the queue. A sender claims a position and then publishes it; with
 * STRANGER, one of another connection does, too, but may be preempted in between
 * until all else is over.
 *
 * With HASHED, odd messages go to a second ring, which a worker reads; what was
 * left to the queue is the first ring's receiver's, whatever its number.
 *
 * Order: a message is delivered after every message whose send had returned
 * before its own began (so each thread's are in order, too), with HASHED if both
 * are odd or both even. Nothing is stuck:
 * the run ends with all delivered; anything else is an invalid end state.
 *
 * Options:
 *   NO_CHARGE  a sender does not care what else is charged
 *   NO_REREAD  ... does not look again after it took a grant
 *   NO_DRAIN   the receiver does not drain the ring after each recv
 *   NO_HOLD    a message left to the queue leaves the word ON
 *   NO_AHEAD   the receiver waits for a position that is not published
 *   NO_LIMIT   ... looks past it up to what the tail is by then
 *   NO_TURN    what was left to the queue does not wait for the second ring
 */
#ifndef FIRST
#define FIRST 2
#endif
#ifndef SECOND
#define SECOND 1
#endif
#ifndef THIRD
#define THIRD 1
#endif
#ifndef HOLDS
#define HOLDS 1
#endif
#ifndef NO_CHARGE
#define NO_CHARGE 0
#endif
#ifndef NO_REREAD
#define NO_REREAD 0
#endif
#ifndef NO_DRAIN
#define NO_DRAIN 0
#endif
#ifndef NO_HOLD
#define NO_HOLD 0
#endif
#ifndef NO_AHEAD
#define NO_AHEAD 0
#endif
#ifndef NO_LIMIT
#define NO_LIMIT 0
#endif
#ifndef NO_TURN
#define NO_TURN 0
#endif
#ifndef STRANGER
#define STRANGER 0
#endif
#ifndef HASHED
#define HASHED 0
#endif

#define MESSAGES (FIRST + SECOND + THIRD)
#define HOLD 0
#define GRANTED 1
#define ON 2

byte word = HOLD;
byte charged;
byte holds;
chan queue = [MESSAGES] of { byte };

#define RINGS (1 + HASHED)
#define POSITIONS (MESSAGES + 1 + STRANGER) /* the last one is never claimed */
#define RING_OF(m) (HASHED && (m) % 2)
#define SLOT(r, position) slot[(r) * POSITIONS + (position)]
#define ALL ((1 << MESSAGES) - 1)
#define OTHERS (MESSAGES + 1) /* in slot: another connection's message */

byte slot[RINGS * POSITIONS]; /* message + 1; 0 again when it is taken */
byte tail[RINGS];
byte head[RINGS]; /* below it all is taken and delivered */
byte ready[RINGS]; /* slots that are not 0 */
short ahead[RINGS]; /* positions, not below head, that are taken: bits */

/* Masks of messages; message m is bit m. */
short returned; /* whose send has returned */
short delivered;
short before[MESSAGES]; /* returned when m's send began */

#define ALONE (NO_CHARGE || charged == 1)

/* Messages that come in one order with m. */
#define KIN(m) (HASHED -> ((m) % 2 -> 170 : 85) : 255)

inline deliver(m)
{
	assert((before[m] & ~delivered & KIN(m)) == 0); /* overtaken */
	assert(!(delivered & (1 << (m))));
	delivered = delivered | (1 << (m))
}

inline take_slot(r, position)
{
	if
	:: SLOT(r, position) != OTHERS -> deliver(SLOT(r, position) - 1)
	:: else
	fi;
	SLOT(r, position) = 0;
	ready[r]--
}

/* All that is ready before a position that is not. */
inline drain_near(r)
{
	do
	:: atomic { SLOT(r, head[r]) != 0 -> take_slot(r, head[r]); head[r]++ }
	:: atomic {
		ahead[r] & (1 << head[r]) ->
		ahead[r] = ahead[r] & ~(1 << head[r]);
		head[r]++
	   }
	:: else -> break
	od
}

/* And what lies behind it, as far as the tail was before. */
inline drain(r)
{
	limit = tail[r];
	drain_near(r);
	position = head[r] + 1;
	do
	:: atomic {
		position < (NO_LIMIT -> tail[r] : limit) && !NO_AHEAD ->
		if
		:: atomic {
			SLOT(r, position) != 0 ->
			take_slot(r, position);
			ahead[r] = ahead[r] | (1 << position)
		   }
		:: else
		fi;
		position++
	   }
	:: else -> break
	od;
	atomic { position = 0; limit = 0 }
}

/* Is there something that drain() takes? */
#define DUE(r) (NO_AHEAD -> SLOT(r, head[r]) != 0 : ready[r] != 0)

/* Sends messages m to end - 1. */
proctype sender(byte m; byte end)
{
	byte seen, position;

	do
	:: m < end ->
		d_step {
			before[m] = returned;
			charged++
		}
		atomic {
			seen = word;
			if
			:: seen == HOLD -> goto pass
			:: else
			fi
		};
		atomic {
			if
			:: ALONE && seen == ON -> goto take
			:: ALONE && seen == GRANTED
			:: !ALONE -> goto spill
			fi
		};
		atomic {
			if
			:: word == GRANTED ->
				word = ON;
				if
				:: NO_REREAD -> goto take
				:: else
				fi
			:: else -> goto spill
			fi
		};
		atomic {
			if
			:: ALONE
			:: !ALONE -> goto spill
			fi
		};
take:		if
		:: atomic {
			position = tail[RING_OF(m)];
			tail[RING_OF(m)]++
		   };
		   atomic {
			SLOT(RING_OF(m), position) = m + 1;
			ready[RING_OF(m)]++;
			position = 0;
			goto freed
		   }
		:: true /* no room */
		fi;
spill:		atomic {
			if
			:: word == ON && !NO_HOLD -> word = HOLD
			:: else
			fi
		};
pass:		atomic { queue!m -> goto sent };
freed:		charged--;
sent:		atomic {
			returned = returned | (1 << m);
			m++;
			seen = 0
		}
	:: m == end -> break
	od
}

active proctype receiver()
{
	byte got, position, limit;

	do
	:: delivered == ALL -> break
	:: DUE(0) -> drain(0)
	:: atomic { word == ON && holds < HOLDS -> word = HOLD; holds++ }
	/* Looks at the socket: it is readable, or the word asks for a grant. */
	:: (word == GRANTED && nempty(queue)) || word == HOLD ->
		atomic {
			if
			:: word == GRANTED -> word = HOLD
			:: word == ON -> goto again
			:: word == HOLD
			fi
		};
		drain_near(0);
		if
		:: queue?got ->
			charged--; /* before recv returns */
			if
			:: !NO_DRAIN -> drain(0)
			:: NO_DRAIN
			fi;
#if HASHED
			if
			:: !NO_TURN -> limit = tail[1]; head[1] >= limit
			:: NO_TURN
			fi;
#endif
			atomic { deliver(got); got = 0; limit = 0 }
		:: empty(queue) -> word = GRANTED /* EAGAIN */
		fi;
again:		skip
	od
}

#if HASHED
active proctype worker()
{
	byte position, limit;

	do
	:: delivered == ALL -> break
	:: DUE(1) -> drain(1)
	od
}
#endif

#if STRANGER
active proctype stranger()
{
	byte position;

	atomic { position = tail[0]; tail[0]++ };
	if
	:: atomic { SLOT(0, position) = OTHERS; ready[0]++ }
	:: delivered == ALL
	fi
}
#endif

init {
	atomic {
		run sender(0, FIRST);
		run sender(FIRST, FIRST + SECOND);
		run sender(FIRST + SECOND, MESSAGES)
	}
}
