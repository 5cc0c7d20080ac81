/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A stream that is authenticated loads where its key is, and nowhere else; what is changed on the way
 * is refused, and what comes with a release is released once. tests/auth.rs has every attack. */
#include "keys.h"
#include "rig.h"

static struct bytes stream_with(const struct vfiomig_auth *auth)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct bytes out = { NULL, 0, 0 };
    struct rig rig = rig_new(NULL, NULL);
    options.auth = auth;
    struct vfiomig_save *save = save_all(rig.dev, &options, 1 << 17, &out);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&rig);
    return out;
}

static int load_with(const struct bytes *stream, const struct vfiomig_auth *auth, size_t piece)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    struct rig rig = rig_target(NULL);
    options.auth = auth;
    OK(vfiomig_load_begin(rig.dev, &options, &load));
    int r = push_all(load, stream, piece);
    if (r >= 0)
        r = vfiomig_load_commit(load);
    vfiomig_load_free(load);
    rig_free(&rig);
    return r;
}

static void a_stream_loads_where_its_key_is(void)
{
    struct keyring ring = { 7, 0, 0, 0 }, other = { 8, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring), wrong = with_key(&other);
    struct bytes stream = stream_with(&auth);
    EQ(load_with(&stream, &auth, SIZE_MAX), 0);
    EQ(load_with(&stream, &auth, 1000), 0);
    EQ(load_with(&stream, &wrong, SIZE_MAX), -EBADMSG);
    EQ(load_with(&stream, NULL, SIZE_MAX), -EPERM);
    EQ(ring.asked, 3);
    EQ(ring.released, 3);
    EQ(other.released, 1);
    bytes_free(&stream);
}

static void a_changed_byte_is_refused(void)
{
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    struct bytes stream = stream_with(&auth);
    for (size_t at = 3; at < stream.len; at += 9973) {
        stream.data[at] ^= 1;
        int r = load_with(&stream, &auth, 50000);
        if (r != -EBADMSG && r != -EPROTO)
            FAIL("byte %zu: %d", at, r);
        stream.data[at] ^= 1;
    }
    EQ(load_with(&stream, &auth, 50000), 0);
    bytes_free(&stream);
}

static void a_stream_without_authentication_loads_only_where_that_is_said(void)
{
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    struct bytes stream = stream_with(NULL);
    EQ(load_with(&stream, NULL, SIZE_MAX), 0);
    EQ(load_with(&stream, &auth, SIZE_MAX), -EPERM);
    CHECK(strstr(vfiomig_error_message(), "not authenticated"));
    auth.flags = VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED;
    EQ(load_with(&stream, &auth, SIZE_MAX), 0);
    EQ(ring.asked, 0);
    EQ(ring.released, 2);
    bytes_free(&stream);
}

static void a_recorded_stream_is_refused_by_a_load_with_another_challenge(void)
{
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    auth.flags = VFIOMIG_AUTH_CHALLENGE;
    memset(auth.challenge, 5, sizeof auth.challenge);
    struct bytes stream = stream_with(&auth);
    EQ(load_with(&stream, &auth, SIZE_MAX), 0);
    auth.challenge[31]++;
    EQ(load_with(&stream, &auth, SIZE_MAX), -EXDEV);
    bytes_free(&stream);
}

static void a_mac_of_the_vmms_own_takes_the_place_of_keys(void)
{
    struct own_mac mac = { .fails = 0 };
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_mac(&mac), keys = with_key(&ring);
    struct bytes stream = stream_with(&auth);
    CHECK(mac.begins >= mac.finishes && mac.finishes > 3 && mac.updates > mac.finishes);
    EQ(mac.released, 1);
    EQ(load_with(&stream, &auth, 777), 0);
    EQ(mac.released, 2);
    stream.data[stream.len / 2] ^= 0x80;
    EQ(load_with(&stream, &auth, 777), -EBADMSG);
    EQ(load_with(&stream, &keys, 777), -EPERM); /* keys do not verify it */
    mac.fails = -ECANCELED;
    EQ(load_with(&stream, &auth, 777), -ECANCELED);
    EQ(mac.released, 4);
    bytes_free(&stream);
}

static int save_begins(struct rig *rig, const struct vfiomig_auth *auth, uint32_t format)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save;
    options.auth = auth;
    options.format = format;
    int r = vfiomig_save_begin(rig->dev, &options, &save);
    if (r == 0)
        vfiomig_save_free(save);
    return r;
}

static int load_begins(struct rig *rig, const struct vfiomig_auth *auth, uint32_t format)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    options.auth = auth;
    options.format = format;
    int r = vfiomig_load_begin(rig->dev, &options, &load);
    if (r == 0)
        vfiomig_load_free(load);
    return r;
}

