/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicecat: netcat for sluice. One process listens at a name, one connects;
 * standard input, or files and directories as a tar stream, go from one to the
 * other through shared memory.
 *
 * Between two sluicecats
 *   sender     messages with the bytes, in order, then the end of its stream;
 *   receiver   when all is written and closed without an error, one message of
 *              length zero whose tag is the number of bytes; then it closes.
 *              When it fails: one message "sluicecat: " and the reason.
 * A side that fails exits without closing, which its peer takes for the death
 * that it is. So the sender's exit code 0 says that the receiver wrote all.
 *
 * A plain peer cannot confirm: there the sender is content with an orderly
 * close after its end of stream, and a receiver cannot tell a sender that was
 * killed from one that was done. Replies with other contents are ignored.
 *
 * One thread. SIGPIPE is ignored; SIGINT, SIGTERM and SIGHUP unlink the socket
 * path while it exists, and act as always otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sluicecat.h"

#define BUFFER_DEFAULT (1u << 20)
#define BUFFER_MIN 4096u
#define BUFFER_MAX (32u << 20)
/*
 * More in flight only means more memory out of the cache. Not a measured
 * optimum: enough that neither side waits for the other's system call.
 */
#define BUFFERS 16
/*
 * A plain receiver that reads with a smaller buffer than a message loses the
 * rest of it, and there is no asking: 8 KiB is what socat reads with.
 */
#define PLAIN_DEFAULT 8192u
/* How long a server may take to say HELLO before it counts as plain. */
#define AWARE_NS 1000000000ll
#define RETRY_NS 10000000

static const char usage_text[] =
	"usage: sluicecat [OPTION]... NAME [FILE]...      send to a listener\n"
	"       sluicecat -l [OPTION]... NAME             listen and receive\n"
	"       sluicecat -l -r [OPTION]... NAME [FILE]...  listen and send\n"
	"       sluicecat -r [OPTION]... NAME             receive from a listener\n"
	"\n"
	"Standard input goes to the other side's standard output. FILEs (files or\n"
	"directories) go as a tar stream, which the other side extracts with -x.\n"
	"NAME is the path of a socket, or @ and an abstract name.\n"
	"\n"
	"  -l, --listen       wait at NAME for one connection\n"
	"  -r, --reverse      data goes from the listener to the one that connects\n"
	"  -x, --extract DIR  receiver: extract a tar stream into DIR\n"
	"  -w, --wait SECS    wait at most SECS for the other side to come\n"
	"                     (default: listening for ever, connecting not at all)\n"
	"  -b, --buffer SIZE  bytes to read and send at once, such as 64K or 4M\n"
	"                     (default 1M; to a plain peer 8K)\n"
	"      --plain        be a plain peer: nothing but the socket\n"
	"      --no-ring      read files with read(), not by io_uring\n"
	"  -q, --quiet        errors only\n"
	"      --json FILE    write the summary to FILE\n"
	"      --help, --version\n";

static int misuse(struct cat *cat, const char *what, const char *text)
{
	complain(cat, "%s '%s'; try sluicecat --help", what, text);
	return CAT_USAGE;
}

/* "64K", "1M": bytes in [BUFFER_MIN, BUFFER_MAX], or 0. */
static size_t parse_size(const char *text)
{
	unsigned long long value;
	char *end;

	if (*text < '0' || *text > '9')
		return 0;
	value = strtoull(text, &end, 10);
	if (value > BUFFER_MAX)
		return 0;
	if (*end == 'K' || *end == 'k') {
		value <<= 10;
		end++;
	} else if (*end == 'M' || *end == 'm') {
		value <<= 20;
		end++;
	}
	return *end || value < BUFFER_MIN || value > BUFFER_MAX ? 0 : value;
}

/* Seconds, or -1. */
static double parse_seconds(const char *text)
{
	double value;
	char *end;

	if ((*text < '0' || *text > '9') && *text != '.')
		return -1;
	value = strtod(text, &end);
	return *end || end == text || value > 1e6 ? -1 : value;
}

