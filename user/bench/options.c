/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The command line. Everything that can be wrong with it is found here or when
 * the output files are opened, before anything is measured.
 */
#include "bench.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS_MAX 3600
#define RUNS_MAX 1000
#define SENDERS_MAX 4096

static const char help[] =
	"Usage: sluice-bench [OPTION]...\n"
	"Measures ways to pass messages between two processes, side by side.\n"
	"\n"
	"  --systems a,b,...   what to measure (all; see --list)\n"
	"  --sizes 32,4K,...   message sizes, 32 to 16M (32,64,4K,64K,1M)\n"
	"  --patterns p,...    pingpong: half round trips; stream: one way, as\n"
	"                      fast as the receiver takes them; fanin: the same\n"
	"                      over many connections; file: a stream of pieces of\n"
	"                      a file in the page cache (pingpong,stream)\n"
	"  --senders 1,8,...   connections of a fan-in, 1 to 4096 (1,8,64,512)\n"
	"  --burst N           messages that each of them sends at once, 1 to 64;\n"
	"                      plain senders by sendmmsg (1)\n"
	"  --modes m,...       spin: both sides poll; block: both sleep whenever\n"
	"                      they wait (spin)\n"
	"  --touch first|all   the sender writes and the receiver reads the first\n"
	"                      64 bytes, or every byte (first)\n"
	"  --cpus 0,1          the CPUs of the two processes (0,1)\n"
	"  --seconds S         per repetition, after a warm-up of S/10 (0.3)\n"
	"  --runs N            repetitions of each row; figures are medians (5)\n"
	"  --json FILE         writes the results as JSON\n"
	"  --plot FILE.svg     draws pingpong and stream with gnuplot\n"
	"  --list              lists the systems\n"
	"  --help\n"
	"\n"
	"Repetitions of different systems are interleaved. Before and after each,\n"
	"a cache line goes to and fro between the two CPUs; if that takes less\n"
	"than 0.7 or more than 1.5 times its median (two CPUs share a core), or if\n"
	"a spinning process had its CPU for less than 90 % of the time, the\n"
	"repetition is discarded and done again.\n"
	"Spread is the range of the repetitions, in per cent of the median.\n"
	"\n"
	"Exits with 0, 1 if a measurement failed, 2 for a mistake on the command "
	"line.\n";

static int usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int usage(const char *format, ...)
{
	va_list args;

	fputs("sluice-bench: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs(" (--help says more)\n", stderr);
	return BENCH_USAGE;
}

const char *size_text(size_t size)
{
	static char texts[4][24];
	static unsigned int next;
	char *text = texts[next++ % 4];

	if (size >= 1u << 20 && size % (1u << 20) == 0)
		snprintf(text, sizeof(texts[0]), "%zu MiB", size >> 20);
	else if (size >= 1024 && size % 1024 == 0)
		snprintf(text, sizeof(texts[0]), "%zu KiB", size >> 10);
	else
		snprintf(text, sizeof(texts[0]), "%zu B", size);
	return text;
}

/* A whole number without sign or space; end points behind it. */
static bool number_parse(const char *text, unsigned long *number, char **end)
{
	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*number = strtoul(text, end, 10);
	return !errno;
}

static int parse_system(struct bench_options *o, const char *word)
{
	unsigned int i, j;

	for (i = 0; i < bench_system_count; i++) {
		if (strcmp(bench_systems[i]->name, word))
			continue;
		for (j = 0; j < o->system_count; j++) {
			if (o->systems[j] == bench_systems[i])
				return usage("system \"%s\" given twice", word);
		}
		o->systems[o->system_count++] = bench_systems[i];
		return 0;
	}
	return usage("no system \"%s\"; --list shows them", word);
}

static int parse_size(struct bench_options *o, const char *word)
{
	unsigned long number;
	unsigned int shift = 0, j;
	char *end;

	if (!number_parse(word, &number, &end))
		return usage("bad size \"%s\": want 32, 4K, 1M", word);
	if (*end == 'K' || *end == 'k')
		shift = 10;
	else if (*end == 'M' || *end == 'm')
		shift = 20;
	if (end[shift ? 1 : 0])
		return usage("bad size \"%s\": want 32, 4K, 1M", word);
	if (number > BENCH_SIZE_MAX >> shift ||
	    number << shift < BENCH_SIZE_MIN)
		return usage("size \"%s\" is not within 32 to 16M", word);
	for (j = 0; j < o->size_count; j++) {
		if (o->sizes[j] == number << shift)
			return usage("size \"%s\" given twice", word);
	}
	if (o->size_count == BENCH_LIST_MAX)
		return usage("more than %d sizes", BENCH_LIST_MAX);
	o->sizes[o->size_count++] = number << shift;
	return 0;
}

/* Which of `names` the word is, or -1 after it said that it is none. */
static int parse_name(const char *what, const char *const names[],
		      unsigned int count, const char *word)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (!strcmp(names[i], word))
			return (int)i;
	}
	usage("no %s \"%s\": want %s, %s%s%s%s%s", what, word, names[0],
	      names[1], count > 2 ? ", " : "", count > 2 ? names[2] : "",
	      count > 3 ? ", " : "", count > 3 ? names[3] : "");
	return -1;
}

