/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Endpoints: made by sluiced, mapped here, and the numbers of the conns on their
 * rings.
 *
 * A number is index + generation. An index is used again only after sluiced has
 * answered DETACH (no program that runs for the old conn is left) and the ring
 * has been read beyond what was claimed by then: so slots never reach a conn
 * that they are not for, and of slots for nobody it is known what they are.
 */
#include "steering.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RING_SLOTS_DEFAULT 4096
#define CONNS_DEFAULT 1024
/* How long attaching waits for the number of a conn that was closed. */
#define LEAVE_TIMEOUT_NS 1000000000

static bool power_of_two(uint32_t n, uint32_t min, uint32_t max)
{
	return n >= min && n <= max && !(n & (n - 1));
}

const char *control_path(const char *given)
{
	if (!given)
		given = secure_getenv("SLUICE_CONTROL");
	return given && *given ? given : SLUICE_CONTROL_PATH;
}

int endpoint_options_read(struct sluice_endpoint_options *o,
			  const struct sluice_endpoint_options *in)
{
	uint64_t slots;
	int r;

	*o = (struct sluice_endpoint_options){ .size = sizeof(*o) };
	if (in) {
		r = options_copy(o, sizeof(*o), in);
		if (r)
			return r;
	}
	o->control = control_path(o->control);
	if (!o->rings)
		o->rings = 1;
	if (!o->ring_slots)
		o->ring_slots = RING_SLOTS_DEFAULT;
	if (!o->conns)
		o->conns = CONNS_DEFAULT;
	if (!o->landing[0] && !o->landing[1] && !o->landing[2]) {
		o->landing[0] = 16;
		o->landing[1] = 16;
		o->landing[2] = 4;
	}
	slots = 16ull * o->landing[0] + o->landing[1] + o->landing[2];
	if (o->rings > SLUICE_RINGS_MAX ||
	    !power_of_two(o->ring_slots, SLUICE_RING_SLOTS_MIN,
			  SLUICE_RING_SLOTS_MAX) ||
	    !power_of_two(o->conns, 16, SLUICE_CONNS_MAX) ||
	    slots > SLUICE_LANDING_SLOTS_MAX ||
	    o->flags & ~SLUICE_ENDPOINT_F_HASH || o->resv)
		return -EINVAL;
	return 0;
}

static bool ring_has_conns(uint32_t ring, uint32_t rings, uint32_t flags)
{
	return ring < rings && (!ring || !(flags & SLUICE_ENDPOINT_F_HASH));
}

bool endpoint_options_have_conns(const struct sluice_endpoint_options *options,
				 uint32_t ring)
{
	return ring_has_conns(ring, options->rings, options->flags);
}

/* Maps ---------------------------------------------------------------------- */

static size_t in_pages(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (size + page - 1) & ~(page - 1);
}

static size_t ring_bytes(const struct sluice_endpoint *endpoint)
{
	return in_pages(SLUICE_MAP_HEADER + (size_t)endpoint->ring_slots *
						    sizeof(struct sluice_slot));
}

static uint32_t landing_slots(const struct sluice_endpoint *endpoint)
{
	return 16 * endpoint->landing[0] + endpoint->landing[1] +
	       endpoint->landing[2];
}

static size_t landing_bytes(const struct sluice_endpoint *endpoint)
{
	return ((size_t)endpoint->landing[0] + endpoint->landing[1] +
		16 * (size_t)endpoint->landing[2]) *
	       SLUICE_LANDING_BLOCK;
}

static size_t control_bytes(const struct sluice_endpoint *endpoint)
{
	/* States come in lines of 16. */
	return in_pages(SLUICE_MAP_HEADER +
			endpoint->conns * sizeof(struct sluice_steer_conn) +
			(landing_slots(endpoint) + 15) / 16 *
				SLUICE_CACHE_LINE);
}

static void *map(int fd, size_t size, int protection, size_t offset)
{
	void *address =
		mmap(NULL, size, protection, MAP_SHARED, fd, (off_t)offset);

	if (address == MAP_FAILED)
		return NULL;
	if (!madvise(address, size, MADV_DONTFORK))
		return address;
	munmap(address, size);
	return NULL;
}

