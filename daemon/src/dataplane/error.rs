//! What can go wrong with the fence, sorted by whose fault it is.
//!
//! Each message names its cause too: it ends up as one string in /ready and in the condition of a node without a fence.

use std::io;
use std::path::PathBuf;

/// Why the fence does not stand, or does not stand as asked.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The machine: the kernel is older than the programs need.
    #[error("the kernel is {found}, the fence needs 5.10 or newer")]
    KernelTooOld {
        /// The release the kernel reports.
        found: String,
    },
    /// The deployment: capabilities are missing.
    #[error("the eBPF programs cannot be loaded without the capabilities {missing}")]
    MissingCapability {
        /// Names of what is missing.
        missing: String,
    },
    /// The deployment: no bpffs where the pins shall live.
    #[error("{path} is not on a bpffs: mount one there (mount -t bpf bpf /sys/fs/bpf) and hand it to the daemon")]
    NoBpffs {
        /// The pin root asked for.
        path: PathBuf,
    },
    /// The deployment: the boot time clock of this process is not the kernel's, so every deadline would be wrong.
    #[error(
        "the time namespace of this process shifts CLOCK_BOOTTIME by {offset}: deadlines would be wrong in the kernel"
    )]
    ShiftedTime {
        /// The offset as the kernel reports it: seconds and nanoseconds.
        offset: String,
    },
    /// The machine: before tcx a link has room for the filters of one instance.
    #[error("several instances on one node need tcx (Linux 6.6): link {link} has room for one, the instance 0")]
    OneInstance {
        /// Name of the link.
        link: String,
    },
    /// The caller: no such link in this network namespace.
    #[error("no link with index {ifindex} in this network namespace")]
    NoLink {
        /// The index asked for.
        ifindex: u32,
    },
    /// The caller: the link has no Ethernet header, there is no ARP or NDP to fence.
    #[error("link {name} (index {ifindex}) is not an Ethernet link (hardware type {hatype})")]
    NotEthernet {
        /// Name of the link.
        name: String,
        /// Its index.
        ifindex: u32,
        /// Its hardware type (linux/if_arp.h).
        hatype: u16,
    },
    /// The caller: a slot outside the maps.
    #[error("slot {slot} is not below {limit}")]
    Slot {
        /// The slot asked for.
        slot: u32,
        /// How many there are.
        limit: u32,
    },
    /// The caller: term 0 is what an empty map holds, a claim must not use it.
    #[error("slot {slot}: a claim needs a term of at least 1")]
    TermZero {
        /// The slot asked for.
        slot: u32,
    },
    /// The machine: the kernel refused the programs (the verifier's output is in the source).
    #[error("the kernel refused the program {name}: {}", chain(.source.as_ref()))]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Cause.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The machine: the object could not be loaded.
    #[error("the eBPF object could not be loaded: {}", chain(.0.as_ref()))]
    Object(#[source] Box<aya::EbpfError>),
    /// Ours: the object lacks something it must have.
    #[error("the eBPF object has no {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// The machine: a map operation failed.
    #[error("map {name}: {what} failed: {}", chain(.source.as_ref()))]
    Map {
        /// Name of the map.
        name: &'static str,
        /// The operation.
        what: &'static str,
        /// Cause.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// The machine: the programs could not be put on a link.
    #[error("link {name}: {what} failed: {}", chain(.source.as_ref()))]
    Attach {
        /// Name of the link.
        name: String,
        /// The step that failed.
        what: &'static str,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine: a file operation failed.
    #[error("{what} {path} failed: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl FenceError {
    /// For `map_err` on a map operation.
    pub(super) fn map(name: &'static str, what: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { name, what, source: Box::new(source) }
    }

    /// For `map_err` on a file operation.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err` on a step of putting the programs on a link.
    pub(super) fn attach<E>(name: &str, what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let name = name.to_owned();
        move |source| Self::Attach { name, what, source: source.into() }
    }
}

/// Every cause below an error: aya's own messages leave out what the kernel said.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_said = cause.to_string();
        if !said.contains(&cause_said) {
            said = format!("{said}: {cause_said}");
        }
        below = cause.source();
    }
    said
}
