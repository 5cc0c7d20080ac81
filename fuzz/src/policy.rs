// SPDX-License-Identifier: MIT OR Apache-2.0
//! Policy files of any bytes: they are read or refused, with a line that exists, and what they deny
//! stays denied whatever is added.

use vfiomig::identity::Identity;
use vfiomig::policy::{Direction, Facts, MAX_FILE, MAX_LINES, Rules};

fn denied(rules: &Rules, device: &Facts<'_>) -> [Option<usize>; 2] {
    [Direction::Save, Direction::Load].map(|direction| rules.denies(direction, device))
}

pub fn run(bytes: &[u8]) {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    let rules = match Rules::parse(bytes) {
        Ok(rules) => rules,
        Err(error) => {
            assert!(error.line <= lines + 1 && !error.text.is_empty(), "{error}");
            return;
        }
    };
    assert!(rules.len() <= MAX_LINES && lines <= MAX_LINES && bytes.len() <= MAX_FILE);
    assert_eq!(bytes.last(), Some(&b'\n'));
    let known = Identity {
        bus: "pci".into(),
        driver: "mlx5_vfio_pci".into(),
        pci: [0x15b3, 0x101e, 0x15b3, 0x0023],
        mdev_type: "mtty-2".into(),
        vendor_type: "nvidia-1155".into(),
        ..Identity::default()
    };
    let unknown = Identity::default();
    let devices = [
        Facts { name: Some("0000:3b:00.2"), identity: &known },
        Facts { name: None, identity: &unknown },
    ];
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"deny driver=another\n");
    let all = [bytes, b"deny\n"].concat();
    for device in &devices {
        let before = denied(&rules, device);
        assert!(before.iter().flatten().all(|line| (1..=lines).contains(line)));
        // Unless one of these lines is too many.
        if let (Ok(more), Ok(all)) = (Rules::parse(&more), Rules::parse(&all)) {
            let after = denied(&more, device);
            assert!(before.iter().zip(after).all(|(b, a)| b.is_none() || a.is_some()));
            assert!(denied(&all, device).iter().all(Option::is_some));
        }
    }
}
