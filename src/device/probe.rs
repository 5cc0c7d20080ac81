// SPDX-License-Identifier: MIT OR Apache-2.0
//! Probing: what a device can do, and why it cannot migrate, or not well.
//!
//! Every question is put to the device itself. The answers become [`Caps`] and a list of
//! [`Reason`]s that a person can act on. Nothing here changes the device's state. The only thing
//! that is switched on is version 2 of the pre-copy estimates, which merely makes them meaningful.

use crate::error::{Code, Errno, Error, Failure, Operation, Result, err};
use crate::fsm::{MigrationFlags, State};
use crate::protocol::{self, Found, Protocol};
use crate::transport::{BitmapBuffer, DmaLog, FeatureRequest, PageSize, Span, Transport};
use crate::uapi;

/// What a device can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// As the driver reports them, including unknown ones; none: no migration.
    pub migration_flags: MigrationFlags,
    /// State in which the device was found.
    pub initial_state: Option<State>,
    /// Estimated length of the stop-copy stream in bytes, if the driver gives a credible one.
    pub state_size: Option<u64>,
    /// The device logs the pages that it writes by DMA, and the kernel can report them.
    pub dma_logging: bool,
    /// The driver says when initial data starts again during pre-copy.
    pub precopy_info_v2: bool,
}

impl Caps {
    /// Whether the device can be saved and loaded at all.
    pub fn can_migrate(&self) -> bool {
        self.migration_flags.contains(MigrationFlags::STOP_COPY)
    }

    /// Whether the device can be saved while the guest runs.
    pub fn has_pre_copy(&self) -> bool {
        self.can_migrate() && self.migration_flags.contains(MigrationFlags::PRE_COPY)
    }

    /// Whether the device has peer-to-peer states.
    pub fn has_p2p(&self) -> bool {
        self.can_migrate() && self.migration_flags.contains(MigrationFlags::P2P)
    }
}

/// How much a reason matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u32)]
pub enum Severity {
    /// The device cannot be migrated.
    Blocks = 0,
    /// It can be migrated, but with a longer downtime, more pages sent again, or not together with
    /// other devices.
    Limits = 1,
    /// Good to know.
    Info = 2,
}

macro_rules! reasons {
    ($($name:ident = $code:literal, $severity:ident, $label:literal;)*) => {
        /// Why a device cannot migrate, or not well. Codes never change their meaning.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum ReasonCode { $(#[doc = $label] $name = $code,)* }

        impl ReasonCode {
            /// Every code there is.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$name,)*];

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self { $(ReasonCode::$name => Severity::$severity,)* }
            }

            /// A stable label, for scripts.
            pub fn label(self) -> &'static str {
                match self { $(ReasonCode::$name => $label,)* }
            }
        }
    };
}

reasons! {
    Disabled = 1, Blocks, "disabled";
    KernelTooOld = 2, Blocks, "kernel-too-old";
    DriverNoMigration = 3, Blocks, "driver-without-migration";
    NoStopCopy = 4, Blocks, "no-stop-copy";
    StateUnreadable = 5, Blocks, "state-unreadable";
    DeviceInError = 6, Blocks, "device-in-error";
    StaleState = 7, Limits, "stale-state";
    NoPreCopy = 8, Limits, "no-pre-copy";
    NoP2p = 9, Limits, "no-p2p";
    NoDataSize = 10, Limits, "no-data-size";
    NoDmaLogging = 11, Limits, "no-dma-logging";
    DmaLoggingUnusable = 12, Limits, "dma-logging-unusable";
    NoPrecopyInfoV2 = 13, Info, "no-precopy-info-v2";
    DisabledByEnvironment = 14, Blocks, "disabled-by-environment";
    DisabledByProcess = 15, Blocks, "disabled-by-process";
    DisabledByPolicy = 16, Blocks, "disabled-by-policy";
    SaveDisabled = 17, Limits, "save-disabled";
    LoadDisabled = 18, Limits, "load-disabled";
    MidProtocol = 19, Blocks, "mid-protocol";
    RegionsUnusable = 20, Blocks, "regions-unusable";
}

impl ReasonCode {
    /// Whether it says who has switched migration off, which may change at any time.
    fn is_about_permission(self) -> bool {
        matches!(
            self,
            ReasonCode::DisabledByEnvironment
                | ReasonCode::DisabledByProcess
                | ReasonCode::DisabledByPolicy
                | ReasonCode::SaveDisabled
                | ReasonCode::LoadDisabled
        )
    }
}

