/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * region-pump: the state of a device of an older protocol, saved and loaded through its regions by the
 * library, and by a bare loop that knows only what the protocol needs. Both use the same accesses to the
 * same regions and buffers of the same size. The bare loop makes no stream, so it has no checksums: where a
 * device's data costs no more than a copy, as from the simulator of v1, they are what the ratio shows.
 *
 * What a program that includes this brings is the device, and how its regions are accessed.
 */
#ifndef REGION_PUMP_H
#define REGION_PUMP_H

#include "bench.h"

enum { PUMP_STATE = 64 << 20, PUMP_PIECE = VFIOMIG_GOOD_BUFFER, PUMP_MOST_UNITS = 1 << 16 };

/* Regions, by their numbers in the protocol. v1 has one. */
enum { PUMP_FIELDS, PUMP_CONFIG, PUMP_MEMORY, PUMP_REGIONS };

struct pump;
typedef void (*pump_get_fn)(struct pump *pump, int region, uint64_t at, void *buf, size_t len);
typedef void (*pump_put_fn)(struct pump *pump, int region, uint64_t at, const void *buf, size_t len);

struct pump {
	int rfc; /* else v1 */
	uint64_t size[PUMP_REGIONS];
	/* Accesses to fields and to data; they end the program if they fail. */
	pump_get_fn get;
	pump_put_fn put;
	void *opaque;
	struct vfiomig_device *device; /* the same, for the library */

	/* What the bare loop has read, and how it was cut. */
	unsigned char *bytes;
	uint64_t len, units[PUMP_MOST_UNITS], num_units;
	/* What the library has read. */
	unsigned char *stream;
	size_t stream_len;
};

static inline uint64_t pump_get64(struct pump *pump, uint64_t at)
{
	uint64_t value;

	pump->get(pump, PUMP_FIELDS, at, &value, sizeof(value));
	return value;
}

static inline void pump_put64(struct pump *pump, uint64_t at, uint64_t value)
{
	pump->put(pump, PUMP_FIELDS, at, &value, sizeof(value));
}

static inline void pump_put32(struct pump *pump, uint64_t at, uint32_t value)
{
	pump->put(pump, PUMP_FIELDS, at, &value, sizeof(value));
}

/* --- the bare loop ------------------------------------------------------------------------------ */

/* One unit, in pieces as long as the library's buffer, into memory that is in the cache, or kept. */
static inline void pump_read(struct pump *pump, int region, uint64_t at, uint64_t len, int keep)
{
	static unsigned char piece[PUMP_PIECE];

	for (uint64_t done = 0; done < len;) {
		uint64_t n = len - done < PUMP_PIECE ? len - done : PUMP_PIECE;

		pump->get(pump, region, at + done, keep ? pump->bytes + pump->len + done : piece, n);
		done += n;
	}
	if (keep) {
		pump->units[pump->num_units++] = len;
		pump->len += len;
	}
}

static inline void pump_write(struct pump *pump, int region, uint64_t at, const unsigned char *from, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		uint64_t n = len - done < PUMP_PIECE ? len - done : PUMP_PIECE;

		pump->put(pump, region, at + done, from + done, n);
		done += n;
	}
}

static inline void pump_v1_state(struct pump *pump, uint32_t state)
{
	uint32_t raw;

	pump->get(pump, PUMP_FIELDS, 0, &raw, sizeof(raw));
	pump_put32(pump, 0, (raw & ~7u) | state);
}

static inline void pump_bare_save(struct pump *pump, int keep)
{
	if (!pump->rfc) {
		pump_v1_state(pump, 2);
		while (pump_get64(pump, 8)) {
			uint64_t at = pump_get64(pump, 16);

			pump_read(pump, PUMP_FIELDS, at, pump_get64(pump, 24), keep);
		}
		pump_v1_state(pump, 1);
		return;
	}
	pump_put32(pump, 4, 3);
	for (uint64_t size; (size = pump_get64(pump, 40));) {
		if (keep)
			pump->units[pump->num_units++] = size;
		for (uint64_t pos = 0; pos < size; pos += pump->size[PUMP_MEMORY]) {
			uint64_t left = size - pos;

			pump_put64(pump, 48, pos);
			pump_put32(pump, 32, 1);
			pump_read(pump, PUMP_MEMORY, 0, left < pump->size[PUMP_MEMORY] ? left : pump->size[PUMP_MEMORY], keep);
		}
	}
	uint64_t config = pump_get64(pump, 24);

	pump_put32(pump, 16, 1);
	pump_read(pump, PUMP_CONFIG, 0, config, keep);
	pump_put32(pump, 4, 0);
}

