#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# The tests in a guest with that kernel; vm/README.md. Limit: 6000 s
exec "${0%/*}/vm/run" 7.2
