//! Messages of a session, and their bytes. The session is ordered and authenticated (mTLS): its peer is a site.
//!
//! What later versions may add so that this one can leave it out ([`super::version`]): messages of any tag that is unknown here; bytes behind
//! a message; keys and bodies of records with tags from [`LATER`] on, which a length follows; bytes behind a body, with [`MORE`] in its
//! tag and a length. All that only from a peer that has said that it speaks more than we do: from others it is nonsense.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use thiserror::Error;

use super::record::{Body, Key, Record};
use super::version::Speaks;
use crate::site::summary::{ServiceId, Summary};

/// Largest message: a part of a snapshot.
pub const MAX: usize = 64 * 1024;
/// Records of one message, so that a part of a snapshot stays below [`MAX`].
pub const RECORDS: usize = 1024;
/// Tags of keys and bodies from here on are of later versions, and a length follows.
pub const LATER: u8 = 16;
/// In the tag of a body: behind it are more bytes, with their length.
pub const MORE: u8 = 0x80;
/// Longest name of what a site runs, in bytes.
pub const BUILD: usize = 64;

/// How far somebody has read somebody's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// Incarnation of the writer; 0: nothing was ever read.
    pub incarnation: u64,
    /// Process that wrote it.
    pub instance: u64,
    /// Everything up to this sequence is known.
    pub seq: u64,
}

