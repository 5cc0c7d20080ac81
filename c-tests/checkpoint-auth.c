/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Checkpoints that are authenticated, with keys and with a MAC of the VMM's own: who may restore them,
 * and that what comes with a release is released once. */
#include <time.h>

#include "fan-out.h"
#include "keys.h"
#include "scratch.h"

static int take_as(const struct scratch *s, struct vfiomig_device *const *devs, int count,
                   const struct vfiomig_auth *auth)
{
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    options.auth = auth;
    options.spool_bytes = 1 << 20;
    return take(s->file, devs, count, &options);
}

static int back_as(const struct scratch *s, struct rig *rig, const char *name, const struct vfiomig_auth *auth)
{
    struct vfiomig_restore_options options = VFIOMIG_RESTORE_OPTIONS_INIT;
    uint64_t digest = vfiomig_sim_digest(rig->sim);
    options.auth = auth;
    int r = go_back(s->file, name, rig->dev, &options);
    if (r < 0)
        CHECK(vfiomig_sim_digest(rig->sim) == digest);
    return r;
}

static void a_checkpoint_is_restored_where_its_key_is(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL), other = rig_target(NULL);
    struct vfiomig_device *devs[] = { rig.dev, other.dev };
    struct keyring ring = { 7, 0, 0, 0 }, wrong = { 8, 0, 0, 0 }, empty = { 0, 0, 0, -ENOKEY };
    struct vfiomig_auth auth = with_key(&ring), bad = with_key(&wrong), none = with_key(&empty);
    struct vfiomig_restore_info info = VFIOMIG_RESTORE_INFO_INIT;
    struct vfiomig_restore_options options = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_restore *restore;
    OK(take_as(&s, devs, 2, &auth));
    CHECK(ring.asked > 0);
    EQ(ring.released, 1);
    EQ(back_as(&s, &rig, "dev0", NULL), -EPERM);
    EQ(back_as(&s, &rig, "dev0", &bad), -EBADMSG);
    EQ(wrong.released, 1);
    EQ(back_as(&s, &rig, "dev0", &none), -EPERM);
    EQ(empty.released, 1);
    OK(back_as(&s, &rig, "dev1", &auth));
    CHECK(vfiomig_sim_digest(rig.sim) == vfiomig_sim_digest(other.sim));
    EQ(ring.released, 2);
    options.auth = &auth;
    OK(vfiomig_restore_open(AT_FDCWD, s.file, &options, &restore));
    OK(vfiomig_restore_get_info(restore, &info));
    EQ(info.flags, VFIOMIG_RESTORE_AUTHENTICATED);
    EQ(info.key_id, 1);
    OK(vfiomig_restore_verify(restore, VFIOMIG_RESTORE_ALL));
    EQ(ring.released, 2);
    vfiomig_restore_free(restore);
    EQ(ring.released, 3);
    rig_free(&rig);
    rig_free(&other);
    scratch_free(&s);
}

static void one_without_authentication_is_restored_only_where_that_is_said(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    OK(take_as(&s, &rig.dev, 1, NULL));
    EQ(back_as(&s, &rig, "dev0", &auth), -EPERM);
    auth.flags = VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED;
    OK(back_as(&s, &rig, "dev0", &auth));
    EQ(ring.asked, 0);
    EQ(ring.released, 2);
    /* A checkpoint is authenticated, or it is not. */
    EQ(take_as(&s, &rig.dev, 1, &auth), -EINVAL);
    EQ(ring.released, 3);
    rig_free(&rig);
    scratch_free(&s);
}

static void a_changed_byte_of_an_authenticated_one_is_refused(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_sim_options small = rig_options();
    small.state_size = 300;
    struct rig rig = rig_new(&small, NULL);
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    OK(take_as(&s, &rig.dev, 1, &auth));
    struct bytes file = contents_of(s.file);
    for (size_t at = 0; at < file.len; at += 3) {
        if (at >= 64 && at < 4096)
            continue; /* a hole: what is there belongs to nothing */
        file.data[at] ^= 4;
        put_contents(s.file, file.data, file.len);
        int r = back_as(&s, &rig, "dev0", &auth);
        if (r != -EBADMSG && r != -EPROTO && r != -EPERM && r != -ENODATA && r != -EMSGSIZE)
            FAIL("byte %zu: %d", at, r);
        file.data[at] ^= 4;
    }
    put_contents(s.file, file.data, file.len);
    OK(back_as(&s, &rig, "dev0", &auth));
    bytes_free(&file);
    rig_free(&rig);
    scratch_free(&s);
}

/* Several threads and devices, and one key store, or one MAC, that is asked by one of them at a time. */

static void fan_out(const struct scratch *s, const struct vfiomig_auth *auth)
{
    struct rig rig = rig_new(NULL, NULL), other = rig_target(NULL);
    struct vfiomig_device *devs[] = { rig.dev, other.dev };
    struct vfiomig_restore_options options = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_restore *restore;
    OK(take_as(s, devs, 2, auth));
    options.auth = auth;
    OK(vfiomig_restore_open(AT_FDCWD, s->file, &options, &restore));
    load_into_many(restore, "dev1", &other);
    vfiomig_restore_free(restore);
    rig_free(&rig);
    rig_free(&other);
}

