/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The socket that answers HTTP requests with the metrics, one for each connection;
 * metrics.h says what bounds those who connect. Nothing here blocks.
 */
#include "metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

#define REQUEST_MAX 4096
#define REST_NS 100000000ll

struct scraper {
	struct source source; /* first: it is freed as one */
	struct scraper *next; /* one that came later */
	int64_t until;
	char request[REQUEST_MAX + 1];
	size_t got;
	char *answer; /* NULL: the request is not whole */
	size_t size, sent;
};

static void drop(struct server *server, struct scraper *scraper)
{
	struct scraper **at = &server->metrics.scrapers;

	while (*at != scraper)
		at = &(*at)->next;
	*at = scraper->next;
	server->metrics.scraper_count--;
	close(scraper->source.fd);
	free(scraper->answer);
	server_free_later(server, &scraper->source);
}

/* Answers ----------------------------------------------------------------- */

/* The text, made anew if it is not just made. NULL: no memory. */
static const char *fresh_text(struct server *server, size_t *size)
{
	struct metrics *metrics = &server->metrics;
	int64_t now = server_now();

	if (!metrics->text || now >= metrics->made_at + FRESH_NS) {
		free(metrics->text);
		metrics->text = metrics_text(server, &metrics->size);
		metrics->made_at = now;
	}
	*size = metrics->size;
	return metrics->text;
}

static const char *status_of(const struct scraper *scraper)
{
	const char *request = scraper->request, *path, *rest;

	if (strlen(request) != scraper->got)
		return "400 Bad Request"; /* a zero byte */
	path = strchr(request, ' ');
	rest = path ? path + 1 + strcspn(path + 1, " \r\n") : NULL;
	if (!path || path[1] != '/' || strncmp(rest, " HTTP/1.", 8))
		return "400 Bad Request";
	if (strncmp(request, "GET ", 4))
		return "405 Method Not Allowed";
	path++;
	if (rest - path == 1 ||
	    (rest - path == 8 && !strncmp(path, "/metrics", 8)))
		return "200 OK";
	return "404 Not Found";
}

/* Fills in the answer; it stays NULL without memory. */
static void answer(struct server *server, struct scraper *scraper,
		   const char *status)
{
	const char *body = status;
	size_t size = strlen(status);
	FILE *out;

	if (*status == '2')
		body = fresh_text(server, &size);
	if (!body)
		return;
	out = open_memstream(&scraper->answer, &scraper->size);
	if (!out)
		return;
	fprintf(out,
		"HTTP/1.0 %s\r\n"
		"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
		"Content-Length: %zu\r\n"
		"Connection: close\r\n\r\n",
		status, size);
	fwrite(body, 1, size, out);
	if (fclose(out)) {
		free(scraper->answer);
		scraper->answer = NULL;
	}
}

static bool is_whole(const char *request)
{
	return strstr(request, "\r\n\r\n") || strstr(request, "\n\n");
}

