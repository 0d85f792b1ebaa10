/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The command line of sluiced. */
#include "options.h"

#include <getopt.h>
#include <sluice/uapi.h>
#include <stdio.h>

static const char help[] =
	"usage: sluiced [options]\n"
	"Steers messages of AF_UNIX sockets into shared memory: loads the BPF programs\n"
	"and makes endpoints for clients. Runs in the foreground.\n"
	"\n"
	"  -c, --config FILE    instead of " CONFIG_FILE "\n"
	"  -s, --control PATH   control socket, instead of " SLUICE_CONTROL_PATH
	"\n"
	"  -p, --pins DIR       where programs and maps are pinned\n"
	"  -l, --log-level LEVEL   error, warning, info or debug\n"
	"  -u, --unload         at the end, remove endpoints and pins\n"
	"      --check-config   look at the configuration and exit\n"
	"  -h, --help           this text\n"
	"  -V, --version        version of sluiced and of its programs\n"
	"\n"
	"SIGHUP reads the configuration again, SIGTERM ends it: endpoints and their\n"
	"connections go on without, until the next one takes over.\n"
	"Exits with 2 for a bad option or configuration, 3 if BPF cannot be used, 4 if\n"
	"another sluiced runs, 1 for all else. See sluiced(8), sluiced.conf(5).\n";

int options_parse(struct options *options, int argc, char **argv)
{
	static const struct option names[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "control", required_argument, NULL, 's' },
		{ "pins", required_argument, NULL, 'p' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "unload", no_argument, NULL, 'u' },
		{ "check-config", no_argument, NULL, 'C' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	int option;

	*options = (struct options){ 0 };
	while ((option = getopt_long(argc, argv, "c:s:p:l:uhV", names, NULL)) !=
	       -1) {
		switch (option) {
		case 'c':
			options->config_file = optarg;
			break;
		case 's':
			options->control = optarg;
			break;
		case 'p':
			options->pins = optarg;
			break;
		case 'l':
			options->log_level = optarg;
			break;
		case 'u':
			options->unload = true;
			break;
		case 'C':
			options->check = true;
			break;
		case 'h':
			fputs(help, stdout);
			return EXIT_FINE;
		case 'V':
			printf("sluiced %s, programs %u\n", SLUICE_VERSION,
			       SLUICE_STEER_VERSION);
			return EXIT_FINE;
		default:
			fputs("try sluiced --help\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (optind == argc)
		return -1;
	fprintf(stderr, "sluiced: what is '%s'? try sluiced --help\n",
		argv[optind]);
	return EXIT_USAGE;
}

int options_config(const struct options *options, struct config *config,
		   char *error, size_t size)
{
	const struct {
		const char *key, *value;
	} over[] = {
		{ "control.path", options->control },
		{ "bpf.pin_dir", options->pins },
		{ "daemon.log_level", options->log_level },
		{ "daemon.unload", options->unload ? "yes" : NULL },
	};

	config_init(config);
	if (config_read(config,
			options->config_file ? options->config_file :
					       CONFIG_FILE,
			!options->config_file, error, size))
		return -1;
	for (size_t i = 0; i < sizeof(over) / sizeof(over[0]); i++) {
		if (over[i].value &&
		    config_set(config, over[i].key, over[i].value, error, size))
			return -1;
	}
	return 0;
}
