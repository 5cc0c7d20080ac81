// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made by apigen from the api.toml files; do not edit.

use super::row::{Kind, Row};
use crate::error::Code;

pub(super) static DEVICE: Kind =
    Kind { number: 1, name: "device", states: &["live"], waits: false };

pub(super) static SAVE: Kind = Kind {
    number: 2,
    name: "save",
    states: &["pre-copy", "quiesced", "stop-copy", "ended", "failed", "finished"],
    waits: false,
};

pub(super) static LOAD: Kind = Kind {
    number: 3,
    name: "load",
    states: &["receiving", "complete", "committed", "failed"],
    waits: false,
};

pub(super) static DIRTY: Kind =
    Kind { number: 4, name: "dirty", states: &["idle", "tracking"], waits: true };

pub(super) const LOG_SET: Row =
    Row { name: "vfiomig_log_set", states: 0b0, wrong_state: Code::Inval, needs_memory: true };

pub(super) const LOG_INIT_ENV: Row =
    Row { name: "vfiomig_log_init_env", states: 0b0, wrong_state: Code::Inval, needs_memory: true };

pub(super) const FSM_PATH: Row =
    Row { name: "vfiomig_fsm_path", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const DEVICE_NEW_FD: Row = Row {
    name: "vfiomig_device_new_fd",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_NEW_OPS: Row = Row {
    name: "vfiomig_device_new_ops",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_FREE: Row =
    Row { name: "vfiomig_device_free", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const DEVICE_GET_CAPS: Row = Row {
    name: "vfiomig_device_get_caps",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_REASON: Row = Row {
    name: "vfiomig_device_get_reason",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_IDENTITY: Row = Row {
    name: "vfiomig_device_get_identity",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_STATE: Row = Row {
    name: "vfiomig_device_get_state",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_SET_STATE: Row = Row {
    name: "vfiomig_device_set_state",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_RUN: Row =
    Row { name: "vfiomig_device_run", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DEVICE_RESET: Row =
    Row { name: "vfiomig_device_reset", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DEVICE_NOTIFY_RESET: Row = Row {
    name: "vfiomig_device_notify_reset",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_ACCEPT_RESET: Row = Row {
    name: "vfiomig_device_accept_reset",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_GET_FIXUPS: Row = Row {
    name: "vfiomig_device_get_fixups",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_FAILURE: Row = Row {
    name: "vfiomig_device_get_failure",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_BEGIN: Row =
    Row { name: "vfiomig_save_begin", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const SAVE_NEXT: Row =
    Row { name: "vfiomig_save_next", states: 0b111, wrong_state: Code::Inval, needs_memory: true };

pub(super) const SAVE_ADD_BLOB: Row = Row {
    name: "vfiomig_save_add_blob",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const SAVE_GET_PENDING: Row = Row {
    name: "vfiomig_save_get_pending",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_GET_POLL_FD: Row = Row {
    name: "vfiomig_save_get_poll_fd",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_QUIESCE: Row =
    Row { name: "vfiomig_save_quiesce", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const SAVE_STOP: Row =
    Row { name: "vfiomig_save_stop", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const SAVE_FINISH: Row = Row {
    name: "vfiomig_save_finish",
    states: 0b11111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const SAVE_CANCEL: Row = Row {
    name: "vfiomig_save_cancel",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_GET_STATS: Row = Row {
    name: "vfiomig_save_get_stats",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_GET_FAILURE: Row = Row {
    name: "vfiomig_save_get_failure",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_FREE: Row =
    Row { name: "vfiomig_save_free", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const LOAD_BEGIN: Row =
    Row { name: "vfiomig_load_begin", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const LOAD_PUSH: Row =
    Row { name: "vfiomig_load_push", states: 0b111, wrong_state: Code::Inval, needs_memory: true };

pub(super) const LOAD_GET_SPACE: Row = Row {
    name: "vfiomig_load_get_space",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_PUSH_RECEIVED: Row = Row {
    name: "vfiomig_load_push_received",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_COMMIT: Row =
    Row { name: "vfiomig_load_commit", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const LOAD_CANCEL: Row = Row {
    name: "vfiomig_load_cancel",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_GET_SOURCE_IDENTITY: Row = Row {
    name: "vfiomig_load_get_source_identity",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_GET_STATS: Row = Row {
    name: "vfiomig_load_get_stats",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_GET_FAILURE: Row = Row {
    name: "vfiomig_load_get_failure",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_FREE: Row =
    Row { name: "vfiomig_load_free", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const LOAD_PUSH_PACKET: Row = Row {
    name: "vfiomig_load_push_packet",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_WRITE_PACKETS: Row = Row {
    name: "vfiomig_load_write_packets",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_NEW: Row =
    Row { name: "vfiomig_dirty_new", states: 0b0, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_FREE: Row =
    Row { name: "vfiomig_dirty_free", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const DIRTY_ADD_WRITER: Row = Row {
    name: "vfiomig_dirty_add_writer",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_REMOVE_WRITER: Row = Row {
    name: "vfiomig_dirty_remove_writer",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_MAP: Row =
    Row { name: "vfiomig_dirty_map", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_UNMAP: Row =
    Row { name: "vfiomig_dirty_unmap", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_START: Row =
    Row { name: "vfiomig_dirty_start", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_COLLECT: Row = Row {
    name: "vfiomig_dirty_collect",
    states: 0b10,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_SYNC: Row =
    Row { name: "vfiomig_dirty_sync", states: 0b10, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_REARM: Row = Row {
    name: "vfiomig_dirty_rearm",
    states: 0b10,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_STOP: Row =
    Row { name: "vfiomig_dirty_stop", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_CANCEL: Row = Row {
    name: "vfiomig_dirty_cancel",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_MARK: Row =
    Row { name: "vfiomig_dirty_mark", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_DMA_READ: Row = Row {
    name: "vfiomig_dirty_dma_read",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_DMA_WRITE: Row = Row {
    name: "vfiomig_dirty_dma_write",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_GET_STATS: Row = Row {
    name: "vfiomig_dirty_get_stats",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_GET_ROUND: Row = Row {
    name: "vfiomig_dirty_get_round",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_GET_WRITER_STATS: Row = Row {
    name: "vfiomig_dirty_get_writer_stats",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_GET_ERROR: Row = Row {
    name: "vfiomig_dirty_get_error",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};
