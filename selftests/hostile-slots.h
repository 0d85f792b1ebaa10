/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Breaches in one slot, field by field, for each lane. */
#ifndef HOSTILE_SLOTS_H
#define HOSTILE_SLOTS_H

#include "hostile.h"

static inline struct sluice_slot inline_slot(void)
{
	return raw_inline("hello", 5, 1);
}

/* Of inline_slot(). */
static const struct change inlines[] = {
	{ "unchanged", .fine = true },
	{ "len-0", ALONE(slot, len, 0), .fine = true },
	{ "len-32", ALONE(slot, len, 32), .fine = true },
	{ "len-33", ALONE(slot, len, 33) },
	{ "len-31-bits", ALONE(slot, len, 1u << 31) },
	{ "len-largest", ALONE(slot, len, 0xffffffff) },
	{ "kind-0", ALONE(slot, kind, 0) },
	{ "kind-buffer", ALONE(slot, kind, SLUICE_SLOT_BUFFER) },
	{ "kind-landing", ALONE(slot, kind, SLUICE_SLOT_LANDING) },
	{ "kind-switch", ALONE(slot, kind, SLUICE_SLOT_SWITCH) },
	{ "kind-5", ALONE(slot, kind, 5) },
	{ "kind-99", ALONE(slot, kind, 99) },
	{ "kind-255", ALONE(slot, kind, 255) },
	{ "flags-2", ALONE(slot, flags, 2) },
	{ "flags-128", ALONE(slot, flags, 128) },
	{ "segment-1", ALONE(slot, segment, 1) },
	{ "segment-largest", ALONE(slot, segment, 65535) },
	{ "conn", ALONE(slot, conn, 1) },
	{ "conn-largest", ALONE(slot, conn, 0xffffffff) },
	{ "offset-1", ALONE(slot, offset, 1) },
	{ "offset-high", ALONE(slot, offset, 1ull << 32) },
	{ "tag-largest", ALONE(slot, tag, ~0ull), .fine = true },
	{ "bytes-past-len", ALONE(slot, inline_data[31], 1), .fine = true },
};

static inline struct sluice_slot buffer_slot(void)
{
	return raw_buffer(0, 4096, 1000, 5, 1);
}

/* Of buffer_slot(), in a segment of WORLD_SEGMENT; hold_limit is 256. */
static const struct change buffers[] = {
	{ "unchanged", .fine = true },
	{ "len-0", ALONE(slot, len, 0), .fine = true },
	{ "len-to-the-end", ALONE(slot, len, 61440), .fine = true },
	{ "len-past-the-end", ALONE(slot, len, 61441) },
	{ "len-largest", ALONE(slot, len, 0xffffffff) },
	{ "kind-0", ALONE(slot, kind, 0) },
	{ "kind-inline", ALONE(slot, kind, SLUICE_SLOT_INLINE) },
	{ "kind-landing", ALONE(slot, kind, SLUICE_SLOT_LANDING) },
	{ "kind-switch", ALONE(slot, kind, SLUICE_SLOT_SWITCH) },
	{ "kind-99", ALONE(slot, kind, 99) },
	{ "flags-2", ALONE(slot, flags, 2) },
	{ "flags-128", ALONE(slot, flags, 128) },
	{ "segment-1", ALONE(slot, segment, 1) },
	{ "segment-1023", ALONE(slot, segment, 1023) },
	{ "segment-1024", ALONE(slot, segment, 1024) },
	{ "segment-largest", ALONE(slot, segment, 65535) },
	{ "conn", ALONE(slot, conn, 1) },
	{ "offset-0", ALONE(slot, offset, 0), .fine = true },
	{ "offset-odd", ALONE(slot, offset, 7), .fine = true },
	{ "offset-to-the-end", ALONE(slot, offset, 64536), .fine = true },
	{ "offset-past-the-end", ALONE(slot, offset, 64537) },
	{ "offset-at-the-end", ALONE(slot, offset, 65536) },
	{ "offset-far", ALONE(slot, offset, 1ull << 40) },
	{ "offset-32-bits", ALONE(slot, offset, (1ull << 32) + 4096) },
	{ "offset-63-bits", ALONE(slot, offset, 1ull << 63) },
	{ "offset-wraps-to-0", ALONE(slot, offset, -1000ull) },
	{ "offset-wraps", ALONE(slot, offset, -500ull) },
	{ "offset-largest", ALONE(slot, offset, ~0ull) },
	{ "id-0", ALONE(slot, buffer.id, 0), .fine = true },
	{ "id-255", ALONE(slot, buffer.id, 255), .fine = true },
	{ "id-256", ALONE(slot, buffer.id, 256) },
	{ "id-65536", ALONE(slot, buffer.id, 65536) },
	{ "id-largest", ALONE(slot, buffer.id, 0xffffffff) },
	{ "resv-0", ALONE(slot, buffer.__resv[0], 1) },
	{ "resv-1", ALONE(slot, buffer.__resv[1], 1) },
	{ "resv-2", ALONE(slot, buffer.__resv[2], 1) },
	{ "resv-3", ALONE(slot, buffer.__resv[3], 1) },
	{ "resv-4", ALONE(slot, buffer.__resv[4], 1) },
	{ "resv-5", ALONE(slot, buffer.__resv[5], 1) },
	{ "resv-6", ALONE(slot, buffer.__resv[6], 1u << 31) },
};

#endif
