/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * BPF instructions for programs so small that they need no compiler. Each
 * function writes at insns and returns how many.
 */
#ifndef CTL_BPF_INSN_H
#define CTL_BPF_INSN_H

#include <linux/bpf.h>

static inline struct bpf_insn insn(int code, int dst, int src, int off, int imm)
{
	return (struct bpf_insn){
		.code = (__u8)code,
		.dst_reg = (__u8)(dst & 15),
		.src_reg = (__u8)(src & 15),
		.off = (__s16)off,
		.imm = imm,
	};
}

#define INSN_MOV(dst, imm) insn(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm)
#define INSN_MOV_REG(dst, src) insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
#define INSN_ADD(dst, imm) insn(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, imm)
#define INSN_CALL(helper) insn(BPF_JMP | BPF_CALL, 0, 0, 0, helper)
#define INSN_EXIT() insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* *(size *)(dst + off) = imm; size is BPF_W or BPF_DW */
#define INSN_STORE(size, dst, off, imm) \
	insn(BPF_ST | BPF_MEM | (size), dst, 0, off, imm)
#define INSN_LOAD(size, dst, src, off) \
	insn(BPF_LDX | BPF_MEM | (size), dst, src, off, 0)
/* if (dst op imm) skip; op is BPF_JEQ or BPF_JNE */
#define INSN_SKIP_IF(op, dst, imm, skip) \
	insn(BPF_JMP | (op) | BPF_K, dst, 0, skip, imm)

static inline unsigned int insn_return(struct bpf_insn *insns, int value)
{
	insns[0] = INSN_MOV(0, value);
	insns[1] = INSN_EXIT();
	return 2;
}

/* dst = map */
static inline unsigned int insn_map(struct bpf_insn *insns, int dst, int map)
{
	insns[0] =
		insn(BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_FD, 0, map);
	insns[1] = insn(0, 0, 0, 0, 0);
	return 2;
}

/* r0 = the first element of the array map, or of the map in r1 if map < 0. */
static inline unsigned int insn_lookup(struct bpf_insn *insns, int map)
{
	unsigned int n = 0;

	insns[n++] = INSN_STORE(BPF_W, 10, -4, 0);
	insns[n++] = INSN_MOV_REG(2, 10);
	insns[n++] = INSN_ADD(2, -4);
	if (map >= 0)
		n += insn_map(insns + n, 1, map);
	insns[n++] = INSN_CALL(BPF_FUNC_map_lookup_elem);
	return n;
}

#endif
