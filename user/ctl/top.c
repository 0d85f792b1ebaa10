/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl top: endpoints by what goes on in them, again and again. On a
 * terminal it fills the screen and takes keys; elsewhere, and with --json, it
 * writes one table (or one line of JSON) a round.
 */
#include "status.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* Of one endpoint, between two rounds. */
struct row {
	struct sluice_control_record record;
	struct conn_sums conns;
	struct ring_sums rings;
	double messages, bytes, spills; /* per second; < 0: not known */
};

struct round {
	struct snapshot snapshot;
	struct row *rows;
};

/* Ways to sort, the key for each, and what they sort by: larger ones first. */
static double by_messages(const struct row *row)
{
	return row->messages;
}

static double by_bytes(const struct row *row)
{
	return row->bytes;
}

static double by_spills(const struct row *row)
{
	return row->spills;
}

static double by_held(const struct row *row)
{
	return row->rings.held;
}

static double by_conns(const struct row *row)
{
	return row->record.conns;
}

static const struct order {
	const char *name;
	char key;
	double (*value)(const struct row *row);
} orders[] = {
	{ "messages", 'm', by_messages }, { "bytes", 'b', by_bytes },
	{ "spills", 's', by_spills },	  { "held", 'h', by_held },
	{ "conns", 'c', by_conns },
};

#define ORDERS (sizeof(orders) / sizeof(orders[0]))

static const struct order *order;

static int compare(const void *a, const void *b)
{
	const double one = order->value(a), two = order->value(b);

	return (one < two) - (one > two);
}

static const struct order *find_order(const char *name)
{
	for (size_t i = 0; i < ORDERS; i++)
		if (!strcmp(orders[i].name, name))
			return &orders[i];
	return NULL;
}

/* Rounds ------------------------------------------------------------------- */

static void round_free(struct round *round)
{
	snapshot_free(&round->snapshot);
	free(round->rows);
}

static const struct row *find_row(const struct round *round, __u64 endpoint)
{
	for (unsigned int i = 0; i < round->snapshot.record_count; i++)
		if (round->rows[i].record.endpoint == endpoint)
			return &round->rows[i];
	return NULL;
}

static void measure(struct row *row, const struct row *was, double seconds)
{
	row->messages = row->bytes = row->spills = -1;
	if (!was || seconds <= 0)
		return;
	row->messages =
		(__u32)(row->rings.published - was->rings.published) / seconds;
	/* Connections that ended have taken their counts along. */
	if (row->conns.spills >= was->conns.spills)
		row->spills = (double)(row->conns.spills - was->conns.spills) /
			      seconds;
	if (row->conns.messages && row->conns.bytes >= was->conns.bytes)
		row->bytes =
			(double)(row->conns.bytes - was->conns.bytes) / seconds;
}

static int round_take(struct round *round, const struct round *before, int fd,
		      const struct ctl_options *options)
{
	struct snapshot *s = &round->snapshot;
	struct row *row;
	int ret;

	*round = (struct round){ 0 };
	ret = snapshot_take(s, fd, options);
	if (ret)
		return ret;
	round->rows = calloc(s->record_count + 1, sizeof(*round->rows));
	if (!round->rows)
		return ctl_failed("out of memory");
	for (unsigned int i = 0; i < s->record_count; i++) {
		row = &round->rows[i];
		row->record = s->records[i];
		snapshot_sum(s, row->record.endpoint, &row->conns);
		if (!s->pins_error)
			s->pins_error = rings_sum(options->pins, &row->record,
						  &row->rings);
		measure(row, find_row(before, row->record.endpoint),
			s->at - before->snapshot.at);
	}
	qsort(round->rows, s->record_count, sizeof(*round->rows), compare);
	return 0;
}

/* Showing ------------------------------------------------------------------ */

static const char *rate_text(double rate)
{
	static char texts[4][16];
	static unsigned int next;
	char *text = texts[next++ % 4];

	if (rate < 0)
		return "-";
	if (rate < 1e5)
		snprintf(text, sizeof(texts[0]), "%.0f", rate);
	else if (rate < 1e8)
		snprintf(text, sizeof(texts[0]), "%.1f k", rate / 1e3);
	else
		snprintf(text, sizeof(texts[0]), "%.1f M", rate / 1e6);
	return text;
}

