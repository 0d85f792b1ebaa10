/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Sets on a ring of the application's: their entries, what becomes of SQEs, what
 * CQEs mean. See uring.h for the states of a request.
 */
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "listener.h"

#define NEEDED_FEATURES (IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL)
#define BUFFERS_MIN 16
#define BUFFERS_MAX 32768

int uring_register(int ring_fd, unsigned int opcode, const void *arg,
		   unsigned int count)
{
	long r = syscall(SYS_io_uring_register, ring_fd, opcode, arg, count);

	return r < 0 ? -errno : (int)r;
}

/* Entries ----------------------------------------------------------------- */

static int find_number(struct uring *uring, uint32_t *number)
{
	uint32_t size = uring->entries_size, i;
	struct uring_entry **table;

	for (i = 0; i < size; i++) {
		*number = (uring->next_number + i) % size;
		if (!uring->entries[*number]) {
			uring->next_number = *number + 1;
			return 0;
		}
	}
	*number = size;
	uring->next_number = size + 1;
	size = size ? size * 2 : 64;
	table = realloc(uring->entries, size * sizeof(*table));
	if (!table)
		return -ENOMEM;
	memset(table + *number, 0, (size - *number) * sizeof(*table));
	uring->entries = table;
	uring->entries_size = size;
	return 0;
}

/* Its fd becomes a registered file, if there is a free slot. */
static void file_register(struct uring_entry *entry)
{
	struct uring *uring = entry->uring;
	struct io_uring_files_update update = {
		.fds = (uint64_t)(uintptr_t)&entry->fd,
	};
	uint32_t i;

	for (i = 0; i < uring->file_count && uring->file_used[i]; i++)
		;
	if (i == uring->file_count)
		return;
	update.offset = uring->file_first + i;
	if (uring_register(uring->ring_fd, IORING_REGISTER_FILES_UPDATE,
			   &update, 1) != 1)
		return;
	uring->file_used[i] = 1;
	entry->slot = update.offset + 1;
	uring->info.registered++;
}

static void file_unregister(struct uring_entry *entry)
{
	struct uring *uring = entry->uring;
	const int none = -1;
	struct io_uring_files_update update = {
		.offset = entry->slot - 1,
		.fds = (uint64_t)(uintptr_t)&none,
	};

	if (!entry->slot)
		return;
	uring_register(uring->ring_fd, IORING_REGISTER_FILES_UPDATE, &update,
		       1);
	uring->file_used[update.offset - uring->file_first] = 0;
	entry->slot = 0;
	uring->info.registered--;
}

struct uring_entry *entry_new(struct uring *uring, int fd)
{
	struct uring_entry *entry = calloc(1, sizeof(*entry));

	if (!entry || find_number(uring, &entry->number)) {
		free(entry);
		return NULL;
	}
	entry->uring = uring;
	entry->fd = fd;
	list_init(&entry->due);
	list_init(&entry->draining);
	uring->entries[entry->number] = entry;
	return entry;
}

void entry_put(struct uring_entry *entry)
{
	if (entry->busy || entry->core || entry->listener || entry->connect ||
	    entry->flying || entry->cancelling || entry == entry->uring->epoll)
		return;
	file_unregister(entry);
	if (entry->owns_fd)
		close(entry->fd);
	list_remove(&entry->due);
	list_remove(&entry->draining);
	entry->uring->entries[entry->number] = NULL;
	free(entry);
}

static void due(struct uring_entry *entry)
{
	if (list_empty(&entry->due))
		list_append(&entry->uring->due, &entry->due);
}

void entry_want(struct uring_entry *entry, enum uring_op op)
{
	if (entry->leaving || entry->uring->stopping ||
	    entry->flying & OP_BIT(op))
		return;
	entry->wanted |= OP_BIT(op);
	due(entry);
}

void entry_end(struct uring_entry *entry, unsigned int ops)
{
	entry->wanted &= (uint8_t)~ops;
	entry->ending |= ops & entry->flying & ~entry->cancelling;
	if (entry->ending)
		due(entry);
}

/* Requests ---------------------------------------------------------------- */

static uint64_t user_data(const struct uring_entry *entry, unsigned int what)
{
	return (uint64_t)entry->uring->prefix << 48 | (uint64_t)what << 40 |
	       entry->number;
}

