/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The configuration of sluiced: an INI file, whose keys config.c lists with
 * their ranges, over defaults. sluiced.conf(5) explains them.
 */
#ifndef SLUICED_CONFIG_H
#define SLUICED_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/uapi.h>

#include "log.h"

#define METRICS_PATH_SIZE 256
#define CONFIG_FILE "/etc/sluice/sluiced.conf"

struct limits {
	uint64_t endpoints_per_uid;
	uint64_t conns_per_uid;
	uint64_t conns_per_endpoint;
	uint64_t map_bytes_per_uid;
	uint64_t map_bytes_per_endpoint;
	uint64_t clients_per_uid; /* connections to the control socket */
	uint64_t urings_per_uid; /* that are followed */
};

#define SERVICE_PATH_SIZE 108
#define PATHS_MAX 16

/* A list; keys that hold one may be given again, to add to it. */
struct paths {
	unsigned int count;
	char path[PATHS_MAX][SERVICE_PATH_SIZE];
};

enum switch_engine {
	SWITCH_ENGINE_AUTO,
	SWITCH_ENGINE_KERNEL,
	SWITCH_ENGINE_USER
};

enum balance { BALANCE_ROUND_ROBIN, BALANCE_LEAST, BALANCE_HASH_UID };

/* [service NAME] */
struct service_config {
	struct service_config *next; /* as in the file */
	char name[SLUICE_SERVICE_NAME_SIZE];
	char listen[SERVICE_PATH_SIZE];
	int type; /* SOCK_STREAM, ... */
	struct paths backends;
	enum balance balance;
	uint64_t mode;
	char owner[64], group[64]; /* of the socket; empty: leave it */
	bool half_close; /* a side may end its sending and go on receiving */
	bool landing; /* what plain clients send lands in backends' pools */
	uint64_t limit_per_uid; /* connections; 0: none */
	char bind_user[64], bind_group[64]; /* who may be a backend, or empty */
	char intercept[SERVICE_PATH_SIZE]; /* whose connects come here, or empty */
	struct paths cgroups; /* of whom */
};

struct config {
	/* [control] */
	char path[108]; /* of the control socket */
	uint64_t mode;
	char group[64]; /* empty: leave it */
	/* [bpf] */
	char pin_dir[256];
	bool conn_counts; /* count messages and bytes of each connection */
	/* [limits] */
	struct limits limits;
	/* [daemon] */
	uint64_t grace_seconds; /* in which an orphan must be claimed */
	uint64_t sweep_seconds; /* from one look for dead sockets to the next */
	enum log_level log_level;
	enum switch_engine switch_engine;
	bool unload; /* at the end, remove the pins */
	/* [metrics] */
	char metrics_socket[108]; /* empty: none */
	uint64_t metrics_mode;
	char metrics_group[64]; /* empty: leave it */
	char metrics_file[METRICS_PATH_SIZE]; /* empty: none */
	uint64_t metrics_seconds; /* from one file to the next */
	struct service_config *services;
};

void config_init(struct config *config);
void config_free(struct config *config);

/*
 * Reads a file over what config holds. A file that is missing is no error if
 * `optional`. Returns 0, or -1 with config in an undefined state and "file:line:
 * what is wrong" in error.
 */
int config_read(struct config *config, const char *file, bool optional,
		char *error, size_t size);

/* One key, as in the file: "control.path". The same, without a line. */
int config_set(struct config *config, const char *key, const char *value,
	       char *error, size_t size);

#endif
