// SPDX-License-Identifier: MIT OR Apache-2.0
use std::sync::Arc;

use super::super::device::vfiomig_device;
use super::super::load::vfiomig_load;
use super::super::save::vfiomig_save;
use super::super::slots::RESTING;
use super::*;
use crate::device::{Device, DeviceOptions};
use crate::error::Code;
use crate::transport::OpsTransport;

fn code<T>(result: Result<T>) -> Code {
    result.err().unwrap().code()
}

fn device() -> Device {
    // SAFETY: a table without callbacks; all zeros is a valid one.
    let transport = unsafe { OpsTransport::new(std::mem::zeroed(), std::ptr::null_mut()) };
    Device::new(transport, DeviceOptions::default()).unwrap()
}

/// A device's handle as a number, which threads may share.
fn handle() -> usize {
    let device = device();
    let recorder = Arc::clone(device.recorder());
    insert::<vfiomig_device>(device, recorder).unwrap().addr()
}

fn pointer<H>(handle: usize) -> *mut H {
    std::ptr::without_provenance_mut(handle)
}

fn find_device(handle: usize) -> (u32, &'static Slot) {
    find(handle, vfiomig_device::KIND).ok().unwrap()
}

fn enter_device(handle: usize, wait: bool) -> Result<()> {
    enter::<vfiomig_device>(pointer(handle), wait)?.object().map(drop)
}

fn remove_device(handle: usize) -> Result<()> {
    remove::<vfiomig_device>(pointer(handle), true)
}

fn read_shared(handle: usize) -> Result<()> {
    with_shared::<vfiomig_device, _>(pointer(handle), |_| Ok(()))
}

/// Runs `call` on a thread, and `change` once that thread sleeps: it is then waiting for a lock.
fn while_it_waits<R: Send + 'static>(
    call: impl FnOnce() -> R + Send + 'static,
    change: impl FnOnce(),
) -> R {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: touches no memory.
        send.send(unsafe { libc::gettid() }).unwrap();
        call()
    });
    let status = format!("/proc/self/task/{}/stat", receive.recv().unwrap());
    let sleeps = || std::fs::read_to_string(&status).is_ok_and(|stat| stat.contains(") S "));
    let mut seen = 0;
    while seen < 5 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        seen = if sleeps() { seen + 1 } else { 0 };
    }
    change();
    thread.join().unwrap()
}

/// What happens to a slot when it is freed and reused for an object of the same kind.
fn use_anew(slot: &Slot, object: &mut Option<Boxed<dyn Held>>) {
    *object = Some(Boxed::<dyn Held>::new(ObjectOf::<vfiomig_device>(device())));
    slot.generation.fetch_add(1, Ordering::Release);
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_slot_that_was_used_anew_while_a_call_waited_is_not_the_calls() {
    let handle = handle();
    let (index, slot) = find_device(handle);
    let mut object = slot.object.lock().unwrap();
    let enters = move || code(enter_device(handle, true));
    let entered = while_it_waits(enters, || {
        use_anew(slot, &mut object);
        drop(object);
    });
    assert_eq!(entered, Code::BadHandle);
    let anew = encode(vfiomig_device::KIND, index, slot.generation.load(Ordering::Acquire));
    assert!(enter_device(anew, true).is_ok());
    let mut object = slot.object.lock().unwrap();
    let removed = while_it_waits(
        move || code(remove_device(anew)),
        || {
            use_anew(slot, &mut object);
            drop(object);
        },
    );
    assert_eq!(removed, Code::BadHandle);
    let last = encode(vfiomig_device::KIND, index, slot.generation.load(Ordering::Acquire));
    assert!(remove_device(last).is_ok());
}

#[test]
#[cfg_attr(miri, ignore)]
fn no_call_begins_while_another_thread_waits_to_free_the_handle() {
    let handle = handle();
    let (_, slot) = find_device(handle);
    let object = slot.object.lock().unwrap();
    assert_eq!(code(enter_device(handle, false)), Code::Busy);
    let removed = while_it_waits(
        move || remove_device(handle),
        || {
            assert_eq!(code(enter_device(handle, false)), Code::BadHandle);
            assert_eq!(code(enter_device(handle, true)), Code::BadHandle);
            drop(object);
        },
    );
    assert!(removed.is_ok());
    assert_eq!(code(enter_device(handle, false)), Code::BadHandle);
}

#[test]
#[cfg_attr(miri, ignore)]
fn the_shared_part_of_a_slot_that_was_used_anew_meanwhile_is_not_the_calls() {
    let handle = handle();
    let (index, slot) = find_device(handle);
    let mut shared = slot.shared.lock().unwrap();
    let reads = move || code(read_shared(handle));
    let read = while_it_waits(reads, || {
        *shared = Some(Boxed::<dyn Shared>::new(SharedOf::<vfiomig_device>(Arc::clone(
            device().recorder(),
        ))));
        slot.generation.fetch_add(1, Ordering::Release);
        drop(shared);
    });
    assert_eq!(read, Code::BadHandle);
    let anew = encode(vfiomig_device::KIND, index, slot.generation.load(Ordering::Acquire));
    assert!(read_shared(anew).is_ok());
    assert!(remove_device(anew).is_ok());
}

#[test]
fn a_slot_is_used_again_after_many_others() {
    let first = handle();
    let (index, _) = find_device(first);
    assert!(remove_device(first).is_ok());
    // Other tests take slots meanwhile, and half of these are theirs.
    for _ in 0..RESTING / 2 {
        let handle = handle();
        assert_ne!(find_device(handle).0, index);
        assert!(remove_device(handle).is_ok());
    }
}

#[test]
fn null_garbage_and_misaligned_numbers_are_no_handles() {
    assert_eq!(code(enter_device(0, false)), Code::Fault);
    for garbage in [1, 8, 4096, usize::MAX, 0x5a << 56, (0x5a << 56) | 0xffff_ff10, 0x7fff_1234] {
        assert_eq!(code(enter_device(garbage, false)), Code::BadHandle, "{garbage:#x}");
        assert_eq!(code(remove::<vfiomig_save>(pointer(garbage), true)), Code::BadHandle);
        assert_eq!(
            code(with_shared::<vfiomig_load, _>(pointer(garbage), |_| Ok(()))),
            Code::BadHandle
        );
    }
}

#[test]
fn a_handle_whose_kind_was_exchanged_is_not_live() {
    let handle = handle();
    let (index, slot) = find_device(handle);
    let generation = slot.generation.load(Ordering::Acquire);
    let save = pointer::<vfiomig_save>(encode(vfiomig_save::KIND, index, generation));
    assert_eq!(code(enter(save, false).and_then(|mut e| e.object().map(drop))), Code::BadHandle);
    assert_eq!(code(with_shared(save, |_| Ok(()))), Code::BadHandle);
    assert_eq!(code(remove(save, true)), Code::BadHandle);
    assert!(remove_device(handle).is_ok());
}
