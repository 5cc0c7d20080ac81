// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of a device from measuring it, and the blob in which a caller keeps that from one
//! migration to the next.
//!
//! A blob may come from anywhere, for example from the other side of the migration. Whatever it says,
//! predictions stay within their bounds; but nobody can tell whether its numbers are true.

use super::measure::{Measure, Range, Rate, scale};
use crate::crc::crc32;
use crate::error::{Result, err};

/// What is measured of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Profile {
    /// How long each [`Step`] takes, in nanoseconds.
    pub steps: [Measure; Step::ALL.len()],
    /// Reading it while its guest runs, and after it has stopped.
    pub read_running: Rate,
    pub read_stopped: Rate,
    pub write: Rate,
    /// What stop-copy sent, as a part of what the driver had announced, in 65536ths.
    pub truth: Measure,
    /// What stop-copy sent, in bytes.
    pub stop_bytes: Measure,
}

/// A change of a device's state that counts as downtime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    /// Source: no more peer-to-peer DMA.
    Quiesce = 1,
    /// Source: to STOP_COPY.
    Stop = 2,
    /// Source: the device is given up, after the target has committed.
    Release = 3,
    /// Target: the driver checks and accepts the state.
    Commit = 4,
    /// Target: to RUNNING_P2P.
    Approach = 5,
    /// Target: to RUNNING.
    Run = 6,
}

impl Step {
    /// In the order of their numbers.
    pub const ALL: [Step; 6] =
        [Step::Quiesce, Step::Stop, Step::Release, Step::Commit, Step::Approach, Step::Run];
}

/// The driver's word is the truth.
pub(super) const TRUE: u64 = 1 << 16;

/// Length of a blob, in bytes.
pub const BLOB_LEN: usize = HEAD + MEASURES * MEASURE_LEN + RATES * RATE_LEN + CHECK;

const MAGIC: [u8; 4] = *b"VMES";
const VERSION: u16 = 1;
const HEAD: usize = 8;
const MEASURES: usize = Step::ALL.len() + 2;
const MEASURE_LEN: usize = 20;
const RATES: usize = 3;
const RATE_LEN: usize = 28;
const CHECK: usize = 4;

/// Nothing that belongs to a downtime takes longer than a day, in nanoseconds.
const MOST_NS: u64 = 86_400 * 1_000_000_000;
/// No device has more state than this, in bytes.
const MOST_BYTES: u64 = 1 << 50;
/// No driver is wrong by more than this factor.
const MOST_TRUTH: u64 = TRUE << 20;

impl Profile {
    pub fn step(&self, step: Step) -> Option<Range> {
        self.steps.get(step as usize - 1)?.range()
    }

    pub fn took(&mut self, step: Step, ns: u64) {
        if let Some(measure) = self.steps.get_mut(step as usize - 1) {
            measure.add(ns.min(MOST_NS));
        }
    }

    /// What stop-copy will send, if the driver announces that.
    pub fn corrected(&self, announced: u64) -> Range {
        // Real drivers announce half of it, or three times as much.
        let doubt = Range { low: TRUE / 4, value: TRUE, high: TRUE * 2 };
        self.truth.range().unwrap_or(doubt).each(|part| scale(announced, part, TRUE))
    }

    /// A device has sent `bytes` after it had announced `announced`.
    pub fn sent(&mut self, bytes: u64, announced: Option<u64>) {
        self.stop_bytes.add(bytes.min(MOST_BYTES));
        if let Some(announced) = announced.filter(|announced| *announced > 0) {
            self.truth.add(scale(bytes, TRUE, announced).min(MOST_TRUTH));
        }
        self.read_stopped.close();
    }

    /// The measures, in the order in which they stand in a blob.
    fn measures(&mut self) -> impl Iterator<Item = (&mut Measure, u64)> {
        let steps = self.steps.iter_mut().map(|measure| (measure, MOST_NS));
        steps.chain([(&mut self.truth, MOST_TRUTH), (&mut self.stop_bytes, MOST_BYTES)])
    }

    fn rates(&mut self) -> [&mut Rate; RATES] {
        [&mut self.read_running, &mut self.read_stopped, &mut self.write]
    }

    /// What is to be remembered.
    pub fn encode(mut self) -> [u8; BLOB_LEN] {
        let mut out = [0; BLOB_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = out.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(BLOB_LEN as u16).to_le_bytes());
        for (measure, most) in self.measures() {
            put(&measure.mean.min(most).to_le_bytes());
            put(&measure.deviation.min(most).to_le_bytes());
            put(&measure.count.to_le_bytes());
        }
        for rate in self.rates() {
            rate.close();
            let bytes = rate.bytes.min(MOST_BYTES);
            put(&bytes.to_le_bytes());
            put(&rate.ns.min(MOST_NS).to_le_bytes());
            put(&rate.deviation.min(MOST_NS).to_le_bytes());
            put(&rate.count.to_le_bytes());
        }
        let check = crc32(&[out.get(..BLOB_LEN - CHECK).unwrap_or_default()]);
        if let Some(place) = out.last_chunk_mut::<CHECK>() {
            *place = check.to_le_bytes();
        }
        out
    }