/* Reads what there is. False: it is to be dropped. */
static bool take_request(struct server *server, struct scraper *scraper)
{
	ssize_t n = recv(scraper->source.fd, scraper->request + scraper->got,
			 REQUEST_MAX - scraper->got, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (!n)
		return false;
	scraper->got += (size_t)n;
	scraper->request[scraper->got] = 0;
	if (is_whole(scraper->request) ||
	    memchr(scraper->request, 0, scraper->got))
		answer(server, scraper, status_of(scraper));
	else if (scraper->got == REQUEST_MAX)
		answer(server, scraper, "431 Request Header Fields Too Large");
	else
		return true;
	return scraper->answer;
}

/* Sends what fits. False: that was all, or it is to be dropped. */
static bool send_answer(struct server *server, struct scraper *scraper)
{
	ssize_t n = send(scraper->source.fd, scraper->answer + scraper->sent,
			 scraper->size - scraper->sent,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return false;
	if (n > 0)
		scraper->sent += (size_t)n;
	return scraper->sent < scraper->size &&
	       !server_watch(server, &scraper->source, EPOLLOUT);
}

static void ready_scraper(struct server *server, struct source *source,
			  uint32_t events)
{
	struct scraper *scraper = (struct scraper *)source;
	bool stays = true;

	(void)events;
	if (!scraper->answer)
		stays = take_request(server, scraper);
	if (stays && scraper->answer)
		stays = send_answer(server, scraper);
	if (!stays)
		drop(server, scraper);
}

/* Who connects ------------------------------------------------------------ */

/* Takes the fd. */
static void scraper_new(struct server *server, int fd)
{
	struct metrics *metrics = &server->metrics;
	struct scraper *scraper = calloc(1, sizeof(*scraper)), **last;

	if (!scraper) {
		close(fd);
		return;
	}
	if (metrics->scraper_count == SCRAPERS)
		drop(server, metrics->scrapers);
	scraper->source = (struct source){ .ready = ready_scraper, .fd = fd };
	scraper->until = server_now() + SCRAPE_NS;
	for (last = &metrics->scrapers; *last; last = &(*last)->next)
		;
	*last = scraper;
	metrics->scraper_count++;
	if (server_watch(server, &scraper->source, EPOLLIN))
		drop(server, scraper);
	else /* most have sent their request by now */
		ready_scraper(server, &scraper->source, EPOLLIN);
}

/* One in a round of events: those who do more than scrape do not wait for many. */
static void ready(struct server *server, struct source *source, uint32_t events)
{
	struct metrics *metrics = &server->metrics;
	int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		scraper_new(server, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
		   errno == ENOBUFS) {
		log_client("cannot accept scrapers now: %s", strerror(errno));
		epoll_ctl(server->epoll, EPOLL_CTL_DEL, source->fd, NULL);
		metrics->listen_at = server_now() + REST_NS;
	}
}

void scrape_open(struct server *server)
{
	struct metrics *metrics = &server->metrics;
	const struct config *config = &server->config;
	int fd;

	metrics->source = (struct source){ .ready = ready, .fd = -1 };
	metrics->file = (struct socket_file){
		.path = config->metrics_socket,
		.type = SOCK_STREAM,
		.mode = (mode_t)config->metrics_mode,
		.owner = "",
		.group = config->metrics_group,
	};
	if (!*config->metrics_socket)
		return;
	fd = socket_file_bind(&metrics->file);
	if (fd < 0) {
		log_error("%s: no metrics: %s", config->metrics_socket,
			  strerror(-fd));
		return;
	}
	metrics->source.fd = fd;
	if (listen(fd, SCRAPERS) ||
	    server_watch(server, &metrics->source, EPOLLIN)) {
		log_error("%s: no metrics: %s", config->metrics_socket,
			  strerror(errno));
		scrape_close(server);
		return;
	}
	socket_take_fds(fd, false);
}

static void sooner(int64_t *at, int64_t than)
{
	if (than && (!*at || than < *at))
		*at = than;
}

void metrics_tick(struct server *server, int64_t now)
{
	struct metrics *metrics = &server->metrics;

	/* the oldest is due first */
	while (metrics->scrapers && metrics->scrapers->until <= now)
		drop(server, metrics->scrapers);
	if (metrics->listen_at && metrics->listen_at <= now) {
		metrics->listen_at =
			server_watch(server, &metrics->source, EPOLLIN) ?
				now + REST_NS :
				0;
	}
	if (metrics->write_at && metrics->write_at <= now)
		metrics_write(server, now);
}

int64_t metrics_due(const struct metrics *metrics)
{
	int64_t at = metrics->write_at;

	sooner(&at, metrics->listen_at);
	if (metrics->scrapers)
		sooner(&at, metrics->scrapers->until);
	return at;
}

void scrape_close(struct server *server)
{
	struct metrics *metrics = &server->metrics;

	while (metrics->scrapers)
		drop(server, metrics->scrapers);
	/* no `ready`: it was never opened */
	if (metrics->source.ready && metrics->source.fd >= 0) {
		socket_file_remove(&metrics->file);
		close(metrics->source.fd);
		metrics->source.fd = -1;
	}
	free(metrics->text);
	metrics->text = NULL;
}