/// One reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// The stable code.
    pub code: ReasonCode,
    /// What it means here and what to do about it, for people.
    pub text: String,
}

/// Everything probing found.
pub(super) struct Probed {
    pub caps: Caps,
    pub reasons: Vec<Reason>,
}

/// Asks the device everything. Fails only if the fd is not a usable VFIO device at all.
pub(super) fn probe(
    transport: &mut dyn Transport,
    protocol: &mut Box<dyn Protocol>,
    disabled: bool,
    kernel_release: &str,
) -> Result<Probed> {
    let mut reasons = Vec::new();
    if disabled {
        let text = "migration of this device is switched off by the VMM".into();
        reasons.push(Reason { code: ReasonCode::Disabled, text });
    }
    // First, what the fd is: everything else is misread on something that is not a device.
    check_device(transport)?;
    let mut caps = no_migration();
    match choose(transport, protocol, kernel_release)? {
        Ok(flags) => caps.migration_flags = flags,
        Err(reason) => {
            reasons.push(reason);
            return Ok(Probed { caps, reasons });
        }
    }
    let protocol = protocol.as_mut();
    if !caps.can_migrate() {
        let text = format!(
            "the driver reports migration flags {:#x} without STOP_COPY, which this library needs; a \
             newer version of either may help",
            caps.migration_flags.bits()
        );
        reasons.push(Reason { code: ReasonCode::NoStopCopy, text });
        return Ok(Probed { caps, reasons });
    }
    probe_state(transport, protocol, &mut caps, &mut reasons);
    probe_abilities(transport, protocol, &mut caps, &mut reasons);
    if protocol.log().is_some() {
        caps.dma_logging = true;
    } else {
        probe_dma_logging(transport, &mut caps, &mut reasons);
    }
    Ok(Probed { caps, reasons })
}

/// Whether there is a VFIO device behind the transport.
fn check_device(transport: &mut dyn Transport) -> Result<()> {
    let Err(errno) = transport.device_info() else { return Ok(()) };
    let why = match errno.0 {
        libc::EINVAL => "; a device from /dev/vfio/devices must be bound to an iommufd first",
        libc::EBADF => "; it is not open",
        _ => "",
    };
    let failure = Failure {
        operation: Operation::Probe,
        ioctl: uapi::VFIO_DEVICE_GET_INFO,
        errno: errno.0,
        ..Failure::default()
    };
    Err(Error::new(
        code_of_no_device(errno),
        format!("the fd is not a usable VFIO device: {errno}{why}"),
    )
    .with_failure(failure))
}

/// The code for an fd that does not say what device it is.
fn code_of_no_device(errno: Errno) -> Code {
    match errno.0 {
        libc::EBADF => Code::Inval,
        // What some other files answer to an ioctl that they do not know.
        libc::EOPNOTSUPP => Code::NotTty,
        _ => errno.code(),
    }
}

/// Where the device is, and how much there is in it.
fn probe_state(
    transport: &mut dyn Transport,
    protocol: &mut dyn Protocol,
    caps: &mut Caps,
    reasons: &mut Vec<Reason>,
) {
    let mut add = |code: ReasonCode, text: String| reasons.push(Reason { code, text });
    match protocol.state(transport) {
        Ok(State::Error) => {
            caps.initial_state = Some(State::Error);
            add(ReasonCode::DeviceInError, "the device is in ERROR; reset it first".into());
        }
        Ok(state) => {
            caps.initial_state = Some(state);
            if let Some(text) = why_stale(state) {
                add(ReasonCode::StaleState, format!("the device is in {state}{text}"));
            }
        }
        Err(errno) => {
            add(ReasonCode::StateUnreadable, format!("the device's state cannot be read: {errno}"));
        }
    }
    match protocol.size(transport) {
        Ok(Some(size)) => caps.state_size = Some(size),
        Ok(None) => add(
            ReasonCode::NoDataSize,
            "the driver's estimate of the state's size is not credible; the downtime cannot be \
             predicted"
                .into(),
        ),
        Err(errno) => add(
            ReasonCode::NoDataSize,
            format!(
                "the size of the state is not known beforehand ({errno}; Linux 6.2 or newer \
                 reports it), so the downtime cannot be predicted"
            ),
        ),
    }
}

