/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Sleep and wake (PROTOCOL.md section 8): a model for spin.
 *
 * One direction in the direct lane: a producer sends MESSAGES slots through a
 * ring of RING, and either side sleeps when it has nothing to do. sleep-model.t.sh
 * checks every interleaving, also with parts of the protocol removed.
 *
 *   here                 PROTOCOL.md
 *   mem[SEQ(p)]          seq of the ring slot that position p uses
 *   mem[HEAD]            rx_head, in the consumer's link
 *   mem[RX_STATE]        rx_state, in the consumer's link
 *   mem[TX_STATE]        tx_state, in the producer's link; a release would wake
 *                        the producer just as a store to rx_head does
 *   to_consumer,         the socket, one queue a direction; only DOORBELLs, and
 *   to_producer          room for one, so that EAGAIN happens
 *   from_producer,       store buffers, one a process (x86-TSO): a store waits
 *   from_consumer        there, in order, until its drain process moves it to
 *                        mem. Nobody reads its own cells back from mem.
 *   empty(own buffer)    a full fence
 *   empty(both), in turn membarrier(GLOBAL_EXPEDITED) by the sleeper
 *
 * Socket calls are not fences here, though they are on x86. Late DOORBELLs, rung
 * for an earlier sleep, come about by themselves; `spurious` adds a senseless one.
 * The store of seq publishes; payloads, and so acquire and release, are left out.
 *
 * Lost wake-up: nothing can move any more (timeout) while a side is asleep that
 * has something to do. Any other deadlock is an invalid end state. No process
 * has a cycle without progress, so every run ends: that is the liveness.
 *
 * Options, each a mask of the words it applies to (RX, TX):
 *   REGISTERED        whose waker has FEAT_MEMBARRIER (default both)
 *   NO_RECHECK        the sleeper does not look again (step 4)
 *   NO_SLEEPER_FENCE  ... does not fence (step 3)
 *   NO_MEMBARRIER     ... does not call membarrier (step 1)
 *   NO_NUMBER         ... does not add one to the number (step 2)
 *   NO_WAKER_FENCE    the waker does not fence outside of SPIN (step 2)
 *   NOTE_STARTS_AS    number the waker believes it has rung at first: none; one
 *                     number for both words, not a mask
 *   NO_RETRY          a DOORBELL that meets EAGAIN is dropped (step 3): loses
 *                     nothing, for the sleeper's socket is not empty then
 */
#define RX 1 /* rx_state: the consumer sleeps, the producer wakes */
#define TX 2 /* tx_state: the producer sleeps, the consumer wakes */

#ifndef REGISTERED
#define REGISTERED 3
#endif
#ifndef NO_RECHECK
#define NO_RECHECK 0
#endif
#ifndef NO_SLEEPER_FENCE
#define NO_SLEEPER_FENCE 0
#endif
#ifndef NO_MEMBARRIER
#define NO_MEMBARRIER 0
#endif
#ifndef NO_NUMBER
#define NO_NUMBER 0
#endif
#ifndef NO_WAKER_FENCE
#define NO_WAKER_FENCE 0
#endif
#ifndef NO_RETRY
#define NO_RETRY 0
#endif

#ifndef NOTE_STARTS_AS
#define NOTE_STARTS_AS NONE
#endif

#ifndef MESSAGES
#define MESSAGES 4
#endif
#define RING 2
#define STORES 3 /* places in a store buffer */

#define SPIN 0
#define MAY_SLEEP 1
#define ASLEEP 2
#define SLEEP 4
#define STATE(word) ((word) % SLEEP)
#define NUMBER(word) ((word) / SLEEP)
#define NONE 63 /* no number: nothing rung yet */

#define SEQ(p) ((p) % RING)
#define HEAD RING
#define RX_STATE (RING + 1)
#define TX_STATE (RING + 2)

/* Position p starts as p + 1 - RING (section 2), modulo 256 here. */
byte mem[RING + 3] = { 255, 0, 0, MAY_SLEEP, MAY_SLEEP };
chan from_producer = [STORES] of { byte, byte };
chan from_consumer = [STORES] of { byte, byte };
chan to_consumer = [1] of { bit };
chan to_producer = [1] of { bit };

byte sent; /* messages the producer has published: its next position */
byte received; /* messages the consumer has taken: its next position */
byte blocked; /* mask: who is in step 5 */

#define SLOT (mem[SEQ(received)] == received + 1)
#define ROOM (sent - mem[HEAD] < RING)