static int parse_senders(struct bench_options *o, const char *word)
{
	unsigned long number;
	unsigned int j;
	char *end;

	if (!number_parse(word, &number, &end) || *end || !number ||
	    number > SENDERS_MAX)
		return usage("bad senders \"%s\": want 1 to %d", word,
			     SENDERS_MAX);
	for (j = 0; j < o->senders_count; j++) {
		if (o->senders[j] == number)
			return usage("senders \"%s\" given twice", word);
	}
	if (o->senders_count == BENCH_LIST_MAX)
		return usage("more than %d numbers of senders", BENCH_LIST_MAX);
	o->senders[o->senders_count++] = (unsigned int)number;
	return 0;
}

static int parse_burst(struct bench_options *o, const char *word)
{
	unsigned long number;
	char *end;

	if (!number_parse(word, &number, &end) || *end || !number ||
	    number > BENCH_BURST_MAX)
		return usage("bad burst \"%s\": want 1 to %d", word,
			     BENCH_BURST_MAX);
	o->burst = (unsigned int)number;
	return 0;
}

static int parse_pattern(struct bench_options *o, const char *word)
{
	int i = parse_name("pattern", bench_patterns, PATTERNS, word);

	if (i < 0)
		return BENCH_USAGE;
	o->patterns[i] = true;
	return 0;
}

static int parse_mode(struct bench_options *o, const char *word)
{
	int i = parse_name("mode", bench_modes, MODES, word);

	if (i < 0)
		return BENCH_USAGE;
	o->modes[i] = true;
	return 0;
}

/* Calls parse for each word of a list with commas. */
static int parse_list(struct bench_options *o, const char *list,
		      int (*parse)(struct bench_options *o, const char *word))
{
	const char *end;
	char word[64];
	int ret;

	for (;; list = end + 1) {
		end = strchrnul(list, ',');
		if (end == list)
			return usage("empty word in a list");
		if ((size_t)(end - list) >= sizeof(word))
			return usage("word too long: \"%s\"", list);
		memcpy(word, list, (size_t)(end - list));
		word[end - list] = 0;
		ret = parse(o, word);
		if (ret || !*end)
			return ret;
	}
}

static int parse_cpus(struct bench_options *o, const char *text)
{
	unsigned long cpus[2];
	cpu_set_t set;
	char *end;
	int i;

	if (!number_parse(text, &cpus[0], &end) || *end != ',' ||
	    !number_parse(end + 1, &cpus[1], &end) || *end)
		return usage("bad CPUs \"%s\": want two, such as 0,1", text);
	if (cpus[0] == cpus[1])
		return usage("CPU %lu given twice: want two CPUs", cpus[0]);
	if (sched_getaffinity(0, sizeof(set), &set))
		return usage("CPUs: %s", strerror(errno));
	for (i = 0; i < 2; i++) {
		if (cpus[i] >= CPU_SETSIZE || !CPU_ISSET(cpus[i], &set))
			return usage("there is no CPU %lu to run on", cpus[i]);
		o->cpus[i] = (unsigned int)cpus[i];
	}
	return 0;
}

static int parse_seconds(struct bench_options *o, const char *text)
{
	char *end;

	o->seconds = strtod(text, &end);
	if (end == text || *end || !(o->seconds > 0) ||
	    o->seconds > SECONDS_MAX)
		return usage("bad seconds \"%s\": want more than 0, up to %d",
			     text, SECONDS_MAX);
	return 0;
}

static int parse_runs(struct bench_options *o, const char *text)
{
	unsigned long number;
	char *end;

	if (!number_parse(text, &number, &end) || *end || !number ||
	    number > RUNS_MAX)
		return usage("bad runs \"%s\": want 1 to %d", text, RUNS_MAX);
	o->runs = (unsigned int)number;
	return 0;
}

