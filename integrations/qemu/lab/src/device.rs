// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mediated devices: making and removing them, and reading what they hold without QEMU.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cases::Res;

/// What kind of device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The kernel's sample: two serial ports, 96 bytes of state.
    Mtty,
    /// The lab's own (lab/kmod), with these `VFIO_MIGRATION_*` flags.
    Test(u8),
}

/// `VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P`.
pub const STOP_COPY: u8 = 3;
/// The same and `VFIO_MIGRATION_PRE_COPY`.
pub const PRE_COPY: u8 = 7;

/// A device; removed with this.
pub struct Device {
    /// Its directory.
    pub sysfs: PathBuf,
    kind: Kind,
}

fn write(path: &Path, text: &str) -> Res<()> {
    fs::write(path, text).map_err(|e| format!("writing \"{text}\" to {}: {e}", path.display()))
}

impl Device {
    /// Makes one.
    pub fn create(kind: Kind) -> Res<Device> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uuid =
            format!("71656d75-1ab0-4000-{:04x}-{:012x}", number & 0xffff, std::process::id());
        let types = match kind {
            Kind::Mtty => "mtty/mdev_supported_types/mtty-2".to_owned(),
            Kind::Test(flags) => format!("vfiomig_test/mdev_supported_types/vfiomig_test-{flags}"),
        };
        write(&Path::new("/sys/class/mdev_bus").join(types).join("create"), &uuid)?;
        Ok(Device { sysfs: Path::new("/sys/bus/mdev/devices").join(uuid), kind })
    }

    /// Sets a knob of the test device.
    pub fn set(&self, knob: &str, value: impl ToString) -> Res<()> {
        write(&self.sysfs.join("test").join(knob), &value.to_string())
    }

    /// Reads a knob of the test device.
    pub fn get(&self, knob: &str) -> Res<String> {
        let path = self.sysfs.join("test").join(knob);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// A line of the test device's `counters` or `log`.
    pub fn count(&self, knob: &str, name: &str) -> Res<u64> {
        self.get(knob)?
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .ok_or_else(|| format!("{knob} has no line {name}"))
    }

    /// Writes contents that follow from the seed into an mtty that nobody has open.
    pub fn fill(&self, seed: u8) -> Res<()> {
        let opened = Opened::open(&self.sysfs)?;
        for port in 0..PORTS {
            opened.put(port, LCR, 0)?;
            opened.put(port, FCR, FCR_ENABLE | FCR_CLEAR)?;
            opened.put(port, FCR, FCR_ENABLE)?;
            let want = contents(seed, port);
            for byte in &want.fifo {
                opened.put(port, RX_TX, *byte)?;
            }
            for (register, value) in want.registers {
                opened.put(port, register, value)?;
            }
        }
        Ok(())
    }

    /// Compares what an mtty holds that nobody has open. What is in the FIFO is then gone.
    pub fn expect(&self, seed: u8) -> Res<()> {
        let opened = Opened::open(&self.sysfs)?;
        for port in 0..PORTS {
            let want = contents(seed, port);
            for (register, value) in want.registers {
                let is = opened.get(port, register)?;
                if is != value {
                    return Err(format!(
                        "register {register} of port {port} is {is:#x}, expected {value:#x}"
                    ));
                }
            }
            let mut fifo = Vec::new();
            // More than it can hold, should it not end.
            while fifo.len() < 64 && opened.get(port, LSR)? & LSR_DATA_READY != 0 {
                fifo.push(opened.get(port, RX_TX)?);
            }
            if fifo != want.fifo {
                return Err(format!(
                    "FIFO of port {port} has {fifo:x?}, expected {:x?}",
                    want.fifo
                ));
            }
        }
        Ok(())
    }

    /// What the kernel and QEMU call it.
    pub fn name(&self) -> String {
        self.sysfs.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(e) = write(&self.sysfs.join("remove"), "1") {
            println!("not ok remove-device: {e}");
        }
    }
}

// --- mtty -----------------------------------------------------------------------------------------

const PORTS: u64 = 2;
const RX_TX: u64 = 0;
const IER: u64 = 1;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const SCR: u64 = 7;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR: u8 = 6;
const LSR_DATA_READY: u8 = 1;
/// It has 16 places, but when all of them are taken, mtty takes it for empty.
const FIFO_MAX: u8 = 15;

struct Contents {
    registers: [(u64, u8); 4],
    fifo: Vec<u8>,
}