/* The six steps of the sleeper; word is its private copy of mem[cell]. */
inline sleeper(who, own, other, cell, word, socket, something)
{
	if
	:: atomic {
		STATE(word) == SPIN ->
			word = word - SPIN + MAY_SLEEP;
			own!cell,word
	   };
	   if
	   :: (REGISTERED & who) && !(NO_MEMBARRIER & who) ->
		empty(own);
		empty(other)
	   :: else
	   fi
	:: STATE(word) != SPIN
	fi;
	atomic {
		word = word - MAY_SLEEP + ASLEEP +
		       (NO_NUMBER & who -> 0 : SLEEP);
		assert(NUMBER(word) < NONE);
		own!cell,word
	};
	(NO_SLEEPER_FENCE & who) || empty(own);
	if
	:: !(NO_RECHECK & who) && (something)
	:: atomic {
		(NO_RECHECK & who) || !(something) ->
			blocked = blocked | who
	   };
	   /* looks at the socket by blocking on it */
	   atomic { nempty(socket) -> blocked = blocked - who }
	fi;
	do
	:: socket?_
	:: empty(socket) -> break
	od;
	atomic {
		word = word - ASLEEP + MAY_SLEEP;
		own!cell,word
	}
}

/* Nothing to do: doze off, or go back to SPIN, or see that there is something. */
inline idle(who, own, other, cell, word, socket, something)
{
	if
	:: something
	:: socket?_
	:: atomic {
		STATE(word) == MAY_SLEEP ->
			word = word - MAY_SLEEP + SPIN;
			own!cell,word
	   }
	:: sleeper(who, own, other, cell, word, socket, something)
	fi
}

/* The three steps of the waker; pending: a DOORBELL that met EAGAIN. */
inline waker(who, own, cell, rung, socket, pending)
{
	if
	:: (REGISTERED & who) && STATE(mem[cell]) == SPIN
	:: !(REGISTERED & who) || STATE(mem[cell]) != SPIN ->
		(NO_WAKER_FENCE & who) || empty(own);
		if
		:: STATE(mem[cell]) != ASLEEP || NUMBER(mem[cell]) == rung
		:: atomic {
			STATE(mem[cell]) == ASLEEP && NUMBER(mem[cell]) != rung ->
				rung = NUMBER(mem[cell]);
				pending = true
		   };
		   retry(who, socket, pending)
		fi
	fi
}

/* Sends the pending DOORBELL if there is room for it. */
inline retry(who, socket, pending)
{
	if
	:: atomic { pending && nfull(socket) -> socket!1; pending = false }
	:: atomic { !pending || full(socket) -> pending = pending && !(NO_RETRY & who) }
	fi
}

active proctype producer()
{
	byte word = MAY_SLEEP;
	byte rung = NOTE_STARTS_AS;
	bool pending, batch;

	do
	:: sent < MESSAGES ->
		retry(RX, to_consumer, pending);
		if
		:: atomic {
			ROOM ->
				from_producer!SEQ(sent),sent + 1;
				sent++;
				batch = true
		   }
		:: !ROOM && !batch ->
			idle(TX, from_producer, from_consumer, TX_STATE, word,
			     to_producer, ROOM)
		:: batch ->
			waker(RX, from_producer, RX_STATE, rung, to_consumer,
			      pending);
			batch = false
		fi
	:: sent == MESSAGES -> break
	od;
	/* The last call: whatever is still pending stays so for good. */
	waker(RX, from_producer, RX_STATE, rung, to_consumer, pending)
}

active proctype consumer()
{
	byte word = MAY_SLEEP;
	byte rung = NOTE_STARTS_AS;
	bool pending, held; /* held: rx_head is behind */

	do
	:: received < MESSAGES ->
		retry(TX, to_producer, pending);
		if
		:: atomic {
			SLOT ->
				received++;
				held = true
		   }
		:: !SLOT && !held ->
			idle(RX, from_consumer, from_producer, RX_STATE, word,
			     to_consumer, SLOT)
		:: held ->
			from_consumer!HEAD,received;
			held = false;
			waker(TX, from_consumer, TX_STATE, rung, to_producer,
			      pending)
		fi
	:: received == MESSAGES -> break
	od
	/* Ends with rx_head behind: the producer needs no more room. */
}

active proctype drain_producer()
{
	byte cell, value;

end:	do
	:: d_step {
		from_producer?cell,value;
		mem[cell] = value;
		cell = 0;
		value = 0
	}
	od
}

active proctype drain_consumer()
{
	byte cell, value;

end:	do
	:: d_step {
		from_consumer?cell,value;
		mem[cell] = value;
		cell = 0;
		value = 0
	}
	od
}

/* One senseless DOORBELL to either side, or none. */
active proctype spurious()
{
	if
	:: atomic { nfull(to_consumer) -> to_consumer!1 }
	:: atomic { nfull(to_producer) -> to_producer!1 }
	:: skip
	fi
}

active proctype watch()
{
	timeout;
	assert(!((blocked & RX) && SLOT)); /* the consumer's wake-up is lost */
	assert(!((blocked & TX) && ROOM)); /* the producer's wake-up is lost */
}
