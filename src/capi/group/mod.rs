// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_group_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};
use std::os::fd::AsFd;
use std::sync::Arc;

pub use constants::*;
pub use structs::*;

use super::args::{Out, bytes, bytes_if_any, bytes_mut};
use super::device::{to_format, vfiomig_device, vfiomig_event, vfiomig_reason};
use super::entry::{check_state, free, guarded, guarded_owner, publish, with_shared_copy};
use super::error::vfiomig_failure;
use super::estimate::{self, vfiomig_estimate};
use super::handle::{self, Handle};
use super::load::{self, vfiomig_load_options, vfiomig_load_stats};
use super::reserve::admit;
use super::row::{Kind, Row};
use super::save::{
    self, ending as to_ending, vfiomig_pending, vfiomig_save_options, vfiomig_save_stats,
};
use super::sized::{SizedOut, read_in};
use super::table::{self, group_states as states};
use crate::device::Device;
use crate::error::{Result, err};
use crate::group::{Group, HEADER_LEN, Phase, frame_len};

/// What a handle stands for: freeing it sends everybody away and gives the devices back.
pub struct Owner(Arc<Group>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Handle for vfiomig_group {
    const KIND: &'static Kind = &table::GROUP;
    type Object = Owner;
    type Shared = Arc<Group>;

    fn state(owner: &Owner) -> u32 {
        state_of(&owner.0)
    }

    fn end(owner: &mut Owner) -> Result<()> {
        match Self::state(owner) == states::OPEN {
            true => Err(err!(Busy, "its devices would have to be waited for")),
            false => Ok(()),
        }
    }

    fn in_use(group: &Arc<Group>) -> bool {
        group.in_use()
    }
}

fn state_of(group: &Group) -> u32 {
    match group.status().map_or(Phase::Over, |status| status.phase) {
        Phase::Setup => states::SETUP,
        Phase::Open | Phase::Stopped | Phase::Complete | Phase::Failed => states::OPEN,
        _ => states::ENDED,
    }
}

/// A call that any number of threads may make at once.
fn with<R: super::entry::CReturn>(
    row: &Row,
    group: *mut vfiomig_group,
    call: impl FnOnce(&Group) -> Result<R>,
) -> c_int {
    with_shared_copy(row, group, |group: Arc<Group>| {
        check_state::<vfiomig_group>(row, state_of(&group))?;
        call(&group)
    })
}

/// Adds a device with its options, which the library owns from here on.
fn add<T>(
    row: &Row,
    group: *mut vfiomig_group,
    device: *mut vfiomig_device,
    options: impl FnOnce() -> Result<T>,
    add: impl FnOnce(&Group, &Device, T) -> Result<u32>,
) -> c_int {
    guarded_owner(row, || {
        let options = options();
        admit()?;
        let group = handle::with_shared(group, |group| Ok(Arc::clone(group)))?;
        check_state::<vfiomig_group>(row, state_of(&group))?;
        let device = handle::copy(device)?;
        add(&group, &device, options?).map(drop)
    })
}

/// Makes a group, without devices. Its functions may be called from any number of threads, at the same
/// time, except in callbacks: there, a call that may have to wait for another device returns -EBUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_new(
    options: *const vfiomig_group_options,
    out: *mut *mut vfiomig_group,
) -> c_int {
    guarded(&table::GROUP_NEW, || {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let (options, tail) = unsafe { read_in(options, "options") }?;
        tail.check()?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let group = Arc::new(Group::new(options.to_options()?)?);
        publish(out, Owner(Arc::clone(&group)), group)
    })
}

/// Adds a device to a source. Its number in the group is how many were added before: the target adds
/// its devices in the same order. The options are those of vfiomig_save_begin(), and are read now; the
/// group replaces device_index and migration_id. Only VFIOMIG_FORMAT_NATIVE is possible. The device's
/// handle may be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_add_save(
    group: *mut vfiomig_group,
    device: *mut vfiomig_device,
    options: *const vfiomig_save_options,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or options.
    let options = || unsafe { save::read_options(options) };
    add(&table::GROUP_ADD_SAVE, group, device, options, Group::add_save)
}

/// Adds a device to a target. Its number in the group is how many were added before. The options are
/// those of vfiomig_load_begin(), and are read now; the group replaces device_index and migration_id,
/// which are always checked. Only VFIOMIG_FORMAT_NATIVE is possible. The device's handle may be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_add_load(
    group: *mut vfiomig_group,
    device: *mut vfiomig_device,
    options: *const vfiomig_load_options,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or options; its source is read below, while it is still there.
    let options = || unsafe { load::read_all_options(options) };
    add(&table::GROUP_ADD_LOAD, group, device, options, Group::add_load)
}

