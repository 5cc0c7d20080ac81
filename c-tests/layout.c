/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The layout of every structure that crosses the ABI, frozen. A line that no longer holds is a
 * break of the ABI: append members, never change or move them. c-tests/abi.sh checks that no
 * structure is missing here.
 */
#include "idle.h"
#include "scratch.h"

#define SIZE(type, size) \
    _Static_assert(sizeof(struct type) == (size), "size of " #type)
#define FIELD(type, field, at, size)                                                   \
    _Static_assert(offsetof(struct type, field) == (at), "place of " #type "." #field); \
    _Static_assert(sizeof(((struct type *)0)->field) == (size), "size of " #type "." #field)

#ifdef __LP64__

SIZE(vfiomig_event, 312);
FIELD(vfiomig_event, struct_size, 0, 4);
FIELD(vfiomig_event, kind, 4, 4);
FIELD(vfiomig_event, from, 8, 4);
FIELD(vfiomig_event, to, 12, 4);
FIELD(vfiomig_event, outcome, 16, 4);
FIELD(vfiomig_event, fixups, 20, 4);
FIELD(vfiomig_event, duration_ns, 24, 8);
FIELD(vfiomig_event, at_ns, 32, 8);
FIELD(vfiomig_event, lost, 40, 8);
FIELD(vfiomig_event, times, 48, 8);
FIELD(vfiomig_event, bytes, 56, 8);
FIELD(vfiomig_event, count, 64, 8);
FIELD(vfiomig_event, device, 72, 4);
FIELD(vfiomig_event, code, 76, 4);
FIELD(vfiomig_event, operation, 80, 4);
FIELD(vfiomig_event, os_errno, 84, 4);
FIELD(vfiomig_event, cause, 88, 4);
FIELD(vfiomig_event, phase, 92, 4);
FIELD(vfiomig_event, verdict, 96, 4);
FIELD(vfiomig_event, because, 100, 4);
FIELD(vfiomig_event, text, 104, 208);

SIZE(vfiomig_device_options, 56);
FIELD(vfiomig_device_options, struct_size, 0, 4);
FIELD(vfiomig_device_options, flags, 4, 4);
FIELD(vfiomig_device_options, sysfs_path, 8, 8);
FIELD(vfiomig_device_options, vendor_data, 16, 8);
FIELD(vfiomig_device_options, vendor_data_len, 24, 4);
FIELD(vfiomig_device_options, reserved, 28, 4);
FIELD(vfiomig_device_options, event, 32, 8);
FIELD(vfiomig_device_options, event_opaque, 40, 8);
FIELD(vfiomig_device_options, event_release, 48, 8);

SIZE(vfiomig_precopy_info, 24);
FIELD(vfiomig_precopy_info, argsz, 0, 4);
FIELD(vfiomig_precopy_info, flags, 4, 4);
FIELD(vfiomig_precopy_info, initial_bytes, 8, 8);
FIELD(vfiomig_precopy_info, dirty_bytes, 16, 8);

SIZE(vfiomig_identity, 776);
FIELD(vfiomig_identity, struct_size, 0, 4);
FIELD(vfiomig_identity, vendor_data_len, 4, 4);
FIELD(vfiomig_identity, migration_flags, 8, 8);
FIELD(vfiomig_identity, state_size, 16, 8);
FIELD(vfiomig_identity, pci_vendor, 24, 2);
FIELD(vfiomig_identity, pci_device, 26, 2);
FIELD(vfiomig_identity, pci_subsystem_vendor, 28, 2);
FIELD(vfiomig_identity, pci_subsystem_device, 30, 2);
FIELD(vfiomig_identity, pci_revision, 32, 1);
FIELD(vfiomig_identity, reserved, 33, 7);
FIELD(vfiomig_identity, bus, 40, 16);
FIELD(vfiomig_identity, driver, 56, 64);
FIELD(vfiomig_identity, mdev_type, 120, 64);
FIELD(vfiomig_identity, kernel_release, 184, 72);
FIELD(vfiomig_identity, vendor_data, 256, 256);
FIELD(vfiomig_identity, vendor_type, 512, 64);
FIELD(vfiomig_identity, driver_version, 576, 64);
FIELD(vfiomig_identity, driver_srcversion, 640, 64);
FIELD(vfiomig_identity, firmware, 704, 64);
FIELD(vfiomig_identity, protocol, 768, 4);
FIELD(vfiomig_identity, reserved2, 772, 4);

SIZE(vfiomig_compat_rule, 40);
FIELD(vfiomig_compat_rule, struct_size, 0, 4);
FIELD(vfiomig_compat_rule, field, 4, 4);
FIELD(vfiomig_compat_rule, rule, 8, 4);
FIELD(vfiomig_compat_rule, num_values, 12, 4);
FIELD(vfiomig_compat_rule, values, 16, 8);
FIELD(vfiomig_compat_rule, min, 24, 8);
FIELD(vfiomig_compat_rule, max, 32, 8);

SIZE(vfiomig_compat_policy, 48);
FIELD(vfiomig_compat_policy, struct_size, 0, 4);
FIELD(vfiomig_compat_policy, others, 4, 4);
FIELD(vfiomig_compat_policy, rules, 8, 8);
FIELD(vfiomig_compat_policy, num_rules, 16, 4);
FIELD(vfiomig_compat_policy, reserved, 20, 4);
FIELD(vfiomig_compat_policy, decide, 24, 8);
FIELD(vfiomig_compat_policy, decide_opaque, 32, 8);
FIELD(vfiomig_compat_policy, decide_release, 40, 8);

SIZE(vfiomig_compat_reason, 1024);
FIELD(vfiomig_compat_reason, struct_size, 0, 4);
FIELD(vfiomig_compat_reason, field, 4, 4);
FIELD(vfiomig_compat_reason, code, 8, 4);
FIELD(vfiomig_compat_reason, severity, 12, 4);
FIELD(vfiomig_compat_reason, label, 16, 32);
FIELD(vfiomig_compat_reason, source, 48, 256);
FIELD(vfiomig_compat_reason, target, 304, 256);
FIELD(vfiomig_compat_reason, text, 560, 464);

SIZE(vfiomig_verdict, 24);
FIELD(vfiomig_verdict, struct_size, 0, 4);
FIELD(vfiomig_verdict, compatible, 4, 4);
FIELD(vfiomig_verdict, num_reasons, 8, 4);
FIELD(vfiomig_verdict, num_refused, 12, 4);
FIELD(vfiomig_verdict, num_unchecked, 16, 4);
FIELD(vfiomig_verdict, reserved, 20, 4);

SIZE(vfiomig_device_ops, 120);
FIELD(vfiomig_device_ops, struct_size, 0, 4);
FIELD(vfiomig_device_ops, reserved, 4, 4);
FIELD(vfiomig_device_ops, feature, 8, 8);
FIELD(vfiomig_device_ops, reset, 16, 8);
FIELD(vfiomig_device_ops, data_read, 24, 8);
FIELD(vfiomig_device_ops, data_write, 32, 8);
FIELD(vfiomig_device_ops, data_precopy_info, 40, 8);
FIELD(vfiomig_device_ops, data_close, 48, 8);
FIELD(vfiomig_device_ops, data_poll_fd, 56, 8);
FIELD(vfiomig_device_ops, data_set_nonblocking, 64, 8);
FIELD(vfiomig_device_ops, region_read, 72, 8);
FIELD(vfiomig_device_ops, identity, 80, 8);
FIELD(vfiomig_device_ops, release, 88, 8);
FIELD(vfiomig_device_ops, device_info, 96, 8);
FIELD(vfiomig_device_ops, region_info, 104, 8);
FIELD(vfiomig_device_ops, region_write, 112, 8);

SIZE(vfiomig_caps, 32);
FIELD(vfiomig_caps, struct_size, 0, 4);
FIELD(vfiomig_caps, flags, 4, 4);
FIELD(vfiomig_caps, migration_flags, 8, 8);
FIELD(vfiomig_caps, state_size, 16, 8);
FIELD(vfiomig_caps, initial_state, 24, 4);
FIELD(vfiomig_caps, num_reasons, 28, 4);

SIZE(vfiomig_reason, 512);
FIELD(vfiomig_reason, struct_size, 0, 4);
FIELD(vfiomig_reason, code, 4, 4);
FIELD(vfiomig_reason, severity, 8, 4);
FIELD(vfiomig_reason, reserved, 12, 4);
FIELD(vfiomig_reason, label, 16, 32);
FIELD(vfiomig_reason, text, 48, 464);

SIZE(vfiomig_failure, 48);
FIELD(vfiomig_failure, struct_size, 0, 4);
FIELD(vfiomig_failure, code, 4, 4);
FIELD(vfiomig_failure, operation, 8, 4);
FIELD(vfiomig_failure, ioctl_request, 12, 4);
FIELD(vfiomig_failure, os_errno, 16, 4);
FIELD(vfiomig_failure, state_before, 20, 4);
FIELD(vfiomig_failure, state_wanted, 24, 4);
FIELD(vfiomig_failure, state_after, 28, 4);
FIELD(vfiomig_failure, outcome, 32, 4);
FIELD(vfiomig_failure, fixups, 36, 4);
FIELD(vfiomig_failure, offset, 40, 8);

SIZE(vfiomig_path, 48);
FIELD(vfiomig_path, struct_size, 0, 4);
FIELD(vfiomig_path, num_steps, 4, 4);
FIELD(vfiomig_path, steps, 8, 32);
FIELD(vfiomig_path, opens_data, 40, 4);
FIELD(vfiomig_path, reserved, 44, 4);

SIZE(vfiomig_auth, 88);
FIELD(vfiomig_auth, struct_size, 0, 4);
FIELD(vfiomig_auth, flags, 4, 4);
FIELD(vfiomig_auth, key_id, 8, 4);
FIELD(vfiomig_auth, reserved, 12, 4);
FIELD(vfiomig_auth, challenge, 16, 32);
FIELD(vfiomig_auth, get_key, 48, 8);
FIELD(vfiomig_auth, get_key_opaque, 56, 8);
FIELD(vfiomig_auth, get_key_release, 64, 8);
FIELD(vfiomig_auth, mac, 72, 8);
FIELD(vfiomig_auth, mac_opaque, 80, 8);

SIZE(vfiomig_mac_ops, 40);
FIELD(vfiomig_mac_ops, struct_size, 0, 4);
FIELD(vfiomig_mac_ops, tag_len, 4, 4);
FIELD(vfiomig_mac_ops, begin, 8, 8);
FIELD(vfiomig_mac_ops, update, 16, 8);
FIELD(vfiomig_mac_ops, finish, 24, 8);
FIELD(vfiomig_mac_ops, release, 32, 8);

SIZE(vfiomig_load_options, 176);
FIELD(vfiomig_load_options, struct_size, 0, 4);
FIELD(vfiomig_load_options, ignore, 4, 4);
FIELD(vfiomig_load_options, max_frame, 8, 4);
FIELD(vfiomig_load_options, max_blob, 12, 4);
FIELD(vfiomig_load_options, max_blobs, 16, 4);
FIELD(vfiomig_load_options, max_restarts, 20, 4);
FIELD(vfiomig_load_options, max_total, 24, 8);
FIELD(vfiomig_load_options, max_queued, 32, 8);
FIELD(vfiomig_load_options, max_ahead, 40, 4);
FIELD(vfiomig_load_options, write_timeout_ms, 44, 4);
FIELD(vfiomig_load_options, flags, 48, 4);
FIELD(vfiomig_load_options, device_index, 52, 4);
FIELD(vfiomig_load_options, format, 56, 4);
FIELD(vfiomig_load_options, reserved, 60, 4);
FIELD(vfiomig_load_options, migration_id, 64, 16);
FIELD(vfiomig_load_options, blob, 80, 8);
FIELD(vfiomig_load_options, blob_opaque, 88, 8);
FIELD(vfiomig_load_options, blob_release, 96, 8);
FIELD(vfiomig_load_options, policy, 104, 8);
FIELD(vfiomig_load_options, policy_opaque, 112, 8);
FIELD(vfiomig_load_options, policy_release, 120, 8);
FIELD(vfiomig_load_options, source, 128, 8);
FIELD(vfiomig_load_options, compat, 136, 8);
FIELD(vfiomig_load_options, auth, 144, 8);
FIELD(vfiomig_load_options, limits, 152, 8);
FIELD(vfiomig_load_options, guard, 160, 8);
FIELD(vfiomig_load_options, guard_opaque, 168, 8);

SIZE(vfiomig_limits, 64);
FIELD(vfiomig_limits, struct_size, 0, 4);
FIELD(vfiomig_limits, max_frame, 4, 4);
FIELD(vfiomig_limits, max_blob, 8, 4);
FIELD(vfiomig_limits, max_blobs, 12, 4);
FIELD(vfiomig_limits, max_restarts, 16, 4);
FIELD(vfiomig_limits, max_other_frames, 20, 4);
FIELD(vfiomig_limits, max_total, 24, 8);
FIELD(vfiomig_limits, max_queued, 32, 8);
FIELD(vfiomig_limits, max_memory, 40, 8);
FIELD(vfiomig_limits, max_ahead, 48, 4);
FIELD(vfiomig_limits, progress_timeout_ms, 52, 4);
FIELD(vfiomig_limits, progress_bytes, 56, 4);
FIELD(vfiomig_limits, reserved, 60, 4);

SIZE(vfiomig_guard_ops, 56);
FIELD(vfiomig_guard_ops, struct_size, 0, 4);
FIELD(vfiomig_guard_ops, reserved, 4, 4);
FIELD(vfiomig_guard_ops, records, 8, 8);
FIELD(vfiomig_guard_ops, begin, 16, 8);
FIELD(vfiomig_guard_ops, data, 24, 8);
FIELD(vfiomig_guard_ops, restart, 32, 8);
FIELD(vfiomig_guard_ops, end, 40, 8);
FIELD(vfiomig_guard_ops, release, 48, 8);

SIZE(vfiomig_guard_records, 72);
FIELD(vfiomig_guard_records, struct_size, 0, 4);
FIELD(vfiomig_guard_records, flags, 4, 4);
FIELD(vfiomig_guard_records, header_len, 8, 4);
FIELD(vfiomig_guard_records, size_offset, 12, 4);
FIELD(vfiomig_guard_records, size_width, 16, 4);
FIELD(vfiomig_guard_records, tag_offset, 20, 4);
FIELD(vfiomig_guard_records, tag_width, 24, 4);
FIELD(vfiomig_guard_records, tag_count, 28, 4);
FIELD(vfiomig_guard_records, tags, 32, 8);
FIELD(vfiomig_guard_records, flags_offset, 40, 4);
FIELD(vfiomig_guard_records, flags_width, 44, 4);
FIELD(vfiomig_guard_records, optional_mask, 48, 8);
FIELD(vfiomig_guard_records, max_record, 56, 8);
FIELD(vfiomig_guard_records, max_total, 64, 8);

SIZE(vfiomig_load_stats, 96);
FIELD(vfiomig_load_stats, struct_size, 0, 4);
FIELD(vfiomig_load_stats, reserved, 4, 4);
FIELD(vfiomig_load_stats, data_bytes, 8, 8);
FIELD(vfiomig_load_stats, stream_bytes, 16, 8);
FIELD(vfiomig_load_stats, frames, 24, 8);
FIELD(vfiomig_load_stats, packets, 32, 8);
FIELD(vfiomig_load_stats, queued_bytes, 40, 8);
FIELD(vfiomig_load_stats, restarts, 48, 8);
FIELD(vfiomig_load_stats, blobs, 56, 8);
FIELD(vfiomig_load_stats, write_ns, 64, 8);
FIELD(vfiomig_load_stats, begin_ns, 72, 8);
FIELD(vfiomig_load_stats, commit_ns, 80, 8);
FIELD(vfiomig_load_stats, initial_generation, 88, 8);

SIZE(vfiomig_save_options, 64);
FIELD(vfiomig_save_options, struct_size, 0, 4);
FIELD(vfiomig_save_options, flags, 4, 4);
FIELD(vfiomig_save_options, device_index, 8, 4);
FIELD(vfiomig_save_options, max_frame, 12, 4);
FIELD(vfiomig_save_options, max_restarts, 16, 4);
FIELD(vfiomig_save_options, format, 20, 4);
FIELD(vfiomig_save_options, migration_id, 24, 16);
FIELD(vfiomig_save_options, read_timeout_ms, 40, 4);
FIELD(vfiomig_save_options, reserved, 44, 4);
FIELD(vfiomig_save_options, auth, 48, 8);
FIELD(vfiomig_save_options, limits, 56, 8);

SIZE(vfiomig_pending, 40);
FIELD(vfiomig_pending, struct_size, 0, 4);
FIELD(vfiomig_pending, flags, 4, 4);
FIELD(vfiomig_pending, initial_bytes, 8, 8);
FIELD(vfiomig_pending, dirty_bytes, 16, 8);
FIELD(vfiomig_pending, stop_copy_bytes, 24, 8);
FIELD(vfiomig_pending, initial_generation, 32, 4);
FIELD(vfiomig_pending, reserved, 36, 4);

SIZE(vfiomig_save_stats, 88);
FIELD(vfiomig_save_stats, struct_size, 0, 4);
FIELD(vfiomig_save_stats, reserved, 4, 4);
FIELD(vfiomig_save_stats, data_bytes, 8, 8);
FIELD(vfiomig_save_stats, precopy_bytes, 16, 8);
FIELD(vfiomig_save_stats, stream_bytes, 24, 8);
FIELD(vfiomig_save_stats, frames, 32, 8);
FIELD(vfiomig_save_stats, restarts, 40, 8);
FIELD(vfiomig_save_stats, stop_read_ns, 48, 8);
FIELD(vfiomig_save_stats, begin_ns, 56, 8);
FIELD(vfiomig_save_stats, quiesce_ns, 64, 8);
FIELD(vfiomig_save_stats, stop_ns, 72, 8);
FIELD(vfiomig_save_stats, finish_ns, 80, 8);

SIZE(vfiomig_mapping, 48);
FIELD(vfiomig_mapping, struct_size, 0, 4);
FIELD(vfiomig_mapping, flags, 4, 4);
FIELD(vfiomig_mapping, iova, 8, 8);
FIELD(vfiomig_mapping, size, 16, 8);
FIELD(vfiomig_mapping, cookie, 24, 8);
FIELD(vfiomig_mapping, offset, 32, 8);
FIELD(vfiomig_mapping, host, 40, 8);

SIZE(vfiomig_place, 40);
FIELD(vfiomig_place, struct_size, 0, 4);
FIELD(vfiomig_place, reserved, 4, 4);
FIELD(vfiomig_place, cookie, 8, 8);
FIELD(vfiomig_place, offset, 16, 8);
FIELD(vfiomig_place, size, 24, 8);
FIELD(vfiomig_place, host, 32, 8);

SIZE(vfiomig_memory_ops, 56);
FIELD(vfiomig_memory_ops, struct_size, 0, 4);
FIELD(vfiomig_memory_ops, reserved, 4, 4);
FIELD(vfiomig_memory_ops, enumerate, 8, 8);
FIELD(vfiomig_memory_ops, set_dirty, 16, 8);
FIELD(vfiomig_memory_ops, translate, 24, 8);
FIELD(vfiomig_memory_ops, read, 32, 8);
FIELD(vfiomig_memory_ops, write, 40, 8);
FIELD(vfiomig_memory_ops, release, 48, 8);

SIZE(vfiomig_group_options, 40);
FIELD(vfiomig_group_options, struct_size, 0, 4);
FIELD(vfiomig_group_options, flags, 4, 4);
FIELD(vfiomig_group_options, role, 8, 4);
FIELD(vfiomig_group_options, reserved, 12, 4);
FIELD(vfiomig_group_options, migration_id, 16, 16);
FIELD(vfiomig_group_options, window, 32, 8);

SIZE(vfiomig_group_status, 56);
FIELD(vfiomig_group_status, struct_size, 0, 4);
FIELD(vfiomig_group_status, phase, 4, 4);
FIELD(vfiomig_group_status, num_devices, 8, 4);
FIELD(vfiomig_group_status, num_failed, 12, 4);
FIELD(vfiomig_group_status, num_complete, 16, 4);
FIELD(vfiomig_group_status, reserved, 20, 4);
FIELD(vfiomig_group_status, migration_id, 24, 16);
FIELD(vfiomig_group_status, held_bytes, 40, 8);
FIELD(vfiomig_group_status, num_drained, 48, 4);
FIELD(vfiomig_group_status, num_channels, 52, 4);

SIZE(vfiomig_channel_ops, 32);
FIELD(vfiomig_channel_ops, struct_size, 0, 4);
FIELD(vfiomig_channel_ops, reserved, 4, 4);
FIELD(vfiomig_channel_ops, send, 8, 8);
FIELD(vfiomig_channel_ops, receive, 16, 8);
FIELD(vfiomig_channel_ops, release, 24, 8);

SIZE(vfiomig_channel_options, 32);
FIELD(vfiomig_channel_options, struct_size, 0, 4);
FIELD(vfiomig_channel_options, flags, 4, 4);
FIELD(vfiomig_channel_options, fd, 8, 4);
FIELD(vfiomig_channel_options, timeout_ms, 12, 4);
FIELD(vfiomig_channel_options, ops, 16, 8);
FIELD(vfiomig_channel_options, ops_opaque, 24, 8);

SIZE(vfiomig_channel_stats, 48);
FIELD(vfiomig_channel_stats, struct_size, 0, 4);
FIELD(vfiomig_channel_stats, closed, 4, 4);
FIELD(vfiomig_channel_stats, sent_bytes, 8, 8);
FIELD(vfiomig_channel_stats, sent_frames, 16, 8);
FIELD(vfiomig_channel_stats, received_bytes, 24, 8);
FIELD(vfiomig_channel_stats, received_frames, 32, 8);
FIELD(vfiomig_channel_stats, blocked, 40, 8);

SIZE(vfiomig_handover_options, 56);
FIELD(vfiomig_handover_options, struct_size, 0, 4);
FIELD(vfiomig_handover_options, role, 4, 4);
FIELD(vfiomig_handover_options, migration_id, 8, 16);
FIELD(vfiomig_handover_options, key_id, 24, 16);
FIELD(vfiomig_handover_options, attempt, 40, 4);
FIELD(vfiomig_handover_options, num_devices, 44, 4);
FIELD(vfiomig_handover_options, repeat_ms, 48, 4);
FIELD(vfiomig_handover_options, reserved, 52, 4);

SIZE(vfiomig_handover_action, 24);
FIELD(vfiomig_handover_action, struct_size, 0, 4);
FIELD(vfiomig_handover_action, action, 4, 4);
FIELD(vfiomig_handover_action, wait_ms, 8, 4);
FIELD(vfiomig_handover_action, message_len, 12, 4);
FIELD(vfiomig_handover_action, message, 16, 8);

SIZE(vfiomig_handover_outcome, 24);
FIELD(vfiomig_handover_outcome, struct_size, 0, 4);
FIELD(vfiomig_handover_outcome, outcome, 4, 4);
FIELD(vfiomig_handover_outcome, reason, 8, 4);
FIELD(vfiomig_handover_outcome, code, 12, 4);
FIELD(vfiomig_handover_outcome, flags, 16, 4);
FIELD(vfiomig_handover_outcome, reserved, 20, 4);

SIZE(vfiomig_prediction, 232);
FIELD(vfiomig_prediction, struct_size, 0, 4);
FIELD(vfiomig_prediction, flags, 4, 4);
FIELD(vfiomig_prediction, expected_ns, 8, 64);
FIELD(vfiomig_prediction, low_ns, 72, 64);
FIELD(vfiomig_prediction, high_ns, 136, 64);
FIELD(vfiomig_prediction, stop_copy_bytes, 200, 8);
FIELD(vfiomig_prediction, stop_copy_low_bytes, 208, 8);
FIELD(vfiomig_prediction, stop_copy_high_bytes, 216, 8);
FIELD(vfiomig_prediction, precopy_bytes, 224, 8);

SIZE(vfiomig_decision, 40);
FIELD(vfiomig_decision, struct_size, 0, 4);
FIELD(vfiomig_decision, verdict, 4, 4);
FIELD(vfiomig_decision, because, 8, 4);
FIELD(vfiomig_decision, device, 12, 4);
FIELD(vfiomig_decision, expected_ns, 16, 8);
FIELD(vfiomig_decision, low_ns, 24, 8);
FIELD(vfiomig_decision, high_ns, 32, 8);

SIZE(vfiomig_downtime, 136);
FIELD(vfiomig_downtime, struct_size, 0, 4);
FIELD(vfiomig_downtime, reserved, 4, 4);
FIELD(vfiomig_downtime, measured_ns, 8, 64);
FIELD(vfiomig_downtime, expected_ns, 72, 64);

SIZE(vfiomig_inspect_options, 88);
FIELD(vfiomig_inspect_options, struct_size, 0, 4);
FIELD(vfiomig_inspect_options, reserved, 4, 4);
FIELD(vfiomig_inspect_options, limits, 8, 8);
FIELD(vfiomig_inspect_options, auth, 16, 8);
FIELD(vfiomig_inspect_options, entry, 24, 8);
FIELD(vfiomig_inspect_options, entry_opaque, 32, 8);
FIELD(vfiomig_inspect_options, entry_release, 40, 8);
FIELD(vfiomig_inspect_options, field, 48, 8);
FIELD(vfiomig_inspect_options, field_opaque, 56, 8);
FIELD(vfiomig_inspect_options, field_release, 64, 8);
FIELD(vfiomig_inspect_options, decoder, 72, 8);
FIELD(vfiomig_inspect_options, decoder_opaque, 80, 8);

SIZE(vfiomig_inspect_entry, 472);
FIELD(vfiomig_inspect_entry, struct_size, 0, 4);
FIELD(vfiomig_inspect_entry, what, 4, 4);
FIELD(vfiomig_inspect_entry, offset, 8, 8);
FIELD(vfiomig_inspect_entry, length, 16, 8);
FIELD(vfiomig_inspect_entry, problem, 24, 4);
FIELD(vfiomig_inspect_entry, code, 28, 4);
FIELD(vfiomig_inspect_entry, expected, 32, 8);
FIELD(vfiomig_inspect_entry, found, 40, 8);
FIELD(vfiomig_inspect_entry, flags, 48, 4);
FIELD(vfiomig_inspect_entry, checked, 52, 4);
FIELD(vfiomig_inspect_entry, missing, 56, 8);
FIELD(vfiomig_inspect_entry, sequence, 64, 8);
FIELD(vfiomig_inspect_entry, frame_type, 72, 4);
FIELD(vfiomig_inspect_entry, frame_flags, 76, 4);
FIELD(vfiomig_inspect_entry, device, 80, 4);
FIELD(vfiomig_inspect_entry, number, 84, 4);
FIELD(vfiomig_inspect_entry, data_offset, 88, 8);
FIELD(vfiomig_inspect_entry, payload, 96, 8);
FIELD(vfiomig_inspect_entry, payload_len, 104, 8);
FIELD(vfiomig_inspect_entry, major, 112, 4);
FIELD(vfiomig_inspect_entry, minor, 116, 4);
FIELD(vfiomig_inspect_entry, required, 120, 4);
FIELD(vfiomig_inspect_entry, optional, 124, 4);
FIELD(vfiomig_inspect_entry, migration_id, 128, 16);
FIELD(vfiomig_inspect_entry, algorithm, 144, 4);
FIELD(vfiomig_inspect_entry, key_id, 148, 4);
FIELD(vfiomig_inspect_entry, nonce, 152, 32);
FIELD(vfiomig_inspect_entry, challenge, 184, 32);
FIELD(vfiomig_inspect_entry, text, 216, 256);

SIZE(vfiomig_inspect_report, 416);
FIELD(vfiomig_inspect_report, struct_size, 0, 4);
FIELD(vfiomig_inspect_report, verdict, 4, 4);
FIELD(vfiomig_inspect_report, code, 8, 4);
FIELD(vfiomig_inspect_report, tags, 12, 4);
FIELD(vfiomig_inspect_report, problems, 16, 8);
FIELD(vfiomig_inspect_report, bytes, 24, 8);
FIELD(vfiomig_inspect_report, frames, 32, 8);
FIELD(vfiomig_inspect_report, data_bytes, 40, 8);
FIELD(vfiomig_inspect_report, data_frames, 48, 8);
FIELD(vfiomig_inspect_report, blobs, 56, 8);
FIELD(vfiomig_inspect_report, restarts, 64, 8);
FIELD(vfiomig_inspect_report, initial_marks, 72, 8);
FIELD(vfiomig_inspect_report, skipped, 80, 8);
FIELD(vfiomig_inspect_report, lost_bytes, 88, 8);
FIELD(vfiomig_inspect_report, offset, 96, 8);
FIELD(vfiomig_inspect_report, expected, 104, 8);
FIELD(vfiomig_inspect_report, found, 112, 8);
FIELD(vfiomig_inspect_report, problem, 120, 4);
FIELD(vfiomig_inspect_report, flags, 124, 4);
FIELD(vfiomig_inspect_report, device, 128, 4);
FIELD(vfiomig_inspect_report, decoder_code, 132, 4);
FIELD(vfiomig_inspect_report, major, 136, 4);
FIELD(vfiomig_inspect_report, minor, 140, 4);
FIELD(vfiomig_inspect_report, migration_id, 144, 16);
FIELD(vfiomig_inspect_report, text, 160, 256);

SIZE(vfiomig_decoded, 64);
FIELD(vfiomig_decoded, struct_size, 0, 4);
FIELD(vfiomig_decoded, kind, 4, 4);
FIELD(vfiomig_decoded, name, 8, 8);
FIELD(vfiomig_decoded, description, 16, 8);
FIELD(vfiomig_decoded, offset, 24, 8);
FIELD(vfiomig_decoded, bits, 32, 4);
FIELD(vfiomig_decoded, flags, 36, 4);
FIELD(vfiomig_decoded, number, 40, 8);
FIELD(vfiomig_decoded, bytes, 48, 8);
FIELD(vfiomig_decoded, bytes_len, 56, 8);

SIZE(vfiomig_decoder_ops, 104);
FIELD(vfiomig_decoder_ops, struct_size, 0, 4);
FIELD(vfiomig_decoder_ops, reserved, 4, 4);
FIELD(vfiomig_decoder_ops, driver, 8, 64);
FIELD(vfiomig_decoder_ops, data, 72, 8);
FIELD(vfiomig_decoder_ops, restart, 80, 8);
FIELD(vfiomig_decoder_ops, end, 88, 8);
FIELD(vfiomig_decoder_ops, release, 96, 8);

SIZE(vfiomig_transfer, 24);
FIELD(vfiomig_transfer, struct_size, 0, 4);
FIELD(vfiomig_transfer, flags, 4, 4);
FIELD(vfiomig_transfer, max_bytes, 8, 8);
FIELD(vfiomig_transfer, timeout_ms, 16, 4);
FIELD(vfiomig_transfer, reserved, 20, 4);

SIZE(vfiomig_checkpoint_options, 56);
FIELD(vfiomig_checkpoint_options, struct_size, 0, 4);
FIELD(vfiomig_checkpoint_options, flags, 4, 4);
FIELD(vfiomig_checkpoint_options, generation, 8, 8);
FIELD(vfiomig_checkpoint_options, created_ns, 16, 8);
FIELD(vfiomig_checkpoint_options, spool_bytes, 24, 8);
FIELD(vfiomig_checkpoint_options, auth, 32, 8);
FIELD(vfiomig_checkpoint_options, note, 40, 8);
FIELD(vfiomig_checkpoint_options, note_len, 48, 4);
FIELD(vfiomig_checkpoint_options, reserved, 52, 4);

SIZE(vfiomig_checkpoint_stats, 72);
FIELD(vfiomig_checkpoint_stats, struct_size, 0, 4);
FIELD(vfiomig_checkpoint_stats, reserved, 4, 4);
FIELD(vfiomig_checkpoint_stats, stream_bytes, 8, 8);
FIELD(vfiomig_checkpoint_stats, stopped_bytes, 16, 8);
FIELD(vfiomig_checkpoint_stats, spooled_bytes, 24, 8);
FIELD(vfiomig_checkpoint_stats, file_bytes, 32, 8);
FIELD(vfiomig_checkpoint_stats, expected_bytes, 40, 8);
FIELD(vfiomig_checkpoint_stats, stop_ns, 48, 8);
FIELD(vfiomig_checkpoint_stats, read_ns, 56, 8);
FIELD(vfiomig_checkpoint_stats, pause_ns, 64, 8);

SIZE(vfiomig_restore_options, 32);
FIELD(vfiomig_restore_options, struct_size, 0, 4);
FIELD(vfiomig_restore_options, reserved, 4, 4);
FIELD(vfiomig_restore_options, staged_bytes, 8, 8);
FIELD(vfiomig_restore_options, auth, 16, 8);
FIELD(vfiomig_restore_options, limits, 24, 8);

SIZE(vfiomig_restore_info, 56);
FIELD(vfiomig_restore_info, struct_size, 0, 4);
FIELD(vfiomig_restore_info, flags, 4, 4);
FIELD(vfiomig_restore_info, id, 8, 16);
FIELD(vfiomig_restore_info, generation, 24, 8);
FIELD(vfiomig_restore_info, created_ns, 32, 8);
FIELD(vfiomig_restore_info, num_devices, 40, 4);
FIELD(vfiomig_restore_info, note_len, 44, 4);
FIELD(vfiomig_restore_info, key_id, 48, 4);
FIELD(vfiomig_restore_info, reserved, 52, 4);

SIZE(vfiomig_restore_device, 104);
FIELD(vfiomig_restore_device, struct_size, 0, 4);
FIELD(vfiomig_restore_device, device_index, 4, 4);
FIELD(vfiomig_restore_device, migration_id, 8, 16);
FIELD(vfiomig_restore_device, stream_bytes, 24, 8);
FIELD(vfiomig_restore_device, data_bytes, 32, 8);
FIELD(vfiomig_restore_device, name, 40, 64);

SIZE(vfiomig_dirty_options, 16);
FIELD(vfiomig_dirty_options, struct_size, 0, 4);
FIELD(vfiomig_dirty_options, buffer_bytes, 4, 4);
FIELD(vfiomig_dirty_options, page_size, 8, 8);

SIZE(vfiomig_tracker_ops, 48);
FIELD(vfiomig_tracker_ops, struct_size, 0, 4);
FIELD(vfiomig_tracker_ops, reserved, 4, 4);
FIELD(vfiomig_tracker_ops, page_size, 8, 8);
FIELD(vfiomig_tracker_ops, start, 16, 8);
FIELD(vfiomig_tracker_ops, stop, 24, 8);
FIELD(vfiomig_tracker_ops, sync, 32, 8);
FIELD(vfiomig_tracker_ops, release, 40, 8);

SIZE(vfiomig_dirty_writer, 64);
FIELD(vfiomig_dirty_writer, struct_size, 0, 4);
FIELD(vfiomig_dirty_writer, flags, 4, 4);
FIELD(vfiomig_dirty_writer, name, 8, 8);
FIELD(vfiomig_dirty_writer, device, 16, 8);
FIELD(vfiomig_dirty_writer, tracker, 24, 8);
FIELD(vfiomig_dirty_writer, tracker_opaque, 32, 8);
FIELD(vfiomig_dirty_writer, iommufd, 40, 4);
FIELD(vfiomig_dirty_writer, hwpt_id, 44, 4);
FIELD(vfiomig_dirty_writer, ioas_id, 48, 4);
FIELD(vfiomig_dirty_writer, container_fd, 52, 4);
FIELD(vfiomig_dirty_writer, hwpt_page_size, 56, 8);

SIZE(vfiomig_dirty_stats, 96);
FIELD(vfiomig_dirty_stats, struct_size, 0, 4);
FIELD(vfiomig_dirty_stats, num_writers, 4, 4);
FIELD(vfiomig_dirty_stats, num_errors, 8, 4);
FIELD(vfiomig_dirty_stats, num_rounds, 12, 4);
FIELD(vfiomig_dirty_stats, rounds, 16, 8);
FIELD(vfiomig_dirty_stats, dirty_bytes, 24, 8);
FIELD(vfiomig_dirty_stats, last_dirty_bytes, 32, 8);
FIELD(vfiomig_dirty_stats, rate, 40, 8);
FIELD(vfiomig_dirty_stats, average_rate, 48, 8);
FIELD(vfiomig_dirty_stats, sync_ns, 56, 8);
FIELD(vfiomig_dirty_stats, last_sync_ns, 64, 8);
FIELD(vfiomig_dirty_stats, mapped_bytes, 72, 8);
FIELD(vfiomig_dirty_stats, memory_bytes, 80, 8);
FIELD(vfiomig_dirty_stats, errors, 88, 8);

SIZE(vfiomig_dirty_round, 40);
FIELD(vfiomig_dirty_round, struct_size, 0, 4);
FIELD(vfiomig_dirty_round, reserved, 4, 4);
FIELD(vfiomig_dirty_round, at_ns, 8, 8);
FIELD(vfiomig_dirty_round, interval_ns, 16, 8);
FIELD(vfiomig_dirty_round, dirty_bytes, 24, 8);
FIELD(vfiomig_dirty_round, sync_ns, 32, 8);

SIZE(vfiomig_dirty_writer_stats, 552);
FIELD(vfiomig_dirty_writer_stats, struct_size, 0, 4);
FIELD(vfiomig_dirty_writer_stats, tracker, 4, 4);
FIELD(vfiomig_dirty_writer_stats, page_size, 8, 8);
FIELD(vfiomig_dirty_writer_stats, dirty_bytes, 16, 8);
FIELD(vfiomig_dirty_writer_stats, last_dirty_bytes, 24, 8);
FIELD(vfiomig_dirty_writer_stats, assumed_bytes, 32, 8);
FIELD(vfiomig_dirty_writer_stats, rate, 40, 8);
FIELD(vfiomig_dirty_writer_stats, sync_ns, 48, 8);
FIELD(vfiomig_dirty_writer_stats, last_sync_ns, 56, 8);
FIELD(vfiomig_dirty_writer_stats, calls, 64, 8);
FIELD(vfiomig_dirty_writer_stats, errors, 72, 8);
FIELD(vfiomig_dirty_writer_stats, restarts, 80, 8);
FIELD(vfiomig_dirty_writer_stats, note, 88, 464);

SIZE(vfiomig_dirty_error, 496);
FIELD(vfiomig_dirty_error, struct_size, 0, 4);
FIELD(vfiomig_dirty_error, writer, 4, 4);
FIELD(vfiomig_dirty_error, tracker, 8, 4);
FIELD(vfiomig_dirty_error, code, 12, 4);
FIELD(vfiomig_dirty_error, first, 16, 8);
FIELD(vfiomig_dirty_error, last, 24, 8);
FIELD(vfiomig_dirty_error, text, 32, 464);
#else
#error "only 64-bit machines so far: VFIO migration exists nowhere else"
#endif

/* Handles look like pointers, and are never looked into. */
_Static_assert(sizeof(struct vfiomig_device *) == 8, "handles");

/*
 * The library was compiled from another language: its sizes must be these. `first` is the size in the
 * first release that had the structure: it stays as it is when the structure grows.
 */
#define SAME(type, first, call)                                      \
    do {                                                             \
        struct type s;                                               \
        memset(&s, 0, sizeof s);                                     \
        s.struct_size = first - 1;                                   \
        EQ(call, -EINVAL);                                           \
        HAS(vfiomig_error_message(), "struct_size");                 \
        FITS(type, first, call);                                     \
        FITS(type, sizeof s, call);                                  \
    } while (0)
#define FITS(type, size, call)                                       \
    do {                                                             \
        s.struct_size = size;                                        \
        int r = call;                                                \
        if (r < 0 && strstr(vfiomig_error_message(), "struct_size")) \
            FAIL("%s: %s", #type, vfiomig_error_message());          \
    } while (0)

static int new_device(const struct vfiomig_device_options *options)
{
    struct vfiomig_device *dev;
    return vfiomig_device_new_fd(-1, options, &dev);
}

static int new_ops(const struct vfiomig_device_ops *ops)
{
    struct vfiomig_device *dev;
    return vfiomig_device_new_ops(ops, NULL, NULL, &dev);
}

static int begin_save(struct vfiomig_device *dev, const struct vfiomig_save_options *options)
{
    struct vfiomig_save *save;
    int r = vfiomig_save_begin(dev, options, &save);
    if (r == 0)
        vfiomig_save_free(save);
    return r;
}

static int begin_load(struct vfiomig_device *dev, const struct vfiomig_load_options *options)
{
    struct vfiomig_load *load;
    int r = vfiomig_load_begin(dev, options, &load);
    if (r == 0)
        vfiomig_load_free(load);
    return r;
}

/* Writers of a tracking object, and their trackers. */
static uint32_t last_writer;

static int new_tracking(const struct vfiomig_memory_ops *ops,
                        const struct vfiomig_dirty_options *options)
{
    struct vfiomig_dirty *dirty;
    int r = vfiomig_dirty_new(ops, NULL, options, &dirty);
    if (r == 0)
        vfiomig_dirty_free(dirty);
    return r;
}

static int add_tracker(struct vfiomig_dirty *dirty, struct vfiomig_tracker_ops *ops)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    writer.flags = VFIOMIG_WRITER_CUSTOM;
    writer.tracker = ops;
    ops->page_size = 4096;
    ops->sync = idle_sync;
    return vfiomig_dirty_add_writer(dirty, &writer, &last_writer);
}

static int place_result;
static uint32_t place_size;

static int where(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    (void)opaque;
    (void)iova;
    (void)size;
    place_size = place->struct_size;
    return place_result;
}

static void the_library_has_the_same_sizes_of_tracking(void)
{
    static const struct vfiomig_memory_ops ops = { .struct_size = sizeof ops, .translate = where };
    struct vfiomig_mapping translated = VFIOMIG_MAPPING_INIT;
    struct vfiomig_dirty *dirty;
    char byte;
    OK(vfiomig_dirty_new(&ops, NULL, NULL, &dirty));
    SAME(vfiomig_memory_ops, 56, new_tracking(&s, NULL));
    SAME(vfiomig_dirty_options, 16, new_tracking(&ops, &s));
    SAME(vfiomig_mapping, 48, vfiomig_dirty_map(dirty, &s));
    SAME(vfiomig_dirty_writer, 64, vfiomig_dirty_add_writer(dirty, &s, &last_writer));
    SAME(vfiomig_tracker_ops, 48, add_tracker(dirty, &s));
    SAME(vfiomig_dirty_stats, 96, vfiomig_dirty_get_stats(dirty, &s));
    SAME(vfiomig_dirty_round, 40, vfiomig_dirty_get_round(dirty, 0, &s));
    SAME(vfiomig_dirty_writer_stats, 552, vfiomig_dirty_get_writer_stats(dirty, last_writer, &s));
    SAME(vfiomig_dirty_error, 496, vfiomig_dirty_get_error(dirty, 0, &s));
    /* The one that the library makes. */
    translated.size = 1 << 20;
    translated.flags = VFIOMIG_MAPPING_TRANSLATE;
    place_result = -EIO;
    OK(vfiomig_dirty_map(dirty, &translated));
    EQ(vfiomig_dirty_dma_read(dirty, 0, &byte, 1), -EIO);
    EQ(place_size, sizeof(struct vfiomig_place));
    vfiomig_dirty_free(dirty);
}

static int new_inspection(const struct vfiomig_inspect_options *options)
{
    struct vfiomig_inspect *inspect;
    int r = vfiomig_inspect_new(options, &inspect);
    if (r == 0)
        vfiomig_inspect_free(inspect);
    return r;
}

static int new_decoder(struct vfiomig_decoder_ops *ops)
{
    struct vfiomig_inspect_options options = VFIOMIG_INSPECT_OPTIONS_INIT;
    options.decoder = ops;
    ops->data = idle_decode;
    return new_inspection(&options);
}

static void check_entry(void *opaque, const struct vfiomig_inspect_entry *entry)
{
    (void)opaque;
    EQ(entry->struct_size, sizeof *entry);
}

static void the_library_has_the_same_sizes_of_inspection(void)
{
    struct vfiomig_inspect_options options = VFIOMIG_INSPECT_OPTIONS_INIT;
    struct vfiomig_inspect *inspect;
    SAME(vfiomig_inspect_options, 88, new_inspection(&s));
    SAME(vfiomig_decoder_ops, 104, new_decoder(&s));
    options.entry = check_entry;
    OK(vfiomig_inspect_new(&options, &inspect));
    OK(vfiomig_inspect_end(inspect));
    SAME(vfiomig_inspect_report, 416, vfiomig_inspect_get_report(inspect, &s));
    vfiomig_inspect_free(inspect);
}

static int new_checkpoint(const struct scratch *s, struct vfiomig_checkpoint_options *options)
{
    struct vfiomig_checkpoint *cp = NULL;
    int r = vfiomig_checkpoint_begin(AT_FDCWD, s->file, options, &cp);
    vfiomig_checkpoint_free(cp);
    return r;
}

static int open_checkpoint(const struct scratch *s, struct vfiomig_restore_options *options)
{
    struct vfiomig_restore *restore = NULL;
    int r = vfiomig_restore_open(AT_FDCWD, s->file, options, &restore);
    vfiomig_restore_free(restore);
    return r;
}

static int write_to(struct vfiomig_save *save, struct vfiomig_transfer *how)
{
    int null = open("/dev/null", O_WRONLY), r = vfiomig_save_write_fd(save, null, how);
    close(null);
    return r == VFIOMIG_NEXT_END ? 0 : r;
}

static void the_library_has_the_same_sizes_of_checkpoints(void)
{
    struct scratch scratch = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_restore *restore;
    struct vfiomig_save *save;
    SAME(vfiomig_checkpoint_options, 56, new_checkpoint(&scratch, &s));
    OK(take(scratch.file, &rig.dev, 1, NULL));
    SAME(vfiomig_restore_options, 32, open_checkpoint(&scratch, &s));
    OK(vfiomig_restore_open(AT_FDCWD, scratch.file, NULL, &restore));
    SAME(vfiomig_restore_info, 56, vfiomig_restore_get_info(restore, &s));
    SAME(vfiomig_restore_device, 104, vfiomig_restore_get_device(restore, 0, &s));
    SAME(vfiomig_checkpoint_stats, 72, vfiomig_restore_get_stats(restore, &s));
    vfiomig_restore_free(restore);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_stop(save));
    SAME(vfiomig_transfer, 24, write_to(save, &s));
    vfiomig_save_free(save);
    rig_free(&rig);
    scratch_free(&scratch);
}

static void the_library_has_the_same_sizes(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    SAME(vfiomig_device_options, 56, new_device(&s));
    SAME(vfiomig_device_ops, 96, new_ops(&s));
    SAME(vfiomig_caps, 32, vfiomig_device_get_caps(rig.dev, &s));
    SAME(vfiomig_reason, 512, vfiomig_device_get_reason(rig.dev, 0, &s));
    SAME(vfiomig_identity, 640, vfiomig_device_get_identity(rig.dev, &s));
    SAME(vfiomig_failure, 48, vfiomig_device_get_failure(rig.dev, &s));
    SAME(vfiomig_path, 48, vfiomig_fsm_path(7, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP, &s));
    SAME(vfiomig_save_options, 48, begin_save(rig.dev, &s));
    SAME(vfiomig_load_options, 128, begin_load(rig.dev, &s));
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    SAME(vfiomig_pending, 40, vfiomig_save_get_pending(save, &s));
    SAME(vfiomig_save_stats, 88, vfiomig_save_get_stats(save, &s));
    vfiomig_save_free(save);
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    SAME(vfiomig_load_stats, 96, vfiomig_load_get_stats(load, &s));
    vfiomig_load_free(load);
    rig_free(&rig);
}

int main(void)
{
    RUN(the_library_has_the_same_sizes);
    RUN(the_library_has_the_same_sizes_of_tracking);
    RUN(the_library_has_the_same_sizes_of_inspection);
    RUN(the_library_has_the_same_sizes_of_checkpoints);
    return DONE();
}
