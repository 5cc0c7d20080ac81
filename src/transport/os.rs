// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few things of the operating system that no device is involved in.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use crate::error::Errno;

/// Fills `buf` with random bytes: names for streams, not keys.
pub(crate) fn random_bytes(buf: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the pointer and the length describe `rest`, which is valid for writes.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => done += n,
            Err(_) => match last_errno() {
                Errno(libc::EINTR) => {}
                other => return Err(other),
            },
        }
    }
    Ok(())
}

/// Writes to standard error at once, without a lock.
#[cfg(feature = "env-logger")]
pub(crate) fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: the pointer and the length describe `bytes`. There is nobody to tell of a failure.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// The size of the host's pages, in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

/// The running kernel's release, as uname(2) has it. Opens no file: a VMM may be in a jail by now.
pub(crate) fn kernel_release() -> String {
    // SAFETY: all zeros is a value of this structure of arrays.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a structure that lives for the call.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return String::new();
    }
    let bytes = name.release.iter().map(|c| u8::from_ne_bytes(c.to_ne_bytes()));
    bytes.take_while(|byte| *byte != 0).map(char::from).collect()
}

/// The calling thread's errno.
pub(super) fn last_errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The system's text for an errno. Needs no memory.
pub(crate) fn errno_text(errno: i32, room: &mut [u8; 128]) -> &str {
    // SAFETY: the pointer and the length describe `room`, which is valid for writes.
    unsafe { libc::strerror_r(errno, room.as_mut_ptr().cast(), room.len()) };
    let text = CStr::from_bytes_until_nul(room).ok().and_then(|text| text.to_str().ok());
    text.filter(|text| !text.is_empty()).unwrap_or("Unknown error")
}

/// A number that no other live thread has. Costs no system call and registers no destructor.
#[cfg(not(shuttle))]
pub(crate) fn current_thread_token() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

/// The same for threads that shuttle makes: all of them are one to the operating system.
#[cfg(shuttle)]
pub(crate) fn current_thread_token() -> usize {
    usize::from(shuttle::thread::current().id()) + 1
}

/// A system call's result. `EINTR` is one: reads and writes of device state may block for long, and
/// whoever sent the signal may have meant to end that.
pub(super) fn once(ret: isize) -> Result<usize, Errno> {
    usize::try_from(ret).map_err(|_| last_errno())
}

/// How long a call that signals interrupt again and again is repeated. No signals last that long, but
/// a driver's mistake may.
pub(super) const INTERRUPTED: Duration = Duration::from_secs(2);

/// Runs a system call again while a signal interrupts it.
pub(super) fn retry(mut call: impl FnMut() -> isize) -> Result<usize, Errno> {
    uninterrupted(INTERRUPTED, || once(call()))
}

/// Runs a call again while a signal interrupts it, for so long; then that is the result.
pub(super) fn uninterrupted<T>(
    patience: Duration,
    mut call: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut stuck = Stuck::default();
    loop {
        match call() {
            Err(Errno(libc::EINTR)) if stuck.interrupted(patience) => {}
            other => return other,
        }
    }
}

/// How long something has made no progress.
#[derive(Default)]
pub(crate) struct Stuck {
    since: Option<Instant>,
    interruptions: u32,
}

impl Stuck {
    /// There was progress.
    pub fn moved(&mut self) {
        *self = Stuck::default();
    }

    /// Nothing was there, or nothing was taken: whether there is time to try again.
    pub fn waits(&mut self, patience: Duration) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() < patience
    }

    /// A signal came: whether there is time to try again. More of them than can be signals are not
    /// worth the processor's time.
    pub fn interrupted(&mut self, patience: Duration) -> bool {
        self.interruptions = self.interruptions.saturating_add(1);
        if self.interruptions > 100_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waits(patience)
    }
}

/// Copies bytes into `u64`s, because the payloads of features hold aligned ones.
pub(super) fn bytes_to_words(bytes: &[u8], words: &mut [u64]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut one = [0; 8];
        one.copy_from_slice(chunk);
        *word = u64::from_ne_bytes(one);
    }
}

/// The way back.
pub(super) fn words_to_bytes(words: &[u64], bytes: &mut [u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_different_tokens_and_keep_them() {
        let mine = current_thread_token();
        assert_eq!(mine, current_thread_token());
        let other = std::thread::spawn(current_thread_token).join().unwrap();
        assert_ne!(mine, other);
    }

    #[test]
    fn an_errno_has_the_text_that_the_standard_library_has_for_it() {
        for errno in [1, libc::EIO, libc::ENOMEM, 133, 9999] {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            assert_eq!(Errno(errno).to_string(), text);
        }
    }

    #[test]
    fn what_is_interrupted_is_repeated_but_not_for_ever() {
        for (interruptions, patience) in [(0, 0), (1, 1000), (5000, 60_000), (100_010, 60_000)] {
            let mut left = interruptions;
            let result = uninterrupted(Duration::from_millis(patience), || match left {
                0 => Ok(7),
                _ => {
                    left -= 1;
                    Err(Errno(libc::EINTR))
                }
            });
            assert_eq!(result, Ok(7), "{interruptions}");
        }
        let begun = Instant::now();
        let endless = uninterrupted(Duration::from_millis(30), || -> Result<(), Errno> {
            Err(Errno(libc::EINTR))
        });
        assert_eq!(endless, Err(Errno(libc::EINTR)));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(30) && took < Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn random_bytes_are_not_all_the_same() {
        let mut bytes = [0u8; 32];
        random_bytes(&mut bytes).unwrap();
        assert!(bytes.iter().any(|b| *b != bytes[0]));
    }
}
