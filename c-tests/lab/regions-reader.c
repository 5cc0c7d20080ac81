/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Second implementations of the older protocols (v1-reader.h, rfc-reader.h), on the same devices: they
 * read the same bytes as the library, and what either has read, either can load. And what only
 * something that is not the library can ask of a device.
 */
#include "kinds.h"
#include "rfc-reader.h"
#include "v1-reader.h"

static const struct kind_test *it(void)
{
	return lab_arg();
}

/* --- the same bytes ----------------------------------------------------------------------------- */

static void it_reads_the_same(void)
{
	const struct variety *v = it()->v;
	int rfc = it()->kind->protocol == VFIOMIG_PROTOCOL_RFC;
	struct lab_device source, target;
	struct vfiomig_device *from = kind_new(&source, it()->kind, v, 1), *to = kind_new(&target, it()->kind, v, 2);
	struct lab_bytes plainly = { 0 }, stream, data, units;

	kmod_set(&source, "touch", "4096 50000");
	OK(vfiomig_device_set_state(from, VFIOMIG_STATE_STOP));
	(rfc ? rfc_read_stopped : v1_read_stopped)(source.fd, &plainly);
	CHECK(plainly.len > v->size, "only %zu bytes", plainly.len);
	stream = lab_save(from, VFIOMIG_SAVE_NO_PRE_COPY, v->cap ? v->cap : VFIOMIG_GOOD_BUFFER, VFIOMIG_ENDING_KEEP);
	data = lab_payload(&stream);
	units = raw_units_of(&data);
	EXPECT(units.len, plainly.len);
	CHECK(!memcmp(units.data, plainly.data, plainly.len), "the library reads other bytes");
	/* What it has read can be loaded in either way. */
	(rfc ? rfc_load : v1_load)(target.fd, &units);
	kind_expect(&target, VFIOMIG_STATE_RUNNING);
	CHECK(kmod_digest(&source) == kmod_digest(&target), "written plainly, other contents arrived");
	OK(vfiomig_device_reset(to));
	CHECK(kmod_digest(&source) != kmod_digest(&target), "a reset changes nothing");
	OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
	CHECK(kmod_digest(&source) == kmod_digest(&target), "other contents arrived");
	lab_free(&plainly);
	lab_free(&stream);
	lab_free(&data);
	lab_free(&units);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- a device of the RFC ------------------------------------------------------------------------ */

static struct rfc_device open_rfc(struct lab_device *device, unsigned first, unsigned seed)
{
	struct variety v = plain;

	v.first = first;
	v.window = 16 * KIB;
	kind_create(device, &kinds[RFC], &v, seed);
	lab_open(device, LAB_GROUP);
	return rfc_open(device->fd);
}

/* What is written with another width, or where there is nothing to write or to read. */
static void it_is_strict(void)
{
	static const struct {
		uint64_t at;
		size_t len;
		int get, put;
	} accesses[] = {
		{ 0, 4, 0, -EFAULT },	     { 0, 8, -EINVAL, -EINVAL }, { 4, 4, -EINVAL, 0 },
		{ 4, 2, -EINVAL, -EINVAL },  { 8, 4, 0, -EFAULT },	 { 12, 4, 0, 0 },
		{ 16, 4, -EINVAL, -EINVAL }, { 20, 4, 0, 0 },		 { 24, 8, 0, -EINVAL },
		{ 24, 4, -EINVAL, -EINVAL }, { 32, 4, -EINVAL, -EINVAL }, { 36, 4, 0, 0 },
		{ 40, 8, 0, -EINVAL },	     { 40, 4, -EINVAL, -EINVAL }, { 48, 8, -EINVAL, 0 },
		{ 56, 8, -EINVAL, 0 },	     { 64, 8, -EINVAL, 0 },	 { 56, 16, -EINVAL, 0 },
		{ 64, 16, -EINVAL, -EINVAL }, { 3, 1, -EINVAL, -EINVAL }, { 72, 4, -EINVAL, -EINVAL },
	};
	struct lab_device device;
	struct rfc_device rfc = open_rfc(&device, 0, 1);

	for (size_t i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
		unsigned char bytes[16] = { 0 };
		int got = raw_get(&rfc.control, accesses[i].at, bytes, accesses[i].len), put;

		memset(bytes, 0, sizeof(bytes));
		put = raw_put(&rfc.control, accesses[i].at, bytes, accesses[i].len);
		CHECK(got == accesses[i].get && put == accesses[i].put, "%zu bytes at %d: reading gives %d, writing %d",
		      accesses[i].len, (int)accesses[i].at, got, put);
		/* A size of 0 has begun nothing that lasts. */
		OK(lab_raw_reset(device.fd));
	}
	EXPECT(raw_try_u32(&rfc.control, RFC_STATE, 4), -EINVAL);
	EXPECT(raw_try_u32(&rfc.control, RFC_STATE, ~0u), -EINVAL);
	for (uint32_t from = 0; from < 4; from++)
		for (uint32_t to = 0; to < 4; to++) {
			static const uint32_t states[] = { VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP,
							   VFIOMIG_STATE_PRE_COPY, VFIOMIG_STATE_STOP_COPY };

			rfc_set(&rfc, from);
			kind_expect(&device, states[from]);
			rfc_set(&rfc, to);
			kind_expect(&device, states[to]);
		}
	lab_remove(&device);
}

/* How much a snapshot has at different moments. */
static void snapshots_have_what_they_should(void)
{
	struct lab_device device;
	struct rfc_device rfc = open_rfc(&device, 0, 1);
	struct lab_bytes all = { 0 };
	uint64_t whole = rfc_read_memory(&rfc, &all), half;

	CHECK(whole > plain.size, "%llu bytes", (unsigned long long)whole);
	/* Without LOGGING it is the same each time; with it, first everything, then what has changed. */
	EXPECT(rfc_read_memory(&rfc, &all), whole);
	rfc_set(&rfc, RFC_LOGGING);
	EXPECT(rfc_read_memory(&rfc, &all), whole);
	EXPECT(rfc_read_memory(&rfc, &all), 0);
	kmod_set(&device, "touch", "0 1");
	half = raw_u64(&rfc.control, RFC_MEMORY_SIZE);
	CHECK(half && half < 5000, "%llu bytes", (unsigned long long)half);
	/* What was not fetched comes again, also after the stop. */
	EXPECT(raw_u64(&rfc.control, RFC_MEMORY_SIZE), half);
	kmod_set(&device, "touch", "8192 1");
	rfc_set(&rfc, RFC_LOGGING | RFC_STOP);
	EXPECT(rfc_read_memory(&rfc, &all), 2 * half);
	EXPECT(rfc_read_memory(&rfc, &all), 0);
	/* It goes on, in the same session. */
	rfc_set(&rfc, RFC_LOGGING);
	EXPECT(rfc_read_memory(&rfc, &all), 0);
	kmod_set(&device, "touch", "0 1");
	EXPECT(rfc_read_memory(&rfc, &all), half);
	/* Dropping LOGGING forgets that; so does a reset. */
	rfc_set(&rfc, 0);
	rfc_set(&rfc, RFC_LOGGING);
	EXPECT(rfc_read_memory(&rfc, &all), whole);
	OK(lab_raw_reset(device.fd));
	EXPECT(rfc_read_memory(&rfc, &all), whole);
	EXPECT(rfc_read_memory(&rfc, &all), whole);
	lab_free(&all);
	lab_remove(&device);
}

/*
 * The order of the letter: everything, then LOGGING, then what has changed. What changes between the first
 * two is lost on a device that counts from LOGGING on, and not on others.
 */
static void the_order_of_the_letter(void)
{
	for (unsigned first = 0; first < 3; first++) {
		struct lab_device source, target;
		struct rfc_device from = open_rfc(&source, first, 1), to = open_rfc(&target, first, 2);
		struct lab_bytes units = { 0 };
		int lost = first == 1, ret;

		kmod_set(&source, "touch", "0 20000");
		rfc_read_memory(&from, &units);
		kmod_set(&source, "touch", "4096 9000");
		rfc_set(&from, RFC_LOGGING);
		kmod_set(&source, "touch", "50000 9000");
		rfc_read_memory(&from, &units);
		rfc_set(&from, RFC_LOGGING | RFC_STOP);
		while (rfc_read_memory(&from, &units))
			;
		/* The configuration has a digest. */
		rfc_set(&to, RFC_STOP);
		rfc_write_units(&to, &units);
		lab_free(&units);
		rfc_read_config(&from, &units);
		raw_set_u64(&to.control, RFC_CONFIG_SIZE, units.len - 16);
		OK(raw_put(&to.config, 0, units.data + 16, units.len - 16));
		ret = raw_try_u32(&to.control, RFC_CONFIG_ACTION, RFC_SET);
		EXPECT(ret, lost ? -EINVAL : 0);
		CHECK(lost || kmod_digest(&source) == kmod_digest(&target), "other contents arrived");
		lab_free(&units);
		lab_remove(&source);
		lab_remove(&target);
	}
}

static void expect_pages(const uint64_t *bitmap, uint64_t pages, const uint64_t *dirty, unsigned num)
{
	for (uint64_t i = 0; i < pages; i++) {
		int want = 0;

		for (unsigned d = 0; d < num; d++)
			want |= dirty[d] == i;
		CHECK((int)(bitmap[i / 64] >> i % 64 & 1) == want, "page %llu", (unsigned long long)i);
	}
}

static void dirty_pages_are_exact(void)
{
	static const uint64_t dirty[] = { 0, 3, 63, 64, 100 };
	const uint64_t base = 1ull << 40, most = 4096 / 8 * 64;
	struct lab_device device;
	struct rfc_device rfc = open_rfc(&device, 0, 1);
	uint64_t *bitmap = calloc(1, 4096);

	EXPECT(raw_u32(&rfc.control, RFC_CAPS), 3);
	EXPECT(rfc.bitmap.size, 4096);
	/* Without LOGGING, nothing is kept. */
	kmod_set(&device, "log_mark", "%llu 4096", (unsigned long long)base);
	rfc_query(&rfc, base, 128, bitmap);
	expect_pages(bitmap, 128, NULL, 0);
	rfc_set(&rfc, RFC_LOGGING);
	rfc_query(&rfc, base, 128, bitmap);
	expect_pages(bitmap, 128, NULL, 0);
	for (int stopped = 0; stopped < 2; stopped++) {
		for (unsigned i = 0; i < 5; i++)
			kmod_set(&device, "log_mark", "%llu 1", (unsigned long long)(base + dirty[i] * 4096 + 17));
		rfc_set(&rfc, RFC_LOGGING | (stopped ? RFC_STOP : 0));
		/* Of another range, and none at all. */
		rfc_query(&rfc, base + most * 4096, most, bitmap);
		expect_pages(bitmap, most, NULL, 0);
		EXPECT(rfc_ask(&rfc, base, 0), 0);
		/* More than there is room for, not aligned, or round the end: nothing is forgotten. */
		EXPECT(rfc_ask(&rfc, base, most + 1), -EINVAL);
		EXPECT(rfc_ask(&rfc, base, ~0ull), -EINVAL);
		EXPECT(rfc_ask(&rfc, base + 1, 8), -EINVAL);
		EXPECT(rfc_ask(&rfc, 0ull - 4096, 2), -EINVAL);
		if (stopped) {
			/* In two accesses; the second asks. */
			raw_set_u64(&rfc.control, RFC_SYSTEM_MEMORY, base);
			raw_set_u64(&rfc.control, RFC_SYSTEM_MEMORY + 8, 128);
			OK(raw_get(&rfc.bitmap, 0, bitmap, 16));
		} else {
			rfc_query(&rfc, base, 128, bitmap);
		}
		expect_pages(bitmap, 128, dirty, 5);
		rfc_query(&rfc, base, most, bitmap);
		expect_pages(bitmap, most, NULL, 0);
	}
	/* Dropping LOGGING forgets the rest. */
	kmod_set(&device, "log_mark", "%llu 4096", (unsigned long long)base);
	rfc_set(&rfc, 0);
	rfc_set(&rfc, RFC_LOGGING);
	rfc_query(&rfc, base, 128, bitmap);
	expect_pages(bitmap, 128, NULL, 0);
	free(bitmap);
	lab_remove(&device);
}

int main(void)
{
	static const struct variety varieties[] = {
		{ .name = "trapped", .size = 1 * MIB, .window = 64 * KIB },
		{ .name = "mapped", .size = 1 * MIB, .window = 64 * KIB, .layout = DATA },
		{ .name = "two-areas-and-a-hole", .size = 1 * MIB, .window = 64 * KIB, .layout = TWO, .alternate = 1,
		  .cap = VFIOMIG_MIN_BUFFER },
		{ .name = "odd-window", .size = 100 * KIB, .window = 10001 },
		{ .name = "one-chunk", .size = 1 * MIB, .window = 8 * MIB, .layout = WHOLE },
		{ .name = "no-memory", .size = 200 * KIB, .window = 64 * KIB, .no_memory = 1 },
	};

	for (unsigned k = 0; k < NUM_KINDS; k++) {
		for (size_t i = 0; i < sizeof(varieties) / sizeof(varieties[0]); i++) {
			struct kind_test test = { &kinds[k], &varieties[i], NULL };

			if (kinds[k].has_regions && (k == RFC || !varieties[i].no_memory))
				lab_run_arg(it_reads_the_same, &test, "plain-reader-%s-%s", kinds[k].name, varieties[i].name);
		}
	}
	lab_run("plain-rfc-strict", it_is_strict);
	lab_run("plain-rfc-snapshots", snapshots_have_what_they_should);
	lab_run("plain-rfc-letter", the_order_of_the_letter);
	lab_run("plain-rfc-dirty", dirty_pages_are_exact);
	return lab_status();
}
