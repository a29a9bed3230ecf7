//! Tells that queueing disciplines or filters of some link changed. What, is asked elsewhere.

use super::socket::NetlinkSocket;
use crate::net::NetError;

/// `RTMGRP_TC` of linux/rtnetlink.h.
const GROUPS: u32 = 0x8;

/// Listens, on a socket of its own. tcx links change without a word.
pub struct TcEvents(NetlinkSocket);

impl TcEvents {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open() -> Result<Self, NetError> {
        Ok(Self(NetlinkSocket::open(GROUPS)?))
    }

    /// Waits until something changed. Lost events are a change, too. May be dropped at any time.
    ///
    /// # Errors
    /// When the socket fails for another reason.
    pub async fn changed(&mut self) -> Result<(), NetError> {
        match self.0.next().await {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(e) => Err(NetError::system("hear of filters")(e)),
        }
    }
}