static int list(void)
{
	unsigned int i;

	for (i = 0; i < bench_system_count; i++)
		printf("%-14s %s\n", bench_systems[i]->name,
		       bench_systems[i]->what);
	return 0;
}

/* A system that is asked for must have one of the patterns. */
static int rows_check(const struct bench_options *o, bool all)
{
	unsigned int i, pattern;

	for (i = 0; i < o->system_count && !all; i++) {
		for (pattern = 0; pattern < PATTERNS; pattern++) {
			if (o->patterns[pattern] &&
			    bench_has(o->systems[i], pattern))
				break;
		}
		if (pattern == PATTERNS)
			return usage("%s is not measured in that pattern",
				     o->systems[i]->name);
	}
	return 0;
}

/* What was not given. */
static int defaults(struct bench_options *o)
{
	const bool all = !o->system_count;
	unsigned int i;

	if (all) {
		for (i = 0; i < bench_system_count; i++)
			o->systems[o->system_count++] = bench_systems[i];
	}
	if (!o->size_count)
		parse_list(o, "32,64,4K,64K,1M", parse_size);
	if (!memchr(o->patterns, true, sizeof(o->patterns)))
		parse_list(o, "pingpong,stream", parse_pattern);
	if (!o->senders_count)
		parse_list(o, "1,8,64,512", parse_senders);
	if (!o->modes[MODE_SPIN] && !o->modes[MODE_BLOCK])
		parse_list(o, "spin", parse_mode);
	if (o->cpus[0] == o->cpus[1] && parse_cpus(o, "0,1"))
		return BENCH_USAGE;
	if (o->plot && !o->patterns[PATTERN_PINGPONG] &&
	    !o->patterns[PATTERN_STREAM])
		return usage("--plot does not draw a fan-in, or a file");
	return rows_check(o, all);
}

/* 0 or BENCH_USAGE */
static int option_parse(struct bench_options *o, int option)
{
	int touch;

	switch (option) {
	case 's':
		o->system_count = 0;
		return parse_list(o, optarg, parse_system);
	case 'z':
		o->size_count = 0;
		return parse_list(o, optarg, parse_size);
	case 'n':
		o->senders_count = 0;
		return parse_list(o, optarg, parse_senders);
	case 'b':
		return parse_burst(o, optarg);
	case 'p':
		memset(o->patterns, 0, sizeof(o->patterns));
		return parse_list(o, optarg, parse_pattern);
	case 'm':
		memset(o->modes, 0, sizeof(o->modes));
		return parse_list(o, optarg, parse_mode);
	case 't':
		touch = parse_name("touch", bench_touches, TOUCHES, optarg);
		o->touch = touch < 0 ? TOUCH_FIRST : (enum bench_touch)touch;
		return touch < 0 ? BENCH_USAGE : 0;
	case 'c':
		return parse_cpus(o, optarg);
	case 'S':
		return parse_seconds(o, optarg);
	case 'r':
		return parse_runs(o, optarg);
	case 'j':
		o->json = optarg;
		return 0;
	case 'P':
		o->plot = optarg;
		return 0;
	default: /* getopt_long() has said what */
		fputs("sluice-bench: --help says more\n", stderr);
		return BENCH_USAGE;
	}
}

int options_parse(struct bench_options *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ "systems", required_argument, NULL, 's' },
		{ "sizes", required_argument, NULL, 'z' },
		{ "patterns", required_argument, NULL, 'p' },
		{ "senders", required_argument, NULL, 'n' },
		{ "burst", required_argument, NULL, 'b' },
		{ "modes", required_argument, NULL, 'm' },
		{ "touch", required_argument, NULL, 't' },
		{ "cpus", required_argument, NULL, 'c' },
		{ "seconds", required_argument, NULL, 'S' },
		{ "runs", required_argument, NULL, 'r' },
		{ "json", required_argument, NULL, 'j' },
		{ "plot", required_argument, NULL, 'P' },
		{ "list", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option, ret;

	memset(o, 0, sizeof(*o));
	o->seconds = 0.3;
	o->runs = 5;
	o->burst = 1;
	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'l')
			return list();
		if (option == 'h') {
			fputs(help, stdout);
			return 0;
		}
		ret = option_parse(o, option);
		if (ret)
			return ret;
	}
	if (optind < argc)
		return usage("what is \"%s\"?", argv[optind]);
	ret = defaults(o);
	return ret ? ret : -1;
}