    /// What was remembered.
    pub fn decode(blob: &[u8]) -> Result<Profile> {
        if blob.get(..4) != Some(&MAGIC) {
            return Err(err!(Proto, "not what an estimate remembers of a device"));
        }
        let version =
            blob.get(4..6).and_then(|at| at.first_chunk()).map(|at| u16::from_le_bytes(*at));
        if version.is_some_and(|version| version != VERSION) {
            return Err(err!(
                NotSupported,
                "version {} of what an estimate remembers; this library knows {VERSION}",
                version.unwrap_or_default()
            ));
        }
        let Ok(blob) = <&[u8; BLOB_LEN]>::try_from(blob) else {
            return Err(err!(
                BadMsg,
                "what an estimate remembers has {} bytes, not {BLOB_LEN}",
                blob.len()
            ));
        };
        let stated = blob.last_chunk().map_or(0, |at| u32::from_le_bytes(*at));
        let length =
            blob.get(6..8).and_then(|at| at.first_chunk()).map(|at| u16::from_le_bytes(*at));
        let check = crc32(&[blob.get(..BLOB_LEN - CHECK).unwrap_or_default()]);
        if stated != check || length.map(usize::from) != Some(BLOB_LEN) {
            return Err(err!(BadMsg, "what an estimate remembers of a device is damaged"));
        }
        Profile::decode_numbers(blob.get(HEAD..).unwrap_or_default())
    }

    fn decode_numbers(mut rest: &[u8]) -> Result<Profile> {
        let mut profile = Profile::default();
        for (measure, most) in profile.measures() {
            let (mean, deviation) = (number(&mut rest), number(&mut rest));
            let count = count(&mut rest);
            let nothing = count == 0 && (mean, deviation) != (0, 0);
            if mean > most || deviation > most || nothing {
                return Err(impossible());
            }
            *measure = Measure { mean, deviation, count }.aged();
        }
        for rate in profile.rates() {
            let (bytes, ns, deviation) = (number(&mut rest), number(&mut rest), number(&mut rest));
            let count = count(&mut rest);
            let nothing = count == 0 && (bytes, ns, deviation) != (0, 0, 0);
            if bytes > MOST_BYTES || ns > MOST_NS || deviation > MOST_NS || nothing {
                return Err(impossible());
            }
            *rate = Rate::remembered(bytes, ns, deviation, count);
        }
        Ok(profile)
    }
}

fn impossible() -> crate::error::Error {
    err!(BadMsg, "what an estimate remembers of a device is impossible")
}

fn number(rest: &mut &[u8]) -> u64 {
    let Some((at, left)) = rest.split_first_chunk() else { return 0 };
    *rest = left;
    u64::from_le_bytes(*at)
}

fn count(rest: &mut &[u8]) -> u32 {
    let Some((at, left)) = rest.split_first_chunk() else { return 0 };
    *rest = left;
    u32::from_le_bytes(*at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    fn measured() -> Profile {
        let mut profile = Profile::default();
        for (number, step) in (1..).zip(Step::ALL) {
            profile.took(step, number * 1_000_000);
        }
        profile.read_running.add(4 << 20, 10_000_000);
        profile.read_stopped.add(8 << 20, 10_000_000);
        profile.write.add(100, 7);
        profile.sent(2000, Some(1000));
        profile
    }

    #[test]
    fn a_blob_brings_back_what_was_measured() {
        let blob = measured().encode();
        let back = Profile::decode(&blob).unwrap();
        assert_eq!(back.encode(), blob);
        assert_eq!(back.step(Step::Commit).unwrap().value, 4_000_000);
        assert_eq!(back.corrected(500).value, 1000);
        assert_eq!(back.write.time_of(Range::exactly(200)).unwrap().value, 14);
    }

    #[test]
    fn a_blob_that_is_damaged_of_another_version_or_none_is_refused() {
        let blob = measured().encode();
        for at in 0..BLOB_LEN {
            let mut damaged = blob;
            damaged[at] ^= 0x10;
            let wanted = match at {
                0..4 => Code::Proto,
                4..6 => Code::NotSupported,
                _ => Code::BadMsg,
            };
            assert_eq!(Profile::decode(&damaged).unwrap_err().code(), wanted, "byte {at}");
        }
        for len in 0..BLOB_LEN {
            assert!(Profile::decode(&blob[..len]).is_err());
        }
    }

    fn sealed(mut numbers: [u8; BLOB_LEN]) -> [u8; BLOB_LEN] {
        numbers[..HEAD].copy_from_slice(&measured().encode()[..HEAD]);
        let check = crc32(&[&numbers[..BLOB_LEN - CHECK]]);
        numbers[BLOB_LEN - CHECK..].copy_from_slice(&check.to_le_bytes());
        numbers
    }

    proptest! {
        #[test]
        fn numbers_that_cannot_be_are_refused(bytes in proptest::collection::vec(any::<u8>(), BLOB_LEN)) {
            let blob = sealed(bytes.try_into().unwrap());
            // Random numbers of 64 bits are all too large.
            prop_assert_eq!(Profile::decode(&blob).unwrap_err().code(), Code::BadMsg);
        }

        #[test]
        fn what_a_driver_announces_is_corrected_within_bounds(
            sent in proptest::collection::vec(any::<(u64, Option<u64>)>(), 0..20), announced in any::<u64>(),
        ) {
            let mut profile = Profile::default();
            for (bytes, announced) in sent {
                profile.sent(bytes, announced);
            }
            let range = profile.corrected(announced);
            prop_assert!(range.low <= range.value && range.value <= range.high);
            prop_assert!(Profile::decode(&profile.encode()).is_ok());
        }
    }
}
