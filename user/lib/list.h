/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Doubly linked lists, through a member of what is in them. */
#ifndef SLUICE_LIST_H
#define SLUICE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_remove(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

static inline void list_append(struct list *head, struct list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

#define list_entry(l, type, field) ((type *)((char *)(l)-offsetof(type, field)))
#define list_for_each_safe(l, tmp, head)                           \
	for ((l) = (head)->next, (tmp) = (l)->next; (l) != (head); \
	     (l) = (tmp), (tmp) = (l)->next)

#endif
