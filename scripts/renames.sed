# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Names of the C API as they were before 0.1, and what they are now. For code that was written
# against a tree of that time:
#
#     sed -E -i -f scripts/renames.sed FILE.c ...
#
# Written for GNU sed. Running it twice does no harm. It goes before 0.1 is released.

# What vfiomig_load_push() returns is a set of its own. END has the same number in both sets, so
# code in which sed cannot tell which one is meant goes on working.
/vfiomig_load_(push|received)/ {
	s/\bVFIOMIG_END\b/VFIOMIG_PUSH_END/g
	s/\bVFIOMIG_MORE\b/VFIOMIG_PUSH_MORE/g
}
s/([&|~] *)VFIOMIG_END\b/\1VFIOMIG_PUSH_END/g
s/\bVFIOMIG_END( *\|)/VFIOMIG_PUSH_END\1/g
s/\bVFIOMIG_(INITIAL_LOADED|RESTARTED|SECTION_END|CONFIG|CONFIG_READY)\b/VFIOMIG_PUSH_\1/g

# What vfiomig_save_next() returns.
s/\bVFIOMIG_(MORE|DRAINED|END)\b/VFIOMIG_NEXT_\1/g

# How a save ends.
s/\bVFIOMIG_(RELEASE|KEEP|KEEP_QUIESCED|KEEP_STOPPED)\b/VFIOMIG_ENDING_\1/g

# The 16 bytes that name a migration.
s/\bVFIOMIG_LOAD_CHECK_SESSION\b/VFIOMIG_LOAD_CHECK_MIGRATION_ID/g
s/\bVFIOMIG_LOAD_CHECK_DEVICE\b/VFIOMIG_LOAD_CHECK_DEVICE_INDEX/g
s/\b(o|so|lo|opts?|save|load|saving|loading|[a-z_]*options)(\.|->)session\b/\1\2migration_id/g

# What writes to the guest's memory. The source is the host that a guest leaves.
s/\bVFIOMIG_SOURCE_STATS_INIT\b/VFIOMIG_DIRTY_WRITER_STATS_INIT/g
s/\bVFIOMIG_DIRTY_SOURCE_INIT\b/VFIOMIG_DIRTY_WRITER_INIT/g
s/\bVFIOMIG_SOURCE_TRACKER\b/VFIOMIG_WRITER_CUSTOM/g
s/\bVFIOMIG_TRACKER_SUPPLIED\b/VFIOMIG_TRACKER_CUSTOM/g
s/\bVFIOMIG_SOURCE_(DEVICE_LOG|HWPT|TYPE1|REQUIRED)\b/VFIOMIG_WRITER_\1/g
s/\bVFIOMIG_NO_SOURCE\b/VFIOMIG_NO_WRITER/g
s/\bvfiomig_source_stats\b/vfiomig_dirty_writer_stats/g
s/\bvfiomig_dirty_source\b/vfiomig_dirty_writer/g
s/\bvfiomig_dirty_get_source\b/vfiomig_dirty_get_writer_stats/g
s/\bvfiomig_dirty_(add|remove)_source\b/vfiomig_dirty_\1_writer/g
s/\bnum_sources\b/num_writers/g
s/\b(e|err|error|dirty_error)(\.|->)source\b/\1\2writer/g

# Functions: a verb, and the same verb for the same thing.
s/\bvfiomig_device_was_reset\b/vfiomig_device_notify_reset/g
s/\bvfiomig_save_blob\b/vfiomig_save_add_blob/g
s/\bvfiomig_save_poll_fd\b/vfiomig_save_get_poll_fd/g
s/\bvfiomig_load_received\b/vfiomig_load_push_received/g
s/\bvfiomig_load_submit\b/vfiomig_load_push_packet/g
s/\bvfiomig_load_run\b/vfiomig_load_write_packets/g
