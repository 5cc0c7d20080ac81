/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Made by apigen from the api.toml files in src/capi; do not edit. For misuse.c alone. */

enum object { NO_OBJECT, DEVICE, SAVE, LOAD, DIRTY, NUM_OBJECTS };

static const char *const object_names[NUM_OBJECTS] = {
    [DEVICE] = "device",
    [SAVE] = "save",
    [LOAD] = "load",
    [DIRTY] = "dirty",
};

/* Calls from several threads wait for each other. */
static const int object_waits[NUM_OBJECTS] = {
    [DIRTY] = 1,
};

static const char *const state_names[NUM_OBJECTS][MAX_STATES] = {
    [DEVICE] = { "live" },
    [SAVE] = { "pre-copy", "quiesced", "stop-copy", "ended", "failed", "finished" },
    [LOAD] = { "receiving", "complete", "committed", "failed" },
    [DIRTY] = { "idle", "tracking" },
};

static const struct { int number; const char *name; } codes[] = {
    { EPERM, "EPERM" },
    { EIO, "EIO" },
    { EBADF, "EBADF" },
    { EAGAIN, "EAGAIN" },
    { ENOMEM, "ENOMEM" },
    { EFAULT, "EFAULT" },
    { EBUSY, "EBUSY" },
    { ENODEV, "ENODEV" },
    { EINVAL, "EINVAL" },
    { ENOTTY, "ENOTTY" },
    { ENOSPC, "ENOSPC" },
    { E2BIG, "E2BIG" },
    { ENODATA, "ENODATA" },
    { EPROTO, "EPROTO" },
    { EBADMSG, "EBADMSG" },
    { EMSGSIZE, "EMSGSIZE" },
    { EXDEV, "EXDEV" },
    { EOPNOTSUPP, "EOPNOTSUPP" },
    { ETIMEDOUT, "ETIMEDOUT" },
    { ECANCELED, "ECANCELED" },
    { ENOTRECOVERABLE, "ENOTRECOVERABLE" },
};

static long call_vfiomig_version(const union argument *a)
{
    (void)a;
    return (long)vfiomig_version();
}

static long call_vfiomig_version_string(const union argument *a)
{
    (void)a;
    return vfiomig_version_string() != NULL ? 0 : -1;
}

static long call_vfiomig_error_message(const union argument *a)
{
    (void)a;
    return vfiomig_error_message() != NULL ? 0 : -1;
}

static long call_vfiomig_error_describe(const union argument *a)
{
    return vfiomig_error_describe((int)a[0].number) != NULL ? 0 : -1;
}

static long call_vfiomig_log_set(const union argument *a)
{
    return (long)vfiomig_log_set(a[0].log, a[1].pointer, a[2].release, (uint32_t)a[3].number);
}

static long call_vfiomig_log_init_env(const union argument *a)
{
    (void)a;
    return (long)vfiomig_log_init_env();
}

static long call_vfiomig_fsm_path(const union argument *a)
{
    return (long)vfiomig_fsm_path((uint64_t)a[0].number, (uint32_t)a[1].number, (uint32_t)a[2].number, a[3].pointer);
}

static long call_vfiomig_state_name(const union argument *a)
{
    return vfiomig_state_name((uint32_t)a[0].number) != NULL ? 0 : -1;
}

static long call_vfiomig_device_new_fd(const union argument *a)
{
    return (long)vfiomig_device_new_fd((int)a[0].number, a[1].pointer, a[2].pointer);
}

static long call_vfiomig_device_new_ops(const union argument *a)
{
    return (long)vfiomig_device_new_ops(a[0].pointer, a[1].pointer, a[2].pointer, a[3].pointer);
}

static long call_vfiomig_device_free(const union argument *a)
{
    vfiomig_device_free(a[0].pointer);
    return 0;
}

