/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
#include <stddef.h>
#include "redirect.h"
struct redirect_pair *redirect_add(struct redirect *r, int c, int b,
				   struct traffic *t, void *o)
{
	(void)r;
	(void)c;
	(void)b;
	(void)t;
	(void)o;
	return NULL;
}
void redirect_resume(struct redirect_pair *p, int b)
{
	(void)p;
	(void)b;
}
void redirect_drop(struct redirect_pair *p)
{
	(void)p;
}
void redirect_read(const struct redirect_pair *p, struct redirect_status *s)
{
	(void)p;
	(void)s;
}
struct redirect_event *redirect_events(struct redirect *r)
{
	(void)r;
	return NULL;
}
void redirect_free(struct redirect_pair *p)
{
	(void)p;
}
