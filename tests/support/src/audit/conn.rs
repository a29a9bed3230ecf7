//! A non-blocking stream of records with what could not be sent yet.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::{RECORD, parse};

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Everything there was.
    All,
    /// The other side closed.
    Closed,
    /// The connection failed: reset, timed out.
    Failed(ErrorKind),
}

/// One end of a flow.
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    /// Start of a record whose rest has not come.
    partial: Vec<u8>,
    /// What the socket did not take.
    waiting: Vec<u8>,
}

impl Conn {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, partial: Vec::new(), waiting: Vec::new() }
    }

    /// Bytes that wait for the socket to take them.
    pub(super) fn backlog(&self) -> usize {
        self.waiting.len()
    }

    /// Sends, or keeps what does not fit.
    pub(super) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.waiting.is_empty() {
            let sent = self.write(bytes)?;
            self.waiting.extend_from_slice(&bytes[sent..]);
        } else {
            self.waiting.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Sends what was kept.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let sent = self.write(&waiting)?;
        self.waiting = waiting;
        self.waiting.drain(..sent);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// Reads what is there; every whole record goes to `each`, which says whether to go on.
    pub(super) fn read(&mut self, buffer: &mut [u8], mut each: impl FnMut(u32, u32, u64) -> bool) -> Heard {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Heard::Closed,
                Ok(n) => {
                    self.partial.extend_from_slice(&buffer[..n]);
                    let whole = self.partial.len() - self.partial.len() % RECORD;
                    let (records, _) = self.partial[..whole].as_chunks::<RECORD>();
                    let fine = records.iter().all(|bytes| {
                        let (flow, server, number) = parse(bytes);
                        each(flow, server, number)
                    });
                    self.partial.drain(..whole);
                    if !fine || n < buffer.len() {
                        return Heard::All;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Heard::All,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Heard::Failed(e.kind()),
            }
        }
    }
}