/* Refused in both directions, and what came with it is released. */
static void refused(struct rig *rig, struct vfiomig_auth *auth, int *released, int code)
{
    int before = *released;
    EQ(save_begins(rig, auth, VFIOMIG_FORMAT_NATIVE), code);
    EQ(load_begins(rig, auth, VFIOMIG_FORMAT_NATIVE), code);
    EQ(*released, before + 2);
}

static void what_is_impossible_is_refused_and_released(void)
{
    struct keyring ring = { 7, 0, 0, 0 };
    struct own_mac mac = { .fails = 0 };
    struct vfiomig_auth auth;
    struct vfiomig_mac_ops ops;
    struct rig rig = rig_new(NULL, NULL);

    auth = with_key(&ring), auth.flags = 1u << 7;
    refused(&rig, &auth, &ring.released, -EINVAL);
    auth = with_key(&ring), auth.reserved = 1;
    refused(&rig, &auth, &ring.released, -EINVAL);
    auth = with_key(&ring), auth.get_key = NULL;
    refused(&rig, &auth, &ring.released, -EINVAL);
    auth = with_key(&ring), auth.flags = VFIOMIG_AUTH_CHALLENGE; /* of zeros */
    refused(&rig, &auth, &ring.released, -EINVAL);
    auth = with_key(&ring), auth.challenge[0] = 1; /* without the flag */
    refused(&rig, &auth, &ring.released, -EINVAL);
    auth = with_key(&ring), auth.mac = &mac_ops, auth.mac_opaque = &mac;
    refused(&rig, &auth, &ring.released, -EINVAL);
    EQ(mac.released, 2);
    ops = mac_ops, ops.tag_len = 15;
    auth = with_mac(&mac), auth.mac = &ops;
    refused(&rig, &auth, &mac.released, -EINVAL);
    ops = mac_ops, ops.tag_len = 33;
    refused(&rig, &auth, &mac.released, -EINVAL);
    ops = mac_ops, ops.finish = NULL;
    refused(&rig, &auth, &mac.released, -EFAULT);

    auth = with_key(&ring), auth.flags = VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED;
    EQ(save_begins(&rig, &auth, VFIOMIG_FORMAT_NATIVE), -EINVAL);
    auth = with_key(&ring);
    EQ(save_begins(&rig, &auth, VFIOMIG_FORMAT_QEMU), -EINVAL);
    EQ(load_begins(&rig, &auth, VFIOMIG_FORMAT_QEMU), -EINVAL);
    CHECK(strstr(vfiomig_error_message(), "place for tags"));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
}

static void a_handle_that_is_gone_releases_them_too(void)
{
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    struct rig gone = { NULL, NULL };
    EQ(save_begins(&gone, &auth, VFIOMIG_FORMAT_NATIVE), -EFAULT);
    EQ(load_begins(&gone, &auth, VFIOMIG_FORMAT_NATIVE), -EFAULT);
    EQ(ring.released, 2);
}

static void a_key_that_is_not_there_is_refused(void)
{
    struct keyring ring = { 7, 0, 0, 0 };
    struct vfiomig_auth auth = with_key(&ring);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    struct bytes stream = stream_with(&auth);
    struct rig rig = rig_new(NULL, NULL);

    auth.key_id = 2;
    EQ(save_begins(&rig, &auth, VFIOMIG_FORMAT_NATIVE), -EPERM);
    auth.key_id = 1;
    ring.answer = -EPROTO;
    EQ(save_begins(&rig, &auth, VFIOMIG_FORMAT_NATIVE), -EPROTO);
    ring.answer = -EKEYEXPIRED;
    options.auth = &auth;
    OK(vfiomig_load_begin(rig.dev, &options, &load));
    EQ(push_all(load, &stream, SIZE_MAX), -EPERM);
    OK(vfiomig_load_get_failure(load, &failure));
    EQ(failure.operation, VFIOMIG_OP_CALLBACK);
    EQ(failure.os_errno, EKEYEXPIRED);
    vfiomig_load_free(load);
    EQ(ring.released, 4);
    bytes_free(&stream);
    rig_free(&rig);
}

int main(void)
{
    RUN(a_stream_loads_where_its_key_is);
    RUN(a_changed_byte_is_refused);
    RUN(a_stream_without_authentication_loads_only_where_that_is_said);
    RUN(a_recorded_stream_is_refused_by_a_load_with_another_challenge);
    RUN(a_mac_of_the_vmms_own_takes_the_place_of_keys);
    RUN(what_is_impossible_is_refused_and_released);
    RUN(a_handle_that_is_gone_releases_them_too);
    RUN(a_key_that_is_not_there_is_refused);
    return DONE();
}
