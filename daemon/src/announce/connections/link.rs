//! One connection that stands: what waits to be written, and what the neighbor has acknowledged.

use bascule_bgp::io::Conn;

use crate::net::rt::{Interest, Poller};
use crate::net::tcp::Stream;

/// A connection with its unwritten bytes: at most one write of the speaker (64 kB) and a NOTIFICATION behind it, by its contract.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    waiting: Vec<u8>,
    /// So many of `waiting` are gone.
    gone: usize,
    /// Writing failed: the reading side says why, after everything that had arrived.
    broken: bool,
    interest: Interest,
    /// The speaker waits for acknowledgements; what was told last.
    watched: Option<usize>,
}

impl Link {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, waiting: Vec::new(), gone: 0, broken: false, interest: Interest::Read, watched: None }
    }

    pub(super) fn queue(&mut self, bytes: Vec<u8>) {
        if self.waiting.is_empty() {
            self.waiting = bytes;
        } else {
            self.waiting.extend(bytes);
        }
    }

    /// Bytes that the kernel has not taken.
    pub(super) fn pending(&self) -> usize {
        self.waiting.len() - self.gone
    }

    /// Writes what the kernel takes; true when it took something.
    pub(super) fn flush(&mut self, conn: Conn, poller: &Poller) -> bool {
        let before = self.pending();
        while self.pending() > 0 && !self.broken {
            match self.stream.write(&self.waiting[self.gone..]) {
                Ok(0) => break,
                Ok(count) => self.gone += count,
                Err(_) => self.broken = true,
            }
        }
        if self.broken || self.pending() == 0 {
            self.waiting = Vec::new();
            self.gone = 0;
        }
        let interest = if self.pending() > 0 { Interest::Both } else { Interest::Read };
        if interest != self.interest {
            self.interest = interest;
            if let Err(error) = poller.change(&self.stream, conn.0, interest) {
                // Both are ours and open: a refusal is a bug, and the hold timer is what remains.
                tracing::error!(%error, "a connection cannot be watched");
            }
        }
        self.pending() < before
    }

    pub(super) fn watch(&mut self) {
        self.watched.get_or_insert(usize::MAX);
    }

    /// Bytes not yet acknowledged, if somebody waits for that.
    pub(super) fn note_unacknowledged(&mut self) -> Option<usize> {
        let told = self.watched.as_mut()?;
        *told = self.stream.unacknowledged().ok()?;
        Some(*told)
    }

    /// Whether fewer are unacknowledged than was told last, and whether there is more to wait for.
    pub(super) fn ask_acknowledged(&self) -> (bool, bool) {
        let Some(told) = self.watched else { return (false, false) };
        match self.stream.unacknowledged() {
            Ok(count) => (count < told, count > 0 || self.pending() > 0 || told > 0),
            Err(_) => (false, false),
        }
    }
}