/* 0: go on, else exit with *code. */
static int parse(struct cat *cat, int argc, char **argv, int *code)
{
	enum { OPT_PLAIN = 256, OPT_NO_RING, OPT_JSON, OPT_HELP, OPT_VERSION };
	static const struct option options[] = {
		{ "listen", no_argument, NULL, 'l' },
		{ "reverse", no_argument, NULL, 'r' },
		{ "extract", required_argument, NULL, 'x' },
		{ "wait", required_argument, NULL, 'w' },
		{ "buffer", required_argument, NULL, 'b' },
		{ "plain", no_argument, NULL, OPT_PLAIN },
		{ "no-ring", no_argument, NULL, OPT_NO_RING },
		{ "quiet", no_argument, NULL, 'q' },
		{ "json", required_argument, NULL, OPT_JSON },
		{ "help", no_argument, NULL, OPT_HELP },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ 0 },
	};
	int option;

	*code = CAT_USAGE;
	while ((option = getopt_long(argc, argv, "lrx:w:b:q", options, NULL)) !=
	       -1) {
		switch (option) {
		case 'l':
			cat->listen = true;
			break;
		case 'r':
			cat->reverse = true;
			break;
		case 'x':
			cat->extract = optarg;
			break;
		case 'w':
			cat->wait = parse_seconds(optarg);
			if (cat->wait < 0)
				return misuse(cat, "bad number of seconds",
					      optarg);
			break;
		case 'b':
			cat->buffer_size = parse_size(optarg);
			cat->plain_size = cat->buffer_size;
			if (!cat->buffer_size)
				return misuse(cat, "buffer size not 4K to 32M:",
					      optarg);
			break;
		case 'q':
			cat->quiet = true;
			break;
		case OPT_PLAIN:
			cat->plain = true;
			break;
		case OPT_NO_RING:
			cat->no_ring = true;
			break;
		case OPT_JSON:
			cat->json = optarg;
			break;
		case OPT_HELP:
			fputs(usage_text, stdout);
			*code = CAT_OK;
			return 1;
		case OPT_VERSION:
			printf("sluicecat %s\n", sluice_version());
			*code = CAT_OK;
			return 1;
		default: /* getopt_long has complained */
			return 1;
		}
	}
	if (optind == argc) {
		fputs(usage_text, stderr);
		return 1;
	}
	cat->name = argv[optind];
	cat->operands = argv + optind + 1;
	cat->sends = cat->listen == cat->reverse;
	if (cat->sends && cat->extract)
		return misuse(cat, "the sender cannot extract into",
			      cat->extract);
	if (!cat->sends && *cat->operands)
		return misuse(cat, "the receiver cannot send", *cat->operands);
	return 0;
}

/* What can be known to be missing before a peer is troubled. */
static int check_files(struct cat *cat)
{
	struct stat st;

	for (char **path = cat->operands; *path; path++)
		if (lstat(*path, &st))
			return complain(cat, "cannot read '%s': %s", *path,
					strerror(errno));
	if (!cat->extract)
		return CAT_OK;
	if (!stat(cat->extract, &st) && !S_ISDIR(st.st_mode))
		errno = ENOTDIR;
	else if (!access(cat->extract, W_OK | X_OK))
		return CAT_OK;
	return complain(cat, "cannot extract into '%s': %s", cat->extract,
			strerror(errno));
}

/* A failed listen, accept or connect; r is its -errno. */
static int no_connection(struct cat *cat, int r)
{
	if (r == -EINVAL || r == -ENAMETOOLONG)
		return misuse(cat, r == -EINVAL ? "bad name" : "name too long",
			      cat->name);
	if (cat->listen && r == -EADDRINUSE)
		return complain(cat, "'%s' is in use", cat->name);
	if (!cat->listen && (r == -ECONNREFUSED || r == -ENOENT))
		return complain(cat, "nobody listens at '%s'", cat->name);
	return complain(cat, "cannot %s '%s': %s",
			cat->listen ? "listen at" : "connect to", cat->name,
			strerror(-r));
}

