/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The files that results are written to.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int output_open(struct output *output, const char *path)
{
	struct stat st;

	output->path = path;
	output->created = stat(path, &st) && errno == ENOENT;
	/* Results that are there already go only when the new ones are. */
	output->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (output->fd < 0) {
		fprintf(stderr, "sluice-bench: cannot write %s: %s\n", path,
			strerror(errno));
		return -1;
	}
	return 0;
}

void output_drop(struct output *output)
{
	if (output->fd < 0)
		return;
	close(output->fd);
	output->fd = -1;
	if (output->created)
		unlink(output->path);
}
