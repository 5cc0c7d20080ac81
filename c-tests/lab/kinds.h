/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The kinds of the test device, which differ in how they are migrated, for the tests regions*.c: each
 * test is the same for all kinds that it is for.
 */
#ifndef KINDS_H
#define KINDS_H

#include "kmod.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)

struct kind {
	const char *name, *type; /* type: of the mdev */
	uint32_t protocol;       /* VFIOMIG_PROTOCOL_* */
	int has_regions, state_is_readable;
};

enum { V2, V1, RFC, NUM_KINDS };

static const struct kind kinds[] = {
	[V2] = { "v2", "5", VFIOMIG_PROTOCOL_V2, 0, 1 },
	[V1] = { "v1", "v1", VFIOMIG_PROTOCOL_V1, 1, 1 },
	[RFC] = { "rfc", "rfc", VFIOMIG_PROTOCOL_RFC, 1, 0 },
};

enum { NONE, WHOLE, DATA, TWO, OUTSIDE }; /* region_layout */

/* What a device is like, and how it is read. */
struct variety {
	const char *name;
	uint64_t size, window;
	unsigned layout, alternate, strict;
	size_t cap;
	enum lab_how how;
	unsigned no_memory, first; /* RFC only */
	uint64_t bitmap;	   /* RFC only; 0: as it is */
	uint32_t save_flags;
};

static const struct variety plain = { .name = "plain", .size = 300 * KIB, .window = 64 * KIB, .how = LAB_GROUP };

/* A test of a kind. */
struct kind_test {
	const struct kind *kind;
	const struct variety *v;
	const char *op;
};

/* Creates and sets up. */
static inline void kind_create(struct lab_device *device, const struct kind *kind, const struct variety *v, unsigned seed)
{
	lab_need(v->how);
	kmod_create_type(device, kind->type);
	kmod_set(device, "state_size", "%llu", (unsigned long long)v->size);
	kmod_set(device, "seed", "%u", seed);
	kmod_set(device, "region_window", "%llu", (unsigned long long)v->window);
	kmod_set(device, "region_layout", "%u", v->layout);
	kmod_set(device, "region_alternate", "%u", v->alternate);
	kmod_set(device, "region_strict", "%u", v->strict);
	kmod_set(device, "region_no_memory", "%u", v->no_memory);
	kmod_set(device, "region_first", "%u", v->first);
	if (v->bitmap)
		kmod_set(device, "region_bitmap", "%llu", (unsigned long long)v->bitmap);
}

static inline struct vfiomig_device *kind_new(struct lab_device *device, const struct kind *kind,
					      const struct variety *v, unsigned seed)
{
	kind_create(device, kind, v, seed);
	lab_open(device, v->how);
	return lab_handle(device);
}

/* Where the device says that it is, past all interfaces: some protocols have none for that. */
static inline void kind_expect(const struct lab_device *device, uint32_t state)
{
	EXPECT(strtoul(kmod_get(device, "state"), NULL, 10), state);
}

static inline void kind_expect_arrived(const struct lab_device *source, const struct lab_device *target,
				       struct vfiomig_device *to, struct kmod_result result)
{
	CHECK(!result.step, "%s: %d (%s)", result.step, result.error, vfiomig_error_message());
	kind_expect(source, VFIOMIG_STATE_STOP);
	kind_expect(target, VFIOMIG_STATE_STOP);
	CHECK(kmod_digest(source) == kmod_digest(target), "other contents arrived");
	OK(vfiomig_device_run(to));
	kind_expect(target, VFIOMIG_STATE_RUNNING);
}

/* One of the reasons why a device cannot be migrated, or not well. */
static inline void kind_expect_reason(struct vfiomig_device *handle, uint32_t code, const char *text)
{
	struct vfiomig_reason reason = VFIOMIG_REASON_INIT;

	for (uint32_t i = 0;; i++) {
		CHECK(vfiomig_device_get_reason(handle, i, &reason) == 0, "no reason %u of %u: %s", code, i,
		      vfiomig_error_message());
		if (reason.code == code)
			break;
	}
	CHECK(strstr(reason.text, text), "%s", reason.text);
}

#endif
