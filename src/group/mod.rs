// SPDX-License-Identifier: MIT OR Apache-2.0
//! All devices of one VM, saved or loaded together.
//!
//! A [`Group`] keeps the order that several devices need: none stops before all are quiesced, none
//! runs before all have left the stopped states, all commit or none. It moves the devices' streams
//! as frames, which say whose they are. What one device does is the session's business; how frames
//! travel is the caller's.
//!
//! The library starts no threads. Steps are taken by the thread that asks for them, and by those
//! that are lent with [`Group::work`], so that many devices take a step at a time. docs/group.md has
//! it all in order.

mod channel;
pub mod flow;
mod frame;
mod measuring;
mod member;
mod options;
mod settle;
mod shared;
mod steps;
mod streams;
mod traffic;
mod work;

use std::fmt;
use std::os::fd::BorrowedFd;

pub use channel::{Carrier, ChannelOptions, ChannelStats, MAX_CHANNELS};
pub use frame::{HEADER_LEN, MAX_PIECE, frame_len};
pub use options::{
    GroupOptions, GroupReason, GroupStatus, MAX_DEVICES, MAX_WINDOW, MIN_WINDOW, Phase, Role, Until,
};

use crate::device::{Device, Reason, ReasonCode, Severity};
use crate::error::{Failure, Result, err, of_another_process};
use crate::estimate::SharedEstimate;
use crate::history::{Event, History};
use crate::session::{Ending, LoadOptions, LoadStats, Next, Pending, SaveOptions, SaveStats};
use crate::sys::random_bytes;
use frame::tag_of;
use member::Member;
use options::{load_options, save_options};
use shared::Shared;

/// All devices of one VM, on one side of a migration. Every method may be called from any thread.
///
/// Dropping it gives the devices back: a source that was not finished keeps them, and they run as
/// before; a target that was not committed resets them.
pub struct Group {
    shared: Shared,
}

impl Group {
    /// A group without devices.
    pub fn new(mut options: GroupOptions) -> Result<Group> {
        options.check()?;
        if options.role == Role::Source && options.migration_id == [0; 16] {
            random_bytes(&mut options.migration_id)
                .map_err(|e| err!(Io, "no random bytes for the migration's name: {e}"))?;
        }
        let tag = tag_of(&options.migration_id);
        Ok(Group { shared: Shared::new(options, tag) })
    }

    /// Adds a device to a source; returns its number, which counts from 0. The target adds its
    /// devices in the same order. The number and the migration's name replace what the options say.
    pub fn add_save(&self, device: &Device, options: SaveOptions) -> Result<u32> {
        self.shared.check_role(Role::Source, "adding a device to be saved")?;
        let _inside = self.shared.enter()?;
        let id = self.shared.options.migration_id;
        self.shared.add(device, |number| {
            Ok(Member::to_save(device.clone(), save_options(options, number, id)?))
        })
    }

    /// Adds a device to a target; otherwise like [`Group::add_save`].
    pub fn add_load(&self, device: &Device, options: LoadOptions) -> Result<u32> {
        self.shared.check_role(Role::Target, "adding a device to be loaded")?;
        let _inside = self.shared.enter()?;
        let id = self.shared.options.migration_id;
        self.shared.add(device, |number| {
            Ok(Member::to_load(device.clone(), load_options(options, number, id)?))
        })
    }

    /// Why its devices cannot migrate, or not well; the worst comes first.
    pub fn reasons(&self) -> Result<Vec<GroupReason>> {
        let mut found = Vec::new();
        self.each_reason(|device, severity, reason| {
            found.push(GroupReason { device, severity, reason: reason.clone() });
            true
        })?;
        Ok(found)
    }

