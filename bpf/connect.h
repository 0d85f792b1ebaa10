/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What connect.bpf.c and sluiced share. */
#ifndef SLUICE_BPF_CONNECT_H
#define SLUICE_BPF_CONNECT_H

#include <linux/types.h>

#define CONNECT_PATH 108 /* of struct sockaddr_un */
#define CONNECT_INTERCEPTS 1024

/* A path, zeros after it. One byte more than the kernel's, so that it ends. */
struct connect_path {
	char path[CONNECT_PATH + 4];
};

/* In an abstract name that sluiced connects to, to be recognised. */
struct connect_nonce {
	__u64 number;
};

#endif
