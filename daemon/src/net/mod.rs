//! Sockets, netlink, the clock and the scheduler: everything of the network that is a system call.
//!
//! Decides nothing. The driver's real-time thread owns [`raw`] sockets and an [`rt::Poller`], the BGP thread [`tcp`] connections and a
//! poller of its own; the tokio side owns [`netlink::Netlink`]. Each socket belongs to the network namespace of the thread that opened it.

mod error;
pub mod neighbors;
pub mod netlink;
pub mod raw;
pub mod rt;
pub mod stack;
pub mod tcp;

use std::io;
use std::os::fd::AsFd;

pub use error::NetError;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// Enlarges a socket's receive buffer; past the machine's limit where CAP_NET_ADMIN allows it, else up to the limit.
fn enlarge(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    match setsockopt(socket, sockopt::RcvBufForce, &bytes) {
        Err(Errno::EPERM) => Ok(setsockopt(socket, sockopt::RcvBuf, &bytes)?),
        other => Ok(other?),
    }
}
