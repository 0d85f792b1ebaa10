/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Services: names that sluiced listens on, and whose connections it gives to
 * backends. All is the main thread's.
 *
 *   service.c  the services of the configuration, listening and refusing
 *   backend.c  which backends are up, and which one is next
 *   visit.c     connections: from accept() to their end
 *   dgram.c    the same for DGRAM, which has no connections
 *   handed.c   connections that backends have themselves
 *   bind.c     backends that bind at run time: requests of clients
 *
 * A backend of the configuration is a path. It is looked at PROBE_UP_NS after
 * the last time while it is up, and PROBE_DOWN_NS while it is not, by a connect
 * with a wrong type, which its server does not see; a connect that it refuses
 * takes it out at once. A service that has no backend closes its socket but leaves
 * the name: that refuses connects.
 *
 * A service that leaves the configuration lives on, closed, for its connections.
 */
#ifndef SLUICED_SERVICE_H
#define SLUICED_SERVICE_H

#include <sluice/uapi.h>
#include <sys/socket.h>

#include "redirect.h"
#include "server.h"
#include "socketfile.h"
#include "switch.h"

#define PROBE_UP_NS 1000000000ll
#define PROBE_DOWN_NS 200000000ll
/* After a connection has ended: not for each of many. */
#define SUSPECT_NS 20000000ll
#define TICK_NS 100000000ll
#define TICK_WAITING_NS 10000000ll

struct backend {
	struct backend *next;
	struct service *service;
	char path[SERVICE_PATH_SIZE]; /* empty: bound at run time */
	bool up;
	bool removed; /* gone, but for its connections */
	bool complained; /* the log says why it is down */
	uint32_t visits;
	uint64_t round; /* the last in which it had no room */
	uint64_t identity; /* for hash-uid */
	int64_t probe_at; /* path */
	/* bound at run time */
	struct client *client; /* NULL: it has gone */
	uint32_t binding;
	bool asked; /* an ACCEPT waits for its answer */
	uint32_t serial; /* of it */
	struct visit *offered; /* its last answer, until it asks again */
};

struct service_user {
	struct service_user *next;
	uid_t uid;
	uint32_t visits;
};

enum visit_path {
	VISIT_RELAY, /* by the switch */
	VISIT_REDIRECT,
	VISIT_HANDED, /* the backend has the client's socket */
	VISIT_PATHS,
};

struct visit {
	struct visit *next, **at; /* in service->visits */
	struct service *service;
	struct backend *backend; /* NULL: waits for one with room */
	struct service_user *user;
	struct ucred peer;
	enum visit_path path;
	int client; /* the fd, until an engine or a backend has it */
	struct pair *pair; /* RELAY */
	struct redirect_pair *redirect;
	uint64_t cookie; /* HANDED: of the client's socket here */
	uint32_t seen; /* HANDED: the last walk that met it */
	bool leaving; /* nobody takes it: its engine ends it */
	unsigned int moves; /* from one backend to another */
};

struct service {
	struct source source; /* first: what is watched */
	struct service *next;
	struct server *server;
	struct service_config config;
	struct socket_file file;
	struct intercept intercept;
	bool removed;
	bool complained; /* the log says why it does not listen */
	bool paused; /* it listens, but is not watched */
	struct session *sessions; /* DGRAM */
	struct held *held; /* DGRAM: the message that stops the socket */
	struct backend *backends;
	struct backend *last; /* that was chosen */
	uint64_t round;
	struct service_user *users;
	struct visit *visits, **visits_last; /* the oldest first */
	uint32_t visit_count[VISIT_PATHS];
	uint32_t waiting; /* visits without a backend */
	struct traffic traffic;
	struct carried carried; /* of visits that have ended */
	uint64_t accepted, refused;
};

struct services {
	struct service *first;
	bool started;
	struct switcher *switcher; /* NULL: no io_uring */
	struct redirect *redirect; /* NULL: not on this kernel */
	struct source switched, redirected; /* their events */
	int64_t tick_at; /* 0: never */
	uint32_t last_binding;
	void *handed; /* tsearch(3) tree of visits by cookie */
};

/* For server.c ------------------------------------------------------------- */

/* What the configuration says; also at a reload. */
void services_apply(struct server *server);
void services_tick(struct server *server);
/*
 * Removes dead sockets, while it is allowed to see of everyone's whether they are.
 */
void services_clear(const struct config *config);
bool services_have_owners(const struct config *config);
bool services_redirect(const struct config *config);
/* Has any landing? */
bool services_land(const struct config *config);
void services_stop(struct server *server);

/* For client.c and sweep.c ------------------------------------------------- */

void services_client_gone(struct server *server, struct client *client);
/* As a walk over all sockets meets them; and those it has not met are gone. */
void services_seen(struct server *server, uint64_t cookie);
/* Was it handed to a backend of a service that has landing? */
bool services_may_land(const struct server *server, uint64_t cookie);
uint32_t services_drop_unseen(struct server *server, uint32_t since,
			      bool count_only);

/* What there is to say of a service, for SERVICES and for metrics. */
void service_record(const struct service *service,
		    struct sluice_control_service *record);

/* Internal ----------------------------------------------------------------- */

/* NULL: there is none. */
struct service *service_find(const struct services *services, const char *name);
/* Listens if there is a backend, refuses if there is none. */
void service_update(struct service *service);
/* Accepts no more for now, or again. */
void service_pause(struct service *service, bool paused);
void service_free_if_over(struct service *service);

void backends_apply(struct service *service,
		    const struct service_config *config);
struct backend *backend_new(struct service *service, const char *path);
void backend_remove(struct backend *backend);
/* One visit less. */
void backend_put(struct backend *backend);
bool backend_usable(const struct backend *backend);
/* Who is next for that uid, but those that had no room in this round. */
struct backend *backend_choose(struct service *service, uid_t uid);
void backend_down(struct backend *backend, int error);
void backend_probe(struct backend *backend, int64_t now);
/* A connected, blocking socket; -EAGAIN: no room now; -errno. */
int backend_connect(const struct backend *backend);

void visit_accept(struct service *service);
/* NULL: no memory. It is in use as long as it has visits. */
struct service_user *visit_user(struct service *service, uid_t uid);
/* With the visit that is about to be made counted already. */
bool visit_over_limit(struct service *service, struct service_user *user);
struct visit *visit_new(struct service *service, struct service_user *user,
			const struct ucred *peer, int fd);
void visit_join(struct visit *visit, struct backend *backend,
		enum visit_path path);
void visit_end(struct visit *visit);
/* By its cookie. 0 or -ENOMEM. */
int handed_note(struct visit *visit);
void handed_forget(struct visit *visit);
bool visit_may_redirect(const struct service *service);
/* Adds what the kernel has carried for it. */
void visit_add_carried(const struct visit *visit, struct carried *carried);
/* Those that wait for a backend. */
void visit_retry(struct service *service);
void visit_on_switched(struct server *server, struct source *source,
		       uint32_t events);
void visit_on_redirected(struct server *server, struct source *source,
			 uint32_t events);
/* The backend has taken what it was offered; or it has gone without. */
void visit_taken(struct visit *visit);
void visit_return(struct visit *visit);
/* All that wait, when no backend is left. */
void visit_refuse_waiting(struct service *service);

/* dgram.c: messages for the service's socket, and time passes. */
void dgram_ready(struct service *service);
void dgram_tick(struct service *service, int64_t now);
void dgram_stop(struct service *service);

/* Answers the ACCEPT of a bound backend; takes the fd. */
void bind_hand_over(struct backend *backend, const struct ucred *peer, int fd);

#endif
