/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * region-pump in a machine of the lab: the test device's regions, trapped and mapped. What the device
 * itself does to make and to check its state counts on both sides.
 */
#include <sys/mman.h>

#include "kinds.h"
#include "region-reader.h"

#include "region-pump.h"

/* The machine's time is uneven. */
#define RUNS 3

struct regions {
	struct raw_region at[PUMP_REGIONS];
	unsigned char *mapped[PUMP_REGIONS]; /* NULL: it is read and written */
	uint64_t from[PUMP_REGIONS];	     /* where the mapping begins */
};

static void get(struct pump *pump, int region, uint64_t at, void *buf, size_t len)
{
	const struct regions *regions = pump->opaque;

	if (regions->mapped[region] && at >= regions->from[region])
		memcpy(buf, regions->mapped[region] + (at - regions->from[region]), len);
	else if (raw_get(&regions->at[region], at, buf, len))
		bench_die("reading a region");
}

static void put(struct pump *pump, int region, uint64_t at, const void *buf, size_t len)
{
	const struct regions *regions = pump->opaque;

	if (regions->mapped[region] && at >= regions->from[region])
		memcpy(regions->mapped[region] + (at - regions->from[region]), buf, len);
	else if (raw_put(&regions->at[region], at, buf, len))
		bench_die("writing a region");
}

static void map(struct regions *regions, int region, uint64_t from)
{
	const struct raw_region *raw = &regions->at[region];

	regions->from[region] = from;
	regions->mapped[region] = mmap(NULL, raw->size - from, PROT_READ | PROT_WRITE, MAP_SHARED, raw->fd,
				       (off_t)(raw->at + from));
	if (regions->mapped[region] == MAP_FAILED)
		bench_die("mmap");
}

static void measure(void)
{
	const struct kind_test *test = lab_arg();
	int rfc = test->kind->protocol == VFIOMIG_PROTOCOL_RFC;
	struct pump *pump = calloc(1, sizeof(*pump));
	struct regions regions = { 0 };
	struct lab_device device;
	struct vfiomig_device *handle = kind_new(&device, test->kind, test->v, 1);
	char name[64];

	for (int i = 0; i < (rfc ? PUMP_REGIONS : 1); i++)
		regions.at[i] = raw_find(device.fd, rfc ? 2 : 3, (uint32_t)(1 + i));
	if (test->v->layout == DATA) {
		if (rfc) {
			map(&regions, PUMP_CONFIG, 0);
			map(&regions, PUMP_MEMORY, 0);
		} else {
			map(&regions, PUMP_FIELDS, 4096);
		}
	}
	CHECK(pump, "out of memory");
	*pump = (struct pump){ .rfc = rfc,
			       .size = { regions.at[0].size, regions.at[1].size, regions.at[2].size },
			       .get = get,
			       .put = put,
			       .opaque = &regions,
			       .device = handle };
	snprintf(name, sizeof(name), "%s-%s", test->kind->name, test->v->name);
	pump_measure(pump, "| ", name, RUNS);
	for (int i = 0; i < PUMP_REGIONS; i++)
		if (regions.mapped[i])
			munmap(regions.mapped[i], regions.at[i].size - regions.from[i]);
	free(pump);
	kmod_end(&device, handle);
}

int main(void)
{
	static const struct variety varieties[] = {
		{ .name = "64KiB-trapped-lab", .size = PUMP_STATE, .window = 64 * KIB },
		{ .name = "64KiB-mapped-lab", .size = PUMP_STATE, .window = 64 * KIB, .layout = DATA },
		{ .name = "1MiB-trapped-lab", .size = PUMP_STATE, .window = 1 * MIB },
		{ .name = "1MiB-mapped-lab", .size = PUMP_STATE, .window = 1 * MIB, .layout = DATA },
		{ .name = "64MiB-trapped-lab", .size = PUMP_STATE, .window = 64 * MIB },
		{ .name = "64MiB-mapped-lab", .size = PUMP_STATE, .window = 64 * MIB, .layout = DATA },
	};

	for (unsigned k = V1; k < NUM_KINDS; k++)
		for (size_t i = 0; i < sizeof(varieties) / sizeof(varieties[0]); i++) {
			struct kind_test test = { &kinds[k], &varieties[i], NULL };

			lab_run_arg(measure, &test, "bench-region-pump-%s-%s", kinds[k].name, varieties[i].name);
		}
	return lab_status();
}