static double per_second(const struct round *before, const struct round *after,
			 __u64 (*sum)(const __u64 values[COUNTS]))
{
	const double seconds = after->snapshot.at - before->snapshot.at;
	const __u64 moved =
		sum(after->snapshot.counts) - sum(before->snapshot.counts);

	return seconds > 0 ? (double)moved / seconds : -1;
}

static __u64 doorbells(const __u64 values[COUNTS])
{
	return values[COUNT_AT(doorbells)];
}

static void print_round(const struct round *before, const struct round *after,
			unsigned int lines)
{
	const struct snapshot *s = &after->snapshot;
	const struct row *row = after->rows;

	printf("%u endpoints, %u connections, %s of maps%s; ", s->use.endpoints,
	       s->use.conns, bytes_text((double)s->use.map_bytes),
	       s->use.flags & SLUICE_USE_F_DRAINING ? ", draining" : "");
	printf("per second: %s steered, %s spilled, %s wake-ups\n\n",
	       rate_text(per_second(before, after, counts_steered)),
	       rate_text(per_second(before, after, counts_spilled)),
	       rate_text(per_second(before, after, doorbells)));
	printf("%9s %-10s %7s %-15s %6s %11s %10s %12s %10s %7s %7s %6s\n",
	       "endpoint", "user", "pid", "command", "conns", "steered/all",
	       "messages/s", "bytes/s", "spills/s", "unread", "held", "asleep");
	for (unsigned int i = 0; i < s->record_count && i < lines; i++, row++) {
		const struct sluice_control_record *r = &row->record;
		char lanes[24], bytes[32] = "-";

		snprintf(lanes, sizeof(lanes), "%u/%u",
			 row->conns.states[SLUICE_STEER_ON], r->conns);
		if (row->bytes >= 0)
			snprintf(bytes, sizeof(bytes), "%s",
				 bytes_text(row->bytes));
		printf("%9llu %-10s %7u %-15s %6u %11s %10s %12s %10s %7llu "
		       "%7u %3u/%-2u\n",
		       (unsigned long long)r->endpoint, user_text(r->uid),
		       r->pid,
		       r->flags & SLUICE_RECORD_F_ORPHAN ? "(orphan)" :
							   (char *)r->comm,
		       r->conns, lanes, rate_text(row->messages), bytes,
		       rate_text(row->spills),
		       (unsigned long long)row->rings.unread, row->rings.held,
		       row->rings.asleep, r->rings);
	}
	if (s->record_count > lines)
		printf("... and %u more\n", s->record_count - lines);
	if (s->pins_error)
		printf("\nNo rates: %s%s\n", strerror(-s->pins_error),
		       geteuid() ? " (needs root)" : "; give sluiced's --pins");
}

static json_t *rate_json(double rate)
{
	return rate < 0 ? json_null() : json_real(rate);
}

static int print_json(const struct round *before, const struct round *after)
{
	const struct snapshot *s = &after->snapshot;
	const struct row *row = after->rows;
	json_t *list = json_array(), *json;
	int ret;

	for (unsigned int i = 0; i < s->record_count; i++, row++)
		json_array_append_new(
			list,
			json_pack(
				"{s:I, s:I, s:I, s:s, s:I, s:I, s:o, s:o, s:o, "
				"s:I, s:I, s:I}",
				"endpoint", (json_int_t)row->record.endpoint,
				"uid", (json_int_t)row->record.uid, "pid",
				(json_int_t)row->record.pid, "comm",
				(const char *)row->record.comm, "conns",
				(json_int_t)row->record.conns, "steered_conns",
				(json_int_t)row->conns.states[SLUICE_STEER_ON],
				"messages_per_s", rate_json(row->messages),
				"bytes_per_s", rate_json(row->bytes),
				"spills_per_s", rate_json(row->spills),
				"unread", (json_int_t)row->rings.unread, "held",
				(json_int_t)row->rings.held, "asleep",
				(json_int_t)row->rings.asleep));
	json = json_pack("{s:o, s:o, s:o, s:o}", "steered_per_s",
			 rate_json(per_second(before, after, counts_steered)),
			 "spilled_per_s",
			 rate_json(per_second(before, after, counts_spilled)),
			 "doorbells_per_s",
			 rate_json(per_second(before, after, doorbells)),
			 "endpoints", list);
	ret = json && !json_dumpf(json, stdout, JSON_COMPACT) ? 0 : -1;
	json_decref(json);
	putchar('\n');
	return ret || fflush(stdout) ? ctl_failed("cannot write the JSON") : 0;
}