static void unmap(const void *address, size_t size)
{
	if (address)
		munmap((void *)(uintptr_t)address, size);
}

static void ring_unmap(struct sluice_ring *ring)
{
	const struct sluice_endpoint *endpoint = ring->endpoint;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	unmap(ring->header, ring_bytes(endpoint));
	unmap(ring->control, control_bytes(endpoint));
	unmap(ring->landing, landing_bytes(endpoint));
	unmap(ring->doorbell_consumer, page);
	unmap(ring->doorbell_producer, page);
}

/* Maps of another version, or of another shape than asked for, are of no use. */
static bool ring_is_right(const struct sluice_ring *ring)
{
	const struct sluice_endpoint *endpoint = ring->endpoint;
	const struct sluice_steer_ring *header = ring->header;

	return header->magic == SLUICE_STEER_MAGIC &&
	       header->version == SLUICE_STEER_VERSION &&
	       header->ring_slots == endpoint->ring_slots &&
	       header->conns == endpoint->conns &&
	       !memcmp(header->landing, endpoint->landing,
		       sizeof(endpoint->landing));
}

/* fds: ring map, landing pool, control map, doorbell. */
static int ring_map(struct sluice_ring *ring, const int *fds)
{
	const struct sluice_endpoint *endpoint = ring->endpoint;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	ring->header = map(fds[0], ring_bytes(endpoint), PROT_READ, 0);
	ring->landing = map(fds[1], landing_bytes(endpoint), PROT_READ, 0);
	ring->control =
		map(fds[2], control_bytes(endpoint), PROT_READ | PROT_WRITE, 0);
	ring->doorbell_consumer = map(fds[3], page, PROT_READ | PROT_WRITE, 0);
	ring->doorbell_producer = map(fds[3], page, PROT_READ, page);
	if (!ring->header || !ring->landing || !ring->control ||
	    !ring->doorbell_consumer || !ring->doorbell_producer)
		return errno == ENOMEM ? -ENOMEM : -EPROTONOSUPPORT;
	if (!ring_is_right(ring))
		return -EPROTONOSUPPORT;
	ring->slots = (const void *)((const uint8_t *)ring->header +
				     SLUICE_MAP_HEADER);
	ring->states =
		(void *)((uint8_t *)ring->control + SLUICE_MAP_HEADER +
			 endpoint->conns * sizeof(struct sluice_steer_conn));
	ring->mask = endpoint->ring_slots - 1;
	ring->head = ring->reported = ring->control->head;
	ring->landing_slots = landing_slots(endpoint);
	return 0;
}

static int ring_new(struct sluice_ring *ring, const int *fds)
{
	const struct sluice_endpoint *endpoint = ring->endpoint;

	ring->ahead =
		calloc((endpoint->ring_slots + 63) / 64, sizeof(*ring->ahead));
	ring->entries = calloc(endpoint->conns, sizeof(*ring->entries));
	ring->owner = calloc(landing_slots(endpoint), sizeof(*ring->owner));
	if (!ring->ahead || !ring->entries || !ring->owner)
		return -ENOMEM;
	return ring_map(ring, fds);
}

/* Endpoints ----------------------------------------------------------------- */

