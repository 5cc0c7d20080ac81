// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structures that begin with their own size, and how they cross the ABI.
//!
//! A structure of an older caller is extended with zeros. A structure of a newer caller is accepted
//! if everything that this version does not know is zero. On the way out, the caller's size is
//! honoured, and the part beyond this version is zeroed. Layouts are frozen: see c-tests/layout.c.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use crate::error::{Result, err};

/// A structure that begins with its own size and is valid when all its bytes are zero.
///
/// # Safety
/// `repr(C)`, `u32` size first, no padding that matters, valid as zeros.
pub(super) unsafe trait Sized32: Copy {
    /// How large it was when it was first released.
    const FIRST: usize;
}

/// Declares structures to be sized. One that has grown since its first release names the first
/// member that it got then: `vfiomig_caps since protocol`.
macro_rules! sized32 {
    ($($name:ident $(since $member:ident)?),* $(,)?) => {
        // SAFETY: all of them are repr(C), begin with struct_size and consist of integers, arrays
        // of integers, raw pointers and optional function pointers.
        $(unsafe impl $crate::capi::sized::Sized32 for $name {
            const FIRST: usize = $crate::capi::sized::sized32!(@ $name $($member)?);
        })*
    };
    (@ $name:ident) => { size_of::<$name>() };
    (@ $name:ident $member:ident) => { std::mem::offset_of!($name, $member) };
}
pub(super) use sized32;

/// No structure of any version is larger: a size beyond this is invalid.
const MAX_STRUCT: usize = 64 << 10;

/// The size that a caller claims, checked.
///
/// # Safety
/// NULL, or a structure that begins with its size, as vfiomig.h says.
unsafe fn claimed_size<T: Sized32>(from: *const T, what: &str) -> Result<usize> {
    if from.is_null() {
        return Err(err!(Fault, "{what} is NULL"));
    }
    // SAFETY: not NULL; the caller promised that it begins with its size.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    // A size that no compiler makes is wrong, and might end within a pointer.
    if size < T::FIRST || size > MAX_STRUCT || size % align_of::<T>() != 0 {
        return Err(err!(
            Inval,
            "struct_size of {what} is {size}, not {}; initialise it with its _INIT macro",
            size_of::<T>()
        ));
    }
    Ok(size)
}

/// What is wrong with the part of a structure that this version does not know.
pub(super) struct Tail(Result<()>);

impl Tail {
    pub(super) fn check(self) -> Result<()> {
        self.0
    }
}

/// Copies a structure in. The tail is judged separately, so that callbacks in the known part can be
/// released even if the structure is refused.
///
/// # Safety
/// `from` is NULL or points to a structure of the size that its first member claims, which nobody
/// changes meanwhile.
pub(super) unsafe fn read_in<T: Sized32>(from: *const T, what: &str) -> Result<(T, Tail)> {
    // SAFETY: the caller made the same promise.
    let size = unsafe { claimed_size(from, what)? };
    let known = size.min(size_of::<T>());
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the structure has the `size` bytes that it claims, of which these are the first, and
    // `T` is valid for any bytes, with zeros where the caller's structure ends.
    let value = unsafe {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast(), known);
        value.assume_init()
    };
    // SAFETY: the rest of what the structure claims is there as well.
    let tail = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(known), size - known) };
    let tail = match tail.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(err!(
            TooBig,
            "{what} has members that this version of the library does not know, and they are set"
        )),
    };
    Ok((value, Tail(tail)))
}

/// Copies in a structure that owns nothing; `None` for NULL.
///
/// # Safety
/// As [`read_in`].
pub(super) unsafe fn read_options<T: Sized32>(from: *const T) -> Result<Option<T>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller made the same promise.
    let (options, tail) = unsafe { read_in(from, "options") }?;
    tail.check()?;
    Ok(Some(options))
}

/// A caller's structure that is to be filled in. It is checked before anything else is done.
pub(super) struct SizedOut<'a, T> {
    to: *mut T,
    size: usize,
    _caller: PhantomData<&'a mut T>,
}

impl<T: Sized32> SizedOut<'_, T> {
    /// # Safety
    /// `to` is NULL or points to a structure of the size that its first member claims, which can be
    /// written to, and which nobody else uses while this lives.
    pub(super) unsafe fn new(to: *mut T, what: &str) -> Result<Self> {
        // SAFETY: the caller made the same promise.
        let size = unsafe { claimed_size(to, what) }?;
        Ok(SizedOut { to, size, _caller: PhantomData })
    }

    /// Copies a structure out.
    #[inline]
    pub(super) fn fill(self, value: &T) {
        let Some(beyond) = self.size.checked_sub(size_of::<T>()) else {
            return self.fill_up_to_its_size(value);
        };
        let mut value = *value;
        // SAFETY: `T` begins with 4 bytes for the size, which stays as the caller set it. `new` found
        // that the caller's structure has `size` bytes, and the caller promised that they can be
        // written to; `T` and what is beyond it divide them up.
        unsafe {
            std::ptr::from_mut(&mut value).cast::<u32>().write(self.size as u32);
            self.to.write_unaligned(value);
            if beyond > 0 {
                self.to.cast::<u8>().add(size_of::<T>()).write_bytes(0, beyond);
            }
        }
    }

    /// Copies what an older caller has room for.
    #[cold]
    fn fill_up_to_its_size(self, value: &T) {
        let from = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: as above; `T` is longer than the caller's structure.
        unsafe {
            let bytes = self.to.cast::<u8>();
            std::ptr::copy_nonoverlapping(from.add(4), bytes.add(4), self.size - 4);
        }
    }
}

#[cfg(test)]
mod tests;
