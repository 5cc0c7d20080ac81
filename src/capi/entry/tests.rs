// SPDX-License-Identifier: MIT OR Apache-2.0
use super::super::device::vfiomig_device;
use super::super::table;
use super::*;
use crate::device::{Device, DeviceOptions};
use crate::error::Code;
use crate::transport::OpsTransport;

const ROW: Row =
    Row { name: "test", states: 1, wrong_state: Code::Inval, needs_memory: true, errors: u32::MAX };

fn device() -> *mut vfiomig_device {
    // SAFETY: a table without callbacks; all zeros is a valid one.
    let transport = unsafe { OpsTransport::new(std::mem::zeroed(), std::ptr::null_mut()) };
    let device = Device::new(transport, DeviceOptions::default()).unwrap();
    let recorder = std::sync::Arc::clone(device.recorder());
    handle::insert(device, recorder).unwrap()
}

#[test]
fn a_panic_stops_at_the_boundary_and_poisons_its_handle_only() {
    let (bad, good) = (device(), device());
    let panics = |_: &mut Device| -> Result<()> { panic!("as a bug would") };
    assert_eq!(with(&ROW, bad, panics), Code::NotRecoverable.to_ret());
    let fine = |_: &mut Device| Ok(());
    assert_eq!(with(&ROW, bad, fine), Code::NotRecoverable.to_ret());
    assert_eq!(with(&ROW, good, fine), 0);
    // It can be freed, and the slot can be used again.
    free(&ROW, bad);
    assert_eq!(with(&ROW, bad, fine), Code::BadHandle.to_ret());
    let next = device();
    assert_eq!(with(&ROW, next, fine), 0);
    free(&ROW, good);
    free(&ROW, next);
}

#[test]
#[cfg_attr(
    debug_assertions,
    should_panic(expected = "test returned EIO, which its row in api.toml does not list: broken")
)]
fn a_code_that_a_row_does_not_list_ends_the_process_where_that_is_tested() {
    let row = Row { errors: table::FSM_PATH.errors, ..ROW };
    assert_eq!(guarded::<()>(&row, || Err(err!(Inval, "fine"))), Code::Inval.to_ret());
    assert_eq!(guarded::<()>(&row, || Err(err!(Io, "broken"))), Code::Io.to_ret());
}

#[test]
fn a_row_lists_what_its_api_toml_does() {
    let listed =
        |row: &Row| Code::ALL.iter().copied().filter(|c| row.lists(*c)).collect::<Vec<_>>();
    use Code::{BadHandle, Busy, Fault, Inval, NoData, NoMem, NotRecoverable};
    assert_eq!(listed(&table::FSM_PATH), [Fault, Inval, NotRecoverable]);
    assert_eq!(listed(&table::LOG_SET), [NoMem, Busy, Inval, NotRecoverable]);
    let of_a_list = [BadHandle, Fault, Busy, Inval, NoData, NotRecoverable];
    assert_eq!(listed(&table::DEVICE_GET_REASON), of_a_list);
    // Returns nothing, and leaves a text.
    assert_eq!(listed(&table::DEVICE_FREE), [BadHandle, Busy, NotRecoverable]);
}

#[test]
fn a_handle_that_a_call_is_inside_of_is_busy_and_is_not_freed_by_a_callback() {
    let handle = device();
    let inside = |_: &mut Device| {
        assert_eq!(with(&ROW, handle, |_: &mut Device| Ok(())), Code::Busy.to_ret());
        free(&ROW, handle);
        Ok(())
    };
    assert_eq!(with(&ROW, handle, inside), 0);
    assert_eq!(with(&ROW, handle, |_: &mut Device| Ok(())), 0);
    free(&ROW, handle);
    assert_eq!(with(&ROW, handle, |_: &mut Device| Ok(())), Code::BadHandle.to_ret());
}