static struct sluice_endpoint *
endpoint_alloc(const struct sluice_endpoint_options *options)
{
	struct sluice_endpoint *endpoint;
	uint32_t i;

	endpoint =
		calloc(1, sizeof(*endpoint) +
				  options->rings * sizeof(struct sluice_ring));
	if (!endpoint)
		return NULL;
	endpoint->generation = process_generation();
	endpoint->flags = options->flags;
	endpoint->refs = 1;
	endpoint->rings_count = options->rings;
	endpoint->ring_slots = options->ring_slots;
	endpoint->conns = options->conns;
	memcpy(endpoint->landing, options->landing, sizeof(endpoint->landing));
	endpoint->fd = endpoint->claim_fd = endpoint->timer_fd = -1;
	endpoint->calls = 1;
	pthread_mutex_init(&endpoint->lock, NULL);
	list_init(&endpoint->watchers);
	for (i = 0; i < options->rings; i++) {
		endpoint->rings[i].endpoint = endpoint;
		endpoint->rings[i].index = i;
		endpoint->rings[i].doorbell_fd = -1;
		endpoint->rings[i].worker_fd = -1;
	}
	return endpoint;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* In a child of fork() nothing is mapped, and the socket is the parent's. */
static void endpoint_destroy(struct sluice_endpoint *endpoint)
{
	bool ours = endpoint->generation == process_generation();
	struct sluice_ring *ring;
	uint32_t i;

	if (ours)
		daemon_destroy(endpoint);
	for (i = 0; i < endpoint->rings_count; i++) {
		ring = &endpoint->rings[i];
		if (ours)
			ring_unmap(ring);
		close_fd(ring->doorbell_fd);
		close_fd(ring->worker_fd);
		free(ring->ahead);
		free(ring->entries);
		free(ring->owner);
	}
	close_fd(endpoint->fd);
	close_fd(endpoint->claim_fd);
	close_fd(endpoint->timer_fd);
	pthread_mutex_destroy(&endpoint->lock);
	free(endpoint);
}

bool endpoint_has_conns(const struct sluice_endpoint *endpoint, uint32_t ring)
{
	return ring_has_conns(ring, endpoint->rings_count, endpoint->flags);
}

int endpoint_error(const struct sluice_endpoint *endpoint)
{
	return __atomic_load_n(&endpoint->error, __ATOMIC_SEQ_CST);
}

void endpoint_ref(struct sluice_endpoint *endpoint)
{
	__atomic_add_fetch(&endpoint->refs, 1, __ATOMIC_RELAXED);
}

void endpoint_put(struct sluice_endpoint *endpoint)
{
	/* Pairs with itself in other threads: all their use comes before. */
	if (!__atomic_sub_fetch(&endpoint->refs, 1, __ATOMIC_ACQ_REL))
		endpoint_destroy(endpoint);
}

static int create(struct sluice_endpoint *endpoint)
{
	struct sluice_control request = {
		.type = SLUICE_CONTROL_CREATE,
		.create = { .rings = endpoint->rings_count,
			    .ring_slots = endpoint->ring_slots,
			    .conns = endpoint->conns },
	};
	unsigned int count = endpoint->rings_count * 4, i;
	int fds[SLUICE_RINGS_MAX * 4], r;
	struct sluice_ring *ring;

	memcpy(request.create.landing, endpoint->landing,
	       sizeof(endpoint->landing));
	r = daemon_call(endpoint, &request, -1, fds, &count);
	if (r)
		return r;
	if (count != endpoint->rings_count * 4)
		r = -EPROTONOSUPPORT;
	endpoint->number = request.endpoint;
	for (i = 0; i < endpoint->rings_count && !r; i++) {
		ring = &endpoint->rings[i];
		r = ring_new(ring, fds + i * 4);
		if (r)
			break;
		ring->doorbell_fd = fds[i * 4 + 3];
		fds[i * 4 + 3] = -1;
		if (i)
			continue;
		endpoint->claim_fd = fds[0];
		fds[0] = -1;
	}
	for (i = 0; i < count; i++)
		close_fd(fds[i]);
	return r;
}

int sluice_endpoint_new(struct sluice_endpoint **out,
			const struct sluice_endpoint_options *in)
{
	struct sluice_endpoint_options options;
	struct sluice_endpoint *endpoint;
	int r;

	r = endpoint_options_read(&options, in);
	if (r)
		return r;
	endpoint = endpoint_alloc(&options);
	if (!endpoint)
		return -ENOMEM;
	r = address_of(options.control, &endpoint->address,
		       &endpoint->address_size);
	if (!r) {
		endpoint->timer_fd = timerfd_create(CLOCK_MONOTONIC,
						    TFD_CLOEXEC | TFD_NONBLOCK);
		r = endpoint->timer_fd < 0 ? -errno : 0;
	}
	if (!r) {
		endpoint->fd = daemon_connect(&endpoint->address,
					      endpoint->address_size);
		r = endpoint->fd < 0 ? endpoint->fd : create(endpoint);
	}
	if (r) {
		endpoint_put(endpoint);
		return r;
	}
	*out = endpoint;
	return 0;
}

void sluice_endpoint_free(struct sluice_endpoint *endpoint)
{
	if (endpoint)
		endpoint_put(endpoint);
}

void sluice_endpoint_info(struct sluice_endpoint *endpoint,
			  struct sluice_endpoint_info *info)
{
	struct sluice_ring *ring;
	uint32_t i, n;

	*info = (struct sluice_endpoint_info){
		.number = endpoint->number,
		.rings = endpoint->rings_count,
		.ring_slots = endpoint->ring_slots,
		.conns = endpoint->conns,
		.error = -ECHILD,
	};
	memcpy(info->landing, endpoint->landing, sizeof(info->landing));
	if (endpoint->generation != process_generation())
		return;
	pthread_mutex_lock(&endpoint->lock);
	info->error = endpoint->error;
	info->connected = endpoint->fd >= 0 && !endpoint->claiming;
	for (i = 0; i < endpoint->rings_count; i++) {
		ring = &endpoint->rings[i];
		for (n = 0; n < endpoint->conns; n++)
			info->conns_used +=
				ring->entries[n].state != ENTRY_FREE &&
				ring->entries[n].state != ENTRY_LEFT;
		for (n = 0; n < ring->landing_slots; n++)
			info->landing_used +=
				__atomic_load_n(&ring->states[n],
						__ATOMIC_RELAXED) !=
				SLUICE_LANDING_FREE;
	}
	pthread_mutex_unlock(&endpoint->lock);
}

struct sluice_ring *sluice_endpoint_ring(struct sluice_endpoint *endpoint,
					 unsigned int index)
{
	return index < endpoint->rings_count ? &endpoint->rings[index] : NULL;
}

/* Numbers ------------------------------------------------------------------- */

void ring_left(struct sluice_ring *ring, uint32_t index)
{
	struct ring_entry *entry;

	if (index >= ring->endpoint->conns)
		return;
	entry = &ring->entries[index];
	if (entry->state != ENTRY_LEAVING)
		return;
	/* Pairs with the claim of a position in the program, long before. */
	entry->tail = __atomic_load_n(&ring->header->tail, __ATOMIC_ACQUIRE);
	entry->state = ENTRY_LEFT;
}

void ring_forget_left(struct sluice_ring *ring)
{
	uint32_t i;

	pthread_mutex_lock(&ring->endpoint->lock);
	for (i = 0; i < ring->endpoint->conns; i++)
		if (ring->entries[i].state == ENTRY_LEFT &&
		    (int32_t)(ring->head - ring->entries[i].tail) >= 0)
			ring->entries[i].state = ENTRY_FREE;
	pthread_mutex_unlock(&ring->endpoint->lock);
}

static bool is_free(const struct sluice_ring *ring,
		    const struct ring_entry *entry)
{
	return entry->state == ENTRY_FREE ||
	       (entry->state == ENTRY_LEFT &&
		(int32_t)(ring->head - entry->tail) >= 0);
}

/* A free index, or UINT32_MAX; *leaving: there will be one. */
static uint32_t find_free(struct sluice_ring *ring, bool *leaving)
{
	uint32_t i, index, n = ring->endpoint->conns;

	*leaving = false;
	for (i = 0; i < n; i++) {
		index = ring->next_entry++ & (n - 1);
		if (is_free(ring, &ring->entries[index]))
			return index;
		*leaving = *leaving || ring->entries[index].state != ENTRY_USED;
	}
	return UINT32_MAX;
}

/* Waits for those that are leaving, if need be. The lock is held, but now and then. */
static int find_entry(struct sluice_ring *ring, uint32_t *index)
{
	int64_t deadline = deadline_after(LEAVE_TIMEOUT_NS);
	bool leaving;
	int r;

	for (;;) {
		*index = find_free(ring, &leaving);
		if (*index != UINT32_MAX)
			return 0;
		if (!leaving)
			return -ENOSPC;
		r = daemon_await(ring->endpoint, deadline);
		if (r)
			return r == -ETIMEDOUT ? -ENOSPC : r;
		/* It takes the lock when it crosses a quarter of all positions. */
		pthread_mutex_unlock(&ring->endpoint->lock);
		ring_drain(ring, NULL, true);
		pthread_mutex_lock(&ring->endpoint->lock);
	}
}

static int take_spill(struct conn_core *core, const int *spill,
		      unsigned int count, uint32_t flags)
{
	if (count == 2) {
		stream_attached(core, spill, flags);
		return 0;
	}
	if (count)
		close(spill[0]);
	return -EPROTO;
}

/*
 * Is the socket in the map, perhaps, with nobody to read what is spilled? Or has a
 * piece been lost: then there is no way to go on either.
 */
static bool attach_is_unclear(const struct sluice_control *answer, int r)
{
	return r == -EIO || r == -EPROTO ||
	       (r && !(answer->flags & SLUICE_CONTROL_F_REPLY) && r != -EPIPE &&
		r != -ECONNRESET); /* it was not sent */
}

int ring_attach(struct sluice_ring *ring, struct conn_core *core, int fd,
		uint32_t flags)
{
	struct sluice_endpoint *endpoint = ring->endpoint;
	struct sluice_control request = { .type = SLUICE_CONTROL_ATTACH };
	unsigned int count = core->stream ? 2 : 0;
	struct sluice_steer_conn *line;
	struct ring_entry *entry;
	uint32_t index, number;
	int spill[2], r;

	pthread_mutex_lock(&endpoint->lock);
	r = daemon_ready(endpoint);
	if (!r)
		r = find_entry(ring, &index);
	if (r)
		goto out;
	entry = &ring->entries[index];
	entry->state = ENTRY_USED;
	entry->frames = flags & SLUICE_ATTACH_F_FRAMES;
	number = (uint32_t)++entry->generation << 16 | index;
	request.serial = number;
	request.attach = (struct sluice_control_attach){ .ring = ring->index,
							 .conn = number,
							 .flags = flags };
	core->steer.conn = number;
	entry->core = core;
	line = (void *)ring_word(ring, number);
	line->spilled = line->granted = 0;
	__atomic_store_n(&line->word, SLUICE_STEER_HOLD, __ATOMIC_SEQ_CST);
	r = daemon_call(endpoint, &request, fd, count ? spill : NULL,
			count ? &count : NULL);
	if (!r && core->stream)
		r = take_spill(core, spill, count, request.attach.flags);
	if (core->stream && attach_is_unclear(&request, r))
		conn_fail(conn_of(core), r == -EIO ? r : -ECONNABORTED,
			  r == -EIO ? "the kernel lost a piece of the stream" :
				      "sluiced is gone: is it attached?");
	if (r) {
		/* Without an answer nobody knows: detach in any case. */
		entry->core = NULL;
		daemon_detach(ring, index);
	}
out:
	pthread_mutex_unlock(&endpoint->lock);
	return r;
}

void ring_detach(struct sluice_ring *ring, struct conn_core *core)
{
	uint32_t index = core->steer.conn & (ring->endpoint->conns - 1), i;

	if (core->steer.landing_held)
		for (i = 0; i < ring->landing_slots; i++)
			if ((ring->owner[i] & ~OWNER_DELIVERED) == index + 1)
				ring_release(ring, i, ring->owner[i]);
	ring_report(ring); /* those slots: no drain may come for long */
	ring->entries[index].core = NULL;
	pthread_mutex_lock(&ring->endpoint->lock);
	daemon_detach(ring, index);
	pthread_mutex_unlock(&ring->endpoint->lock);
}