static void fill_poll(struct io_uring_sqe *sqe, unsigned int events)
{
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->poll32_events = events;
}

static void fill_cancel(struct uring_entry *entry, struct io_uring_sqe *sqe)
{
	unsigned int op = (unsigned int)__builtin_ctz(entry->ending);

	entry->ending &= (uint8_t)~OP_BIT(op);
	entry->cancelling |= OP_BIT(op);
	entry->uring->info.cancels++;
	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	sqe->fd = -1;
	sqe->addr = user_data(entry, op);
	sqe->user_data = user_data(entry, op | OP_CANCEL);
}

static void fill_request(struct uring_entry *entry, struct io_uring_sqe *sqe)
{
	unsigned int op = (unsigned int)__builtin_ctz(entry->wanted);

	entry->wanted &= (uint8_t)~OP_BIT(op);
	entry->flying |= OP_BIT(op);
	sqe->fd = entry->fd;
	if (entry->slot) {
		sqe->fd = (int)entry->slot - 1;
		sqe->flags = IOSQE_FIXED_FILE;
	}
	sqe->user_data = user_data(entry, op);
	switch ((enum uring_op)op) {
	case OP_IN:
		fill_poll(sqe, POLLIN);
		entry->uring->info.polls++;
		break;
	case OP_OUT:
		fill_poll(sqe, POLLOUT);
		entry->uring->info.polls++;
		break;
	case OP_RECV:
		frames_fill_recv(entry, sqe);
		break;
	case OP_SEND:
		frames_fill_send(entry, sqe);
		break;
	case OP_ACCEPT:
		accept_fill(entry, sqe);
		break;
	case OP_CONNECT:
		connect_fill(entry, sqe);
		break;
	case OPS:
		break;
	}
}

int sluice_uring_due(const struct sluice_set *set)
{
	return set->uring && !set_check(set) && !list_empty(&set->uring->due);
}

int sluice_uring_fill(struct sluice_set *set, struct io_uring_sqe *sqe)
{
	struct uring_entry *entry;
	struct list *l;

	while (sluice_uring_due(set)) {
		l = set->uring->due.next;
		entry = list_entry(l, struct uring_entry, due);
		list_remove(l);
		entry->ending &=
			entry->flying; /* it may have ended by itself */
		if (!(entry->ending | entry->wanted))
			continue;
		memset(sqe, 0, sizeof(*sqe));
		if (entry->ending)
			fill_cancel(entry, sqe);
		else
			fill_request(entry, sqe);
		set->uring->info.in_flight++;
		if (entry->ending | entry->wanted)
			due(entry);
		return 1;
	}
	return 0;
}

/* A poll of entry->fd has fired, or failed. */
static void fired(struct uring_entry *entry, int result)
{
	if (result == -ECANCELED)
		return;
	if (entry == entry->uring->epoll)
		set_poll(entry->uring->set, 0);
	else if (entry->listener)
		accept_readable(entry);
	else if (entry->core && entry->core->closing)
		uring_await(entry->core);
	else if (entry->core && !entry->core->draining)
		set_fired(entry->core);
}

static void digest(struct uring_entry *entry, enum uring_op op,
		   const struct io_uring_cqe *cqe)
{
	switch (op) {
	case OP_IN:
	case OP_OUT:
		fired(entry, cqe->res);
		break;
	case OP_RECV:
		frames_received(entry, cqe);
		break;
	case OP_SEND:
		frames_sent(entry, cqe->res);
		break;
	case OP_ACCEPT:
		accept_digest(entry, cqe);
		break;
	case OP_CONNECT:
		connect_digest(entry, cqe->res);
		break;
	case OPS:
		break;
	}
}