/// Adds a connection to the other side. From then on, the group's frames and credits go over its channels,
/// and you move none by hand: threads in vfiomig_group_work() read devices, send, receive and write devices,
/// all at the same time, whatever is to be done. vfiomig_group_next() and vfiomig_group_put() are refused.
/// Any frame goes over any channel, so that one fast device can use all of them, and a slow device or a
/// slow channel does not hold up what goes over the others. Needs a window (struct vfiomig_group_options).
///
/// Channels are numbered in the order in which they are added; the two sides need not agree on it. They
/// can be added as long as the guest runs (on the target: until all streams are complete). Nothing blocks
/// on one, no SIGPIPE is raised, and its blocking mode is left alone. A channel that fails, or that makes
/// no progress for timeout_ms in the middle of a frame, ends the migration: the functions return the error,
/// which names it. Leave the connections open until the target has committed. The options are released
/// with the group, or at once if the call fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_add_channel(
    group: *mut vfiomig_group,
    options: *const vfiomig_channel_options,
) -> c_int {
    guarded_owner(&table::GROUP_ADD_CHANNEL, || {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let channel = unsafe { structs::read_channel(options) };
        admit()?;
        let group = handle::with_shared(group, |group| Ok(Arc::clone(group)))?;
        check_state::<vfiomig_group>(&table::GROUP_ADD_CHANNEL, state_of(&group))?;
        let (fd, options) = channel?;
        group.add_channel(fd.as_fd(), options).map(drop)
    })
}

/// Returns a file descriptor that can be polled for reading: it is readable while channels have something
/// for vfiomig_group_work(VFIOMIG_GROUP_UNTIL_IDLE), for a VMM with one thread and an event loop. It covers
/// what the channels can send and receive, and steps that other threads ask for. It does not tell when a
/// device is to be asked again, or a channel has been stuck for too long. So poll for no longer than 10 ms
/// on the source until all streams are complete (1 ms with VFIOMIG_SAVE_NONBLOCK), and for no longer than
/// a second on the target. The descriptor is the group's: do not close it, or read from it.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_get_work_fd(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_GET_WORK_FD, group, Group::work_fd)
}

/// Returns what a channel has done so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_channel_stats(
    group: *mut vfiomig_group,
    channel: u32,
    stats: *mut vfiomig_channel_stats,
) -> c_int {
    with(&table::GROUP_GET_CHANNEL_STATS, group, |group| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&group.channel_stats(channel)?.into());
        Ok(())
    })
}

/// Returns one reason why a device of the group cannot migrate, or not well, and the device's number in
/// *device. The index starts at 0, and the worst come first. What matters more in a group than for the
/// device alone has that severity: VFIOMIG_REASON_NO_P2P blocks a group of several devices, unless
/// VFIOMIG_GROUP_NO_PEER_TO_PEER is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_reason(
    group: *mut vfiomig_group,
    index: u32,
    device: *mut u32,
    reason: *mut vfiomig_reason,
) -> c_int {
    with(&table::GROUP_GET_REASON, group, |group| {
        // SAFETY: vfiomig.h: NULL, or memory for a number.
        let device = unsafe { Out::new(device, "device") }?;
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(reason, "reason") }?;
        let (mut left, mut found) = (index, None);
        group.each_reason(|number, severity, reason| {
            if left == 0 {
                let reason = vfiomig_reason { severity: severity as u32, ..reason.into() };
                found = Some((number, reason));
                return false;
            }
            left -= 1;
            true
        })?;
        let none = || err!(NoData, "there are {} reasons", index - left);
        let (number, reason) = found.ok_or_else(none)?;
        device.write(number);
        out.fill(&reason);
        Ok(())
    })
}

/// Begins all saves, or all loads. If one does not begin, the group is over: on the source, the devices
/// run as before; on the target, those that had begun have been reset.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_begin(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_BEGIN, group, Group::begin)
}

