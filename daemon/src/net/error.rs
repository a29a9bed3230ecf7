//! What can go wrong at the door, sorted by whose fault it is.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bascule_core::types::LinkId;
use thiserror::Error;

/// An error of the network room.
#[derive(Debug, Error)]
pub enum NetError {
    /// The kernel refused a system call.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a change on a link.
    #[error("cannot {what} {address} on link {}: {source}", link.0)]
    Address {
        /// What was tried.
        what: &'static str,
        /// Where.
        link: LinkId,
        /// Which address.
        address: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else put the address there; it is not ours to change.
    #[error("{address} is on link {} already and was not put there by Bascule", link.0)]
    Foreign {
        /// Where.
        link: LinkId,
        /// Which address.
        address: IpAddr,
    },
    /// The kernel did not answer a netlink request.
    #[error("no answer of the kernel within {after:?} to: {what}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Source and destination of a packet belong to different families.
    #[error("cannot send from {src} to {dst}: different address families")]
    MixedFamilies {
        /// Source.
        src: IpAddr,
        /// Destination.
        dst: IpAddr,
    },
    /// The kernel refused what a field of the configuration asks for.
    #[error("{field} {value}: {source}")]
    Setting {
        /// Name of the field.
        field: &'static str,
        /// What it says.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A connection was refused or broke before it stood.
    #[error("cannot connect to {remote}: {source}")]
    Connect {
        /// To whom.
        remote: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A link-local address means nothing without a link.
    #[error("link-local address {address} needs `interface`")]
    NoScope {
        /// Which.
        address: Ipv6Addr,
    },
    /// The kernel delivered a datagram without the control messages that were switched on.
    #[error("datagram without {0}")]
    NoControl(&'static str),
}

impl NetError {
    /// A port or an address is in use by somebody else.
    pub fn port_taken(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Wraps the answer of a system call.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }

    /// Wraps the answer to a setting that the configuration asked for.
    pub(crate) fn setting<E: Into<io::Error>>(
        field: &'static str,
        value: impl std::fmt::Display,
    ) -> impl FnOnce(E) -> Self {
        let value = value.to_string();
        move |source| Self::Setting { field, value, source: source.into() }
    }
}