int sluice_uring_digest(struct sluice_set *set, const struct io_uring_cqe *cqe)
{
	unsigned int what = cqe->user_data >> 40 & 0xff, op = what & ~OP_CANCEL;
	uint32_t number = (uint32_t)cqe->user_data;
	struct uring *uring = set->uring;
	struct uring_entry *entry;

	if (!uring || set_check(set) || cqe->user_data >> 48 != uring->prefix)
		return 0;
	entry = number < uring->entries_size ? uring->entries[number] : NULL;
	if (!entry || op >= OPS ||
	    !((what & OP_CANCEL ? entry->cancelling : entry->flying) &
	      OP_BIT(op)))
		return 1; /* somebody else uses the prefix; nothing of ours */
	entry->busy = true;
	if (what & OP_CANCEL) {
		entry->cancelling &= (uint8_t)~OP_BIT(op);
		uring->info.in_flight--;
		/* Not to be found while the kernel moves it: again. */
		if (cqe->res == -ENOENT)
			entry_end(entry, OP_BIT(op));
	} else {
		if (!(cqe->flags & IORING_CQE_F_MORE)) {
			entry->flying &= (uint8_t)~OP_BIT(op);
			uring->info.in_flight--;
		}
		digest(entry, op, cqe);
	}
	entry->busy = false;
	entry_put(entry);
	return 1;
}

/* Conns ------------------------------------------------------------------- */

int uring_enter(struct uring *uring, struct conn_core *core)
{
	struct uring_entry *entry;

	if (uring->stopping)
		return -ESHUTDOWN;
	entry = entry_new(uring, core->fd);
	if (!entry)
		return -ENOMEM;
	entry->core = core;
	core->uring = entry;
	file_register(entry);
	return 0;
}

void uring_keep_fd(struct conn_core *core)
{
	struct uring_entry *entry = core->uring;

	if (!entry || !(entry->flying | entry->cancelling))
		return;
	core->fd_kept = entry->owns_fd = true;
}

void uring_leave(struct conn_core *core)
{
	struct uring_entry *entry = core->uring;

	if (entry->flying & OP_BIT(OP_SEND))
		core->flight = NULL; /* it is the entry's, which frees it */
	core->uring = NULL;
	core->ring_reads = false;
	core->draining = false;
	entry->core = NULL;
	entry->wanted = entry->ending = 0;
	list_remove(&entry->draining);
	entry_put(entry);
}

void uring_want(struct conn_core *core, uint32_t events)
{
	struct uring_entry *entry = core->uring;

	entry->wanted &= (uint8_t) ~(OP_BIT(OP_IN) | OP_BIT(OP_RECV));
	if (entry->flying & OP_BIT(OP_RECV) && !frames_wanted(core))
		entry_end(entry, OP_BIT(OP_RECV)); /* then it is asked anew */
	else if (events & EPOLLIN)
		entry_want(entry, frames_wanted(core) ? OP_RECV : OP_IN);
	/* Of a frame on its way the CQE will tell. */
	if (events & EPOLLOUT && !core->flight)
		entry_want(entry, OP_OUT);
}

void uring_await(struct conn_core *core)
{
	struct uring_entry *entry = core->uring;

	set_fired(core);
	if (entry->core) /* it is still there */
		uring_want(core, EPOLLIN);
}

bool uring_ends(struct conn_core *core)
{
	struct uring_entry *entry = core->uring;

	entry->leaving = true;
	entry_end(entry, UINT8_MAX);
	return !(entry->flying | entry->cancelling);
}

bool uring_spares(const struct conn_core *core)
{
	return !(core->uring->flying & (OP_BIT(OP_RECV) | OP_BIT(OP_SEND)));
}

/* The set ----------------------------------------------------------------- */

static int read_options(struct sluice_uring_options *o,
			const struct sluice_uring_options *in)
{
	int r;

	*o = (struct sluice_uring_options){ .size = sizeof(*o) };
	if (in) {
		r = options_copy(o, sizeof(*o), in);
		if (r)
			return r;
	}
	if (!o->prefix)
		o->prefix = SLUICE_URING_PREFIX_DEFAULT;
	if (!o->group)
		o->group = o->prefix;
	if (!o->buffers)
		o->buffers = SLUICE_URING_BUFFERS_DEFAULT;
	if (o->flags & ~SLUICE_URING_F_NO_MULTISHOT || o->resv ||
	    o->buffers < BUFFERS_MIN || o->buffers > BUFFERS_MAX ||
	    o->buffers & (o->buffers - 1) ||
	    o->file_first + o->file_count < o->file_first ||
	    o->file_first + o->file_count > INT32_MAX)
		return -EINVAL;
	return 0;
}