fn contents(seed: u8, port: u64) -> Contents {
    let byte = |i: u8| seed.wrapping_mul(29).wrapping_add(i.wrapping_mul(83)) ^ (port as u8 * 0x5a);
    Contents {
        // Without the divisor latch (LCR) and the loopback (MCR), which change what is read.
        registers: [
            (LCR, byte(1) & 0x3f),
            (IER, byte(2) & 0x0f),
            (MCR, byte(3) & 0x0f),
            (SCR, byte(4)),
        ],
        fifo: (0..FIFO_MAX - port as u8 * 4).map(|i| byte(i + 5)).collect(),
    }
}

// --- VFIO, by hand --------------------------------------------------------------------------------

const fn vfio(number: u64) -> u64 {
    ((b';' as u64) << 8) | (100 + number)
}
const SET_IOMMU: u64 = vfio(2);
const GROUP_SET_CONTAINER: u64 = vfio(4);
const GROUP_GET_DEVICE_FD: u64 = vfio(6);
const DEVICE_RESET: u64 = vfio(11);
const TYPE1V2_IOMMU: u64 = 3;

/// An ioctl whose argument is a number or a pointer to something that outlives the call.
fn ioctl(fd: RawFd, request: u64, argument: u64, what: &str) -> Res<i32> {
    // SAFETY: the requests used here read at most what the argument points to, and write nothing.
    let ret = unsafe { libc::ioctl(fd, request as _, argument) };
    if ret < 0 {
        return Err(format!("{what}: {}", std::io::Error::last_os_error()));
    }
    Ok(ret)
}

/// A device that this process has open.
struct Opened {
    // In the order in which they have to be closed.
    device: fs::File,
    _group: fs::File,
    _container: fs::File,
}

impl Opened {
    fn open(sysfs: &Path) -> Res<Opened> {
        let open = |path: &Path| {
            fs::File::options()
                .read(true)
                .write(true)
                .open(path)
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        let link =
            fs::read_link(sysfs.join("iommu_group")).map_err(|e| format!("iommu_group: {e}"))?;
        let number = link.file_name().ok_or("iommu_group is odd")?;
        let uuid = sysfs.file_name().and_then(|n| n.to_str()).ok_or("no name")?;
        let uuid = std::ffi::CString::new(uuid).map_err(|e| e.to_string())?;
        let container = open(Path::new("/dev/vfio/vfio"))?;
        let group = open(&Path::new("/dev/vfio").join(number))?;
        let container_fd = container.as_raw_fd();
        ioctl(
            group.as_raw_fd(),
            GROUP_SET_CONTAINER,
            &raw const container_fd as u64,
            "GROUP_SET_CONTAINER",
        )?;
        ioctl(container_fd, SET_IOMMU, TYPE1V2_IOMMU, "SET_IOMMU")?;
        let fd = ioctl(
            group.as_raw_fd(),
            GROUP_GET_DEVICE_FD,
            uuid.as_ptr() as u64,
            "GROUP_GET_DEVICE_FD",
        )?;
        // SAFETY: the kernel just made it for us.
        let device = unsafe { fs::File::from_raw_fd(fd) };
        Ok(Opened { device, _group: group, _container: container })
    }

    // mtty looks at one byte per access, and at the number of the region in bits 40 and up.
    fn put(&self, port: u64, register: u64, value: u8) -> Res<()> {
        self.device
            .write_all_at(&[value], port << 40 | register)
            .map_err(|e| format!("writing register {register}: {e}"))
    }

    fn get(&self, port: u64, register: u64) -> Res<u8> {
        let mut value = [0];
        self.device
            .read_exact_at(&mut value, port << 40 | register)
            .map_err(|e| format!("reading register {register}: {e}"))?;
        let [value] = value;
        Ok(value)
    }
}

/// Resets the VFIO device that another process has open, behind its back: that is what a hot reset
/// or a failure of the device looks like to it. Its migration file descriptors are then dead.
pub fn reset_in(pid: u32) -> Res<()> {
    let dir = format!("/proc/{pid}/fd");
    let number = fs::read_dir(&dir)
        .map_err(|e| format!("{dir}: {e}"))?
        .flatten()
        .find(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|to| to.to_string_lossy().contains("[vfio-device]"))
        })
        .and_then(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .ok_or("it has no VFIO device open")?;
    let owned = |fd: i64, what: &str| {
        if fd < 0 {
            return Err(format!("{what}: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: the kernel just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    };
    // SAFETY: takes numbers only.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }, "pidfd_open")?;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let device = owned(fd, "pidfd_getfd")?;
    ioctl(device.as_raw_fd(), DEVICE_RESET, 0, "DEVICE_RESET").map(|_| ())
}
