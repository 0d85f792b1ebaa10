/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Giving up privileges; privileges.h says which. */
#include "privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "log.h"

#ifndef CAP_BPF
#error "the kernel headers know no CAP_BPF: Linux 5.8 or later is needed"
#endif

int privileges_drop(bool keep_chown, bool keep_net_admin)
{
	const capng_type_t both = CAPNG_EFFECTIVE | CAPNG_PERMITTED;

	/* Maps of maps, and unprivileged_bpf_disabled, take CAP_BPF. */
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_update(CAPNG_ADD, both, CAP_BPF) ||
	    (keep_chown && capng_update(CAPNG_ADD, both, CAP_CHOWN)) ||
	    (keep_net_admin && capng_update(CAPNG_ADD, both, CAP_NET_ADMIN)) ||
	    capng_apply(CAPNG_SELECT_BOTH)) {
		log_error("cannot give up privileges: %s", strerror(errno));
		return -EPERM;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
		log_error("no_new_privs: %s", strerror(errno));
		return -errno;
	}
	return 0;
}

void privileges_raise_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}
