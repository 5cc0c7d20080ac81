// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's migration protocols, as far as data streams are concerned.
//!
//! [`v2`] is the protocol of Linux 5.18 and newer: state flows through a data fd.

pub(crate) mod v2;