/// What the driver can do besides.
fn probe_abilities(
    transport: &mut dyn Transport,
    protocol: &mut dyn Protocol,
    caps: &mut Caps,
    reasons: &mut Vec<Reason>,
) {
    let mut add = |code: ReasonCode, text: &str| reasons.push(Reason { code, text: text.into() });
    if caps.has_pre_copy() {
        caps.precopy_info_v2 = protocol.watch_initial(transport);
        if !caps.precopy_info_v2 {
            add(
                ReasonCode::NoPrecopyInfoV2,
                "the kernel does not say when initial data starts again during pre-copy (newer \
                 kernels do)",
            );
        }
    } else {
        add(
            ReasonCode::NoPreCopy,
            "no pre-copy: the whole state is sent while the guest is stopped",
        );
    }
    if !caps.has_p2p() {
        add(
            ReasonCode::NoP2p,
            "no peer-to-peer states: a VM with several passed-through devices cannot stop them \
             safely together with this one",
        );
    }
}

/// What it means if a device was found in this state, other than RUNNING.
fn why_stale(state: State) -> Option<&'static str> {
    match state {
        State::Running => None,
        State::Stop => Some(
            ", where an earlier owner stopped it, and will not work for a guest until it is run \
             (vfiomig_device_run()), loaded or reset; it can be saved as it is",
        ),
        State::RunningP2p => Some(
            ", where an earlier owner left it: it starts no peer-to-peer DMA until it is run \
             (vfiomig_device_run())",
        ),
        State::Other(_) => Some(
            ", a state that this library does not know; loading resets it, for anything else \
             reset it first",
        ),
        _ => Some(
            ", left there by an earlier owner; loading resets it, for anything else reset it first",
        ),
    }
}

fn no_migration() -> Caps {
    Caps {
        migration_flags: MigrationFlags::empty(),
        initial_state: None,
        state_size: None,
        dma_logging: false,
        precopy_info_v2: false,
    }
}

/// Puts a protocol that the device speaks in the place of `protocol`, which is the newest, unless that
/// is the one. Returns what it supports, or why there is none.
fn choose(
    transport: &mut dyn Transport,
    protocol: &mut Box<dyn Protocol>,
    kernel_release: &str,
) -> Result<std::result::Result<MigrationFlags, Reason>> {
    let errno = match protocol.probe(transport) {
        Ok(flags) => return Ok(Ok(flags)),
        Err(errno) => errno,
    };
    let none = why_no_migration(errno, kernel_release);
    // A driver that has the newest protocol, and fails, is not asked for another one.
    if errno.0 != libc::ENOTTY {
        return Ok(Err(none));
    }
    Ok(match protocol::find(transport)? {
        Found::Nothing => Err(none),
        Found::Speaks(older) => {
            *protocol = older;
            protocol.probe(transport).map_err(|errno| Reason {
                code: ReasonCode::RegionsUnusable,
                text: format!("the device's migration region cannot be read: {errno}"),
            })
        }
        Found::Mid => Err(Reason {
            code: ReasonCode::MidProtocol,
            text: "the device has the migration region of the patches of 2018 and 2019 (\"MID\"), \
                   which no kernel has and this library does not speak; a driver for Linux 5.18 or \
                   newer can be migrated"
                .into(),
        }),
        Found::Unusable(why) => {
            let text = format!("the device's migration regions cannot be used: {why}");
            Err(Reason { code: ReasonCode::RegionsUnusable, text })
        }
    })
}

fn why_no_migration(errno: Errno, kernel_release: &str) -> Reason {
    let (code, text) = if errno.0 != libc::ENOTTY {
        (
            ReasonCode::DriverNoMigration,
            format!("asking the driver for its migration flags failed: {errno}"),
        )
    } else if release_is_before(kernel_release, (5, 18)) {
        (
            ReasonCode::KernelTooOld,
            format!("kernel {kernel_release} has no VFIO migration; Linux 5.18 or newer does"),
        )
    } else {
        (
            ReasonCode::DriverNoMigration,
            "the driver bound to this device does not support migration; a VF needs its vendor's \
             VFIO driver (mlx5_vfio_pci, hisi_acc_vfio_pci, pds_vfio_pci, qat_vfio_pci, \
             virtio_vfio_pci, xe_vfio_pci…) instead of vfio-pci"
                .to_owned(),
        )
    };
    Reason { code, text }
}

/// An address at which there is no memory.
const NOWHERE: u64 = 1 << 62;