static void a_mac_of_the_vmms_own_is_used_for_one_stream_at_a_time(void)
{
    struct scratch s = scratch_new();
    struct own_mac mac = { .fails = 0 };
    struct vfiomig_auth auth = with_mac(&mac);
    fan_out(&s, &auth);
    EQ(mac.mixed, 0);
    EQ(mac.released, 2);
    scratch_free(&s);
}

static int callers, most_callers;

static int slow_key(void *opaque, uint32_t key_id, uint8_t *key)
{
    struct timespec moment = { 0, 3000000 };
    (void)opaque, (void)key_id;
    most_callers = ++callers > most_callers ? callers : most_callers;
    nanosleep(&moment, NULL);
    callers--;
    memset(key, 9, 32);
    return 0;
}

static void threads_wait_for_a_slow_key_store(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
    auth.key_id = 5;
    auth.get_key = slow_key;
    fan_out(&s, &auth);
    EQ(most_callers, 1);
    scratch_free(&s);
}

static void a_mac_that_fails_ends_the_call_and_nothing_else(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct own_mac mac = { .fails = 0 };
    struct vfiomig_auth auth = with_mac(&mac);
    OK(take_as(&s, &rig.dev, 1, &auth));
    struct bytes old = contents_of(s.file);
    static const int codes[] = { -EPERM, -ECANCELED, -ENODEV, -EIO };
    for (int i = 0; i < 4; i++) {
        mac.fails = codes[i];
        EQ(take_as(&s, &rig.dev, 1, &auth), codes[i]);
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        EQ(back_as(&s, &rig, "dev0", &auth), codes[i]);
        EQ(mac.released, 1 + 2 * (i + 1));
    }
    struct bytes now = contents_of(s.file);
    CHECK(now.len == old.len && memcmp(now.data, old.data, old.len) == 0);
    EQ(scratch_files(&s), 1);
    bytes_free(&old);
    bytes_free(&now);
    rig_free(&rig);
    scratch_free(&s);
}

/* Calls from a callback, where everything that it could wait for may be what is calling it. */

struct nosy {
    struct vfiomig_checkpoint *cp;
    struct vfiomig_restore *restore;
    int reads, verified, stats, freed;
};

static int nosy_key(void *opaque, uint32_t key_id, uint8_t *key)
{
    struct nosy *nosy = opaque;
    struct vfiomig_checkpoint_stats stats = VFIOMIG_CHECKPOINT_STATS_INIT;
    (void)key_id;
    memset(key, 3, 32);
    if (nosy->cp) {
        nosy->reads = vfiomig_checkpoint_read(nosy->cp);
        nosy->stats = vfiomig_checkpoint_get_stats(nosy->cp, &stats);
        vfiomig_checkpoint_free(nosy->cp);
        nosy->freed = vfiomig_checkpoint_get_stats(nosy->cp, &stats);
    }
    if (nosy->restore) {
        nosy->stats = vfiomig_restore_get_stats(nosy->restore, &stats);
        nosy->verified = vfiomig_restore_verify(nosy->restore, 0);
    }
    return 0;
}

static void callbacks_may_ask_and_wait_for_nothing(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct nosy nosy = { NULL, NULL, 1, 1, 1, 1 };
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_restore_options restore_options = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_restore *restore;
    auth.key_id = 1;
    auth.get_key = nosy_key;
    auth.get_key_opaque = &nosy;
    options.auth = &auth;
    options.flags = VFIOMIG_CHECKPOINT_NOT_DURABLE;
    struct vfiomig_checkpoint *cp;
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &options, &cp));
    nosy.cp = cp;
    OK(all_steps(cp, &rig.dev, 1));
    EQ(nosy.reads, -EBUSY);
    EQ(nosy.stats, 0);
    EQ(nosy.freed, 0);
    nosy.cp = NULL;
    vfiomig_checkpoint_free(cp);
    restore_options.auth = &auth;
    OK(vfiomig_restore_open(AT_FDCWD, s.file, &restore_options, &restore));
    nosy.restore = restore;
    nosy.stats = 1;
    OK(vfiomig_restore_verify(restore, 0));
    EQ(nosy.stats, 0);
    CHECK(nosy.verified < 0);
    nosy.restore = NULL;
    vfiomig_restore_free(restore);
    rig_free(&rig);
    scratch_free(&s);
}

int main(void)
{
    RUN(a_checkpoint_is_restored_where_its_key_is);
    RUN(one_without_authentication_is_restored_only_where_that_is_said);
    RUN(a_changed_byte_of_an_authenticated_one_is_refused);
    RUN(a_mac_of_the_vmms_own_is_used_for_one_stream_at_a_time);
    RUN(threads_wait_for_a_slow_key_store);
    RUN(a_mac_that_fails_ends_the_call_and_nothing_else);
    RUN(callbacks_may_ask_and_wait_for_nothing);
    return DONE();
}
