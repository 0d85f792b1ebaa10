/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The uAPI header against its document: fields, numbers, and the byte-level
 * example of PROTOCOL.md section 13, which is read from the document itself, so
 * that the two cannot drift apart.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sluice/uapi.h>

#include "tap.h"

/* The document ------------------------------------------------------------ */

/* The include directory of the tree that the build directory is in. */
static const char *include_directory(void)
{
	static char path[4096];
	const char *up;

	for (up = "/../../.."; *up; up += 3) {
		snprintf(path, sizeof(path), "%s%s/include/PROTOCOL.md",
			 tap_build(), up);
		if (!access(path, R_OK)) {
			*strrchr(path, '/') = 0;
			return path;
		}
	}
	tap_skip("%s is not in the source tree", tap_build());
}

static char *document(void)
{
	static char text[256 << 10];
	char path[4200];
	FILE *file;
	size_t len;

	snprintf(path, sizeof(path), "%s/PROTOCOL.md", include_directory());
	file = fopen(path, "re");
	if (!file)
		TAP_FAIL("%s: %s", path, strerror(errno));
	len = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	CHECK_LT(len, sizeof(text) - 1);
	text[len] = 0;
	return text;
}

/* The text of section n, cut out of the document. */
static char *section(int n)
{
	char title[16], *start, *end, *text = document();

	snprintf(title, sizeof(title), "\n## %d. ", n);
	start = strstr(text, title);
	if (!start)
		TAP_FAIL("PROTOCOL.md has no section %d", n);
	end = strstr(start + 1, "\n## ");
	if (end)
		*end = 0;
	return start;
}

