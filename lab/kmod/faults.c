// SPDX-License-Identifier: GPL-2.0
/*
 * Operations that fail because they were told to.
 */
#include <linux/spinlock.h>

#include "vfiomig-test.h"

int vmt_check_fault(struct vmt *vmt, enum vmt_op op)
{
	struct vmt_fault *fault = &vmt->faults[op];
	int ret = 0;

	spin_lock(&vmt->fault_lock);
	if (fault->error) {
		if (fault->nth > 1) {
			fault->nth--;
		} else {
			ret = -(int)fault->error;
			vmt->counters.faults++;
			if (fault->times && !--fault->times)
				fault->error = 0;
		}
	}
	spin_unlock(&vmt->fault_lock);
	return ret;
}
