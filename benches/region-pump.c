/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * region-pump on the simulator, whose regions are read and written through its table of callbacks; what
 * can be mapped is measured in the lab (benches/lab/region-pump.c). The bare loop calls the table itself.
 */
#define _GNU_SOURCE
#include <vfiomig-sim.h>

#include "region-pump.h"

enum { RUNS = 11, FIRST = 9 };

static void get(struct pump *pump, int region, uint64_t at, void *buf, size_t len)
{
	struct vfiomig_sim *sim = pump->opaque;

	if (vfiomig_sim_ops(sim)->region_read(sim, (uint32_t)(FIRST + region), at, buf, len) != (int64_t)len)
		bench_die("region_read");
}

static void put(struct pump *pump, int region, uint64_t at, const void *buf, size_t len)
{
	struct vfiomig_sim *sim = pump->opaque;

	if (vfiomig_sim_ops(sim)->region_write(sim, (uint32_t)(FIRST + region), at, buf, len) != (int64_t)len)
		bench_die("region_write");
}

int main(void)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} windows[] = { { "64KiB", 64 << 10 }, { "1MiB", 1 << 20 }, { "64MiB", 64 << 20 } };

	bench_before_others();
	for (int rfc = 0; rfc < 2; rfc++)
		for (int w = 0; w < 3; w++) {
			struct vfiomig_sim_options options = { .struct_size = sizeof options };
			struct pump *pump = calloc(1, sizeof(*pump));
			struct vfiomig_sim *sim;
			char name[64];

			options.kind = rfc ? VFIOMIG_PROTOCOL_RFC : VFIOMIG_PROTOCOL_V1;
			options.state_size = PUMP_STATE;
			options.window = windows[w].bytes;
			if (!pump || vfiomig_sim_new(&options, &sim) ||
			    vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &pump->device))
				bench_die("a simulated device");
			*pump = (struct pump){ .rfc = rfc,
					       .size = { 72, 0, windows[w].bytes },
					       .get = get,
					       .put = put,
					       .opaque = sim,
					       .device = pump->device };
			snprintf(name, sizeof(name), "%s-%s-trapped", rfc ? "rfc" : "v1", windows[w].name);
			pump_measure(pump, "", name, RUNS);
			vfiomig_device_free(pump->device);
			vfiomig_sim_free(sim);
			free(pump);
		}
	return 0;
}
