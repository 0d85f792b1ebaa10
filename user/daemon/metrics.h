/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Metrics in the text format of Prometheus: sluice_metrics(7) lists them. The
 * main thread's alone.
 *
 *   metrics.c  the text, and the file of it    scrape.c  the socket
 *
 * Whoever connects is hostile: at most SCRAPERS at once, of which the oldest makes
 * room for the next; each has SCRAPE_NS from connecting to its last byte; the text
 * is made at most once in FRESH_NS, however many ask. Without its socket or file
 * sluiced goes on, and its log says why.
 */
#ifndef SLUICED_METRICS_H
#define SLUICED_METRICS_H

#include "server.h"

#define SCRAPERS 16
#define SCRAPE_NS 5000000000ll
#define FRESH_NS 100000000ll

/* scrape.c: opens the socket if the configuration names one. */
void scrape_open(struct server *server);
/* Both: drops who is too slow, writes the file. */
void metrics_tick(struct server *server, int64_t now);
/* When that has to happen next; 0: never. */
int64_t metrics_due(const struct metrics *metrics);
void scrape_close(struct server *server);

/* The text, NULL: no memory. Free it. */
char *metrics_text(struct server *server, size_t *size);
/* Writes the file that the configuration names, now and every interval from then on. */
void metrics_write(struct server *server, int64_t now);
/* A file that nobody writes any more would look alive. */
void metrics_remove(struct server *server);

#endif
