/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Drivers of the older protocols that say what cannot be: of their regions, which makes a device that
 * cannot be migrated, and of their numbers, which ends a save or a load and leaves a device that runs.
 */
#include "kinds.h"

struct lie {
	const char *name;
	unsigned kind;
	const char *knob;
	unsigned value;
	uint32_t reason; /* 0: it is found when the device is saved */
	const char *text;
	const char *variant; /* not on this kernel */
};

static const struct lie *it(void)
{
	return lab_arg();
}

static void regions_that_cannot_be_are_a_reason(void)
{
	const struct lie *lie = it();
	struct lab_device device;
	struct vfiomig_device *handle;
	struct vfiomig_save *save = NULL;
	struct vfiomig_load *load = NULL;

	if (lie->variant && lab_kernel_is(lie->variant))
		lab_skip("this kernel makes the chain by itself");
	kind_create(&device, &kinds[lie->kind], &plain, 1);
	kmod_set(&device, lie->knob, "%u", lie->value);
	lab_open(&device, LAB_GROUP);
	handle = lab_handle(&device);
	kind_expect_reason(handle, lie->reason, lie->text);
	CALL(vfiomig_save_begin(handle, NULL, &save), -EOPNOTSUPP);
	CALL(vfiomig_load_begin(handle, NULL, &load), -EOPNOTSUPP);
	EXPECT(kmod_count(&device, "counters", "arcs"), 0);
	kmod_end(&device, handle);
}

/* Reads until the save fails. */
static int read_until_it_fails(struct vfiomig_save *save, uint64_t *calls)
{
	unsigned char *buf = malloc(VFIOMIG_GOOD_BUFFER);
	size_t len;
	int ret, stopped = 0;

	do {
		ret = vfiomig_save_next(save, buf, VFIOMIG_GOOD_BUFFER, &len);
		if (ret == VFIOMIG_NEXT_DRAINED && !stopped) {
			stopped = 1;
			OK(lab_insist(vfiomig_save_stop, save));
		}
		CHECK(++*calls < 5000, "it is read over and over");
	} while (ret >= 0 && ret != VFIOMIG_NEXT_END);
	free(buf);
	return ret;
}

static void numbers_that_cannot_be_end_the_save(void)
{
	const struct lie *lie = it();
	struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
	struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
	struct lab_device device;
	struct vfiomig_device *handle = kind_new(&device, &kinds[lie->kind], &plain, 1);
	unsigned long long digest = kmod_digest(&device);
	struct vfiomig_save *save;
	uint64_t calls = 0;
	int ret, kept;

	kmod_set(&device, lie->knob, "%u", lie->value);
	limits.max_total = 1 << 20;
	options.limits = &limits;
	OK(vfiomig_save_begin(handle, &options, &save));
	ret = read_until_it_fails(save, &calls);
	CHECK(ret == -EIO || ret == -EMSGSIZE, "it is %d", ret);
	CHECK(strstr(vfiomig_error_message(), lie->text), "%s", vfiomig_error_message());
	kept = vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP);
	vfiomig_save_free(save);
	kind_expect(&device, VFIOMIG_STATE_RUNNING);
	CHECK(kept < 0 || kmod_digest(&device) == digest, "it is kept, and lost");
	/* It is as good as any other once it says what is. */
	kmod_set(&device, lie->knob, "0");
	if (kept < 0)
		OK(vfiomig_device_accept_reset(handle));
	OK(vfiomig_device_run(handle));
	OK(vfiomig_save_begin(handle, NULL, &save));
	EXPECT(read_until_it_fails(save, &calls), VFIOMIG_NEXT_END);
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	kmod_end(&device, handle);
}

/* A device that breaks when it has been loaded is not run; nor is one that was given a wrong byte. */
static void a_target_that_breaks_is_not_run(void)
{
	const struct lie *lie = it();
	struct lab_device source, target;
	struct vfiomig_device *from = kind_new(&source, &kinds[lie->kind], &plain, 1),
			      *to = kind_new(&target, &kinds[lie->kind], &plain, 2);
	unsigned long long digest = kmod_digest(&source);
	struct kmod_way way = { 0 };
	struct kmod_result result;

	kmod_set(lie->value ? &target : &source, lie->knob, "%u", lie->value);
	result = kmod_migrate(from, to, &way, NULL, NULL);
	CHECK(result.step && result.target_failed, "it was not noticed");
	kind_expect(&source, VFIOMIG_STATE_RUNNING);
	kind_expect(&target, VFIOMIG_STATE_RUNNING);
	CHECK(kmod_digest(&source) == digest && kmod_digest(&target) != digest, "the contents are elsewhere");
	kmod_set(lie->value ? &target : &source, lie->knob, "%s", lie->value ? "0" : "0xffffffffffffffff");
	way = (struct kmod_way){ 0 };
	kind_expect_arrived(&source, &target, to, kmod_migrate(from, to, &way, NULL, NULL));
	kmod_end(&source, from);
	kmod_end(&target, to);
}