/* Those that end this process: not the ones it was told to ignore (nohup). */
static void ending_signals(sigset_t *signals)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action;

	sigemptyset(signals);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		if (!sigaction(numbers[i], NULL, &action) &&
		    action.sa_handler != SIG_IGN)
			sigaddset(signals, numbers[i]);
}

/*
 * Takes one client. The signals that would leave a path behind are blocked
 * meanwhile; one that came is still pending at the end, and ends us there.
 */
static int serve(struct cat *cat, const struct sluice_options *options)
{
	int timeout = cat->wait < 0 ? -1 : (int)(cat->wait * 1000);
	struct sluice_listener *listener;
	sigset_t signals, before;
	struct pollfd fds[2] = { { .events = POLLIN }, { .events = POLLIN } };
	int r;

	ending_signals(&signals);
	sigprocmask(SIG_BLOCK, &signals, &before);
	fds[1].fd = signalfd(-1, &signals, SFD_CLOEXEC);

	r = sluice_listen(&listener, cat->name, options);
	if (!r) {
		fds[0].fd = sluice_listener_fd(listener);
		do {
			r = poll(fds, 2, timeout);
			if (r > 0 && fds[1].revents)
				r = -EINTR;
			else if (r > 0)
				r = sluice_accept(listener, &cat->conn, 0);
			else
				r = r ? -errno : -ETIMEDOUT;
		} while (r == -EAGAIN);
		sluice_listener_close(listener);
	}
	close(fds[1].fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (r == -ETIMEDOUT)
		return complain(cat, "nobody came to '%s'", cat->name);
	return r ? no_connection(cat, r) : CAT_OK;
}

static int call(struct cat *cat, const struct sluice_options *options)
{
	int64_t end = cat->wait > 0 ? clock_ns() + cat->wait * 1e9 : 0;
	const struct timespec pause = { .tv_nsec = RETRY_NS };
	int r;

	for (;;) {
		r = sluice_connect(&cat->conn, cat->name, options);
		if ((r != -ECONNREFUSED && r != -ENOENT) || clock_ns() >= end)
			return r ? no_connection(cat, r) : CAT_OK;
		nanosleep(&pause, NULL);
	}
}

static int open_connection(struct cat *cat)
{
	uint32_t class = (cat->buffer_size + 4095) & ~4095u;
	struct sluice_pool_options pool_options = {
		.size = sizeof(pool_options),
		.limit = (uint64_t) class * BUFFERS,
		.classes = &class,
		.class_count = 1,
	};
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = cat->plain ? SLUICE_F_PLAIN : 0,
		/* a receiver's answer needs none of this */
		.pool_options = cat->sends ? &pool_options : NULL,
		/* the first message tells a receiver what its peer is */
		.aware_timeout_ns = cat->sends && !cat->plain ? AWARE_NS : 0,
	};

	return cat->listen ? serve(cat, &options) : call(cat, &options);
}

int main(int argc, char **argv)
{
	static struct cat cat = {
		.wait = -1,
		.buffer_size = BUFFER_DEFAULT,
		.plain_size = PLAIN_DEFAULT,
	};
	int code;

	/* A socket that got one of these numbers would be taken for a stream. */
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			return complain(&cat, "standard %s is closed",
					fd ? fd == 1 ? "output" : "error" :
					     "input");
	signal(SIGPIPE, SIG_IGN);
	if (parse(&cat, argc, argv, &code))
		return code;
	code = check_files(&cat);
	if (!code)
		code = open_connection(&cat);
	if (code)
		return code;

	cat.start_ns = clock_ns();
	code = cat.sends ? cat_send(&cat) : cat_receive(&cat);
	tar_stop(&cat);
	if (code)
		return code; /* not closed: the peer must see a failure */
	code = summary(&cat);
	sluice_conn_close(cat.conn);
	return code;
}
