/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What guard.bpf.c tells sluiced. */
#ifndef SLUICE_BPF_GUARD_H
#define SLUICE_BPF_GUARD_H

#include <linux/types.h>

#define GUARD_REFUSALS_BYTES 65536

/* A message that was dropped for what it carried. */
struct guard_refusal {
	__u64 cookie; /* of sluiced's end of the connection */
	__u32 fds; /* how many */
	__u32 __resv;
	struct {
		__u32 magic; /* as struct sluice_control begins */
		__u16 type;
		__u16 flags;
		__u32 serial;
		__u32 error;
	} frame; /* zero if the message was shorter */
};

#endif
