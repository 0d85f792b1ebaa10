/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl doctor: looks at a running system for a while and says what is slow,
 * why, and what to do about it. It changes nothing.
 */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"

#define FINDINGS_MAX 128
/* Of all messages: what is left to the queues is worth a word from here on. */
#define SPILLS_PERCENT 1
#define SPILLS_MIN 100
/* Of a limit, of a CPU. */
#define NEARLY 0.9

enum level { NOTE, PROBLEM };

struct finding {
	enum level level;
	char what[256];
	const char *advice;
};

struct findings {
	struct finding list[FINDINGS_MAX];
	unsigned int count;
	unsigned int problems;
	unsigned int dropped;
};

static void __attribute__((format(printf, 4, 5)))
add(struct findings *f, enum level level, const char *advice,
    const char *format, ...)
{
	struct finding *finding = &f->list[f->count];
	va_list args;

	f->problems += level == PROBLEM;
	if (f->count == FINDINGS_MAX) {
		f->dropped++;
		return;
	}
	f->count++;
	finding->level = level;
	finding->advice = advice;
	va_start(args, format);
	vsnprintf(finding->what, sizeof(finding->what), format, args);
	va_end(args);
}

/* The kernel -------------------------------------------------------------- */

static const struct lack {
	const char *feature;
	const char *advice;
} lacks[] = {
	{ "memfd-huge",
	  "reserve some: sysctl vm.nr_hugepages=N; pools that ask "
	  "for huge pages go without" },
	{ "membarrier", "each message that may wake a sleeper pays a fence" },
	{ "bpf", "no steered lane" },
	{ "btf",
	  "no steered lane: a kernel with CONFIG_DEBUG_INFO_BTF has it" },
	{ "bpffs", "mount it at /sys/fs/bpf: without it, steering ends with "
		   "sluiced" },
	{ "filter-seqpacket", "no steered lane: Linux 6.1 and later have it" },
	{ "sockmap-stream", "services of type stream are relayed" },
	{ "landing-stream",
	  "what comes over STREAM is received by recv(), also "
	  "with landing = yes" },
	{ "userfaultfd", "services of type stream are relayed" },
	{ "connect-unix",
	  "services cannot intercept: Linux 6.7 and later can" },
};

static void look_at_kernel(struct findings *f)
{
	const struct probe_feature *feature;
	char why[PROBE_WHY];

	for (unsigned int i = 0; i < sizeof(lacks) / sizeof(lacks[0]); i++) {
		feature = probe_find(lacks[i].feature);
		if (feature && probe_run(feature, why) == PROBE_NO)
			add(f, feature->needed ? PROBLEM : NOTE,
			    lacks[i].advice, "kernel: %s: %s", feature->what,
			    why);
	}
}

/* What was left to the queues --------------------------------------------- */

static const struct {
	const char *counter;
	const char *advice;
} spill_advice[] = {
	{ "pass_unknown", "sockets were detached or sluiced was unloaded: the "
			  "receivers attach anew when they ask sluiced" },
	{ "pass_charged",
	  "several threads or processes send on one socket at once: give each a "
	  "connection" },
	{ "pass_no_ring", "their endpoint is gone: restart the receiver" },
	{ "pass_ring_full",
	  "the receiver does not keep up: let it read more often, or give its "
	  "endpoint more ring_slots" },
	{ "pass_no_landing", "give the endpoint more landing slots, or release "
			     "messages sooner" },
	{ "pass_too_large",
	  "give the endpoint landing slots of a larger size" },
	{ "pass_fds",
	  "messages with fds always go through the socket: pass fds "
	  "once, not with each message" },
	{ "pass_options", "the receiver set SO_PASSCRED, SO_PASSSEC or "
			  "SO_PASSPIDFD: without it they are steered" },
	{ "pass_shutdown", "the receiver has shut down its side" },
	{ "pass_peer", "DGRAM is steered between mutual peers without a name" },
	{ "pass_frame",
	  "control frames; if they are many, the sender makes and "
	  "drops segments all the time: let it keep its pool" },
	{ "pass_contended", "too many senders in one instant: spread them over "
			    "several rings" },
	{ "pass_hold", "receivers take what is queued first, which ends by "
		       "itself once they keep up" },
};

static __u64 moved(const struct snapshot *before, const struct snapshot *after,
		   const char *name, const char **what)
{
	for (unsigned int i = 0; i < COUNTS; i++) {
		if (strcmp(counts[i].name, name))
			continue;
		*what = counts[i].what;
		return after->counts[counts[i].at] -
		       before->counts[counts[i].at];
	}
	return 0;
}