int main(void)
{
	enum { BAD = VFIOMIG_REASON_REGIONS_UNUSABLE, MID = VFIOMIG_REASON_MID_PROTOCOL };
	static const struct lie regions[] = {
		{ "area", V1, "region_layout", OUTSIDE, BAD, "outside of the region", NULL },
		{ "chain", V1, "region_chain", 1, BAD, "", NULL },
		{ "two-types", V1, "region_chain", 2, BAD, "", NULL },
		{ "twice", V1, "region_chain", 3, BAD, "two migration regions", NULL },
		{ "circle", V1, "region_chain", 4, BAD, "backwards", "7.3" },
		{ "short", V1, "region_lie", 4, BAD, "no room for data", NULL },
		{ "mid", V1, "region_mid", 1, MID, "MID", NULL },
		{ "area", RFC, "region_layout", OUTSIDE, BAD, "outside of the region", NULL },
		{ "chain", RFC, "region_chain", 1, BAD, "", NULL },
		{ "two-types", RFC, "region_chain", 2, BAD, "", NULL },
		{ "twice", RFC, "region_chain", 3, BAD, "two migration regions", NULL },
		{ "circle", RFC, "region_chain", 4, BAD, "backwards", "7.3" },
		{ "short", RFC, "region_lie", 4, BAD, "64 bytes", NULL },
		{ "version", RFC, "region_lie", 5, BAD, "version 2", NULL },
		{ "capability", RFC, "region_lie", 6, BAD, "capabilities 0x203", NULL },
		{ "missing", RFC, "region_lie", 7, BAD, "no dirty bitmap region", NULL },
		{ "small-bitmap", RFC, "region_bitmap", 7, BAD, "7 bytes", NULL },
		{ "mid", RFC, "region_mid", 1, MID, "MID", NULL },
	};
	static const struct lie numbers[] = {
		{ "length", V1, "region_lie", 1, 0, "", NULL },
		{ "huge", V1, "region_lie", 2, 0, "", NULL },
		{ "place", V1, "region_lie", 3, 0, "", NULL },
		{ "nothing", V1, "region_zero_size", 1, 0, "", NULL },
		{ "endless", V1, "region_endless", 1, 0, "", NULL },
		{ "length", RFC, "region_lie", 1, 0, "", NULL },
		{ "huge", RFC, "region_lie", 2, 0, "", NULL },
		{ "nothing", RFC, "region_zero_size", 1, 0, "", NULL },
		{ "endless", RFC, "region_endless", 1, 0, "", NULL },
		{ "hole", RFC, "region_first", 1, 0, "", NULL },
	};
	static const struct lie breaks[] = {
		{ "break", V1, "region_break_loaded", 1, 0, "", NULL },
		{ "break", RFC, "region_break_loaded", 1, 0, "", NULL },
		{ "wrong-byte", V2, "corrupt", 0, 0, "", NULL },
		{ "wrong-byte", V1, "corrupt", 0, 0, "", NULL },
		{ "wrong-byte", RFC, "corrupt", 0, 0, "", NULL },
	};

	for (size_t i = 0; i < sizeof(regions) / sizeof(regions[0]); i++)
		lab_run_arg(regions_that_cannot_be_are_a_reason, &regions[i], "hostile-%s-region-%s",
			    kinds[regions[i].kind].name, regions[i].name);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		lab_run_arg(numbers_that_cannot_be_end_the_save, &numbers[i], "hostile-%s-number-%s",
			    kinds[numbers[i].kind].name, numbers[i].name);
	for (size_t i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++)
		lab_run_arg(a_target_that_breaks_is_not_run, &breaks[i], "hostile-%s-%s", kinds[breaks[i].kind].name,
			    breaks[i].name);
	return lab_status();
}
