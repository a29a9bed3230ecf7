//! Conformance with RFC 9568 sections 6.1 and 6.4, and the house's additions, in virtual time: tables, sequences, then pairs.

use core::time::Duration;

use super::*;

mod additions;
mod claims;
mod harness;
mod pair;

mod rfc;