/// Returns the next frame to be sent. Source: one of any device that has something to send and that no other thread is
/// reading, at most cap bytes in buf, and their number in *len. Send it to the target whole. The frames
/// of one device must arrive there in the order of their offsets; it does not matter how those of
/// different devices follow each other. One connection keeps that order, if one thread reads and sends;
/// so does a connection per device. cap must be at least VFIOMIG_MIN_BUFFER and VFIOMIG_GROUP_HEADER.
///
/// With a window (struct vfiomig_group_options), frames may arrive in any order, so any number of threads
/// may read and send, each on a connection of its own. Then the target calls this function too: it
/// returns credits, which are short frames for vfiomig_group_put() of the source, and DRAINED when there
/// is none to be sent. Without a window, and for the source, what follows holds.
///
/// VFIOMIG_NEXT_MORE: send the frame and call again. VFIOMIG_NEXT_DRAINED: *len is 0; the running
/// devices have nothing more for now, apart from those that other threads are reading. Come back on a
/// timer, or go on to vfiomig_group_stop(). VFIOMIG_NEXT_END: send the frame, if *len is not 0; all
/// streams are complete. Every later call returns VFIOMIG_NEXT_END as well, so several threads learn of
/// it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_next(
    group: *mut vfiomig_group,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with(&table::GROUP_NEXT, group, |group| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes, and memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        let next = group.next(buf)?;
        len.write(next.len);
        Ok(next.status as c_int)
    })
}

/// Takes one whole frame that the other side has sent. On the target, what is in it is written to its
/// device; frames of different devices may be brought by different threads at the same time. With a
/// window (struct vfiomig_group_options), the frame is only kept, which waits for nothing, and a thread
/// in vfiomig_group_work() writes it. On the source, which takes credits, it only counts. A frame that is refused because it is damaged,
/// out of order or another migration's changes nothing. If a load fails, its device has been reset, and
/// the group has failed: abandon or free it.
///
/// What a frame has brought is in vfiomig_group_get_status() (num_complete) and
/// vfiomig_group_get_load_stats() (initial_generation, restarts).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_put(
    group: *mut vfiomig_group,
    frame: *const c_void,
    len: usize,
) -> c_int {
    with(&table::GROUP_PUT, group, |group| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        group.put(unsafe { bytes(frame, len, "frame") }?)
    })
}

/// Tells how long the frame is that begins with these bytes, of which there must be
/// VFIOMIG_GROUP_HEADER: for frames that are carried over a stream of bytes. The length includes the
/// header, and is at most VFIOMIG_GROUP_MAX_FRAME.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_frame_len(
    header: *const c_void,
    header_len: usize,
    len: *mut usize,
) -> c_int {
    guarded(&table::GROUP_GET_FRAME_LEN, || {
        // SAFETY: vfiomig.h: NULL, or `header_len` readable bytes; NULL, or memory for a number.
        let (header, len) =
            unsafe { (bytes(header, header_len, "header")?, Out::new(len, "len")?) };
        let header = header.first_chunk::<HEADER_LEN>();
        let header = header.ok_or_else(|| err!(Inval, "a header has {HEADER_LEN} bytes"))?;
        len.write(frame_len(header)?);
        Ok(())
    })
}

/// Source: adds opaque data of the VMM's own to a device's stream: see vfiomig_save_add_blob(). It
/// needs a buffer of its length plus 40 bytes and VFIOMIG_GROUP_HEADER in vfiomig_group_next(), or 32
/// more in an authenticated stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_add_blob(
    group: *mut vfiomig_group,
    device: u32,
    kind: u32,
    data: *const c_void,
    len: usize,
) -> c_int {
    with(&table::GROUP_ADD_BLOB, group, |group| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        group.blob(device, kind, unsafe { bytes_if_any(data, len, "data") }?)
    })
}

/// Source: asks a device's driver how much is left: see vfiomig_save_get_pending(). Waits for a thread
/// that is reading the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_pending(
    group: *mut vfiomig_group,
    device: u32,
    pending: *mut vfiomig_pending,
) -> c_int {
    with(&table::GROUP_GET_PENDING, group, |group| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(pending, "pending") }?;
        out.fill(&(&group.pending(device)?).into());
        Ok(())
    })
}

/// Source: returns a file descriptor to poll for reading while the device has nothing for now: see
/// vfiomig_save_get_poll_fd(). Waits for a thread that is reading the device.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_get_poll_fd(group: *mut vfiomig_group, device: u32) -> c_int {
    with(&table::GROUP_GET_POLL_FD, group, |group| group.poll_fd(device))
}

/// Source: stops all devices. All are quiesced before any is stopped. Stop the guest's vCPUs first.
/// Then call vfiomig_group_next() until VFIOMIG_NEXT_END.
///
/// Before any device is touched, all are asked whether they have started their initial data again (see
/// vfiomig_save_stop()). If one has, the call returns -EAGAIN, nothing has happened, and you may start
/// the vCPUs and go on with vfiomig_group_next(). To insist, call again before that: it does not refuse
/// twice, and nor does it once a device has been quiesced.
///
/// After any other error the group has failed: call vfiomig_group_finish() with
/// VFIOMIG_ENDING_KEEP before the vCPUs run.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_stop(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_STOP, group, Group::stop)
}