/* What began it; that receivers go on with their queues (the last) follows. */
static void look_at_spills(struct findings *f, const struct snapshot *before,
			   const struct snapshot *after)
{
	const __u64 steered =
		counts_steered(after->counts) - counts_steered(before->counts);
	const __u64 spilled =
		counts_spilled(after->counts) - counts_spilled(before->counts);
	const unsigned int reasons =
		sizeof(spill_advice) / sizeof(spill_advice[0]);
	const char *what = NULL, *most_what = NULL, *advice = NULL;
	__u64 most = 0, n;

	if (spilled < SPILLS_MIN ||
	    spilled * 100 < (steered + spilled) * SPILLS_PERCENT)
		return;
	for (unsigned int i = 0; i < reasons; i++) {
		n = moved(before, after, spill_advice[i].counter, &what);
		if (n <= most || (i == reasons - 1 && most))
			continue;
		most = n;
		most_what = what;
		advice = spill_advice[i].advice;
	}
	add(f, PROBLEM, advice,
	    "%llu of %llu messages were left to the sockets' queues; what "
	    "began it most often (%llu): %s",
	    (unsigned long long)spilled,
	    (unsigned long long)(steered + spilled), (unsigned long long)most,
	    most_what ? most_what : "unknown");
}

/* Who spins ---------------------------------------------------------------- */

/* CPU time of a process in seconds, or < 0. */
static double cpu_seconds(__u32 pid)
{
	unsigned long user, kernel;
	char path[64], line[1024];
	const char *end;
	double seconds = -1;
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	stat = fopen(path, "re");
	if (!stat)
		return -1;
	/* The name, in parentheses, may hold anything. */
	if (fgets(line, sizeof(line), stat) && (end = strrchr(line, ')')) &&
	    sscanf(end + 1,
		   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
		   &user, &kernel) == 2)
		seconds =
			(double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
	fclose(stat);
	return seconds;
}

static double *cpus_read(const struct snapshot *s)
{
	double *cpus = calloc(s->record_count + 1, sizeof(*cpus));

	for (unsigned int i = 0; cpus && i < s->record_count; i++)
		cpus[i] = cpu_seconds(s->records[i].pid);
	return cpus;
}

/* Its connections got nothing, neither from the ring nor by the queue. */
static bool endpoint_rested(const struct snapshot *before,
			    const struct snapshot *after, __u64 endpoint)
{
	struct conn_sums was, is;

	snapshot_sum(before, endpoint, &was);
	snapshot_sum(after, endpoint, &is);
	if (is.spills != was.spills)
		return false;
	/* Not counted by connection, unless sluiced is told to. */
	if (!is.messages)
		return counts_steered(before->counts) ==
		       counts_steered(after->counts);
	return is.messages == was.messages;
}

static void look_at_endpoints(struct findings *f, const struct snapshot *before,
			      const struct snapshot *after,
			      const double *cpus_before)
{
	const double seconds = after->at - before->at;
	const struct sluice_control_record *r = before->records;
	double used;

	for (unsigned int i = 0; i < before->record_count; i++, r++) {
		if (r->flags & SLUICE_RECORD_F_ORPHAN) {
			add(f, NOTE,
			    "its owner ended while sluiced was away, or is about "
			    "to claim it; it goes by itself",
			    "endpoint %llu has no owner",
			    (unsigned long long)r->endpoint);
			continue;
		}
		used = cpu_seconds(r->pid) - cpus_before[i];
		if (cpus_before[i] >= 0 && seconds > 0 &&
		    used >= NEARLY * seconds &&
		    endpoint_rested(before, after, r->endpoint))
			add(f, PROBLEM,
			    "it spins: let it sleep after a while (spin_ns), or "
			    "give it work",
			    "pid %u (%s) used %.0f %% of a CPU and endpoint %llu "
			    "received nothing",
			    r->pid, (const char *)r->comm, 100 * used / seconds,
			    (unsigned long long)r->endpoint);
	}
}

/* The rest ----------------------------------------------------------------- */

static void look_at_conns(struct findings *f, const struct snapshot *after)
{
	unsigned int plain = 0, i;

	for (i = 0; i < after->conn_count; i++)
		plain +=
			!(after->conns[i].entry.flags & SLUICE_ATTACH_F_FRAMES);
	if (plain)
		add(f, NOTE,
		    "their payload is copied once into the landing pool; "
		    "senders that use libsluice save that",
		    "%u of %u connections have a plain sender", plain,
		    after->conn_count);
}

static void look_at_limits(struct findings *f,
			   const struct sluice_control_use *use)
{
	if (use->flags & SLUICE_USE_F_DRAINING)
		add(f, PROBLEM, "sluicectl drain --off",
		    "sluiced is draining: it refuses new endpoints and "
		    "connections");
	if (use->endpoint_limit &&
	    use->endpoints >= NEARLY * use->endpoint_limit)
		add(f, PROBLEM,
		    "raise endpoints_per_uid, see sluiced.conf(5); for all "
		    "users together the limit is fixed",
		    "%u of %u endpoints are in use", use->endpoints,
		    use->endpoint_limit);
	if (use->conn_limit && use->conns >= NEARLY * use->conn_limit)
		add(f, PROBLEM,
		    "raise conns_per_uid, see sluiced.conf(5); for all users "
		    "together the limit is fixed",
		    "%u of %u connections are in use", use->conns,
		    use->conn_limit);
	if (use->map_bytes_limit &&
	    (double)use->map_bytes >= NEARLY * (double)use->map_bytes_limit)
		add(f, PROBLEM, "raise map_bytes_per_uid, see sluiced.conf(5)",
		    "%llu of %llu bytes of maps are in use",
		    (unsigned long long)use->map_bytes,
		    (unsigned long long)use->map_bytes_limit);
}

static void look_at_services(struct findings *f, const struct snapshot *after)
{
	const struct sluice_control_service *s = after->services;

	for (unsigned int i = 0; i < after->service_count; i++, s++) {
		const char *name = (const char *)s->name;

		if (!s->backends_up)
			add(f, PROBLEM,
			    "clients are refused: start a backend, or see what "
			    "sluiced logs of it",
			    "service %s: none of its %u backends is up", name,
			    s->backends);
		else if (s->backends_up < s->backends)
			add(f, NOTE, "see what sluiced logs of the others",
			    "service %s: %u of %u backends are up", name,
			    s->backends_up, s->backends);
		if (s->type == SOCK_STREAM && s->relayed &&
		    s->flags & SLUICE_SERVICE_F_HALF_CLOSE)
			add(f, NOTE,
			    "if no side half-closes, half_close = no lets the "
			    "kernel redirect them, see sluiced.conf(5)",
			    "service %s: sluiced relays %u connections", name,
			    s->relayed);
	}
}

static void look_at_sluiced(struct findings *f, int control,
			    const struct ctl_options *options, int *ret)
{
	struct snapshot before, after = { 0 };
	double *cpus = NULL;

	*ret = snapshot_take(&before, control, options);
	if (!*ret) {
		cpus = cpus_read(&before);
		ctl_sleep(options->interval);
		*ret = snapshot_take(&after, control, options);
	}
	if (!*ret) {
		look_at_limits(f, &after.use);
		if (cpus)
			look_at_endpoints(f, &before, &after, cpus);
		look_at_services(f, &after);
		if (after.pins_error)
			add(f, NOTE,
			    geteuid() ? "run it as root to know more" :
					"give sluiced's --pins",
			    "no counters: %s/counters: %s", options->pins,
			    strerror(-after.pins_error));
		else
			look_at_spills(f, &before, &after);
		look_at_conns(f, &after);
	}
	free(cpus);
	snapshot_free(&after);
	snapshot_free(&before);
}

static json_t *findings_json(const struct findings *f)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < f->count; i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s}", "level",
						f->list[i].level == PROBLEM ?
							"problem" :
							"note",
						"what", f->list[i].what,
						"advice", f->list[i].advice));
	return json_pack("{s:I, s:o}", "problems", (json_int_t)f->problems,
			 "findings", list);
}

