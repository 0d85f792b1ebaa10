/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* sluiced: steers messages of AF_UNIX sockets into their receivers' memory. */
#include <errno.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "log.h"
#include "options.h"
#include "run.h"

static int exit_code(int error)
{
	switch (error) {
	case 0:
		return EXIT_FINE;
	case -EBUSY:
	case -EADDRINUSE:
		return EXIT_RUNNING;
	}
	return EXIT_FAILED;
}

int main(int argc, char **argv)
{
	static struct server server;
	struct options options;
	char error[512];
	int r = options_parse(&options, argc, argv);

	if (r >= 0)
		return r;
	if (options_config(&options, &server.config, error, sizeof(error))) {
		log_error("%s", error);
		return EXIT_USAGE;
	}
	if (options.check) {
		puts("the configuration is fine");
		return EXIT_FINE;
	}
	log_set_level(server.config.log_level);
	server.options = &options;
	r = server_start(&server);
	if (!r) {
		log_info("ready");
		sd_notify(0, "READY=1");
		r = server_run(&server);
		sd_notify(0, "STOPPING=1");
	}
	server_stop(&server);
	return server.no_bpf ? EXIT_NO_BPF : exit_code(r);
}
