/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Protocol v1 on real kernels: the test device's migration region, read and written or mapped, with
 * windows of all sizes, and everything that can go wrong. A second implementation of the protocol
 * (v1-reader.h) must read the same bytes.
 */
#include "kmod.h"
#include "v1-reader.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)

enum { NONE, WHOLE, DATA, TWO, OUTSIDE }; /* region_layout */

struct variety {
	const char *name;
	uint64_t size, window;
	unsigned layout, alternate, strict;
	size_t cap;
	enum lab_how how;
};

static struct vfiomig_device *new_v1(struct lab_device *device, const struct variety *v, unsigned seed)
{
	kmod_create_type(device, "v1");
	kmod_set(device, "state_size", "%llu", (unsigned long long)v->size);
	kmod_set(device, "seed", "%u", seed);
	kmod_set(device, "region_window", "%llu", (unsigned long long)v->window);
	kmod_set(device, "region_layout", "%u", v->layout);
	kmod_set(device, "region_alternate", "%u", v->alternate);
	kmod_set(device, "region_strict", "%u", v->strict);
	lab_open(device, v->how);
	return lab_handle(device);
}

static const struct variety plain = { .size = 300 * KIB, .window = 64 * KIB, .how = LAB_GROUP };

static void expect_state(const struct lab_device *device, uint32_t state)
{
	struct v1_device raw = v1_open(device->fd);

	EXPECT(v1_state(&raw), state);
}

static void expect_arrived(const struct lab_device *source, const struct lab_device *target,
			   struct vfiomig_device *to, struct kmod_result result)
{
	CHECK(!result.step, "%s: %d (%s)", result.step, result.error, vfiomig_error_message());
	expect_state(source, 0);
	expect_state(target, 0);
	CHECK(kmod_digest(source) == kmod_digest(target), "other contents arrived");
	OK(vfiomig_device_run(to));
	expect_state(target, 1);
}

/* The source of the migration that is under way. */
static const struct lab_device *moving;

static void change(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
		   struct kmod_result *result)
{
	for (int i = 0; i < 3; i++) {
		kmod_set(moving, "touch", "%u 20000", 8192 * i);
		EXPECT(kmod_pass(save, load, way, result), VFIOMIG_NEXT_DRAINED);
	}
}