static void findings_print(const struct findings *f)
{
	for (unsigned int i = 0; i < f->count; i++)
		printf("%s: %s\n    %s\n",
		       f->list[i].level == PROBLEM ? "problem" : "note",
		       f->list[i].what, f->list[i].advice);
	if (f->dropped)
		printf("... and %u more\n", f->dropped);
	printf("%s%u problems, %u notes\n", f->count ? "\n" : "", f->problems,
	       f->count + f->dropped - f->problems);
}

static int run(const struct ctl_options *options)
{
	struct findings *f = calloc(1, sizeof(*f));
	int control, ret = 0;

	if (!f)
		return ctl_failed("out of memory");
	look_at_kernel(f);
	control = control_open(options, true);
	if (control == -CTL_NO_SLUICED)
		add(f, PROBLEM,
		    "start it, see sluiced(8): without it there is "
		    "no steered lane and no service",
		    "there is no sluiced at %s", options->control);
	else if (control < 0)
		add(f, PROBLEM, "is that its socket, and may you use it?",
		    "%s cannot be used", options->control);
	else
		look_at_sluiced(f, control, options, &ret);
	if (control >= 0)
		close(control);
	if (!ret)
		ret = f->problems ? CTL_PROBLEMS : 0;
	if (ret && ret != CTL_PROBLEMS)
		; /* it has complained */
	else if (options->json)
		ret = ctl_json(findings_json(f), ret);
	else
		findings_print(f);
	free(f);
	return ret;
}

const struct ctl_command ctl_doctor = {
	.name = "doctor",
	.summary = "what is slow, why, and what to do about it",
	.help = "[--json] [--interval S] [--control PATH] [--pins DIR]\n"
		"Watches for a while and changes nothing. Exits with 4 if it found a problem;\n"
		"notes are worth knowing, no more. Root sees most.\n\n"
		"  --json           as JSON\n"
		"  --interval S     seconds to watch (1)\n"
		"  --control PATH   sluiced's control socket (" SLUICE_CONTROL_PATH
		")\n"
		"  --pins DIR       where it pins (" PINS_DEFAULT ")\n",
	.letters = "jisp",
	.run = run,
};
