//! Messages of a session, and their bytes. The session is ordered and authenticated (mTLS): its peer is a site.
//!
//! What later versions may add so that this one can leave it out ([`super::version`]): messages of any tag that is unknown here; bytes behind
//! a message; keys and bodies of records with tags from [`LATER`] on, which a length follows; bytes behind a body, with [`MORE`] in its
//! tag and a length. All that only from a peer that has said that it speaks more than we do: from others it is nonsense.

mod bytes;

use core::time::Duration;
use std::collections::BTreeMap;

use thiserror::Error;

use super::record::Record;
use super::version::Speaks;
use crate::site::SiteId;
use crate::site::summary::ServiceId;
use bytes::{Reader, Writer, printable};

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
    /// What the sender's site reaches, all of it: it replaces what was said before. As many entries as there are numbers of sites at most, so
    /// that nothing has to be left out. Since version 3.
    Reach {
        /// By site, the receiver left out; those of which nothing is known are not named.
        sites: BTreeMap<SiteId, bool>,
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
            Self::Reach { .. } => 3,
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
            Self::Reach { sites } => {
                out.tag(12);
                out.number(sites.len() as u64);
                sites.iter().for_each(|(site, reached)| out.0.extend([site.0, u8::from(*reached)]));
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
