/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl COMMAND: the command line.
 */
#include "ctl.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct ctl_command *const commands[] = {
	&ctl_probe,  &ctl_status, &ctl_top,    &ctl_trace,
	&ctl_doctor, &ctl_drain,  &ctl_unload, &ctl_uring,
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "conns", no_argument, NULL, 'c' },
	{ "interval", required_argument, NULL, 'i' },
	{ "off", no_argument, NULL, 'o' },
	{ "timeout", required_argument, NULL, 't' },
	{ "force", no_argument, NULL, 'f' },
	{ "sort", required_argument, NULL, 'r' },
	{ "rounds", required_argument, NULL, 'n' },
	{ "control", required_argument, NULL, 's' },
	{ "pins", required_argument, NULL, 'p' },
	{ "pid", required_argument, NULL, 'P' },
	{ "fd", required_argument, NULL, 'F' },
	{ "user-data", required_argument, NULL, 'u' },
	{ "endpoint", required_argument, NULL, 'e' },
	{ "lane", required_argument, NULL, 'L' },
	{ "count", required_argument, NULL, 'N' },
	{ "seconds", required_argument, NULL, 'S' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static void complain(const char *format, va_list args, const char *end)
{
	fputs("sluicectl: ", stderr);
	vfprintf(stderr, format, args);
	fputs(end, stderr);
}

int ctl_usage(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, " (--help says more)\n");
	va_end(args);
	return CTL_USAGE;
}

int ctl_failed(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, "\n");
	va_end(args);
	return CTL_FAILED;
}

int ctl_json(json_t *json, int code)
{
	int ret = -1;

	if (json && !json_dumpf(json, stdout, JSON_INDENT(1)))
		ret = fputc('\n', stdout) == EOF ? -1 : 0;
	json_decref(json);
	return ret ? ctl_failed("cannot write the JSON") : code;
}

void ctl_sleep(double seconds)
{
	struct timespec left = {
		.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9),
	};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static int help(void)
{
	unsigned int i;

	printf("Usage: sluicectl COMMAND [OPTION]...\n"
	       "Looks after sluiced and its BPF programs.\n\n");
	for (i = 0; i < COMMANDS; i++)
		printf("  %-8s %s\n", commands[i]->name, commands[i]->summary);
	printf("\nsluicectl COMMAND --help says more. Exits with 0, 1 if it failed, 2 "
	       "for a\nmistake on the command line, 3 if there is no sluiced, 4 if doctor found a "
	       "problem.\n");
	return 0;
}

/* 0 to 1,000,000, such as 0.5. */
static int seconds_parse(const char *name, const char *text, double *seconds)
{
	char *end;

	*seconds = strtod(text, &end);
	if (end == text || *end || !(*seconds >= 0) || *seconds > 1e6)
		return ctl_usage("bad %s \"%s\": want seconds", name, text);
	return 0;
}

static int count_parse(const char *name, const char *text, long most,
		       long *count)
{
	char *end;

	errno = 0;
	*count = strtol(text, &end, 10);
	if (errno || end == text || *end || *count < 1 || *count > most)
		return ctl_usage("bad %s \"%s\": want 1 to %ld", name, text,
				 most);
	return 0;
}

static int number_parse(const char *name, const char *text, long least,
			int *number)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end || value < least || value > INT_MAX)
		return ctl_usage("bad %s \"%s\": want a number", name, text);
	*number = (int)value;
	return 0;
}

/* VALUE/MASK, decimal or 0x... */
static int match_parse(const char *text, struct ctl_options *options)
{
	char *slash, *end;

	options->match = strtoull(text, &slash, 0);
	if (slash == text || *slash != '/')
		return ctl_usage("bad user-data \"%s\": want VALUE/MASK", text);
	options->mask = strtoull(slash + 1, &end, 0);
	if (end == slash + 1 || *end || options->match & ~options->mask)
		return ctl_usage(
			"bad user-data \"%s\": want VALUE/MASK, no bits "
			"of it outside",
			text);
	return 0;
}

/* As sluicectl trace --json writes it. */
static int endpoint_parse(const char *text, __u64 *endpoint)
{
	char *end;

	errno = 0;
	*endpoint = strtoull(text, &end, 16);
	if (errno || *end || !isxdigit(text[0]) || !*endpoint)
		return ctl_usage("bad endpoint \"%s\": want a hexadecimal "
				 "number",
				 text);
	return 0;
}

static int option_set(struct ctl_options *options, int option)
{
	switch (option) {
	case 'j':
		options->json = true;
		break;
	case 'c':
		options->conns = true;
		break;
	case 'o':
		options->off = true;
		break;
	case 'f':
		options->force = true;
		break;
	case 's':
		options->control = optarg;
		break;
	case 'p':
		options->pins = optarg;
		break;
	case 'r':
		options->sort = optarg;
		break;
	case 'n':
		return count_parse("rounds", optarg, 1000000, &options->rounds);
	case 'N':
		return count_parse("count", optarg, LONG_MAX, &options->count);
	case 'S':
		if (seconds_parse("seconds", optarg, &options->seconds))
			return CTL_USAGE;
		return options->seconds > 0 ?
			       0 :
			       ctl_usage("bad seconds \"%s\": want more than 0",
					 optarg);
	case 'e':
		return endpoint_parse(optarg, &options->endpoint);
	case 'L':
		options->lane = optarg;
		break;
	case 'i':
		return seconds_parse("interval", optarg, &options->interval);
	case 't':
		return seconds_parse("timeout", optarg, &options->timeout);
	case 'P':
		return number_parse("pid", optarg, 1, &options->pid);
	case 'F':
		return number_parse("fd", optarg, 0, &options->ring_fd);
	case 'u':
		return match_parse(optarg, options);
	}
	return 0;
}

/* -1 to go on, or the exit code. */
static int parse(const struct ctl_command *command, struct ctl_options *options,
		 int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) >=
	       0) {
		if (option == 'h') {
			printf("Usage: sluicectl %s %s", command->name,
			       command->help);
			return 0;
		}
		if (option == '?')
			return ctl_usage("see sluicectl %s", command->name);
		if (!strchr(command->letters, option))
			return ctl_usage("%s does not take that option",
					 command->name);
		if (option_set(options, option))
			return CTL_USAGE;
	}
	options->operands = argv + optind;
	if (optind < argc && !command->operands)
		return ctl_usage("what is \"%s\"?", argv[optind]);
	return -1;
}

static const struct ctl_command *find(const char *name)
{
	unsigned int i;

	for (i = 0; i < COMMANDS; i++) {
		if (!strcmp(commands[i]->name, name))
			return commands[i];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct ctl_options options = {
		.interval = 1,
		.timeout = -1,
		.control = SLUICE_CONTROL_PATH,
		.pins = PINS_DEFAULT,
		.ring_fd = -1,
	};
	const struct ctl_command *command;
	int ret;

	if (argc < 2)
		return ctl_usage("want a command");
	if (!strcmp(argv[1], "--help"))
		return help();
	command = find(argv[1]);
	if (!command)
		return ctl_usage("no command \"%s\"", argv[1]);
	argv[1] = argv[0]; /* what getopt_long() calls itself */
	ret = parse(command, &options, argc - 1, argv + 1);
	if (ret < 0)
		ret = command->run(&options);
	if (fflush(stdout) || ferror(stdout))
		ret = ctl_failed("cannot write the output");
	return ret;
}
