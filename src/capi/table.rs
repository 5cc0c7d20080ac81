// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made by apigen from api.toml; do not edit.

use super::entry::Entry;
use crate::error::Code;

/// States of a device, in the order of their bits.
pub(super) const DEVICE_STATES: &[&str] = &["live"];

/// States of a save, in the order of their bits.
pub(super) const SAVE_STATES: &[&str] =
    &["pre-copy", "quiesced", "stop-copy", "ended", "failed", "finished"];

/// States of a load, in the order of their bits.
pub(super) const LOAD_STATES: &[&str] = &["receiving", "complete", "committed", "failed"];

/// States of a dirty, in the order of their bits.
pub(super) const DIRTY_STATES: &[&str] = &["idle", "tracking"];

pub(super) const LOG_SET: Entry =
    Entry { name: "vfiomig_log_set", states: 0b0, wrong_state: Code::Inval, needs_memory: true };

pub(super) const LOG_INIT_ENV: Entry = Entry {
    name: "vfiomig_log_init_env",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const FSM_PATH: Entry =
    Entry { name: "vfiomig_fsm_path", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const DEVICE_NEW_FD: Entry = Entry {
    name: "vfiomig_device_new_fd",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_NEW_OPS: Entry = Entry {
    name: "vfiomig_device_new_ops",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_FREE: Entry = Entry {
    name: "vfiomig_device_free",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_CAPS: Entry = Entry {
    name: "vfiomig_device_get_caps",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_REASON: Entry = Entry {
    name: "vfiomig_device_get_reason",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_IDENTITY: Entry = Entry {
    name: "vfiomig_device_get_identity",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_STATE: Entry = Entry {
    name: "vfiomig_device_get_state",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_SET_STATE: Entry = Entry {
    name: "vfiomig_device_set_state",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_RUN: Entry =
    Entry { name: "vfiomig_device_run", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DEVICE_RESET: Entry = Entry {
    name: "vfiomig_device_reset",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_NOTIFY_RESET: Entry = Entry {
    name: "vfiomig_device_notify_reset",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_ACCEPT_RESET: Entry = Entry {
    name: "vfiomig_device_accept_reset",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DEVICE_GET_FIXUPS: Entry = Entry {
    name: "vfiomig_device_get_fixups",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DEVICE_GET_FAILURE: Entry = Entry {
    name: "vfiomig_device_get_failure",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_BEGIN: Entry =
    Entry { name: "vfiomig_save_begin", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const SAVE_NEXT: Entry = Entry {
    name: "vfiomig_save_next",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const SAVE_ADD_BLOB: Entry = Entry {
    name: "vfiomig_save_add_blob",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const SAVE_GET_PENDING: Entry = Entry {
    name: "vfiomig_save_get_pending",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_GET_POLL_FD: Entry = Entry {
    name: "vfiomig_save_get_poll_fd",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_QUIESCE: Entry = Entry {
    name: "vfiomig_save_quiesce",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const SAVE_STOP: Entry =
    Entry { name: "vfiomig_save_stop", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const SAVE_FINISH: Entry = Entry {
    name: "vfiomig_save_finish",
    states: 0b11111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const SAVE_CANCEL: Entry = Entry {
    name: "vfiomig_save_cancel",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_GET_STATS: Entry = Entry {
    name: "vfiomig_save_get_stats",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_GET_FAILURE: Entry = Entry {
    name: "vfiomig_save_get_failure",
    states: 0b111111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const SAVE_FREE: Entry =
    Entry { name: "vfiomig_save_free", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const LOAD_BEGIN: Entry =
    Entry { name: "vfiomig_load_begin", states: 0b1, wrong_state: Code::Inval, needs_memory: true };

pub(super) const LOAD_PUSH: Entry = Entry {
    name: "vfiomig_load_push",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_GET_SPACE: Entry = Entry {
    name: "vfiomig_load_get_space",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_PUSH_RECEIVED: Entry = Entry {
    name: "vfiomig_load_push_received",
    states: 0b111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_COMMIT: Entry = Entry {
    name: "vfiomig_load_commit",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_PUSH_PACKET: Entry = Entry {
    name: "vfiomig_load_push_packet",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_WRITE_PACKETS: Entry = Entry {
    name: "vfiomig_load_write_packets",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const LOAD_CANCEL: Entry = Entry {
    name: "vfiomig_load_cancel",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_GET_SOURCE_IDENTITY: Entry = Entry {
    name: "vfiomig_load_get_source_identity",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_GET_STATS: Entry = Entry {
    name: "vfiomig_load_get_stats",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_GET_FAILURE: Entry = Entry {
    name: "vfiomig_load_get_failure",
    states: 0b1111,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const LOAD_FREE: Entry =
    Entry { name: "vfiomig_load_free", states: 0b0, wrong_state: Code::Inval, needs_memory: false };

pub(super) const DIRTY_NEW: Entry =
    Entry { name: "vfiomig_dirty_new", states: 0b0, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_FREE: Entry = Entry {
    name: "vfiomig_dirty_free",
    states: 0b0,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_ADD_WRITER: Entry = Entry {
    name: "vfiomig_dirty_add_writer",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_REMOVE_WRITER: Entry = Entry {
    name: "vfiomig_dirty_remove_writer",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_MAP: Entry =
    Entry { name: "vfiomig_dirty_map", states: 0b11, wrong_state: Code::Inval, needs_memory: true };

pub(super) const DIRTY_UNMAP: Entry = Entry {
    name: "vfiomig_dirty_unmap",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_START: Entry = Entry {
    name: "vfiomig_dirty_start",
    states: 0b1,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_COLLECT: Entry = Entry {
    name: "vfiomig_dirty_collect",
    states: 0b10,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_SYNC: Entry = Entry {
    name: "vfiomig_dirty_sync",
    states: 0b10,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_REARM: Entry = Entry {
    name: "vfiomig_dirty_rearm",
    states: 0b10,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_STOP: Entry = Entry {
    name: "vfiomig_dirty_stop",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_CANCEL: Entry = Entry {
    name: "vfiomig_dirty_cancel",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_MARK: Entry = Entry {
    name: "vfiomig_dirty_mark",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_DMA_READ: Entry = Entry {
    name: "vfiomig_dirty_dma_read",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_DMA_WRITE: Entry = Entry {
    name: "vfiomig_dirty_dma_write",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: true,
};

pub(super) const DIRTY_GET_STATS: Entry = Entry {
    name: "vfiomig_dirty_get_stats",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_GET_ROUND: Entry = Entry {
    name: "vfiomig_dirty_get_round",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_GET_WRITER_STATS: Entry = Entry {
    name: "vfiomig_dirty_get_writer_stats",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};

pub(super) const DIRTY_GET_ERROR: Entry = Entry {
    name: "vfiomig_dirty_get_error",
    states: 0b11,
    wrong_state: Code::Inval,
    needs_memory: false,
};