fn probe_dma_logging(transport: &mut dyn Transport, caps: &mut Caps, reasons: &mut Vec<Reason>) {
    let start = FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_START).probe();
    if let Err(errno) = transport.feature(start, &mut []) {
        reasons.push(Reason {
            code: ReasonCode::NoDmaLogging,
            text: format!(
                "the device does not log the pages it writes ({errno}): another dirty tracker, or \
                 sending all memory again, must stand in"
            ),
        });
        return;
    }
    // PROBE succeeds even if the kernel was built without the bitmap code behind REPORT; only
    // asking tells (docs/kernel-interface.md). Logging is off, and the page that is asked for lies
    // where no DMA address can be, so nothing is lost.
    let mut own = transport.dma_log();
    let log = own.as_deref_mut().or_else(|| transport.dma_log_in_turn());
    let report = match log {
        Some(log) => report_nowhere(log),
        None => Err(Errno(libc::ENOTTY)),
    };
    match report {
        Err(Errno(libc::EOPNOTSUPP | libc::ENOTTY)) => reasons.push(Reason {
            code: ReasonCode::DmaLoggingUnusable,
            text: "the device logs the pages it writes, but this kernel cannot report them: it \
                   was built without CONFIG_IOMMUFD"
                .into(),
        }),
        _ => caps.dma_logging = true,
    }
}

fn report_nowhere(log: &mut dyn DmaLog) -> std::result::Result<(), Errno> {
    let page = PageSize::new(4096).ok_or(Errno(libc::EINVAL))?;
    let nowhere = Span { start: NOWHERE, length: page.bytes(), page };
    log.report(&mut BitmapBuffer::new(1)?.bitmap(nowhere)?)
}

fn release_is_before(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < version,
        _ => false,
    }
}

impl Probed {
    /// The error for a device that was switched off when it was opened.
    pub fn why_disabled(&self) -> Result<()> {
        match self.reasons.iter().find(|reason| reason.code == ReasonCode::Disabled) {
            Some(reason) => Err(err!(Perm, "{}", reason.text)),
            None => Ok(()),
        }
    }

    /// Puts these in the place of what was said earlier of who has switched migration off.
    pub fn replace_permission_reasons(&mut self, reasons: Vec<Reason>) {
        self.reasons.retain(|reason| !reason.code.is_about_permission());
        self.reasons.splice(0..0, reasons);
        self.reasons
            .sort_by_key(|reason| (reason.code.severity(), reason.code != ReasonCode::Disabled));
    }

    /// The error for a device that cannot migrate, whatever it is permitted.
    pub fn why_not(&self) -> Result<()> {
        let blocks = |reason: &&Reason| {
            reason.code.severity() == Severity::Blocks && !reason.code.is_about_permission()
        };
        match self.reasons.iter().find(blocks) {
            None if self.caps.can_migrate() => Ok(()),
            None => Err(err!(NotSupported, "the device does not support migration")),
            Some(reason) => Err(match reason.code {
                ReasonCode::Disabled => err!(Perm, "{}", reason.text),
                ReasonCode::DeviceInError | ReasonCode::StateUnreadable => {
                    err!(Io, "{}", reason.text)
                }
                _ => err!(NotSupported, "{}", reason.text),
            }),
        }
    }

    /// Drops the reasons that no longer hold for a device in RUNNING.
    pub fn forget_bad_state(&mut self) {
        let cured =
            [ReasonCode::DeviceInError, ReasonCode::StateUnreadable, ReasonCode::StaleState];
        self.reasons.retain(|reason| !cured.contains(&reason.code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_their_first_two_numbers() {
        assert!(release_is_before("5.10.0-21-amd64", (5, 18)));
        assert!(release_is_before("4.19.0", (5, 18)));
        assert!(!release_is_before("5.18.0", (5, 18)));
        assert!(!release_is_before("6.12.57+deb13-amd64", (5, 18)));
        assert!(!release_is_before("unknown", (5, 18)));
    }

    #[test]
    fn whatever_another_file_answers_it_is_no_device() {
        for errno in [libc::ENOTTY, libc::EOPNOTSUPP] {
            assert_eq!(code_of_no_device(Errno(errno)), Code::NotTty);
        }
        assert_eq!(code_of_no_device(Errno(libc::EBADF)), Code::Inval);
        assert_eq!(code_of_no_device(Errno(libc::ENODEV)), Code::NoDev);
        assert_eq!(code_of_no_device(Errno(libc::ENXIO)), Code::Io);
    }

    #[test]
    fn reason_codes_and_labels_are_unique() {
        for (i, a) in ReasonCode::ALL.iter().enumerate() {
            for b in &ReasonCode::ALL[i + 1..] {
                assert_ne!(*a as u32, *b as u32);
                assert_ne!(a.label(), b.label());
            }
        }
    }
}
