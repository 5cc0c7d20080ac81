// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two ways to a server: a connection of the library's, and one that its owner lends.

use std::os::fd::BorrowedFd;

use super::connection::Connection;
use super::lent::Lent;
use super::regions::Regions;
use crate::error::Errno;

pub(super) enum Way {
    Own(Connection),
    Lent(Lent, Regions),
}

impl Way {
    /// Sends a command and waits for its reply, which goes into `parts`. Returns its length in bytes.
    pub fn call(
        &mut self,
        command: u16,
        payload: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        parts: &mut [&mut [u8]],
    ) -> Result<usize, Errno> {
        match self {
            Way::Own(connection) => {
                let sent = connection.send(command, payload, fds)?;
                connection.reply(sent, parts)
            }
            Way::Lent(lent, _) => lent.call(command, payload, fds, parts),
        }
    }

    /// The memory that the server may use.
    pub fn regions(&mut self) -> &mut Regions {
        match self {
            Way::Own(connection) => &mut connection.desk.regions,
            Way::Lent(_, regions) => regions,
        }
    }
}