static void check_says(const char *text, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void check_says(const char *text, const char *format, ...)
{
	char wanted[256];
	va_list args;

	va_start(args, format);
	vsnprintf(wanted, sizeof(wanted), format, args);
	va_end(args);
	if (!strstr(text, wanted))
		TAP_FAIL("PROTOCOL.md does not say \"%s\"", wanted);
}

/* Fields ------------------------------------------------------------------ */

struct field {
	const char *name;
	size_t at, size;
};

#define FIELD(type, field)                                               \
	{                                                                \
#type "." #field, offsetof(struct sluice_##type, field), \
			sizeof(((struct sluice_##type *)0)->field)       \
	}

static const struct field slot_fields[] = {
	FIELD(slot, seq),    FIELD(slot, len),	   FIELD(slot, kind),
	FIELD(slot, flags),  FIELD(slot, segment), FIELD(slot, conn),
	FIELD(slot, offset), FIELD(slot, tag),	   FIELD(slot, inline_data),
};
static const struct field slot_buffer_fields[] = {
	FIELD(slot, seq),	FIELD(slot, len),
	FIELD(slot, kind),	FIELD(slot, flags),
	FIELD(slot, segment),	FIELD(slot, conn),
	FIELD(slot, offset),	FIELD(slot, tag),
	FIELD(slot, buffer.id), FIELD(slot, buffer.__resv),
};
static const struct field release_fields[] = {
	FIELD(release, seq),
	FIELD(release, id),
};
static const struct field link_fields[] = {
	FIELD(link, magic),	    FIELD(link, major),
	FIELD(link, minor),	    FIELD(link, size),
	FIELD(link, ring_offset),   FIELD(link, ring_slots),
	FIELD(link, ring_first),    FIELD(link, release_offset),
	FIELD(link, release_slots), FIELD(link, release_first),
	FIELD(link, rx_first),	    FIELD(link, __resv0),
	FIELD(link, rx_head),	    FIELD(link, __resv1),
	FIELD(link, rx_state),	    FIELD(link, __resv2),
	FIELD(link, tx_state),	    FIELD(link, __resv3),
};
static const struct field frame_fields[] = {
	FIELD(frame, type),
	FIELD(frame, flags),
	FIELD(frame, count),
	FIELD(frame, value),
};
static const struct field hello_fields[] = {
	FIELD(hello, magic),	  FIELD(hello, major),
	FIELD(hello, minor),	  FIELD(hello, features),
	FIELD(hello, cookie),	  FIELD(hello, echo),
	FIELD(hello, map_limit),  FIELD(hello, link_size),
	FIELD(hello, hold_limit), FIELD(hello, segment_limit),
	FIELD(hello, __resv),
};
static const struct field segment_fields[] = {
	FIELD(segment, size),
	FIELD(segment, flags),
	FIELD(segment, __resv),
};

static const struct layout {
	const char *name;
	size_t size;
	const struct field *fields;
	size_t count;
} layouts[] = {
#define LAYOUT(name, size, fields)                                       \
	{                                                                \
		name, size, fields, sizeof(fields) / sizeof((fields)[0]) \
	}
	LAYOUT("slot", 64, slot_fields),
	LAYOUT("slot-buffer", 64, slot_buffer_fields),
	LAYOUT("release", 8, release_fields),
	LAYOUT("link", 256, link_fields),
	LAYOUT("frame", 8, frame_fields),
	LAYOUT("hello", 64, hello_fields),
	LAYOUT("segment", 16, segment_fields),
};

/* Fields follow each other without holes, and words are naturally aligned. */
TAP_EACH(layout, row, layouts)
{
	size_t at = 0, align, i;

	for (i = 0; i < row->count; i++) {
		const struct field *field = &row->fields[i];

		if (field->at != at)
			TAP_FAIL("%s is at %zu, not %zu", field->name,
				 field->at, at);
		for (align = 1; align < 8 && align < field->size; align *= 2)
			if (field->at % align)
				TAP_FAIL("%s is not aligned", field->name);
		at += field->size;
	}
	CHECK_EQ(at, row->size);
}

/* What different sides, or different rates, touch shares no cache line. */
TAP_TEST(words_on_lines_of_their_own)
{
	CHECK_EQ(SLUICE_CACHE_LINE, 64);
	CHECK_LE(offsetof(struct sluice_link, __resv0), 64);
	CHECK_EQ(offsetof(struct sluice_link, rx_head), 64);
	CHECK_EQ(offsetof(struct sluice_link, rx_state), 128);
	CHECK_EQ(offsetof(struct sluice_link, tx_state), 192);
}

/* Numbers ----------------------------------------------------------------- */

TAP_TEST(frame_numbers)
{
	static const struct {
		const char *name;
		int type;
	} frames[] = {
		{ "HELLO", SLUICE_FRAME_HELLO },
		{ "HELLO_ACK", SLUICE_FRAME_HELLO_ACK },
		{ "SEGMENT_ADD", SLUICE_FRAME_SEGMENT_ADD },
		{ "SEGMENT_DEL", SLUICE_FRAME_SEGMENT_DEL },
		{ "DATA", SLUICE_FRAME_DATA },
		{ "RELEASE", SLUICE_FRAME_RELEASE },
		{ "SWITCH", SLUICE_FRAME_SWITCH },
		{ "DOORBELL", SLUICE_FRAME_DOORBELL },
		{ "BYE", SLUICE_FRAME_BYE },
		{ "ERROR", SLUICE_FRAME_ERROR },
	};
	const char *text = section(4), *row;
	size_t i, rows = 0;

	for (i = 0; i < sizeof(frames) / sizeof(frames[0]); i++)
		check_says(text, "\n| %d %s | ", frames[i].type,
			   frames[i].name);
	for (row = text; (row = strstr(row, "\n| ")); row++)
		rows += isdigit((unsigned char)row[3]) != 0;
	CHECK_EQ(rows, sizeof(frames) / sizeof(frames[0]));

	check_says(text, "| 1–%d slots |", SLUICE_FRAME_SLOTS_MAX);
	check_says(text, "| 1–%d ids |", SLUICE_FRAME_IDS_MAX);
	check_says(text, "bytes of text, ≤ %d", SLUICE_FRAME_TEXT_MAX);
	check_says(text, "`FRAME_SIZE_MAX` (%d bytes)", SLUICE_FRAME_SIZE_MAX);
	check_says(text, "`F_IGNORABLE` (%#x)", SLUICE_FRAME_F_IGNORABLE);
	check_says(text, "`struct sluice_frame` (%zu bytes",
		   sizeof(struct sluice_frame));
	check_says(text, "bytes of body, ≥ %zu", sizeof(struct sluice_hello));
}

TAP_TEST(limits)
{
	char *text;

	text = section(2);
	check_says(text, "`struct sluice_link` (%zu bytes)",
		   sizeof(struct sluice_link));
	check_says(text, "`ring_slots` is %d to %d", SLUICE_RING_SLOTS_MIN,
		   SLUICE_RING_SLOTS_MAX);
	check_says(text, "at most %d MiB", SLUICE_LINK_SIZE_MAX >> 20);
	text = section(3);
	check_says(text, "\n%zu bytes. `kind`", sizeof(struct sluice_slot));
	check_says(text, "| `SLOT_INLINE` | ≤ %d |", SLUICE_INLINE_MAX);
	check_says(text, "`PARTS_MAX` = %d slots", SLUICE_PARTS_MAX);
	text = section(5);
	check_says(text, "`\\0" SLUICE_NAME_PREFIX "` + 16 lower-case");
	check_says(text, "`segment_limit` (≤ %d)", SLUICE_SEGMENTS_MAX);
	check_says(text, "`hold_limit` (16 to %d)", SLUICE_HOLD_MAX);
}

TAP_TEST(constants)
{
	/* F_SEAL_SEAL | SHRINK | GROW | FUTURE_WRITE, <linux/fcntl.h> */
	CHECK_EQ(SLUICE_SEALS, 0x1 | 0x2 | 0x4 | 0x10);
	CHECK_EQ(SLUICE_STATE_SPIN, 0);
	CHECK_EQ(SLUICE_STATE_MAY_SLEEP, 1);
	CHECK_EQ(SLUICE_STATE_ASLEEP, 2);
	CHECK_EQ(SLUICE_STATE_SLEEP, SLUICE_STATE_MASK + 1);
	CHECK_EQ(SLUICE_FEAT_LINK, 1);
	CHECK_EQ(SLUICE_FEAT_DIRECT, 2);
	CHECK_EQ(SLUICE_FEAT_MEMBARRIER, 4);
	CHECK_EQ(SLUICE_SLOT_INLINE, 1);
	CHECK_EQ(SLUICE_SLOT_BUFFER, 2);
	CHECK_EQ(SLUICE_SLOT_LANDING, 3);
	CHECK_EQ(SLUICE_SLOT_SWITCH, 4);
	CHECK_EQ(SLUICE_SLOT_F_MORE, 1);
	CHECK_EQ(SLUICE_FRAME_F_ACK, 1);
	CHECK_EQ(SLUICE_SEGMENT_F_HUGE, 1);
	CHECK_MEM(&(uint32_t){ SLUICE_HELLO_MAGIC }, "1SLI", 4);
	CHECK_MEM(&(uint32_t){ SLUICE_LINK_MAGIC }, "SLLK", 4);
}

/* The example ------------------------------------------------------------- */

struct example {
	char direction[16];
	char name[32];
	size_t announced; /* "(72 bytes" */
	size_t fds; /* ", 1 fd" */
	uint8_t bytes[256];
	size_t len;
};

/* Hex up to three spaces, behind which there is a remark. */
static void read_hex(struct example *frame, const char *at)
{
	unsigned int byte;

	for (; *at && *at != '\n'; at++) {
		if (*at == ' ') {
			if (!strncmp(at, "   ", 3))
				return;
			continue;
		}
		if (sscanf(at, "%2x", &byte) != 1 ||
		    !isxdigit((unsigned char)at[1]))
			TAP_FAIL("not hex in the example: %.20s", at);
		CHECK_LT(frame->len, sizeof(frame->bytes));
		frame->bytes[frame->len++] = (uint8_t)byte;
		at++;
	}
}

static size_t read_examples(struct example *frames, size_t max)
{
	char *line = section(13), *fd;
	size_t count = 0;

	for (; line; line = strchr(line, '\n')) {
		line++;
		if (!strncmp(line, "        ", 8) && count) {
			read_hex(&frames[count - 1], line + 8);
			continue;
		}
		if (strncmp(line, "    S→C ", 10) &&
		    strncmp(line, "    C→S ", 10))
			continue;
		CHECK_LT(count, max);
		memset(&frames[count], 0, sizeof(frames[0]));
		CHECK_EQ(sscanf(line, " %15s %31s (%zu bytes",
				frames[count].direction, frames[count].name,
				&frames[count].announced),
			 3);
		fd = strstr(line, "bytes, 1 fd");
		frames[count].fds = fd && fd < strchr(line, '\n');
		count++;
	}
	return count;
}

struct built {
	const char *direction, *name;
	size_t fds;
	const void *body;
	size_t body_len;
	struct sluice_frame frame;
};

TAP_TEST(example)
{
	static const struct sluice_hello hello = {
		.magic = SLUICE_HELLO_MAGIC,
		.major = SLUICE_MAJOR,
		.minor = SLUICE_MINOR,
		.features = SLUICE_FEAT_LINK | SLUICE_FEAT_DIRECT |
			    SLUICE_FEAT_MEMBARRIER,
		.cookie = 0xc0,
		.echo = 0x1122334455667788,
		.map_limit = 1 << 30,
		.link_size = 0x5000,
		.hold_limit = 256,
		.segment_limit = 1024,
	};
	static const struct sluice_hello ack = {
		.magic = SLUICE_HELLO_MAGIC,
		.major = SLUICE_MAJOR,
		.minor = SLUICE_MINOR,
		.cookie = 0xc1,
		.echo = 0xc0,
		.map_limit = 64 << 20,
		.hold_limit = 64,
		.segment_limit = 64,
	};
	static const struct sluice_slot hi = {
		.len = 2,
		.kind = SLUICE_SLOT_INLINE,
		.tag = 7,
		.inline_data = "hi",
	};
	static const struct sluice_segment segment = { .size = 64 << 10 };
	static const struct sluice_slot large = {
		.len = 5000,
		.kind = SLUICE_SLOT_BUFFER,
		.offset = 8192,
		.tag = 8,
		.buffer.id = 3,
	};
	static const uint32_t id = 3;
	static const struct built built[] = {
		{ "S→C",
		  "HELLO",
		  1,
		  &hello,
		  sizeof(hello),
		  { SLUICE_FRAME_HELLO, 0, 0, sizeof(hello) } },
		{ "C→S",
		  "HELLO_ACK",
		  0,
		  &ack,
		  sizeof(ack),
		  { SLUICE_FRAME_HELLO_ACK, 0, 0, sizeof(ack) } },
		{ "C→S",
		  "DATA",
		  0,
		  &hi,
		  sizeof(hi),
		  { SLUICE_FRAME_DATA, 0, 1, 0 } },
		{ "C→S",
		  "SEGMENT_ADD",
		  1,
		  &segment,
		  sizeof(segment),
		  { SLUICE_FRAME_SEGMENT_ADD, 0, 0, 0 } },
		{ "C→S",
		  "DATA",
		  0,
		  &large,
		  sizeof(large),
		  { SLUICE_FRAME_DATA, 0, 1, 0 } },
		{ "S→C",
		  "RELEASE",
		  0,
		  &id,
		  sizeof(id),
		  { SLUICE_FRAME_RELEASE, 0, 1, 0 } },
		{ "C→S", "BYE", 0, NULL, 0, { SLUICE_FRAME_BYE, 0, 0, 0 } },
	};
	const size_t count = sizeof(built) / sizeof(built[0]);
	struct example frames[16];
	uint8_t bytes[256];
	size_t i;

	CHECK_EQ(read_examples(frames, 16), count);
	for (i = 0; i < count; i++) {
		tap_diag("%s %s", frames[i].direction, frames[i].name);
		CHECK_STR(frames[i].direction, built[i].direction);
		CHECK_STR(frames[i].name, built[i].name);
		CHECK_EQ(frames[i].fds, built[i].fds);
		CHECK_EQ(frames[i].len, frames[i].announced);
		memcpy(bytes, &built[i].frame, sizeof(built[i].frame));
		if (built[i].body_len)
			memcpy(bytes + sizeof(built[i].frame), built[i].body,
			       built[i].body_len);
		CHECK_EQ(frames[i].len,
			 sizeof(built[i].frame) + built[i].body_len);
		CHECK_MEM(frames[i].bytes, bytes, frames[i].len);
	}
}

/* The headers are C++, too, and stand alone. */
TAP_TEST(headers_in_cplusplus)
{
	char command[4400];
	int status;

	if (system("c++ --version > /dev/null 2>&1"))
		tap_skip("no C++ compiler");
	snprintf(command, sizeof(command),
		 "printf '#include <sluice/uapi.h>\\n#include "
		 "<sluice/sluice.h>\\n' | c++ -std=c++11 -Wall -Wextra -Werror "
		 "-fsyntax-only -I'%s' -x c++ -",
		 include_directory());
	status = CHECK_SYS(system(command));
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
}
