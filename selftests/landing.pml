/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Landing of STREAM (bpf/stream.bpf.c, user/lib/stream.c): a model for spin.
 *
 * Two threads send FIRST and SECOND pieces on one socket, to one receiver.
 * landing-model.t.sh checks every interleaving, also with parts of the rules removed. Every
 * step is one access to what is shared:
 *
 *   here       there
 *   queue      the receiver's queue: whose thread it is that is told of a piece
 *              takes the first one
 *   word, spilled, granted   of the connection
 *   ring       steered pieces; steer.pml has what is in it
 *   way        on its way to the spill socket, in the kernel; spill: it is there
 *   charged    pieces charged to the sender
 *
 * At any piece the ring or the landing pool may be full, and the receiver may hold
 * at any time, HOLDS times in all.
 *
 * Order: a piece is delivered after every one whose send had returned before its own
 * began (so each thread's are in order, too), unless SWAP: then a thread that is
 * told of its piece may be given another's, which the kernel does not prevent if
 * their sends overlap, and order is lost. At the end nothing is missing; nothing
 * is stuck: anything else is an invalid end state.
 *
 * Options:
 *   NO_SPILLED  the program does not care what was spilled and has not been read
 *   LATE        a piece that is spilled is counted when it is on its way already
 *   NO_DRAIN    the receiver does not drain the ring after each recv
 *   NO_WAIT     ... reports the end though not all that was spilled was read
 */
#ifndef FIRST
#define FIRST 4
#endif
#ifndef SECOND
#define SECOND 0
#endif
#ifndef HOLDS
#define HOLDS 1
#endif
#ifndef NO_SPILLED
#define NO_SPILLED 0
#endif
#ifndef LATE
#define LATE 0
#endif
#ifndef NO_DRAIN
#define NO_DRAIN 0
#endif
#ifndef SWAP
#define SWAP 0
#endif
#ifndef NO_WAIT
#define NO_WAIT 0
#endif

#define PIECES (FIRST + SECOND)
#define HOLD 0
#define GRANTED 1
#define ON 2

byte word = HOLD;
byte spilled, granted;
byte charged;
byte holds;
chan queue = [PIECES] of { byte };
chan ring = [PIECES] of { byte };
chan way = [PIECES] of { byte };
chan spill = [PIECES] of { byte };
byte senders = 2;

/* Masks of pieces; piece m is bit m. */
short returned; /* whose send has returned */
short delivered;
short before[PIECES]; /* returned when m's send began */

#define ALL ((1 << PIECES) - 1)
#define ALONE (charged == 1)
#define READ_ALL(seen) (NO_SPILLED || (seen) == granted)

inline deliver(m)
{
	/* overtaken */
	assert(SWAP || (before[m] & ~delivered) == 0);
	assert(!(delivered & (1 << (m))));
	delivered = delivered | (1 << (m))
}

inline drain()
{
	do
	:: atomic { ring?got -> deliver(got); got = 0 }
	:: empty(ring) -> break
	od
}

/* In send(): pieces m to end - 1. */
proctype sender(byte m; byte end)
{
	byte got, seen, all;

	do
	:: m < end ->
		d_step { before[m] = returned; charged++ };
#if SWAP
		atomic { queue!m };
		atomic { queue?got };
#else
		got = m;
#endif
		/* the program */
		atomic {
			seen = word;
			if
			:: seen == HOLD -> goto count
			:: else
			fi
		};
		if
		:: ALONE
		:: !ALONE -> goto leave
		fi;
		all = spilled;
		if
		:: READ_ALL(all)
		:: !READ_ALL(all) -> goto leave
		fi;
		if
		:: seen == ON -> goto take
		:: seen == GRANTED
		fi;
		atomic {
			if
			:: word == GRANTED -> word = ON
			:: else -> goto leave
			fi
		};
take:		if
		:: atomic { ring!got };
		   atomic { charged--; goto sent }
		:: true /* no room */
		fi;
leave:		atomic {
			if
			:: word == ON -> word = HOLD
			:: else
			fi
		};
count:		if
		:: !LATE -> spilled++
		:: LATE
		fi;
		atomic { way!got };
		if
		:: LATE -> spilled++
		:: !LATE
		fi;
sent:		atomic {
			returned = returned | (1 << m);
			m++;
			got = 0;
			seen = 0;
			all = 0
		}
	:: m == end -> senders--; break
	od
}

/* The work queue of the spill socket. */
active proctype worker()
{
	byte m;

	do
	:: atomic { way?m -> spill!m; m = 0 }; charged--
	:: delivered == ALL -> break
	od
}

active proctype receiver()
{
	byte got, piece, read, all;
	bool over;

	do
	:: nempty(ring) -> drain()
	:: atomic { word == ON && holds < HOLDS -> word = HOLD; holds++ }
	/* Looks: the word asks for it, or a socket is readable. */
	:: word == HOLD || nempty(spill) || senders == 0 ->
		over = senders == 0; /* the kernel tells, and a grace period has passed */
		atomic {
			if
			:: word == GRANTED -> word = HOLD
			:: else
			fi
		};
		if
		:: spill?piece ->
			read++;
			if
			:: !NO_DRAIN -> drain()
			:: NO_DRAIN
			fi;
			atomic { deliver(piece); piece = 0 }
		:: empty(spill) ->
			all = spilled;
			if
			:: all == read || (NO_WAIT && over) ->
				if
				:: over ->
					drain();
					assert(delivered == ALL); /* the end */
					break
				:: !over ->
					granted = read;
					atomic {
						if
						:: word == HOLD -> word = GRANTED
						:: else
						fi
					}
				fi
			:: else
			fi;
			all = 0
		fi;
		over = false
	od;
	over = false
}

init {
	atomic {
		run sender(0, FIRST);
		run sender(FIRST, PIECES)
	}
}
