/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What a test calls: checks, child processes, time, random numbers, and the
 * places where leaks show. All of it runs in the processes of a case, in any
 * thread; a failed check ends the calling process at once with _exit(), since
 * the state of a failed test is not worth an orderly end.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"
#include "tap-lib.h"

#if defined(__SANITIZE_THREAD__)
const bool tap_sanitized = true;
int tap_slow = 10;
#elif defined(__SANITIZE_ADDRESS__)
const bool tap_sanitized = true;
int tap_slow = 4;
#else
const bool tap_sanitized = false;
int tap_slow = 1;
#endif

__attribute__((constructor)) static void read_slow(void)
{
	const char *given = getenv("SLUICE_SLOW");
	int times = given ? atoi(given) : 1;

	tap_slow *= times > 0 ? times : 1;
}

static void say(const char *format, va_list args)
{
	char text[1024];

	fflush(stdout);
	vsnprintf(text, sizeof(text), format, args);
	dprintf(2, "%s\n", text);
}

void tap_diag(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
}

void tap_fail(const char *file, int line, const char *format, ...)
{
	char text[900];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	tap_diag("%s:%d: %s", file, line, text);
	_exit(TAP_EXIT_FAIL);
}

void tap_skip(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(tap_shared->reason, sizeof(tap_shared->reason), format, args);
	va_end(args);
	_exit(TAP_EXIT_SKIP);
}

/* "-32 (EPIPE)" for what may be a -errno, else the number. */
static const char *number(char *text, size_t size, long long value)
{
	const char *error = NULL;

	if (value < 0 && value > -4096)
		error = strerrorname_np(-value);
	if (error)
		snprintf(text, size, "%lld (%s)", value, error);
	else if (value > 65535)
		snprintf(text, size, "%lld (%#llx)", value, value);
	else
		snprintf(text, size, "%lld", value);
	return text;
}

void tap_fail_compare(const char *file, int line, const char *a, const char *op,
		      const char *b, long long value_a, long long value_b)
{
	char text_a[64], text_b[64];

	tap_fail(file, line, "%s %s %s: it is %s against %s", a, op, b,
		 number(text_a, sizeof(text_a), value_a),
		 number(text_b, sizeof(text_b), value_b));
}

void tap_fail_call(const char *file, int line, const char *call, long long ret,
		   int error)
{
	char text[64];

	if (error)
		tap_fail(file, line, "%s: %s (%s)", call, strerror(error),
			 strerrorname_np(error));
	tap_fail(file, line, "%s returned %s: %s", call,
		 number(text, sizeof(text), ret), strerror(-ret));
}

void tap_check_str(const char *file, int line, const char *a, const char *str_a,
		   const char *b, const char *str_b)
{
	if (!str_a || !str_b || strcmp(str_a, str_b))
		tap_fail(file, line, "%s is \"%s\", %s is \"%s\"", a,
			 str_a ? str_a : "(NULL)", b, str_b ? str_b : "(NULL)");
}

void tap_check_mem(const char *file, int line, const char *a, const void *mem_a,
		   const char *b, const void *mem_b, size_t len)
{
	const uint8_t *bytes_a = mem_a, *bytes_b = mem_b;

	for (size_t i = 0; i < len; i++)
		if (bytes_a[i] != bytes_b[i])
			tap_fail(file, line,
				 "%s and %s differ at byte %zu of %zu: "
				 "%02x against %02x",
				 a, b, i, len, bytes_a[i], bytes_b[i]);
}

void tap_limit(unsigned int seconds)
{
	atomic_store(&tap_shared->deadline,
		     tap_now() + 1000000000ll * seconds * tap_slow);
}

/* Programs are in <build>/selftests. */
const char *tap_build(void)
{
	static char path[512];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (len < 0)
		TAP_FAIL("/proc/self/exe: %s", strerror(errno));
	path[len] = 0;
	for (int i = 0; i < 2; i++) {
		char *slash = strrchr(path, '/');

		if (slash)
			*slash = 0;
	}
	return path;
}

const char *tap_bin(const char *name)
{
	static char path[640];

	snprintf(path, sizeof(path), "%s/bin/%s", tap_build(), name);
	return path;
}

pid_t tap_fork(void)
{
	pid_t parent = getpid(), pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		TAP_FAIL("fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(TAP_EXIT_FAIL);
	}
	return pid;
}

int tap_reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			TAP_FAIL("waitpid %d: %s", pid, strerror(errno));
	return status;
}

void tap_join(pid_t pid)
{
	int status = tap_reap(pid);

	if (WIFSIGNALED(status))
		TAP_FAIL("child %d was killed by signal %d (%s)", pid,
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status) == TAP_EXIT_SKIP)
		_exit(TAP_EXIT_SKIP);
	if (WEXITSTATUS(status))
		TAP_FAIL("child %d exited with %d", pid, WEXITSTATUS(status));
}

void tap_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	tap_reap(pid);
}

int64_t tap_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

void tap_sleep(int64_t ns)
{
	struct timespec left = { ns / 1000000000, ns % 1000000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

/* splitmix64: every 64-bit state is a good one. */
static uint64_t mix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static _Thread_local uint64_t random_state;

uint64_t tap_seed(void)
{
	static uint64_t seed;
	const char *given = getenv("SLUICE_SEED");

	if (!seed && given)
		seed = strtoull(given, NULL, 0);
	if (!seed && getrandom(&seed, 4, 0) != 4)
		seed = tap_now();
	return seed;
}

void tap_random_stream(uint64_t stream)
{
	uint64_t state = tap_seed() + (stream << 32);

	for (const char *c = tap_shared->name; *c; c++)
		state = mix(&state) ^ (uint8_t)*c;
	random_state = state;
}

uint64_t tap_random(void)
{
	return mix(&random_state);
}

uint64_t tap_random_below(uint64_t limit)
{
	return limit ? tap_random() % limit : 0;
}

void tap_fill(void *data, size_t len, uint64_t key)
{
	uint8_t *to = data;

	while (len) {
		uint64_t word = mix(&key);
		size_t part = len < sizeof(word) ? len : sizeof(word);

		memcpy(to, &word, part);
		to += part;
		len -= part;
	}
}

bool tap_matches(const void *data, size_t len, uint64_t key)
{
	const uint8_t *from = data;

	while (len) {
		uint64_t word = mix(&key);
		size_t part = len < sizeof(word) ? len : sizeof(word);

		if (memcmp(from, &word, part))
			return false;
		from += part;
		len -= part;
	}
	return true;
}

int tap_open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = -3; /* ".", ".." and the directory itself */

	if (!dir)
		TAP_FAIL("/proc/self/fd: %s", strerror(errno));
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

int tap_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[4500], sharing;
	int count = 0;

	if (!maps)
		TAP_FAIL("/proc/self/maps: %s", strerror(errno));
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%*x-%*x %*3c%c", &sharing) == 1)
			count += sharing == 's';
	fclose(maps);
	return count;
}

long tap_resident(void)
{
	FILE *statm = fopen("/proc/self/statm", "re");
	long pages = 0;

	if (!statm || fscanf(statm, "%*d %ld", &pages) != 1)
		TAP_FAIL("/proc/self/statm: %s", strerror(errno));
	fclose(statm);
	return pages * sysconf(_SC_PAGESIZE);
}