/// Source: ends all saves. VFIOMIG_ENDING_RELEASE: the target has committed, and the devices stay in
/// STOP; this needs all streams to be complete. If it fails for one device, the others are released
/// anyway; go on as if it had not failed. VFIOMIG_ENDING_KEEP: the guest goes on here. Each
/// device leaves the stopped states and, if any has been quiesced, waits in RUNNING_P2P: make the
/// fix-ups, then call vfiomig_group_run(), and start the vCPUs. VFIOMIG_ENDING_KEEP_STOPPED: the guest
/// stays here and does not run.
///
/// If keeping fails, vfiomig_group_get_failure() says for each device what became of it. The group has
/// tried again where nothing was lost. After outcome RESET the guest's state in that device is gone,
/// and vfiomig_group_run() refuses to run any of them.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_finish(group: *mut vfiomig_group, ending: u32) -> c_int {
    with(&table::GROUP_FINISH, group, |group| group.finish(to_ending(ending)?))
}

/// Target: makes all drivers check and accept the state. If one refuses, all devices are reset, also
/// those that had accepted it, and the group is over: the source keeps the guest. If a device could not
/// be reset, the message says so; something of the guest may be left in it. If a stream is not
/// complete, the call returns -ENODATA and changes nothing.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_commit(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_COMMIT, group, Group::commit)
}

/// Target: gives up. All devices are reset, whether they were committed or not, so that nothing of the
/// guest is left in them. Also if they could not be run.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_abandon(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_ABANDON, group, Group::abandon)
}

/// Runs all devices: on the target after the commit; on the source after VFIOMIG_ENDING_KEEP, or to
/// take a released guest back. All leave the stopped states before any runs. Make the fix-ups of each
/// first (vfiomig_device_get_fixups()), and start the vCPUs afterwards.
///
/// If a device does not run, none does: all are stopped, and those that do not stop are reset. Do not
/// start the vCPUs. On the target, tell the source, which may take the guest back, and abandon the
/// group. If the message says that a device could not be halted either, it may be running. The exception
/// is a source that was kept before any device was quiesced: its guest runs anyway, and so do the
/// other devices.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_run(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_RUN, group, Group::run)
}

/// Lends the calling thread to the group. The library starts no threads: a call that has all devices
/// take a step (begin, stop, finish, commit, abandon, run) takes it with one after the other, unless
/// threads that are in this function take some of them at the same time. VFIOMIG_GROUP_UNTIL_DISMISSED:
/// stays until vfiomig_group_dismiss(), also if the group fails. VFIOMIG_GROUP_UNTIL_IDLE: returns when
/// there is nothing to do now. What becomes of a step is returned by the call that asked for it.
///
/// With a window, these threads also write what has come to the target. As many of them as there are
/// devices keep a slow one from holding up another. VFIOMIG_GROUP_UNTIL_FRAME: returns when
/// vfiomig_group_next() has something to return, for a thread that sends.
///
/// With channels (vfiomig_group_add_channel()), they also read the source's devices and serve the channels.
/// Lend as many as there are devices, and one more: each device keeps at most one of them busy, and the
/// others go on. VFIOMIG_GROUP_UNTIL_DRAINED and VFIOMIG_GROUP_UNTIL_COMPLETE tell how far the streams
/// are. VFIOMIG_GROUP_UNTIL_IDLE may return before everything is done; vfiomig_group_get_work_fd() is then
/// still readable.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_work(group: *mut vfiomig_group, until: u32) -> c_int {
    with(&table::GROUP_WORK, group, |group| group.work(structs::until(until)?))
}

/// Sends away the threads that are in vfiomig_group_work(). From then on it returns at once. Steps are
/// still possible.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_dismiss(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_DISMISS, group, |group| {
        group.dismiss();
        Ok(())
    })
}

/// Cancels the migration, like vfiomig_save_cancel() or vfiomig_load_cancel() for each device. Calls
/// in progress return -ECANCELED as soon as the drivers let them, and so do later calls, except those
/// that keep, abandon, run or ask. Then finish with VFIOMIG_ENDING_KEEP, abandon, or free the group. What
/// was committed can still be run, and a source whose streams were complete can still be released.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_cancel(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_CANCEL, group, |group| {
        group.cancel();
        Ok(())
    })
}

