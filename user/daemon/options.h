/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The command line of sluiced. */
#ifndef SLUICED_OPTIONS_H
#define SLUICED_OPTIONS_H

#include <stdbool.h>

#include "config.h"

/* What sluiced ends with; sluiced(8) lists them. */
enum {
	EXIT_FINE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2, /* command line or configuration */
	EXIT_NO_BPF = 3, /* programs cannot be loaded or taken over */
	EXIT_RUNNING = 4, /* another sluiced has the pins or the socket */
};

struct options {
	const char *config_file; /* NULL: the default one, if it is there */
	const char *control, *pins, *log_level; /* NULL: as configured */
	bool unload;
	bool check;
};

/* Returns -1 to go on, else what to exit with. */
int options_parse(struct options *options, int argc, char **argv);

/* Defaults, file, and options over it. As config_read(). */
int options_config(const struct options *options, struct config *config,
		   char *error, size_t size);

#endif
