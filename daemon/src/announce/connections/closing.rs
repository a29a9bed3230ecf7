//! A connection that the speaker is done with, while its last bytes leave.
//!
//! A socket that is closed with unread bytes answers with a RST, at which the neighbor's kernel throws away what it has not read: the
//! NOTIFICATION among it. So the rest is written, then the end is said, then everything that arrives is thrown away until the neighbor
//! ends as well or the time is over.

use bascule_bgp::io::Conn;
use bascule_core::time::Instant;

use super::link::Link;
use crate::net::rt::Poller;
use crate::net::tcp::Read;

/// Bytes thrown away in one go at most.
const READS: usize = 4;

#[derive(Debug)]
pub(super) struct Closing {
    link: Link,
    until: Instant,
    /// The end was said.
    finished: bool,
}

impl Closing {
    pub(super) fn new(link: Link, until: Instant) -> Self {
        Self { link, until, finished: false }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Does what can be done now; false when nothing is left to do and the connection may be dropped.
    pub(super) fn go_on(&mut self, conn: Conn, poller: &Poller, buffer: &mut [u8]) -> bool {
        self.link.flush(conn, poller);
        if self.link.pending() == 0 && !self.finished {
            self.finished = true;
            // Refused on a connection that is gone, which the reading below finds.
            let _gone = self.link.stream.finish();
        }
        for _ in 0..READS {
            match self.link.stream.read(buffer) {
                Ok(Read::Bytes(_)) => {}
                Ok(Read::Nothing) => return true,
                Ok(Read::End) | Err(_) => return false,
            }
        }
        true
    }

    /// True when the time is over; then it closes, and breaks when the neighbor has not taken everything: behind a shut window it would
    /// hear of the end in no other way.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        if now < self.until {
            return false;
        }
        let left = self.link.pending() > 0 || self.link.stream.unacknowledged().is_ok_and(|count| count > 0);
        if left {
            self.link.stream.reset_on_close();
        }
        true
    }

    pub(super) fn abort(self) {
        self.link.stream.reset_on_close();
    }
}
