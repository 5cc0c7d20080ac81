// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel: its release, and its configuration if that can be read.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::sysfs::{Root, attribute};
use crate::variant::{Aliases, KNOWN};

/// A configuration is a few hundred KiB; anything that unpacks to more is something else.
const MAX_CONFIG: u64 = 16 << 20;

/// Options that decide over VFIO and migration, besides those of the drivers.
const OPTIONS: &[&str] = &[
    "CONFIG_VFIO",
    "CONFIG_VFIO_GROUP",
    "CONFIG_VFIO_CONTAINER",
    "CONFIG_VFIO_IOMMU_TYPE1",
    "CONFIG_VFIO_DEVICE_CDEV",
    "CONFIG_VFIO_NOIOMMU",
    "CONFIG_VFIO_PCI",
    "CONFIG_VFIO_MDEV",
    "CONFIG_IOMMUFD",
];

/// What the kernel's configuration says about an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// Built in.
    Yes,
    /// A module.
    Module,
    /// Not there.
    No,
}

impl Setting {
    /// As in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Setting::Yes => "y",
            Setting::Module => "m",
            Setting::No => "n",
        }
    }
}

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r`.
    pub release: String,
    /// File that the configuration was read from.
    pub config: Option<PathBuf>,
    /// The options that matter here; empty if there is no configuration to read.
    pub options: Vec<(&'static str, Setting)>,
    /// Aliases of VFIO drivers.
    pub aliases: Aliases,
}

impl Kernel {
    /// Reads what there is.
    pub fn read(root: &Root) -> Kernel {
        let release = attribute(&root.at("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let aliases = Aliases::read(root, &release);
        let files = [
            PathBuf::from("/proc/config.gz"),
            PathBuf::from(format!("/boot/config-{release}")),
            PathBuf::from(format!("/lib/modules/{release}/config")),
            PathBuf::from(format!("/usr/lib/modules/{release}/config")),
        ];
        let found = files.into_iter().find_map(|file| Some((read_config(&root.at(&file))?, file)));
        let (options, config) = match found {
            Some((text, file)) => (parse(&text), Some(file)),
            None => (Vec::new(), None),
        };
        Kernel { release, config, options, aliases }
    }

    /// What is known of an option; `None` if the configuration cannot be read.
    pub fn option(&self, name: &str) -> Option<Setting> {
        self.options.iter().find(|(option, _)| *option == name).map(|(_, setting)| *setting)
    }

    /// Whether an option is known not to be set.
    pub fn lacks(&self, name: &str) -> bool {
        self.option(name) == Some(Setting::No)
    }
}

fn read_config(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let mut text = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(bytes.as_slice()).take(MAX_CONFIG).read_to_end(&mut text).ok()?;
    } else {
        text = bytes;
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    text.contains("CONFIG_").then_some(text)
}

fn parse(text: &str) -> Vec<(&'static str, Setting)> {
    let drivers = KNOWN.iter().map(|known| known.option);
    OPTIONS
        .iter()
        .copied()
        .chain(drivers)
        .map(|option| {
            let value = text.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
            let setting = match value.map(str::trim) {
                Some("y") => Setting::Yes,
                Some("m") => Setting::Module,
                _ => Setting::No,
            };
            (option, setting)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const CONFIG: &str = "#\n# VFIO\n#\nCONFIG_VFIO=m\nCONFIG_VFIO_GROUP=y\n\
                          # CONFIG_VFIO_DEVICE_CDEV is not set\nCONFIG_MLX5_VFIO_PCI=m\n";

    fn check(root: &Root, file: &str) {
        let kernel = Kernel::read(root);
        assert_eq!(kernel.release, "6.12.0-test");
        assert_eq!(kernel.config.as_deref(), Some(Path::new(file)));
        assert_eq!(kernel.option("CONFIG_VFIO"), Some(Setting::Module));
        assert_eq!(kernel.option("CONFIG_VFIO_GROUP"), Some(Setting::Yes));
        assert_eq!(kernel.option("CONFIG_MLX5_VFIO_PCI"), Some(Setting::Module));
        assert!(kernel.lacks("CONFIG_VFIO_DEVICE_CDEV"));
        // Not in the file at all: an older kernel does not know the option.
        assert!(kernel.lacks("CONFIG_IOMMUFD"));
        assert!(!kernel.lacks("CONFIG_UNHEARD_OF"));
    }

    #[test]
    fn the_configuration_is_found_packed_and_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let write = |path: &str, bytes: &[u8]| {
            let path = root.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("/proc/sys/kernel/osrelease", b"6.12.0-test\n");
        assert!(Kernel::read(&root).config.is_none());
        assert!(!Kernel::read(&root).lacks("CONFIG_VFIO"));

        write("/boot/config-6.12.0-test", CONFIG.as_bytes());
        check(&root, "/boot/config-6.12.0-test");

        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(CONFIG.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        write("/proc/config.gz", &packed);
        check(&root, "/proc/config.gz");

        // A damaged file is ignored.
        write("/proc/config.gz", &packed[..packed.len() / 2]);
        check(&root, "/boot/config-6.12.0-test");
    }
}