    /// Shows the reasons one after the other, until `look` returns false.
    pub(crate) fn each_reason(
        &self,
        mut look: impl FnMut(u32, Severity, &Reason) -> bool,
    ) -> Result<()> {
        let _inside = self.shared.enter()?;
        let devices = self.shared.status().devices;
        let together = devices > 1 && !self.shared.options.no_peer_to_peer;
        for severity in [Severity::Blocks, Severity::Limits, Severity::Info] {
            for number in 0..devices {
                let member = self.shared.member(number)?;
                let goes_on = member.device.with_details(|reasons, _| {
                    Ok(reasons.iter().all(|reason| {
                        let own = match reason.code {
                            ReasonCode::NoP2p if together => Severity::Blocks,
                            code => code.severity(),
                        };
                        own != severity || look(number, severity, reason)
                    }))
                })?;
                if !goes_on {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Begins all saves, or all loads. If one does not begin, the group is over: the source's
    /// devices run as before, and the target's have been reset.
    pub fn begin(&self) -> Result<()> {
        self.shared.begin()
    }

    /// Returns a frame of any device that has something to send and that no other thread is reading.
    /// [`crate::session::SaveStatus::Drained`]: nothing for now;
    /// [`crate::session::SaveStatus::End`]: all streams are complete, and so it stays. Frames of one
    /// device must arrive in the order of their places.
    pub fn next(&self, buf: &mut [u8]) -> Result<Next> {
        self.shared.next(buf)
    }

    /// Takes a frame, whole. Those of one device come in the order of their places; of different
    /// devices, in any order and on any threads. A frame that is refused, because it is damaged, not
    /// the next one or another migration's, changes nothing. If a load fails, so does the group.
    pub fn put(&self, frame: &[u8]) -> Result<()> {
        self.shared.put(frame)
    }

    /// Adds a connection to the other side, for which the group makes a descriptor of its own; returns
    /// its number, which counts from 0. From then on the group's frames and credits go over its
    /// channels, which threads in [`Group::work`] serve, and [`Group::next`] and [`Group::put`] are not
    /// used. The order of channels does not matter, nor does it that both sides have the same number of
    /// them before they begin. Needs a window.
    pub fn add_channel(&self, fd: BorrowedFd<'_>, options: ChannelOptions) -> Result<u32> {
        let _inside = self.shared.enter()?;
        self.shared.add_channel(channel::dup(fd)?, options)
    }

    /// What a channel has done so far.
    pub fn channel_stats(&self, channel: u32) -> Result<ChannelStats> {
        let _inside = self.shared.enter()?;
        self.shared.channel_stats(channel)
    }

    /// A descriptor that is readable while there is something to do for [`Group::work`] with
    /// [`Until::Idle`]. It is the group's.
    pub fn work_fd(&self) -> Result<i32> {
        let _inside = self.shared.enter()?;
        self.shared.work_fd()
    }

    /// Queues opaque data of the VMM's in a device's stream: see [`crate::Save::blob`].
    pub fn blob(&self, device: u32, kind: u32, bytes: &[u8]) -> Result<()> {
        let _inside = self.shared.enter()?;
        self.shared.lock().check()?;
        let window = self.shared.options.window;
        if window != 0 && bytes.len() as u64 > window / 2 {
            let len = bytes.len();
            return Err(err!(MsgSize, "a blob of {len} bytes; half of the window is the most"));
        }
        self.shared.member(device)?.hold()?.blob(kind, bytes)
    }

    /// Asks a device how much is left: see [`crate::Save::pending`].
    pub fn pending(&self, device: u32) -> Result<Pending> {
        let _inside = self.shared.enter()?;
        let pending = self.shared.member(device)?.hold()?.pending()?;
        let helpers = self.shared.lock().helpers;
        self.shared.measuring.helpers(helpers);
        self.shared.measuring.pending(device, &pending);
        Ok(pending)
    }

    /// What the group has measured, and what follows from it: docs/downtime.md. It asks no driver by
    /// itself, so call [`Group::pending`] for each device before a prediction. Its clock is
    /// CLOCK_MONOTONIC.
    pub fn estimate(&self) -> SharedEstimate {
        self.shared.measuring.estimate.clone()
    }

    /// What to poll for a device that has nothing for now: see [`crate::Save::poll_fd`].
    pub fn poll_fd(&self, device: u32) -> Result<i32> {
        let _inside = self.shared.enter()?;
        self.shared.member(device)?.hold()?.poll_fd()
    }

    /// Stops all devices: all are quiesced before any is stopped. The vCPUs must have been stopped
    /// before.
    ///
    /// [`crate::Code::Again`]: a device has started its initial data again, and none has been
    /// touched. The guest may go on, with [`Group::next`]; or call this again, which then does not
    /// refuse. After any other error all that is left is [`Group::finish`] with an ending that keeps
    /// the devices.
    pub fn stop(&self) -> Result<()> {
        self.shared.stop()
    }

    /// Ends all saves. [`Ending::Release`] needs all streams to be complete, and the caller's word
    /// that the target has committed. [`Ending::Keep`] leaves each device in RUNNING_P2P if any may
    /// have been stopped: make the fix-ups, then call [`Group::run`].
    pub fn finish(&self, ending: Ending) -> Result<()> {
        self.shared.finish(ending)
    }

    /// Makes all drivers check and accept the state. Needs all streams. If one refuses, all devices
    /// are reset, also those that had accepted it, and the group is over.
    pub fn commit(&self) -> Result<()> {
        self.shared.commit()
    }

    /// Gives up on the target: all devices are reset, committed or not. An error names one in which
    /// something of the guest may be left.
    pub fn abandon(&self) -> Result<()> {
        self.shared.abandon()
    }

    /// Runs all devices, after the commit, or on a source that was kept, or that takes its guest
    /// back: all leave the stopped states before any runs. If one does not run, all are stopped, or
    /// reset if they do not stop.
    pub fn run(&self) -> Result<()> {
        self.shared.run()
    }

    /// Lends this thread: it takes steps of devices whenever another call has them take one.
    pub fn work(&self, until: Until) -> Result<()> {
        self.shared.help(until)
    }

    /// Sends away the threads that help, and those that come to help later.
    pub fn dismiss(&self) {
        self.shared.dismiss();
    }

    /// Cancels the migration: calls in progress, and later ones, return [`crate::Code::Cancelled`].
    /// Those that keep the devices, abandon or run them are not affected.
    pub fn cancel(&self) {
        self.shared.cancel();
    }

    /// Where it is.
    pub fn status(&self) -> Result<GroupStatus> {
        let _inside = self.shared.enter()?;
        Ok(self.shared.status())
    }

    /// What happened to the group and to all of its devices last, in the order of time: see
    /// [`Device::history`]. Waits for nobody.
    pub fn history(&self) -> Result<History> {
        let _inside = self.shared.enter()?;
        self.shared.history()
    }

    /// A descriptor that is readable while [`Group::next_event`] has something to return. What happens
    /// to the group and its devices is queued from the first of these calls on, in memory that there is
    /// from then on; if nobody fetches it, the oldest events are dropped. It is the group's.
    pub fn event_fd(&self) -> Result<i32> {
        let _inside = self.shared.enter()?;
        self.shared.event_fd()
    }

    /// The oldest event that was not fetched yet. [`crate::Code::Again`]: there is none. Any thread may
    /// ask; each event is returned once. Waits for nobody for longer than one event is copied.
    pub fn next_event(&self) -> Result<Event> {
        // Not counted as a call: that would take the lock that everybody else needs.
        if self.shared.is_of_parent() {
            return Err(of_another_process("group"));
        }
        self.shared.next_event()
    }

    /// What went wrong with a device last, if anything did.
    pub fn failure(&self, device: u32) -> Result<Option<Failure>> {
        let _inside = self.shared.enter()?;
        Ok(self.shared.member(device)?.failure())
    }

    /// What the save of a device has done so far.
    pub fn save_stats(&self, device: u32) -> Result<SaveStats> {
        let _inside = self.shared.enter()?;
        self.shared.member(device)?.save_stats()
    }

    /// What the load of a device has done so far.
    pub fn load_stats(&self, device: u32) -> Result<LoadStats> {
        let _inside = self.shared.enter()?;
        self.shared.member(device)?.load_stats()
    }

    /// Whether a call is in progress.
    pub(crate) fn in_use(&self) -> bool {
        self.shared.in_use()
    }

    /// Sends everybody away, waits until they have gone, and gives the devices back.
    pub(crate) fn close(&self) {
        if self.shared.is_of_parent() {
            return;
        }
        // Ends what takes time in calls of other threads; what gives devices back goes on.
        self.shared.cancel();
        self.shared.close();
        self.shared.end();
        self.shared.unsubscribe();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Group")
    }
}