static inline void pump_bare_load(struct pump *pump)
{
	const unsigned char *at = pump->bytes;
	uint64_t unit = 0;

	if (!pump->rfc) {
		pump_v1_state(pump, 4);
		for (; unit < pump->num_units; at += pump->units[unit++]) {
			pump_write(pump, PUMP_FIELDS, pump_get64(pump, 16), at, pump->units[unit]);
			pump_put64(pump, 24, pump->units[unit]);
		}
		pump_v1_state(pump, 0);
		return;
	}
	pump_put32(pump, 4, 1);
	while (unit + 1 < pump->num_units) {
		uint64_t size = pump->units[unit++];

		pump_put64(pump, 40, size);
		for (uint64_t pos = 0; pos < size; pos += pump->units[unit++]) {
			pump_write(pump, PUMP_MEMORY, 0, at, pump->units[unit]);
			pump_put64(pump, 48, pos);
			pump_put32(pump, 32, 2);
			at += pump->units[unit];
		}
	}
	pump_put64(pump, 24, pump->units[unit]);
	pump_write(pump, PUMP_CONFIG, 0, at, pump->units[unit]);
	pump_put32(pump, 16, 2);
}

/* --- the library -------------------------------------------------------------------------------- */

static inline void pump_save(struct pump *pump, int keep)
{
	static unsigned char buf[PUMP_PIECE];
	struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
	struct vfiomig_save *save;
	int ret;

	options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
	if (vfiomig_save_begin(pump->device, &options, &save) || vfiomig_save_stop(save))
		bench_die("vfiomig_save_begin");
	do {
		size_t len;

		ret = vfiomig_save_next(save, keep ? pump->stream + pump->stream_len : buf, PUMP_PIECE, &len);
		if (ret < 0)
			bench_die("vfiomig_save_next");
		pump->stream_len += keep ? len : 0;
	} while (ret != VFIOMIG_NEXT_END);
	if (vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP))
		bench_die("vfiomig_save_finish");
	vfiomig_save_free(save);
}

static inline void pump_load(struct pump *pump)
{
	struct vfiomig_load *load;

	if (vfiomig_load_begin(pump->device, NULL, &load))
		bench_die("vfiomig_load_begin");
	for (size_t at = 0; at < pump->stream_len; at += PUMP_PIECE) {
		size_t left = pump->stream_len - at;

		if (vfiomig_load_push(load, pump->stream + at, left < PUMP_PIECE ? left : PUMP_PIECE) < 0)
			bench_die("vfiomig_load_push");
	}
	if (vfiomig_load_commit(load))
		bench_die("vfiomig_load_commit");
	vfiomig_load_free(load);
}

static inline double pump_timed(struct pump *pump, int loads, int bare)
{
	double began = bench_now(), took;

	if (loads)
		bare ? pump_bare_load(pump) : pump_load(pump);
	else
		bare ? pump_bare_save(pump, 0) : pump_save(pump, 0);
	took = bench_now() - began;
	if (vfiomig_device_reset(pump->device))
		bench_die("vfiomig_device_reset");
	return PUMP_STATE / took / (1 << 20);
}

/* Both ways, each `runs` times; prints two lines whose names begin with `name`, after `before`. */
static inline void pump_measure(struct pump *pump, const char *before, const char *name, int runs)
{
	static const char *const ways[] = { "save", "load" };
	double ours[64], baseline[64];

	/* With headers and records, it is longer than the state. */
	pump->bytes = malloc(PUMP_STATE + PUMP_STATE / 64);
	pump->stream = malloc(PUMP_STATE + PUMP_STATE / 16);
	if (!pump->bytes || !pump->stream)
		bench_die("malloc");
	pump->len = pump->num_units = pump->stream_len = 0;
	pump_bare_save(pump, 1);
	pump_save(pump, 1);
	for (int loads = 0; loads < 2; loads++) {
		char line[96];

		for (int i = -1; i < runs; i++)
			/* Once for nothing. Alternately, because the second one finds warmer caches. */
			for (int which = 0; which < 2; which++) {
				int bare = (which ^ i) & 1;
				double rate = pump_timed(pump, loads, bare);

				if (i >= 0)
					(bare ? baseline : ours)[i] = rate;
			}
		printf("%s", before);
		snprintf(line, sizeof(line), "region-pump-%s/%s", ways[loads], name);
		bench_report(line, "MiB/s", ours, baseline, runs);
	}
	free(pump->bytes);
	free(pump->stream);
}

#endif