/* The terminal ------------------------------------------------------------- */

static struct termios cooked;

static void screen_close(void)
{
	printf("\033[?25h\033[?1049l");
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &cooked);
}

static bool screen_open(const struct ctl_options *options)
{
	struct termios raw;

	if (options->json || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) ||
	    tcgetattr(STDIN_FILENO, &cooked))
		return false;
	raw = cooked;
	/* ^C, too, is a key: so the screen is always put back. */
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	printf("\033[?1049h\033[?25l");
	return true;
}

static unsigned int screen_lines(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_row < 10)
		return 4;
	return size.ws_row - 6u;
}

/* Waits out the interval, with an eye on the keys. False: it is to end. */
static bool screen_wait(double seconds)
{
	struct pollfd keys = { .fd = STDIN_FILENO, .events = POLLIN };
	char key;

	if (poll(&keys, 1, (int)(seconds * 1000)) <= 0)
		return true;
	if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 3)
		return false;
	for (size_t i = 0; i < ORDERS; i++)
		if (orders[i].key == key)
			order = &orders[i];
	return true;
}

static void screen_show(const struct round *before, const struct round *after)
{
	printf("\033[H\033[J");
	print_round(before, after, screen_lines());
	printf("\nby %s; keys: q ends, m b s h c sort by messages, bytes, spills, "
	       "held, conns\n",
	       order->name);
	fflush(stdout);
}

static int run(const struct ctl_options *options)
{
	struct round before = { 0 }, after;
	int fd, ret;
	bool screen;
	long n;

	order = options->sort ? find_order(options->sort) : &orders[0];
	if (!order)
		return ctl_usage("bad sort \"%s\"", options->sort);
	fd = control_open(options, false);
	if (fd < 0)
		return -fd;
	screen = screen_open(options);
	ret = round_take(&before, &before, fd, options);
	for (n = 0; !ret && (!options->rounds || n < options->rounds); n++) {
		if (!screen)
			ctl_sleep(options->interval);
		else if (!screen_wait(n ? options->interval : 0.2))
			break;
		ret = round_take(&after, &before, fd, options);
		if (!ret && options->json)
			ret = print_json(&before, &after);
		else if (!ret && screen)
			screen_show(&before, &after);
		else if (!ret)
			print_round(&before, &after, UINT_MAX);
		round_free(&before);
		before = after;
		if (ferror(stdout))
			break;
	}
	if (screen)
		screen_close();
	round_free(&before);
	close(fd);
	return ret;
}

const struct ctl_command ctl_top = {
	.name = "top",
	.summary = "endpoints by what goes on in them, live",
	.help = "[--json] [--sort BY] [--interval S] [--rounds N] [--control PATH]\n"
		"                     [--pins DIR]\n"
		"Rates, unread slots and held landing slots of endpoints. On a terminal it fills\n"
		"the screen; keys sort, q ends it. Bytes are known if sluiced counts by connection\n"
		"(conn_counts in sluiced.conf). Root sees all.\n\n"
		"  --json           a line of JSON for each round\n"
		"  --sort BY        messages, bytes, spills, held or conns (messages)\n"
		"  --interval S     seconds between rounds (1)\n"
		"  --rounds N       ends after N (without end)\n"
		"  --control PATH   sluiced's control socket (" SLUICE_CONTROL_PATH
		")\n"
		"  --pins DIR       where it pins (" PINS_DEFAULT ")\n",
	.letters = "jirnsp",
	.run = run,
};