static void it_arrives(void)
{
	const struct variety *v = lab_arg();
	struct kmod_way way = { .cap = v->cap };
	struct lab_device source, target;
	struct vfiomig_device *from, *to;

	lab_need(v->how);
	from = new_v1(&source, v, 1);
	to = new_v1(&target, v, 2);
	moving = &source;
	kmod_set(&source, "initial_size", "%llu", (unsigned long long)v->size / 2);
	kmod_set(&source, "touch", "0 1");
	expect_arrived(&source, &target, to, kmod_migrate(from, to, &way, change, NULL));
	CHECK(way.stats.precopy_bytes > v->size / 2 + 3 * 20000, "%llu bytes came in pre-copy",
	      (unsigned long long)way.stats.precopy_bytes);
	CHECK(way.load_bits & VFIOMIG_PUSH_INITIAL_LOADED, "the mark behind the initial data has not come");
	if (v->layout == WHOLE || v->layout == DATA)
		EXPECT(kmod_count(&source, "counters", "reads"), 0);
	else
		CHECK(kmod_count(&source, "counters", "reads") > 0, "nothing was trapped");
	/* And back. */
	way = (struct kmod_way){ .cap = v->cap };
	expect_arrived(&target, &source, from, kmod_migrate(to, from, &way, NULL, NULL));
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* The library and the plain reader, on the same stopped device. */
static void a_plain_reader_reads_the_same(void)
{
	const struct variety *v = lab_arg();
	struct lab_device source, target;
	struct vfiomig_device *from = new_v1(&source, v, 1), *to = new_v1(&target, v, 2);
	struct v1_device raw = v1_open(source.fd), other = v1_open(target.fd);
	struct lab_bytes plainly = { 0 }, stream, data, chunks;

	kmod_set(&source, "touch", "4096 50000");
	OK(vfiomig_device_set_state(from, VFIOMIG_STATE_STOP));
	v1_set(&raw, 2);
	v1_read_chunks(&raw, &plainly);
	v1_set(&raw, 0);
	stream = lab_save(from, VFIOMIG_SAVE_NO_PRE_COPY, v->cap, VFIOMIG_ENDING_KEEP);
	data = lab_payload(&stream);
	chunks = v1_chunks_of(&data);
	EXPECT(chunks.len, plainly.len);
	CHECK(!memcmp(chunks.data, plainly.data, plainly.len), "the library reads other bytes");
	/* What it has read can be loaded in either way. */
	v1_set(&other, 4);
	v1_write_chunks(&other, &chunks);
	v1_set(&other, 1);
	CHECK(kmod_digest(&source) == kmod_digest(&target), "written plainly, other contents arrived");
	OK(vfiomig_device_reset(to));
	CHECK(kmod_digest(&source) != kmod_digest(&target), "a reset changes nothing");
	OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
	CHECK(kmod_digest(&source) == kmod_digest(&target), "other contents arrived");
	lab_free(&plainly);
	lab_free(&stream);
	lab_free(&data);
	lab_free(&chunks);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

static void no_mix_of_protocols(void)
{
	struct lab_device older, newer;
	struct vfiomig_device *v1 = new_v1(&older, &plain, 1);
	struct vfiomig_device *v2 = kmod_new(&newer, 7, plain.size, 1, LAB_GROUP);
	struct lab_bytes of_v1 = lab_save(v1, 0, VFIOMIG_GOOD_BUFFER, VFIOMIG_ENDING_KEEP);
	struct lab_bytes of_v2 = lab_save(v2, 0, VFIOMIG_GOOD_BUFFER, VFIOMIG_ENDING_KEEP);
	struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
	unsigned long long arcs = kmod_count(&older, "counters", "arcs");

	CALL(lab_load(v1, NULL, of_v2.data, of_v2.len, 0, &failure), -EXDEV);
	EXPECT(failure.outcome, VFIOMIG_OUTCOME_KEPT);
	EXPECT(kmod_count(&older, "counters", "arcs"), arcs);
	EXPECT(kmod_count(&older, "counters", "resets"), 0);
	CALL(lab_load(v2, NULL, of_v1.data, of_v1.len, 0, &failure), -EXDEV);
	EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
	EXPECT(kmod_count(&newer, "counters", "writes"), 0);
	lab_free(&of_v1);
	lab_free(&of_v2);
	kmod_end(&older, v1);
	kmod_end(&newer, v2);
}

/* In pre-copy, and when it has stopped. */
static void a_save_is_given_up(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_v1(&device, &plain, 1);
	unsigned long long digest = kmod_digest(&device);
	unsigned char *buf = malloc(VFIOMIG_GOOD_BUFFER);

	for (int i = 0; i < 6; i++) {
		static const uint32_t endings[] = { VFIOMIG_ENDING_KEEP, VFIOMIG_ENDING_KEEP_STOPPED };
		struct vfiomig_save *save;
		size_t len;

		OK(vfiomig_save_begin(handle, NULL, &save));
		expect_state(&device, 3);
		CHECK(vfiomig_save_next(save, buf, 5000, &len) >= 0, "no data");
		if (i % 3)
			OK(vfiomig_save_stop(save));
		if (i % 3 == 2) {
			expect_state(&device, 2);
			CHECK(vfiomig_save_next(save, buf, 5000, &len) >= 0, "no data");
			OK(vfiomig_save_cancel(save));
			CALL(vfiomig_save_next(save, buf, 5000, &len), -ECANCELED);
		}
		OK(vfiomig_save_finish(save, endings[i / 3]));
		vfiomig_save_free(save);
		expect_state(&device, i < 3);
		OK(vfiomig_device_run(handle));
		CHECK(kmod_digest(&device) == digest, "the contents have changed");
	}
	free(buf);
	kmod_end(&device, handle);
}

/* Each access of a kind in turn, until there are no more. */
static void every_access_fails(void)
{
	const char *op = lab_arg();
	unsigned struck = 0;

	for (int at_target = 0; at_target < 2; at_target++) {
		for (unsigned nth = 1; nth < 200; nth++) {
			const struct variety v = { .size = 40 * KIB, .window = 16 * KIB };
			struct lab_device source, target;
			struct vfiomig_device *from = new_v1(&source, &v, 1), *to = new_v1(&target, &v, 2);
			const struct lab_device *bad = at_target ? &target : &source;
			unsigned long long digest = kmod_digest(&source);
			struct kmod_way way = { 0 };
			struct kmod_result result;
			unsigned hit;

			if (nth % 2)
				kmod_set(bad, "fail_to_error", "1");
			kmod_set(bad, op, "%u 5", nth);
			result = kmod_migrate(from, to, &way, NULL, NULL);
			hit = kmod_count(bad, "counters", "faults") > 0;
			struck += hit;
			kmod_set(bad, op, "0");
			if (!result.step) {
				CHECK(kmod_digest(&target) == digest, "%s %u: other contents arrived", op, nth);
				expect_state(&target, 0);
			} else {
				/* The device that failed was reset, or brought back; the source goes on. */
				expect_state(&source, 1);
				expect_state(&target, 1);
				CHECK(at_target == 0 || kmod_digest(&source) == digest, "%s %u: the source has lost", op,
				      nth);
			}
			/* It works again. */
			OK(vfiomig_device_reset(to));
			OK(vfiomig_device_reset(from));
			way = (struct kmod_way){ 0 };
			expect_arrived(&source, &target, to, kmod_migrate(from, to, &way, NULL, NULL));
			kmod_end(&source, from);
			kmod_end(&target, to);
			if (!hit)
				break;
		}
	}
	CHECK(struck > 2, "only %u faults struck", struck);
}

static void reset_it(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
		     struct kmod_result *result)
{
	OK(lab_raw_reset(moving->fd));
	EXPECT(kmod_pass(save, load, way, result), VFIOMIG_NEXT_DRAINED);
}

static void a_reset_by_the_guest_starts_it_again(void)
{
	struct lab_device source, target;
	struct vfiomig_device *from = new_v1(&source, &plain, 1), *to = new_v1(&target, &plain, 2);
	struct kmod_way way = { 0 };

	moving = &source;
	kmod_set(&source, "touch", "0 50000");
	expect_arrived(&source, &target, to, kmod_migrate(from, to, &way, reset_it, NULL));
	CHECK(way.load_bits & VFIOMIG_PUSH_RESTARTED, "the save did not start again");
	kmod_end(&source, from);
	kmod_end(&target, to);
}

static void expect_reason(struct vfiomig_device *handle, uint32_t code, const char *text)
{
	struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
	uint32_t i = 0;

	do
		OK(vfiomig_device_get_reason(handle, i++, &reason));
	while (reason.code != code);
	CHECK(strstr(reason.text, text), "%s", reason.text);
}

static void what_cannot_be_right_is_refused(void)
{
	struct variety outside = plain;
	struct lab_device device;
	struct vfiomig_device *handle;
	struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
	struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
	struct vfiomig_save *save;
	unsigned char *buf = malloc(VFIOMIG_GOOD_BUFFER);
	size_t len;
	int ret;

	outside.layout = OUTSIDE;
	handle = new_v1(&device, &outside, 1);
	expect_reason(handle, VFIOMIG_REASON_REGIONS_UNUSABLE, "outside of the region");
	kmod_end(&device, handle);

	kmod_create_type(&device, "v1");
	kmod_set(&device, "region_mid", "1");
	lab_open(&device, LAB_GROUP);
	handle = lab_handle(&device);
	expect_reason(handle, VFIOMIG_REASON_MID_PROTOCOL, "MID");
	kmod_end(&device, handle);

	handle = new_v1(&device, &plain, 1);
	kmod_set(&device, "region_zero_size", "1");
	OK(vfiomig_save_begin(handle, NULL, &save));
	CALL(vfiomig_save_next(save, buf, VFIOMIG_GOOD_BUFFER, &len), VFIOMIG_NEXT_MORE); /* the identity */
	CALL(vfiomig_save_next(save, buf, VFIOMIG_GOOD_BUFFER, &len), -EIO);
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	expect_state(&device, 1);

	kmod_set(&device, "region_zero_size", "0");
	kmod_set(&device, "region_endless", "1");
	limits.max_total = 1 << 20;
	options.limits = &limits;
	options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
	OK(vfiomig_save_begin(handle, &options, &save));
	CHECK(vfiomig_save_next(save, buf, VFIOMIG_GOOD_BUFFER, &len) >= 0, "no identity");
	OK(vfiomig_save_stop(save));
	while ((ret = vfiomig_save_next(save, buf, VFIOMIG_GOOD_BUFFER, &len)) == VFIOMIG_NEXT_MORE)
		;
	EXPECT(ret, -EMSGSIZE);
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	expect_state(&device, 1);
	free(buf);
	kmod_end(&device, handle);
}

int main(void)
{
	static const struct variety varieties[] = {
		{ "trapped", 1 * MIB, 64 * KIB, NONE, 0, 0, VFIOMIG_GOOD_BUFFER, LAB_GROUP },
		{ "whole", 1 * MIB, 64 * KIB, WHOLE, 0, 0, VFIOMIG_GOOD_BUFFER, LAB_GROUP },
		{ "mapped", 1 * MIB, 64 * KIB, DATA, 0, 0, VFIOMIG_GOOD_BUFFER, LAB_GROUP },
		{ "two-areas-and-a-hole", 1 * MIB, 64 * KIB, TWO, 1, 0, VFIOMIG_MIN_BUFFER, LAB_GROUP },
		{ "alternating", 1 * MIB, 16 * KIB, NONE, 1, 0, 10000, LAB_GROUP },
		{ "words", 100 * KIB, 16 * KIB, NONE, 0, 1, VFIOMIG_GOOD_BUFFER, LAB_GROUP },
		{ "words-between-areas", 100 * KIB, 16 * KIB, TWO, 1, 1, VFIOMIG_GOOD_BUFFER, LAB_GROUP },
		{ "one-chunk", 1 * MIB, 8 * MIB, DATA, 0, 0, VFIOMIG_MIN_BUFFER, LAB_GROUP },
		{ "large", 32 * MIB, 1 * MIB, DATA, 1, 0, VFIOMIG_GOOD_BUFFER, LAB_GROUP },
		{ "cdev", 1 * MIB, 64 * KIB, DATA, 0, 0, VFIOMIG_GOOD_BUFFER, LAB_CDEV },
	};
	static const char *const ops[] = { "fail_set_state", "fail_get_state", "fail_precopy_info",
					   "fail_data_size", "fail_write" };

	for (size_t i = 0; i < sizeof(varieties) / sizeof(varieties[0]); i++) {
		lab_run_arg(it_arrives, &varieties[i], "regions-v1-%s", varieties[i].name);
		/* The reader knows no accesses but whole ones. */
		if (varieties[i].how == LAB_GROUP && !varieties[i].strict)
			lab_run_arg(a_plain_reader_reads_the_same, &varieties[i], "regions-v1-%s-plain-reader",
				    varieties[i].name);
	}
	lab_run("regions-v1-no-mix", no_mix_of_protocols);
	lab_run("regions-v1-keep", a_save_is_given_up);
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		lab_run_arg(every_access_fails, ops[i], "regions-v1-%s", ops[i]);
	lab_run("regions-v1-reset", a_reset_by_the_guest_starts_it_again);
	lab_run("regions-v1-hostile", what_cannot_be_right_is_refused);
	return lab_status();
}