int sluice_uring_set_new(struct sluice_set **out, int ring_fd, uint32_t setup,
			 uint32_t features,
			 const struct sluice_uring_options *in)
{
	struct sluice_uring_options o;
	struct sluice_set *set;
	struct uring *uring;
	int r;

	r = read_options(&o, in);
	if (r)
		return r;
	if (setup & IORING_SETUP_IOPOLL)
		return -EINVAL;
	if ((features & NEEDED_FEATURES) != NEEDED_FEATURES)
		return -EOPNOTSUPP;
	r = sluice_set_new(&set);
	if (r)
		return r;
	uring = calloc(1, sizeof(*uring));
	if (!uring) {
		sluice_set_free(set);
		return -ENOMEM;
	}
	uring->set = set;
	uring->ring_fd = ring_fd;
	uring->prefix = o.prefix;
	uring->group = o.group;
	uring->file_first = o.file_first;
	list_init(&uring->due);
	list_init(&uring->draining);
	list_init(&uring->results);
	set->uring = uring;
	uring->epoll = entry_new(uring, set->epoll_fd);
	uring->file_used = calloc(o.file_count + 1, 1);
	if (!uring->epoll || !uring->file_used) {
		sluice_set_free(set);
		return -ENOMEM;
	}
	uring->file_count = o.file_count;
	if (o.flags & SLUICE_URING_F_NO_MULTISHOT)
		uring->multishot_error = -ECANCELED;
	else
		frames_open(uring, o.buffers);
	*out = set;
	return 0;
}

/*
 * What flies names memory of ours: it is left to it. In a child of fork() nothing
 * of it is used, and the ring is the parent's.
 */
void uring_free(struct uring *uring)
{
	struct uring_entry *entry;
	uint32_t i;
	bool child = set_check(uring->set);

	results_drop(uring);
	uring->epoll = NULL;
	for (i = 0; i < uring->entries_size; i++) {
		entry = uring->entries[i];
		if (!entry)
			continue;
		if (child) {
			free(entry->connect);
			free(entry);
			continue;
		}
		if (entry->listener)
			entry->listener->uring = NULL;
		entry->listener = NULL;
		if (entry->connect && !entry->flying)
			connect_drop(entry);
		entry_put(entry);
	}
	if (uring->info.in_flight && !child)
		return;
	frames_close(uring);
	free(uring->file_used);
	free(uring->entries);
	free(uring);
}

int sluice_uring_arm(struct sluice_set *set)
{
	struct uring *uring = set->uring;
	int r;

	if (set_check(set))
		return -ECHILD;
	if (!uring)
		return -EINVAL;
	frames_expire(uring);
	uring->collects = true;
	r = set_arm(set);
	uring->collects = false;
	if (r)
		return r;
	if (list_empty(&set->hot))
		set_rings_arm(set);
	if (!list_empty(&set->rings))
		entry_want(uring->epoll, OP_IN);
	return !list_empty(&set->hot) || !list_empty(&uring->results);
}

int sluice_uring_events(struct sluice_set *set, struct sluice_event *events,
			unsigned int count)
{
	unsigned int n = 0;

	if (set_check(set))
		return -ECHILD;
	if (!set->uring || !count)
		return -EINVAL;
	while (n < count && result_take(set->uring, &events[n]))
		n++;
	set_rings_disarm(set);
	set_rings_drain(set, false);
	return (int)(n + set_serve(set, events + n, count - n));
}

void sluice_uring_stop(struct sluice_set *set)
{
	struct uring *uring = set->uring;
	uint32_t i;

	if (!uring || set_check(set))
		return;
	uring->stopping = true;
	for (i = 0; i < uring->entries_size; i++)
		if (uring->entries[i])
			entry_end(uring->entries[i], UINT8_MAX);
	frames_stop(uring);
}

uint32_t sluice_uring_in_flight(const struct sluice_set *set)
{
	return set->uring ? set->uring->info.in_flight : 0;
}

void sluice_uring_info(const struct sluice_set *set,
		       struct sluice_uring_info *info)
{
	*info = (struct sluice_uring_info){ 0 };
	if (!set->uring)
		return;
	*info = set->uring->info;
	info->multishot_error = set->uring->multishot_error;
}
