/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A service whose streams are redirected, through a whole sluiced: it reads and
 * writes nothing of what flows, nor wakes up for it. (The rest is tested without
 * the rest of sluiced: redirect-*.c.)
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services.h"
#include "tap.h"

#define ROUNDS 1000
#define BULK (32u << 20)

static void echo(int fd, size_t len)
{
	static char data[65536], back[65536];

	tap_fill(data, len, len);
	CHECK_EQ(CHECK_SYS(send(fd, data, len, MSG_NOSIGNAL)), (ssize_t)len);
	CHECK_EQ(CHECK_SYS(recv(fd, back, len, MSG_WAITALL)), (ssize_t)len);
	CHECK_MEM(back, data, len);
}

static int start(struct services *s, const char *extra)
{
	services_open(s, SOCK_STREAM, 1, extra);
	if (!(services_status(s).flags & SLUICE_SERVICE_F_REDIRECTS) &&
	    strstr(extra, "no"))
		tap_skip("sluiced cannot redirect here");
	backend_start(s, 0, BACKEND_ECHO);
	return services_connect(s);
}

/* How often the threads of sluiced went to sleep: once per wake-up. */
static unsigned long sleeps(const struct services *s)
{
	unsigned long count, sum = 0;
	char path[64], line[128];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", s->d.pid);
	tasks = CHECK_SYS(opendir(path) ?: (DIR *)-1);
	while ((entry = readdir(tasks))) {
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status",
			 s->d.pid, entry->d_name);
		file = *entry->d_name == '.' ? NULL : fopen(path, "re");
		while (file && fgets(line, sizeof(line), file)) {
			if (sscanf(line, "voluntary_ctxt_switches: %lu",
				   &count) == 1)
				sum += count;
		}
		if (file)
			fclose(file);
	}
	closedir(tasks);
	return sum;
}

TAP_TEST(sluiced_sees_nothing_of_what_flows)
{
	struct sluice_control_service before, after;
	unsigned long slept;
	struct services s;
	int fd = start(&s, "half_close = no\n");

	for (int i = 0; i < 5; i++) {
		echo(fd, 100);
		tap_sleep(2000000);
	}
	before = services_status(&s);
	CHECK_EQ(before.redirected, 1);
	CHECK_EQ(before.relayed, 0);
	slept = sleeps(&s);
	for (int i = 0; i < ROUNDS; i++)
		echo(fd, 100);
	slept = sleeps(&s) - slept;
	after = services_status(&s);
	tap_diag("sluiced woke up %lu times for %d messages", slept,
		 2 * ROUNDS);
	CHECK_LT(slept, ROUNDS / 10);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(after.bytes[i], before.bytes[i]);
		CHECK_EQ(after.kernel_bytes[i] - before.kernel_bytes[i],
			 ROUNDS * 100);
		CHECK_EQ(after.kernel_messages[i] - before.kernel_messages[i],
			 ROUNDS);
	}
	close(fd);
	services_close(&s);
}

TAP_TEST(bulk)
{
	struct sluice_control_service status;
	struct services s;
	int fd = start(&s, "half_close = no\n");

	for (unsigned int done = 0; done < BULK; done += 65536)
		echo(fd, 65536);
	status = services_status(&s);
	CHECK_GT(status.kernel_bytes[0], BULK / 2);
	CHECK_GT(status.kernel_bytes[1], BULK / 2);
	close(fd);
	services_close(&s);
}

/* What the kernel cannot be made to keep whole stays in user space, and says so. */
TAP_TEST(half_close_stays_in_user_space)
{
	struct sluice_control_service status;
	struct services s;
	int fd = start(&s, "half_close = yes\n");

	for (int i = 0; i < 100; i++)
		echo(fd, 100);
	status = services_status(&s);
	CHECK_EQ(status.flags & SLUICE_SERVICE_F_HALF_CLOSE,
		 SLUICE_SERVICE_F_HALF_CLOSE);
	CHECK_EQ(status.redirected, 0);
	CHECK_EQ(status.relayed, 1);
	CHECK_EQ(status.kernel_bytes[0] + status.kernel_bytes[1], 0);
	CHECK_GE(status.bytes[0], 10000);
	CHECK_SYS(shutdown(fd, SHUT_WR));
	CHECK_EQ(CHECK_SYS(recv(fd, &(char){ 0 }, 1, 0)), 0);
	close(fd);
	services_close(&s);
}