static long call_vfiomig_device_get_caps(const union argument *a)
{
    return (long)vfiomig_device_get_caps(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_device_get_reason(const union argument *a)
{
    return (long)vfiomig_device_get_reason(a[0].pointer, (uint32_t)a[1].number, a[2].pointer);
}

static long call_vfiomig_device_get_identity(const union argument *a)
{
    return (long)vfiomig_device_get_identity(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_device_get_state(const union argument *a)
{
    return (long)vfiomig_device_get_state(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_device_set_state(const union argument *a)
{
    return (long)vfiomig_device_set_state(a[0].pointer, (uint32_t)a[1].number);
}

static long call_vfiomig_device_run(const union argument *a)
{
    return (long)vfiomig_device_run(a[0].pointer);
}

static long call_vfiomig_device_reset(const union argument *a)
{
    return (long)vfiomig_device_reset(a[0].pointer);
}

static long call_vfiomig_device_notify_reset(const union argument *a)
{
    return (long)vfiomig_device_notify_reset(a[0].pointer);
}

static long call_vfiomig_device_accept_reset(const union argument *a)
{
    return (long)vfiomig_device_accept_reset(a[0].pointer);
}

static long call_vfiomig_device_get_fixups(const union argument *a)
{
    return (long)vfiomig_device_get_fixups(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_device_get_failure(const union argument *a)
{
    return (long)vfiomig_device_get_failure(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_save_begin(const union argument *a)
{
    return (long)vfiomig_save_begin(a[0].pointer, a[1].pointer, a[2].pointer);
}

static long call_vfiomig_save_next(const union argument *a)
{
    return (long)vfiomig_save_next(a[0].pointer, a[1].pointer, (size_t)a[2].number, a[3].pointer);
}

static long call_vfiomig_save_add_blob(const union argument *a)
{
    return (long)vfiomig_save_add_blob(a[0].pointer, (uint32_t)a[1].number, a[2].pointer, (size_t)a[3].number);
}

static long call_vfiomig_save_get_pending(const union argument *a)
{
    return (long)vfiomig_save_get_pending(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_save_get_poll_fd(const union argument *a)
{
    return (long)vfiomig_save_get_poll_fd(a[0].pointer);
}

static long call_vfiomig_save_quiesce(const union argument *a)
{
    return (long)vfiomig_save_quiesce(a[0].pointer);
}

static long call_vfiomig_save_stop(const union argument *a)
{
    return (long)vfiomig_save_stop(a[0].pointer);
}

static long call_vfiomig_save_finish(const union argument *a)
{
    return (long)vfiomig_save_finish(a[0].pointer, (uint32_t)a[1].number);
}

static long call_vfiomig_save_cancel(const union argument *a)
{
    return (long)vfiomig_save_cancel(a[0].pointer);
}

static long call_vfiomig_save_get_stats(const union argument *a)
{
    return (long)vfiomig_save_get_stats(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_save_get_failure(const union argument *a)
{
    return (long)vfiomig_save_get_failure(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_save_free(const union argument *a)
{
    vfiomig_save_free(a[0].pointer);
    return 0;
}

static long call_vfiomig_load_begin(const union argument *a)
{
    return (long)vfiomig_load_begin(a[0].pointer, a[1].pointer, a[2].pointer);
}

static long call_vfiomig_load_push(const union argument *a)
{
    return (long)vfiomig_load_push(a[0].pointer, a[1].pointer, (size_t)a[2].number);
}

static long call_vfiomig_load_get_space(const union argument *a)
{
    return (long)vfiomig_load_get_space(a[0].pointer, a[1].pointer, a[2].pointer);
}

static long call_vfiomig_load_push_received(const union argument *a)
{
    return (long)vfiomig_load_push_received(a[0].pointer, (size_t)a[1].number);
}

static long call_vfiomig_load_commit(const union argument *a)
{
    return (long)vfiomig_load_commit(a[0].pointer);
}

static long call_vfiomig_load_cancel(const union argument *a)
{
    return (long)vfiomig_load_cancel(a[0].pointer);
}

static long call_vfiomig_load_get_source_identity(const union argument *a)
{
    return (long)vfiomig_load_get_source_identity(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_load_get_stats(const union argument *a)
{
    return (long)vfiomig_load_get_stats(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_load_get_failure(const union argument *a)
{
    return (long)vfiomig_load_get_failure(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_load_free(const union argument *a)
{
    vfiomig_load_free(a[0].pointer);
    return 0;
}

static long call_vfiomig_load_push_packet(const union argument *a)
{
    return (long)vfiomig_load_push_packet(a[0].pointer, a[1].pointer, (size_t)a[2].number);
}

static long call_vfiomig_load_write_packets(const union argument *a)
{
    return (long)vfiomig_load_write_packets(a[0].pointer);
}

static long call_vfiomig_dirty_new(const union argument *a)
{
    return (long)vfiomig_dirty_new(a[0].pointer, a[1].pointer, a[2].pointer, a[3].pointer);
}

static long call_vfiomig_dirty_free(const union argument *a)
{
    vfiomig_dirty_free(a[0].pointer);
    return 0;
}

static long call_vfiomig_dirty_add_writer(const union argument *a)
{
    return (long)vfiomig_dirty_add_writer(a[0].pointer, a[1].pointer, a[2].pointer);
}

static long call_vfiomig_dirty_remove_writer(const union argument *a)
{
    return (long)vfiomig_dirty_remove_writer(a[0].pointer, (uint32_t)a[1].number);
}

static long call_vfiomig_dirty_map(const union argument *a)
{
    return (long)vfiomig_dirty_map(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_dirty_unmap(const union argument *a)
{
    return (long)vfiomig_dirty_unmap(a[0].pointer, (uint64_t)a[1].number, (uint64_t)a[2].number, (uint64_t)a[3].number, a[4].pointer, (size_t)a[5].number, a[6].unmap, a[7].pointer);
}

static long call_vfiomig_dirty_start(const union argument *a)
{
    return (long)vfiomig_dirty_start(a[0].pointer);
}

static long call_vfiomig_dirty_collect(const union argument *a)
{
    return (long)vfiomig_dirty_collect(a[0].pointer);
}

static long call_vfiomig_dirty_sync(const union argument *a)
{
    return (long)vfiomig_dirty_sync(a[0].pointer, (uint64_t)a[1].number, (uint64_t)a[2].number, (uint64_t)a[3].number, a[4].pointer, (size_t)a[5].number);
}

static long call_vfiomig_dirty_rearm(const union argument *a)
{
    return (long)vfiomig_dirty_rearm(a[0].pointer);
}

static long call_vfiomig_dirty_stop(const union argument *a)
{
    return (long)vfiomig_dirty_stop(a[0].pointer);
}

static long call_vfiomig_dirty_cancel(const union argument *a)
{
    return (long)vfiomig_dirty_cancel(a[0].pointer);
}

static long call_vfiomig_dirty_mark(const union argument *a)
{
    return (long)vfiomig_dirty_mark(a[0].pointer, (uint64_t)a[1].number, (uint64_t)a[2].number);
}

static long call_vfiomig_dirty_dma_read(const union argument *a)
{
    return (long)vfiomig_dirty_dma_read(a[0].pointer, (uint64_t)a[1].number, a[2].pointer, (size_t)a[3].number);
}

static long call_vfiomig_dirty_dma_write(const union argument *a)
{
    return (long)vfiomig_dirty_dma_write(a[0].pointer, (uint64_t)a[1].number, a[2].pointer, (size_t)a[3].number);
}

static long call_vfiomig_dirty_get_stats(const union argument *a)
{
    return (long)vfiomig_dirty_get_stats(a[0].pointer, a[1].pointer);
}

static long call_vfiomig_dirty_get_round(const union argument *a)
{
    return (long)vfiomig_dirty_get_round(a[0].pointer, (uint32_t)a[1].number, a[2].pointer);
}

static long call_vfiomig_dirty_get_writer_stats(const union argument *a)
{
    return (long)vfiomig_dirty_get_writer_stats(a[0].pointer, (uint32_t)a[1].number, a[2].pointer);
}

static long call_vfiomig_dirty_get_error(const union argument *a)
{
    return (long)vfiomig_dirty_get_error(a[0].pointer, (uint32_t)a[1].number, a[2].pointer);
}

enum row_number {
    ROW_vfiomig_version,
    ROW_vfiomig_version_string,
    ROW_vfiomig_error_message,
    ROW_vfiomig_error_describe,
    ROW_vfiomig_log_set,
    ROW_vfiomig_log_init_env,
    ROW_vfiomig_fsm_path,
    ROW_vfiomig_state_name,
    ROW_vfiomig_device_new_fd,
    ROW_vfiomig_device_new_ops,
    ROW_vfiomig_device_free,
    ROW_vfiomig_device_get_caps,
    ROW_vfiomig_device_get_reason,
    ROW_vfiomig_device_get_identity,
    ROW_vfiomig_device_get_state,
    ROW_vfiomig_device_set_state,
    ROW_vfiomig_device_run,
    ROW_vfiomig_device_reset,
    ROW_vfiomig_device_notify_reset,
    ROW_vfiomig_device_accept_reset,
    ROW_vfiomig_device_get_fixups,
    ROW_vfiomig_device_get_failure,
    ROW_vfiomig_save_begin,
    ROW_vfiomig_save_next,
    ROW_vfiomig_save_add_blob,
    ROW_vfiomig_save_get_pending,
    ROW_vfiomig_save_get_poll_fd,
    ROW_vfiomig_save_quiesce,
    ROW_vfiomig_save_stop,
    ROW_vfiomig_save_finish,
    ROW_vfiomig_save_cancel,
    ROW_vfiomig_save_get_stats,
    ROW_vfiomig_save_get_failure,
    ROW_vfiomig_save_free,
    ROW_vfiomig_load_begin,
    ROW_vfiomig_load_push,
    ROW_vfiomig_load_get_space,
    ROW_vfiomig_load_push_received,
    ROW_vfiomig_load_commit,
    ROW_vfiomig_load_cancel,
    ROW_vfiomig_load_get_source_identity,
    ROW_vfiomig_load_get_stats,
    ROW_vfiomig_load_get_failure,
    ROW_vfiomig_load_free,
    ROW_vfiomig_load_push_packet,
    ROW_vfiomig_load_write_packets,
    ROW_vfiomig_dirty_new,
    ROW_vfiomig_dirty_free,
    ROW_vfiomig_dirty_add_writer,
    ROW_vfiomig_dirty_remove_writer,
    ROW_vfiomig_dirty_map,
    ROW_vfiomig_dirty_unmap,
    ROW_vfiomig_dirty_start,
    ROW_vfiomig_dirty_collect,
    ROW_vfiomig_dirty_sync,
    ROW_vfiomig_dirty_rearm,
    ROW_vfiomig_dirty_stop,
    ROW_vfiomig_dirty_cancel,
    ROW_vfiomig_dirty_mark,
    ROW_vfiomig_dirty_dma_read,
    ROW_vfiomig_dirty_dma_write,
    ROW_vfiomig_dirty_get_stats,
    ROW_vfiomig_dirty_get_round,
    ROW_vfiomig_dirty_get_writer_stats,
    ROW_vfiomig_dirty_get_error,
    NUM_ROWS
};

static const struct row rows[NUM_ROWS] = {
    {
        .name = "vfiomig_version",
        .call = call_vfiomig_version,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 0,
    },
    {
        .name = "vfiomig_version_string",
        .call = call_vfiomig_version_string,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 0,
    },
    {
        .name = "vfiomig_error_message",
        .call = call_vfiomig_error_message,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 0,
    },
    {
        .name = "vfiomig_error_describe",
        .call = call_vfiomig_error_describe,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_NUMBER, .value = -22, .name = "code" },
        },
    },
    {
        .name = "vfiomig_log_set",
        .call = call_vfiomig_log_set,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_LOG, .name = "log" },
            { .kind = A_OPAQUE, .name = "opaque" },
            { .kind = A_RELEASE, .name = "release" },
            { .kind = A_NUMBER, .value = 2, .name = "level" },
        },
        .errors = {
            ENOMEM, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_log_init_env",
        .call = call_vfiomig_log_init_env,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 0,
        .errors = {
            ENOMEM, EBUSY, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_fsm_path",
        .call = call_vfiomig_fsm_path,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_NUMBER, .value = 7, .name = "migration_flags" },
            { .kind = A_NUMBER, .value = 2, .name = "from" },
            { .kind = A_NUMBER, .value = 6, .name = "to" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_path), .name = "path" },
        },
        .errors = {
            EFAULT, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_state_name",
        .call = call_vfiomig_state_name,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_NUMBER, .value = 2, .name = "state" },
        },
    },
    {
        .name = "vfiomig_device_new_fd",
        .call = call_vfiomig_device_new_fd,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_FD, .name = "fd" },
            { .kind = A_OPTIONS, .size = sizeof(struct vfiomig_device_options), .name = "options" },
            { .kind = A_OUT, .object = DEVICE, .size = sizeof(void *), .name = "out" },
        },
        .errors = {
            EIO, ENOMEM, EFAULT, ENODEV, EINVAL, ENOTTY, E2BIG, ETIMEDOUT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_new_ops",
        .call = call_vfiomig_device_new_ops,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_OPS, .size = sizeof(struct vfiomig_device_ops), .name = "ops" },
            { .kind = A_OPAQUE, .name = "opaque" },
            { .kind = A_OPTIONS, .size = sizeof(struct vfiomig_device_options), .name = "options" },
            { .kind = A_OUT, .object = DEVICE, .size = sizeof(void *), .name = "out" },
        },
        .errors = {
            EIO, ENOMEM, EFAULT, EINVAL, E2BIG, ETIMEDOUT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_free",
        .call = call_vfiomig_device_free,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_FREE, .object = DEVICE, .name = "device" },
        },
    },
    {
        .name = "vfiomig_device_get_caps",
        .call = call_vfiomig_device_get_caps,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_caps), .name = "caps" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_get_reason",
        .call = call_vfiomig_device_get_reason,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_NUMBER, .value = 0, .name = "index" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_reason), .name = "reason" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENODATA, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_get_identity",
        .call = call_vfiomig_device_get_identity,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_identity), .name = "identity" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_get_state",
        .call = call_vfiomig_device_get_state,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_PTR, .size = sizeof(uint32_t), .name = "state" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_set_state",
        .call = call_vfiomig_device_set_state,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_NUMBER, .value = 2, .name = "state" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_run",
        .call = call_vfiomig_device_run,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_reset",
        .call = call_vfiomig_device_reset,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_notify_reset",
        .call = call_vfiomig_device_notify_reset,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_accept_reset",
        .call = call_vfiomig_device_accept_reset,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
        },
        .errors = {
            EBADF, ENOMEM, EFAULT, EBUSY, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_get_fixups",
        .call = call_vfiomig_device_get_fixups,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 1,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_PTR, .size = sizeof(uint32_t), .name = "fixups" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_device_get_failure",
        .call = call_vfiomig_device_get_failure,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_failure), .name = "failure" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_begin",
        .call = call_vfiomig_save_begin,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_OPTIONS, .size = sizeof(struct vfiomig_save_options), .name = "options" },
            { .kind = A_OUT, .object = SAVE, .size = sizeof(void *), .name = "out" },
        },
        .errors = {
            EPERM, EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, E2BIG, EOPNOTSUPP,
            ETIMEDOUT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_next",
        .call = call_vfiomig_save_next,
        .object = SAVE,
        .states = 0x7,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
            { .kind = A_BUFFER, .name = "buf" },
            { .kind = A_LEN, .name = "cap" },
            { .kind = A_PTR, .size = sizeof(size_t), .name = "len" },
        },
        .errors = {
            EIO, EBADF, EAGAIN, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, ENOSPC, EOPNOTSUPP,
            ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_add_blob",
        .call = call_vfiomig_save_add_blob,
        .object = SAVE,
        .states = 0x7,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
            { .kind = A_NUMBER, .value = 1, .name = "kind" },
            { .kind = A_DATA, .name = "data" },
            { .kind = A_LEN, .name = "len" },
        },
        .errors = {
            EBADF, ENOMEM, EFAULT, EBUSY, EINVAL, EMSGSIZE, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_get_pending",
        .call = call_vfiomig_save_get_pending,
        .object = SAVE,
        .states = 0x7,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_pending), .name = "pending" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_get_poll_fd",
        .call = call_vfiomig_save_get_poll_fd,
        .object = SAVE,
        .states = 0x3f,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EOPNOTSUPP, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_quiesce",
        .call = call_vfiomig_save_quiesce,
        .object = SAVE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
        },
        .errors = {
            EIO, EBADF, EAGAIN, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP,
            ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_stop",
        .call = call_vfiomig_save_stop,
        .object = SAVE,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
        },
        .errors = {
            EIO, EBADF, EAGAIN, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP,
            ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_finish",
        .call = call_vfiomig_save_finish,
        .object = SAVE,
        .states = 0x1f,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
            { .kind = A_ENDING, .name = "ending" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_cancel",
        .call = call_vfiomig_save_cancel,
        .object = SAVE,
        .states = 0x3f,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
        },
        .errors = {
            EBADF, EFAULT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_get_stats",
        .call = call_vfiomig_save_get_stats,
        .object = SAVE,
        .states = 0x3f,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_save_stats), .name = "stats" },
        },
        .errors = {
            EBADF, EFAULT, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_get_failure",
        .call = call_vfiomig_save_get_failure,
        .object = SAVE,
        .states = 0x3f,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = SAVE, .name = "save" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_failure), .name = "failure" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_save_free",
        .call = call_vfiomig_save_free,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_FREE, .object = SAVE, .name = "save" },
        },
    },
    {
        .name = "vfiomig_load_begin",
        .call = call_vfiomig_load_begin,
        .object = DEVICE,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DEVICE, .name = "device" },
            { .kind = A_OPTIONS, .size = sizeof(struct vfiomig_load_options), .name = "options" },
            { .kind = A_OUT, .object = LOAD, .size = sizeof(void *), .name = "out" },
        },
        .errors = {
            EPERM, EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, E2BIG, EOPNOTSUPP,
            ETIMEDOUT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_push",
        .call = call_vfiomig_load_push,
        .object = LOAD,
        .states = 0x7,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_DATA, .name = "data" },
            { .kind = A_LEN, .name = "len" },
        },
        .errors = {
            EPERM, EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EPROTO, EBADMSG,
            EMSGSIZE, EXDEV, EOPNOTSUPP, ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_get_space",
        .call = call_vfiomig_load_get_space,
        .object = LOAD,
        .states = 0x7,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_PTR, .size = sizeof(void *), .name = "space" },
            { .kind = A_PTR, .size = sizeof(size_t), .name = "len" },
        },
        .errors = {
            EBADF, ENOMEM, EFAULT, EBUSY, EINVAL, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_push_received",
        .call = call_vfiomig_load_push_received,
        .object = LOAD,
        .states = 0x7,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_NUMBER, .value = 0, .name = "len" },
        },
        .errors = {
            EPERM, EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EPROTO, EBADMSG,
            EMSGSIZE, EXDEV, EOPNOTSUPP, ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_commit",
        .call = call_vfiomig_load_commit,
        .object = LOAD,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, ENODATA, EOPNOTSUPP,
            ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_cancel",
        .call = call_vfiomig_load_cancel,
        .object = LOAD,
        .states = 0xf,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
        },
        .errors = {
            EBADF, EFAULT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_get_source_identity",
        .call = call_vfiomig_load_get_source_identity,
        .object = LOAD,
        .states = 0xf,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_identity), .name = "identity" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENODATA, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_get_stats",
        .call = call_vfiomig_load_get_stats,
        .object = LOAD,
        .states = 0xf,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_load_stats), .name = "stats" },
        },
        .errors = {
            EBADF, EFAULT, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_get_failure",
        .call = call_vfiomig_load_get_failure,
        .object = LOAD,
        .states = 0xf,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_failure), .name = "failure" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_free",
        .call = call_vfiomig_load_free,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_FREE, .object = LOAD, .name = "load" },
        },
    },
    {
        .name = "vfiomig_load_push_packet",
        .call = call_vfiomig_load_push_packet,
        .object = LOAD,
        .states = 0xf,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
            { .kind = A_DATA, .name = "packet" },
            { .kind = A_LEN, .name = "len" },
        },
        .errors = {
            EPERM, EIO, EBADF, EAGAIN, ENOMEM, EFAULT, ENODEV, EINVAL, ENOTTY, ENODATA, EPROTO,
            EMSGSIZE, EOPNOTSUPP, ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_load_write_packets",
        .call = call_vfiomig_load_write_packets,
        .object = LOAD,
        .states = 0xf,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = LOAD, .name = "load" },
        },
        .errors = {
            EPERM, EIO, EBADF, ENOMEM, EFAULT, ENODEV, EINVAL, ENOTTY, ENODATA, EPROTO, EMSGSIZE,
            EOPNOTSUPP, ETIMEDOUT, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_new",
        .call = call_vfiomig_dirty_new,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_IN, .size = sizeof(struct vfiomig_memory_ops), .name = "ops" },
            { .kind = A_OPAQUE, .name = "opaque" },
            { .kind = A_OPTIONS, .size = sizeof(struct vfiomig_dirty_options), .name = "options" },
            { .kind = A_OUT, .object = DIRTY, .size = sizeof(void *), .name = "out" },
        },
        .errors = {
            ENOMEM, EFAULT, EINVAL, E2BIG, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_free",
        .call = call_vfiomig_dirty_free,
        .object = NO_OBJECT,
        .states = 0x0,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_FREE, .object = DIRTY, .name = "dirty" },
        },
    },
    {
        .name = "vfiomig_dirty_add_writer",
        .call = call_vfiomig_dirty_add_writer,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_IN, .size = sizeof(struct vfiomig_dirty_writer), .name = "writer" },
            { .kind = A_PTR, .size = sizeof(uint32_t), .name = "number" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, E2BIG, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_remove_writer",
        .call = call_vfiomig_dirty_remove_writer,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "number" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, ENODATA, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_map",
        .call = call_vfiomig_dirty_map,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_IN, .size = sizeof(struct vfiomig_mapping), .name = "mapping" },
        },
        .errors = {
            EBADF, ENOMEM, EFAULT, EBUSY, EINVAL, E2BIG, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_unmap",
        .call = call_vfiomig_dirty_unmap,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 8,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "iova" },
            { .kind = A_NUMBER, .value = 4096, .name = "size" },
            { .kind = A_NUMBER, .value = 0, .name = "page_size" },
            { .kind = A_NO_WORDS, .name = "bitmap" },
            { .kind = A_LEN, .name = "num_words" },
            { .kind = A_UNMAP, .name = "unmap" },
            { .kind = A_OPAQUE, .name = "unmap_opaque" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, ENOSPC, EOPNOTSUPP,
            ETIMEDOUT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_start",
        .call = call_vfiomig_dirty_start,
        .object = DIRTY,
        .states = 0x1,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, E2BIG, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_collect",
        .call = call_vfiomig_dirty_collect,
        .object = DIRTY,
        .states = 0x2,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ECANCELED,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_sync",
        .call = call_vfiomig_dirty_sync,
        .object = DIRTY,
        .states = 0x2,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 6,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "iova" },
            { .kind = A_NUMBER, .value = 4096, .name = "length" },
            { .kind = A_NUMBER, .value = 4096, .name = "page_size" },
            { .kind = A_WORDS, .name = "bitmap" },
            { .kind = A_LEN, .name = "num_words" },
        },
        .errors = {
            EBADF, ENOMEM, EFAULT, EBUSY, EINVAL, ENOSPC, ECANCELED, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_rearm",
        .call = call_vfiomig_dirty_rearm,
        .object = DIRTY,
        .states = 0x2,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_stop",
        .call = call_vfiomig_dirty_stop,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, EOPNOTSUPP, ETIMEDOUT,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_cancel",
        .call = call_vfiomig_dirty_cancel,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 1,
        .no_wait = 0,
        .num_args = 1,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
        },
        .errors = {
            EBADF, EFAULT, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_mark",
        .call = call_vfiomig_dirty_mark,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "iova" },
            { .kind = A_NUMBER, .value = 4096, .name = "length" },
        },
        .errors = {
            EBADF, ENOMEM, EFAULT, EBUSY, EINVAL, ENODATA, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_dma_read",
        .call = call_vfiomig_dirty_dma_read,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "iova" },
            { .kind = A_BUFFER, .name = "buf" },
            { .kind = A_LEN, .name = "len" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, ENODATA, EOPNOTSUPP,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_dma_write",
        .call = call_vfiomig_dirty_dma_write,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 4,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "iova" },
            { .kind = A_DATA, .name = "buf" },
            { .kind = A_LEN, .name = "len" },
        },
        .errors = {
            EIO, EBADF, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY, ENODATA, EOPNOTSUPP,
            ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_get_stats",
        .call = call_vfiomig_dirty_get_stats,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 2,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_dirty_stats), .name = "stats" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_get_round",
        .call = call_vfiomig_dirty_get_round,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "index" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_dirty_round), .name = "round" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENODATA, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_get_writer_stats",
        .call = call_vfiomig_dirty_get_writer_stats,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "number" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_dirty_writer_stats), .name = "stats" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENODATA, ENOTRECOVERABLE
        },
    },
    {
        .name = "vfiomig_dirty_get_error",
        .call = call_vfiomig_dirty_get_error,
        .object = DIRTY,
        .states = 0x3,
        .wrong_state = EINVAL,
        .concurrent = 0,
        .no_wait = 0,
        .num_args = 3,
        .args = {
            { .kind = A_HANDLE, .object = DIRTY, .name = "dirty" },
            { .kind = A_NUMBER, .value = 0, .name = "index" },
            { .kind = A_STRUCT, .size = sizeof(struct vfiomig_dirty_error), .name = "error" },
        },
        .errors = {
            EBADF, EFAULT, EBUSY, EINVAL, ENODATA, ENOTRECOVERABLE
        },
    },
};
