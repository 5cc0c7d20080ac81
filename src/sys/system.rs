// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few system calls that do not involve a device.

use super::Errno;

/// Fills `buf` with random bytes: for names of streams, not for keys.
///
/// A system call, not glibc's function: from 2.41 on, that one stays out of the kernel, and the first
/// time it masks signals and maps memory, which a VMM's seccomp filter may not expect here.
pub(crate) fn random_bytes(buf: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the pointer and the length describe `rest`, which is valid for writes.
        let n = unsafe { libc::syscall(libc::SYS_getrandom, rest.as_mut_ptr(), rest.len(), 0_u32) };
        match usize::try_from(n) {
            Ok(n) => done += n,
            Err(_) => match Errno::last() {
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
    // SAFETY: the pointer and the length describe `bytes`. Nobody could be told about a failure.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// The size of the host's pages, in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

/// CLOCK_MONOTONIC, in nanoseconds: for what is compared with what a caller reads there itself.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a structure that lives for the call. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let (seconds, rest) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(rest.unwrap_or(0))
}

/// The running kernel's release, from uname(2). Opens no file, because the VMM may be in a jail by
/// now.
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

/// A number that no other live thread has. Costs no system call and registers no destructor.
#[cfg(any(not(shuttle), test))]
pub(crate) fn current_thread_token() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

/// The same for shuttle's threads, which are all one to the operating system.
#[cfg(all(shuttle, not(test)))]
pub(crate) fn current_thread_token() -> usize {
    usize::from(shuttle::thread::current().id()) + 1
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
    fn random_bytes_are_not_all_the_same() {
        let mut bytes = [0u8; 32];
        random_bytes(&mut bytes).unwrap();
        assert!(bytes.iter().any(|b| *b != bytes[0]));
    }
}
