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
 *   ring       slots published for this connection, in order
 *   queue      the receiving socket's queue
 *   charged    messages charged to the sending socket, those on their way and
 *              half received included: "alone" is charged == 1
 *
 * At any message a sender may find the ring or the landing pool full, and the
 * receiver may hold at any time, HOLDS times in all. In ON the receiver does not
 * look at the queue.
 *
 * Order: a message is delivered after every message whose send had returned
 * before its own began (so each thread's are in order, too). Nothing is stuck:
 * the run ends with all delivered; anything else is an invalid end state.
 *
 * Options:
 *   NO_CHARGE  a sender does not care what else is charged
 *   NO_REREAD  ... does not look again after it took a grant
 *   NO_DRAIN   the receiver does not drain the ring after each recv
 *   NO_HOLD    a message left to the queue leaves the word ON
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

#define MESSAGES (FIRST + SECOND + THIRD)
#define HOLD 0
#define GRANTED 1
#define ON 2

byte word = HOLD;
byte charged;
byte holds;
chan ring = [MESSAGES] of { byte };
chan queue = [MESSAGES] of { byte };

/* Masks of messages; message m is bit m. */
short returned; /* whose send has returned */
short delivered;
short before[MESSAGES]; /* returned when m's send began */

#define ALONE (NO_CHARGE || charged == 1)

inline deliver(m)
{
	d_step {
		assert((before[m] & ~delivered) == 0); /* overtaken */
		assert(!(delivered & (1 << m)));
		delivered = delivered | (1 << m)
	}
}

inline drain(m)
{
	do
	:: atomic { ring?m -> deliver(m) }
	:: empty(ring) -> break
	od
}

/* Sends messages m to end - 1. */
proctype sender(byte m; byte end)
{
	byte seen;
	bool steer;

	do
	:: m < end ->
		d_step {
			before[m] = returned;
			charged++;
			steer = false
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
		:: atomic { ring!m -> goto freed }
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
	byte m, got;

	do
	:: delivered == (1 << MESSAGES) - 1 -> break
	:: nempty(ring) -> drain(m)
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
		drain(m);
		if
		:: queue?got ->
			charged--; /* before recv returns */
			if
			:: !NO_DRAIN -> drain(m)
			:: NO_DRAIN
			fi;
			deliver(got);
			got = 0
		:: empty(queue) -> word = GRANTED /* EAGAIN */
		fi;
again:		m = 0
	od
}

init {
	atomic {
		run sender(0, FIRST);
		run sender(FIRST, FIRST + SECOND);
		run sender(FIRST + SECOND, MESSAGES)
	}
}
