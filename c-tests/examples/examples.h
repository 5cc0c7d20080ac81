/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * For the programs here, whose marked parts the manual shows: simulated devices that have an fd.
 *
 * What stands between EXAMPLE and END goes into the pages of the functions that the mark names.
 * apigen takes it from here, so what a page shows was compiled and run.
 */
#ifndef EXAMPLES_H
#define EXAMPLES_H

#include "../rig.h"

/* No descriptor of the kernel's has such a number. */
#define SIM_FD 1000000

static struct vfiomig_sim *sim_behind_fd;

/* A real one goes to the library as it is. */
static inline int new_fd_(int fd, const struct vfiomig_device_options *options,
                          struct vfiomig_device **out)
{
    if (fd != SIM_FD)
        return vfiomig_device_new_fd(fd, options, out);
    return vfiomig_device_new_ops(vfiomig_sim_ops(sim_behind_fd), sim_behind_fd, options, out);
}
#define vfiomig_device_new_fd new_fd_

#endif