/// Returns where the group is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_status(
    group: *mut vfiomig_group,
    status: *mut vfiomig_group_status,
) -> c_int {
    with(&table::GROUP_GET_STATUS, group, |group| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(status, "status") }?;
        out.fill(&group.status()?.into());
        Ok(())
    })
}

/// Source: returns what the save of a device has done so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_save_stats(
    group: *mut vfiomig_group,
    device: u32,
    stats: *mut vfiomig_save_stats,
) -> c_int {
    with(&table::GROUP_GET_SAVE_STATS, group, |group| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&group.save_stats(device)?.into());
        Ok(())
    })
}

/// Target: returns what the load of a device has done so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_load_stats(
    group: *mut vfiomig_group,
    device: u32,
    stats: *mut vfiomig_load_stats,
) -> c_int {
    with(&table::GROUP_GET_LOAD_STATS, group, |group| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&group.load_stats(device)?.into());
        Ok(())
    })
}

/// Returns the group's estimate, which is fed with what the group measures: how long devices take to be
/// read, written and taken from one state to another, and what vfiomig_group_get_pending() returns. Its
/// clock is CLOCK_MONOTONIC. Call vfiomig_group_get_pending() for each device before a prediction. What only the VMM
/// knows it tells with vfiomig_estimate_observe(): how long sending takes, how many threads serve the
/// group, and what the target says. On the target, vfiomig_estimate_export() has what the source needs.
/// Free the handle with vfiomig_estimate_free(), before the group or after it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_estimate(
    group: *mut vfiomig_group,
    out: *mut *mut vfiomig_estimate,
) -> c_int {
    with(&table::GROUP_GET_ESTIMATE, group, |group| {
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        estimate::publish_shared(out, group.estimate())
    })
}

/// Returns what was going on when this device of the group last failed; code is 0 if it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_failure(
    group: *mut vfiomig_group,
    device: u32,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::GROUP_GET_FAILURE, group, |group| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&group.failure(device)?.into());
        Ok(())
    })
}

/// Writes what happened to the group and to all of its devices last into buf, in the order of time: as
/// vfiomig_device_get_history() does for one device, with the device's number in each line. It begins with
/// a line for the group and one for each device. VFIOMIG_HISTORY_BYTES for each device and once more are
/// always enough. Waits for nobody.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_get_history(
    group: *mut vfiomig_group,
    format: u32,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with(&table::GROUP_GET_HISTORY, group, |group| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes; NULL, or memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        len.write(group.history()?.write(to_format(format)?, buf)?);
        Ok(())
    })
}

/// Returns a file descriptor that can be polled for reading: it is readable while
/// vfiomig_group_next_event() has something to return, for a VMM's event loop. What happens to the group and
/// its devices is queued from the first call on, in memory that is there from then on: for 64 events, and 32
/// for each device. So call it right after vfiomig_group_new(). The descriptor is the group's: do not close
/// it, or read from it, and poll it no more once the group is freed.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_get_event_fd(group: *mut vfiomig_group) -> c_int {
    with(&table::GROUP_GET_EVENT_FD, group, Group::event_fd)
}

/// Returns the oldest event of the group and its devices that was not returned yet: changes of state and of
/// the group's phase, initial data loaded, rounds, ends of streams, errors, resets, and what the group's
/// estimate says when vfiomig_estimate_decide() is called and that is new. docs/events.md has the list.
/// -EAGAIN: there is none.
///
/// Any thread may call it, also in callbacks; each event is returned once. It needs no memory,
/// and waits for nobody for longer than one event is copied. If nobody calls it, the oldest events are dropped, and the next one that is returned says how
/// many. Rounds, verdicts and equal errors that follow each other take one place until they are returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_group_next_event(
    group: *mut vfiomig_group,
    event: *mut vfiomig_event,
) -> c_int {
    // In each of the group's states, so that its lock is not taken.
    with_shared_copy(&table::GROUP_NEXT_EVENT, group, |group: Arc<Group>| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(event, "event") }?;
        out.fill(&(&group.next_event()?).into());
        Ok(())
    })
}

/// Frees a group. NULL is ignored. It is cancelled first, and calls on other threads are waited for. A
/// source that was not finished keeps its devices, which run again as before, none before all have left
/// the stopped states, unless one has lost its guest's state. A target that was not committed resets its
/// devices. In a callback, freeing has no effect while a call is using the group, or while sessions are
/// open.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_group_free(group: *mut vfiomig_group) {
    free(&table::GROUP_FREE, group);
}
