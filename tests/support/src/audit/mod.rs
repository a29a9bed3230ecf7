//! Live TCP flows whose every byte is accounted for: what it means that a flow survived.
//!
//! Each flow carries numbered records to a server, which checks that they arrive in order, none twice and none left out, and
//! sends each back; the client checks the same of the echoes. So a reset, an early end, a lost or duplicated byte, or an answer of
//! another server each end the flow with a name, and a stall shows as the longest time without progress.

mod client;
mod conn;
mod report;
mod server;

pub use client::{Flows, Load};
pub use report::{AuditReport, End, FlowOutcome};
pub use server::AuditServer;

use crate::{LabError, Result};

/// Bytes of a record: flow number (4), server number of the echo (4), record number (8), little-endian.
pub(crate) const RECORD: usize = 16;

/// Lets this process hold `sockets` more descriptors than it has now, as far as its hard limit goes.
///
/// # Errors
/// When the hard limit is too low.
fn room_for(sockets: usize) -> Result<()> {
    // What everything else in a test or bench has open at most.
    const OTHERS: usize = 1000;
    let wanted = libc::rlim_t::try_from(sockets + OTHERS).unwrap_or(libc::rlim_t::MAX);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for both calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if done != 0 {
        return Err(LabError::io("RLIMIT_NOFILE")(std::io::Error::last_os_error()));
    }
    if limit.rlim_cur < wanted {
        return Err(LabError::answer(
            "RLIMIT_NOFILE",
            format!("{} descriptors at most, {wanted} needed", limit.rlim_cur),
        ));
    }
    Ok(())
}

/// Gives the calling thread a table of descriptors of its own, with nothing in it but stdin, stdout and stderr. The limit counts per
/// table, and both ends of 10,000 flows are more than many a machine allows one.
fn own_descriptors() -> std::io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
    // SAFETY: only the copies in this thread's new table are closed; nothing on this thread uses one.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The bytes of a record.
pub(crate) fn record(flow: u32, server: u32, number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..4].copy_from_slice(&flow.to_le_bytes());
    bytes[4..8].copy_from_slice(&server.to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Flow, server and number of a record.
pub(crate) fn parse(bytes: &[u8; RECORD]) -> (u32, u32, u64) {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0), word(4), u64::from(word(8)) | u64::from(word(12)) << 32)
}