/// What travels.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// The first in each direction, in every version.
    Hello {
        /// Who writes, and how far it has come.
        own: Cursor,
        /// How far the sender has read the receiver.
        read: Cursor,
        /// Versions that the sender speaks.
        speaks: Speaks,
    },
    /// What the sender runs, for people. Since version 2.
    About {
        /// Printable ASCII, at most [`BUILD`] bytes.
        build: String,
    },
    /// Writes. With them everything up to `head` is known.
    Delta {
        /// The writer's incarnation.
        incarnation: u64,
        /// New position of the reader.
        head: u64,
        /// In any order.
        records: Vec<Record>,
    },
    /// A part of everything there is. The last one replaces what the reader had.
    Snapshot {
        /// The writer's incarnation.
        incarnation: u64,
        /// Position of the reader after the last part.
        head: u64,
        /// From 0.
        part: u32,
        /// The last.
        last: bool,
        /// Some of the records.
        records: Vec<Record>,
    },
    /// Nothing else is new: what the reader has is as fresh as this message.
    Beat {
        /// The writer's incarnation.
        incarnation: u64,
        /// Where the reader should be.
        head: u64,
        /// How long the oldest write has been waiting for its turn; then the digest says nothing.
        lag: Duration,
        /// Digest of all that the reader should hold.
        root: u64,
    },
    /// The reader does not hold what it should, or cannot make sense of where it is: everything, please.
    Resync,
    /// Another process writes as the same site.
    Contested {
        /// Which process.
        instance: u64,
    },
    /// The sender asks for room.
    Ask {
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// The sender lends room.
    Lend {
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
}

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MessageError {
    /// Too long.
    #[error("{len} bytes are more than {MAX}")]
    Long {
        /// Bytes.
        len: usize,
    },
    /// They end too early, go on too long, or hold an unknown tag.
    #[error("not a message at byte {at} of {len}")]
    Malformed {
        /// Where.
        at: usize,
        /// Of how many.
        len: usize,
    },
}

/// What was found in bytes of a peer.
#[derive(Clone, PartialEq, Debug)]
pub struct Heard {
    /// `None`: a kind of message that only later versions have.
    pub message: Option<Message>,
    /// Parts of later versions that were left out, the message itself if it is one.
    pub skipped: u32,
}

impl Message {
    /// The version that brought it.
    pub const fn since(&self) -> u8 {
        match self {
            Self::About { .. } => 2,
            Self::Hello { .. }
            | Self::Delta { .. }
            | Self::Snapshot { .. }
            | Self::Beat { .. }
            | Self::Resync
            | Self::Contested { .. }
            | Self::Ask { .. }
            | Self::Lend { .. } => 1,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            Self::Hello { own, read, speaks } => {
                out.tag(1);
                for cursor in [own, read] {
                    out.number(cursor.incarnation);
                    out.number(cursor.instance);
                    out.number(cursor.seq);
                }
                out.0.extend([speaks.oldest, speaks.newest]);
            }
            Self::About { build } => {
                out.tag(11);
                let build: Vec<u8> = build.bytes().filter(printable).take(BUILD).collect();
                out.number(build.len() as u64);
                out.0.extend(build);
            }
            Self::Delta { incarnation, head, records } => {
                out.tag(2);
                out.number(*incarnation);
                out.number(*head);
                out.records(*head, records);
            }
            Self::Snapshot { incarnation, head, part, last, records } => {
                out.tag(if *last { 4 } else { 3 });
                out.number(*incarnation);
                out.number(*head);
                out.number(u64::from(*part));
                out.records(*head, records);
            }
            Self::Beat { incarnation, head, lag, root } => {
                out.tag(5);
                out.number(*incarnation);
                out.number(*head);
                out.number(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
                out.0.extend(root.to_be_bytes());
            }
            Self::Resync => out.tag(7),
            Self::Contested { instance } => {
                out.tag(8);
                out.number(*instance);
            }
            Self::Ask { service, amount } | Self::Lend { service, amount } => {
                out.tag(if matches!(self, Self::Ask { .. }) { 9 } else { 10 });
                out.number(u64::from(service.0));
                out.number(u64::from(*amount));
            }
        }
        out.0
    }

    /// Reads bytes of a peer that speaks no later version. Never panics, and never takes more memory than a small multiple of their length.
    ///
    /// # Errors
    /// [`MessageError`] when they are not exactly one message.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let malformed = MessageError::Malformed { at: bytes.len(), len: bytes.len() };
        Self::read(bytes, false).and_then(|heard| heard.message.ok_or(malformed))
    }

    /// The same of any peer: from one that is `newer` what this version does not know is left out. A Hello says itself whether it is.
    ///
    /// # Errors
    /// [`MessageError`] when they are not one message.
    pub fn read(bytes: &[u8], newer: bool) -> Result<Heard, MessageError> {
        if bytes.len() > MAX {
            return Err(MessageError::Long { len: bytes.len() });
        }
        let mut reader = Reader { bytes, at: 0, newer, skipped: 0 };
        let message = reader.message();
        if reader.at < bytes.len() && reader.newer && message.is_some() {
            reader.skipped += 1;
            reader.at = bytes.len();
        }
        let message = message.filter(|_| reader.at == bytes.len());
        let message = message.ok_or(MessageError::Malformed { at: reader.at, len: bytes.len() })?;
        Ok(Heard { message, skipped: reader.skipped })
    }
}

const fn printable(byte: &u8) -> bool {
    matches!(*byte, b' '..=b'~')
}

struct Writer(Vec<u8>);

impl Writer {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    /// LEB128: seven bits a byte, the lowest first.
    fn number(&mut self, mut n: u64) {
        loop {
            let low = u8::try_from(n & 0x7f).unwrap_or(0);
            n >>= 7;
            if n == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    /// Sequences as the distance from the head, either way: small numbers mostly.
    fn records(&mut self, head: u64, records: &[Record]) {
        self.number(records.len() as u64);
        for record in records {
            match record.key {
                Key::Vip(ip) => {
                    self.tag(1);
                    let ip = match ip {
                        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        IpAddr::V6(ip) => ip,
                    };
                    self.0.extend(ip.octets());
                }
                Key::Service(id) => {
                    self.tag(2);
                    self.number(u64::from(id.0));
                }
                Key::Order(id) => {
                    self.tag(3);
                    self.number(u64::from(id));
                }
            }
            let distance = head.abs_diff(record.seq) << 1 | u64::from(record.seq > head);
            self.number(distance);
            self.number(u64::try_from(record.age.as_millis()).unwrap_or(u64::MAX));
            match record.body {
                None => self.tag(0),
                Some(Body::Vip { service, term }) => {
                    self.tag(1);
                    self.number(u64::from(service.0));
                    self.number(term);
                }
                Some(Body::Service(s)) => {
                    self.tag(if s.draining { 3 } else { 2 });
                    for n in [u32::from(s.ready), u32::from(s.expected), s.capacity, s.demand] {
                        self.number(u64::from(n));
                    }
                }
                Some(Body::Order { service, seconds }) => {
                    self.tag(4);
                    self.number(service.map_or(0, |s| u64::from(s.0) + 1));
                    self.number(u64::from(seconds));
                }
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The peer speaks later versions.
    newer: bool,
    skipped: u32,
}

impl<'a> Reader<'a> {
    fn tag(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let out = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(out)
    }

    fn number(&mut self) -> Option<u64> {
        let mut out = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.tag()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            out |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(out);
            }
        }
        None
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// A length and so many bytes.
    fn block(&mut self) -> Option<&'a [u8]> {
        let len: usize = self.small()?;
        let block = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(block)
    }

    /// Inside: `None` for a kind that is left out.
    fn message(&mut self) -> Option<Option<Message>> {
        let tag = self.tag()?;
        Some(Some(match tag {
            1 => {
                let [own, read] = [self.cursor()?, self.cursor()?];
                let speaks = Speaks { oldest: self.tag()?, newest: self.tag()? };
                if speaks.oldest == 0 || speaks.newest < speaks.oldest {
                    return None;
                }
                self.newer |= speaks.newest > Speaks::OURS.newest;
                Message::Hello { own, read, speaks }
            }
            2 => {
                let (incarnation, head) = (self.number()?, self.number()?);
                Message::Delta { incarnation, head, records: self.records(head)? }
            }
            3 | 4 => {
                let (incarnation, head, part) = (self.number()?, self.number()?, self.small()?);
                Message::Snapshot { incarnation, head, part, last: tag == 4, records: self.records(head)? }
            }
            5 => {
                let (incarnation, head) = (self.number()?, self.number()?);
                let lag = Duration::from_millis(self.number()?);
                Message::Beat { incarnation, head, lag, root: u64::from_be_bytes(self.array()?) }
            }
            7 => Message::Resync,
            8 => Message::Contested { instance: self.number()? },
            9 => Message::Ask { service: ServiceId(self.small()?), amount: self.small()? },
            10 => Message::Lend { service: ServiceId(self.small()?), amount: self.small()? },
            11 => {
                let build = self.block().filter(|text| text.len() <= BUILD && text.iter().all(printable))?;
                Message::About { build: build.iter().map(|byte| char::from(*byte)).collect() }
            }
            _ if self.newer => {
                self.at = self.bytes.len();
                self.skipped += 1;
                return Some(None);
            }
            _ => return None,
        }))
    }

    fn cursor(&mut self) -> Option<Cursor> {
        Some(Cursor { incarnation: self.number()?, instance: self.number()?, seq: self.number()? })
    }

    fn records(&mut self, head: u64) -> Option<Vec<Record>> {
        let count: usize = self.small()?;
        // A record has four bytes at least: a count that the bytes cannot hold reserves nothing.
        if count > RECORDS || count * 4 > self.bytes.len() - self.at {
            return None;
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.extend(self.record(head)?);
        }
        Some(records)
    }

    /// Inside: `None` for one that is left out.
    fn record(&mut self, head: u64) -> Option<Option<Record>> {
        let key = match self.tag()? {
            1 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                Some(Key::Vip(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)))
            }
            2 => Some(Key::Service(ServiceId(self.small()?))),
            3 => Some(Key::Order(self.small()?)),
            LATER.. if self.newer => self.block().map(|_| None)?,
            _ => return None,
        };
        let distance = self.number()?;
        let seq = if distance & 1 == 1 { head.checked_add(distance >> 1)? } else { head.checked_sub(distance >> 1)? };
        let age = Duration::from_millis(self.number()?);
        let tag = self.tag()?;
        let more = tag & MORE != 0;
        if more && !self.newer {
            return None;
        }
        // Inside: `None` for a body that is left out.
        let body: Option<Option<Body>> = match tag & !MORE {
            0 => Some(None),
            1 => Some(Some(Body::Vip { service: ServiceId(self.small()?), term: self.number()? })),
            tag @ (2 | 3) => Some(Some(Body::Service(Summary {
                ready: self.small()?,
                expected: self.small()?,
                draining: tag == 3,
                capacity: self.small()?,
                demand: self.small()?,
            }))),
            4 => {
                let service: u64 = self.number()?;
                let service = match service.checked_sub(1) {
                    Some(id) => Some(ServiceId(u32::try_from(id).ok()?)),
                    None => None,
                };
                Some(Some(Body::Order { service, seconds: self.small()? }))
            }
            LATER.. if self.newer => self.block().map(|_| None)?,
            _ => return None,
        };
        if more {
            let _left_out = self.block()?;
            self.skipped += 1;
        }
        let (Some(key), Some(body)) = (key, body) else {
            self.skipped += 1;
            return Some(None);
        };
        body.is_none_or(|b| b.fits(&key)).then_some(Some(Record { key, seq, age, body }))
    }
}
