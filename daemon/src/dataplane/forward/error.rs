//! What can go wrong with the forwarding plane, beyond what the fence's errors say already.

use std::io;
use std::path::PathBuf;

use super::super::error::FenceError;

/// Why forwarding does not stand, or does not stand as asked.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The machine or the deployment, in the words that the fence uses for it: bpffs, capabilities, maps, programs, files.
    #[error(transparent)]
    Plane(#[from] FenceError),
    /// The machine: the kernel is older than the programs need.
    #[error("the kernel is {found}, forwarding needs 6.0 or newer")]
    KernelTooOld {
        /// The release the kernel reports.
        found: String,
    },
    /// The deployment: the programs of another instance stand on devices of this node, and a packet has one way.
    #[error(
        "another instance on this node forwards already (its pins are in {pins}): leave `forwarding` to one of them; what one left that runs no more goes by `bascule clean --instance N`"
    )]
    OneInstance {
        /// Its pins.
        pins: PathBuf,
    },
    /// The caller: a slot or a row outside the maps.
    #[error("{what} {index} is not in 1..{limit}")]
    Range {
        /// What was to be written.
        what: &'static str,
        /// The index asked for.
        index: u32,
        /// The first one past the end.
        limit: u32,
    },
    /// The machine: a bpf(2) call of ours failed.
    #[error("{what} failed: {source}")]
    Call {
        /// The step that failed.
        what: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The machine: neither tcx nor clsact takes the program, so the device carries none of ours.
    #[error("device {device} carries no program: {reason}")]
    NoHook {
        /// Name of the device.
        device: String,
        /// What each way said.
        reason: String,
    },
}

impl ForwardError {
    /// For `map_err` on a map operation of aya.
    pub(super) fn map(name: &'static str, what: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Plane(FenceError::map(name, what)(source))
    }

    /// For `map_err` on a call of `dataplane::sys`.
    pub(super) fn call(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Call { what, source }
    }
}
