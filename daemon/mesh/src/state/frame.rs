//! Frames on the stream between two relays: a kind, a length, a payload.
//!
//! Layout: kind (1 byte), length (3 bytes, big endian), payload. A length above what the kind may have is refused before anything is
//! reserved for it. Kinds from [`LATER`] to 127 are of later versions: they are read over, counted, and must not be needed. A greeting may
//! have more behind what is known.

use std::io;

use bascule_core::site::state::message::MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Version of frames; both ends must say the same. What is said in them has versions of its own (ADR 0035).
const VERSION: u8 = 2;
/// First kind that later versions may use for what others leave out.
const LATER: u8 = 16;
/// Bytes of a greeting that are known, and that it may have.
const GREETING: (usize, usize) = (10, 64);
/// Bytes before the payload.
pub const HEADER: usize = 4;

/// Why a relay ends a connection in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goodbye {
    /// Another relay speaks for this site: call that one.
    Standby,
    /// There is a session with this site already.
    Held,
    /// The relay stops, or does not speak for its site any more.
    Stopping,
    /// The session is closed for a reason that the one who closes it has counted.
    Closed,
}

/// What is in a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The first of each side. `process` is a random number of the sender's process; `renews` asks to go on with the session that
    /// these two processes have, on this connection.
    Greeting {
        /// Random number of the process.
        process: u64,
        /// The connection shall carry on a session that there is.
        renews: bool,
        /// What the sender is in its site; `None`: it does not say, as relays of before ADR 0043, of which the one that greets leads.
        rank: Option<Rank>,
    },
    /// A message of [`bascule_core::site::state`].
    Message(Vec<u8>),
    /// Answer, please.
    Ping,
    /// The answer.
    Pong,
    /// The last frame of its sender on this connection: what follows comes on the new one.
    Moved,
    /// The last frame of its sender.
    Goodbye(Goodbye),
    /// Its sender leads, or does not any more. To those alone whose greeting had a rank.
    Leads(bool),
    /// Of a kind that only later versions have.
    Unknown,
}

/// What a relay is in its site, behind its greeting: one byte, of which bits from 2 on are later versions'.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rank {
    /// It leads (bit 0).
    pub leads: bool,
    /// It has a session with another relay of the site and looks for the one that leads; others shall say that they stand by (bit 1).
    pub seeks: bool,
}

impl Rank {
    const fn byte(self) -> u8 {
        self.leads as u8 | (self.seeks as u8) << 1
    }

    const fn of(byte: u8) -> Self {
        Self { leads: byte & 1 != 0, seeks: byte & 2 != 0 }
    }
}

impl Frame {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let greeting;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Message(bytes) => (0, bytes),
            Self::Greeting { process, renews, rank } => {
                let mut bytes = vec![VERSION, u8::from(*renews)];
                bytes.extend(process.to_be_bytes());
                bytes.extend(rank.map(Rank::byte));
                greeting = bytes;
                (1, &greeting)
            }
            Self::Ping => (2, &[]),
            Self::Pong => (3, &[]),
            Self::Moved => (4, &[]),
            Self::Goodbye(why) => (
                5,
                match why {
                    Goodbye::Standby => &[0],
                    Goodbye::Held => &[1],
                    Goodbye::Stopping => &[2],
                    Goodbye::Closed => &[3],
                },
            ),
            Self::Leads(false) => (LATER, &[0]),
            Self::Leads(true) => (LATER, &[1]),
            // Nobody has reason to say it: what others leave out.
            Self::Unknown => (LATER, &[]),
        };
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut out = Vec::with_capacity(HEADER + payload.len());
        out.extend([kind, len[1], len[2], len[3]]);
        out.extend(payload);
        out
    }

    fn decode(kind: u8, payload: Vec<u8>) -> Option<Self> {
        Some(match (kind, &payload[..]) {
            (0, [_, ..]) => Self::Message(payload),
            (1, [VERSION, renews @ (0 | 1), rest @ ..]) => {
                let (process, more) = rest.split_first_chunk()?;
                let rank = more.first().copied().map(Rank::of);
                Self::Greeting { process: u64::from_be_bytes(*process), renews: *renews == 1, rank }
            }
            (2, []) => Self::Ping,
            (3, []) => Self::Pong,
            (4, []) => Self::Moved,
            (5, [0]) => Self::Goodbye(Goodbye::Standby),
            (5, [1]) => Self::Goodbye(Goodbye::Held),
            (5, [2]) => Self::Goodbye(Goodbye::Stopping),
            (5, [3]) => Self::Goodbye(Goodbye::Closed),
            (LATER, [leads @ (0 | 1)]) => Self::Leads(*leads == 1),
            (LATER..=127, _) => Self::Unknown,
            _ => return None,
        })
    }

    const fn most(kind: u8) -> usize {
        match kind {
            0 | LATER..=127 => MAX,
            1 => GREETING.1,
            5 => 1,
            _ => 0,
        }
    }
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("not a frame: kind {kind}, {len} bytes")]
    Malformed { kind: u8, len: usize },
    #[error("frames of version {theirs}, ours are {VERSION}")]
    Version { theirs: u8 },
}

/// The next frame of a stream, and its bytes with the header.
pub(crate) async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<(Frame, usize), FrameError> {
    let mut header = [0; HEADER];
    let _all = stream.read_exact(&mut header).await?;
    let [kind, a, b, c] = header;
    let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    if len > Frame::most(kind) {
        return Err(FrameError::Malformed { kind, len });
    }
    let mut payload = vec![0; len];
    let _all = stream.read_exact(&mut payload).await?;
    if let (1, [theirs, _, ..]) = (kind, &payload[..])
        && *theirs != VERSION
        && len >= GREETING.0
    {
        return Err(FrameError::Version { theirs: *theirs });
    }
    let frame = Frame::decode(kind, payload).ok_or(FrameError::Malformed { kind, len })?;
    Ok((frame, HEADER + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<(Frame, usize), FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(read(&mut &bytes[..]))
    }

    #[test]
    fn every_frame_survives_the_wire_and_no_part_of_one_is_a_frame() {
        let all = [
            Frame::Greeting { process: 0x0102_0304_0506_0708, renews: true, rank: None },
            Frame::Leads(false),
            Frame::Leads(true),
            Frame::Message(vec![7; 300]),
            Frame::Ping,
            Frame::Pong,
            Frame::Moved,
            Frame::Goodbye(Goodbye::Standby),
            Frame::Goodbye(Goodbye::Held),
            Frame::Goodbye(Goodbye::Stopping),
            Frame::Goodbye(Goodbye::Closed),
        ];
        for frame in all {
            let bytes = frame.encode();
            assert_eq!(parse(&bytes).expect("a frame"), (frame.clone(), bytes.len()));
            for cut in 0..bytes.len() {
                assert!(matches!(parse(&bytes[..cut]), Err(FrameError::Broken(_))), "{frame:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_by_its_header() {
        // 65,537 bytes of a message, a ping with a payload, kinds that do not exist: nothing of a payload follows.
        for header in [[0, 1, 0, 1], [0, 0xff, 0xff, 0xff], [2, 0, 0, 1], [6, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 0]] {
            assert!(matches!(parse(&header), Err(FrameError::Malformed { .. })), "{header:?}");
        }
        assert!(matches!(parse(&[5, 0, 0, 1, 9]), Err(FrameError::Malformed { .. })));
        assert!(matches!(parse(&[1, 0, 0, 9, 2, 0, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::Malformed { .. })));
        assert!(matches!(parse(&[1, 0, 0, 65]), Err(FrameError::Malformed { .. })));
        assert!(matches!(parse(&[128, 0, 0, 0]), Err(FrameError::Malformed { .. })));
    }

    #[test]
    fn what_later_versions_add_is_read_over_and_another_version_of_all_is_named() {
        let greeting = Frame::Greeting {
            process: 0x0102_0304_0506_0708,
            renews: false,
            rank: Some(Rank { leads: true, seeks: false }),
        };
        let mut longer = greeting.encode();
        longer.extend(b"more");
        longer[3] += 4;
        assert_eq!(parse(&longer).expect("a greeting"), (greeting.clone(), longer.len()));
        // To earlier versions the rank is what may follow.
        let earlier = Frame::Greeting { process: 0x0102_0304_0506_0708, renews: false, rank: None }.encode();
        assert_eq!(
            (earlier.len(), &earlier[HEADER..]),
            (HEADER + GREETING.0, &greeting.encode()[HEADER..HEADER + GREETING.0])
        );
        for kind in [LATER, 100, 127] {
            assert_eq!(parse(&[kind, 0, 0, 3, 1, 2, 3]).expect("read over"), (Frame::Unknown, 7));
        }
        let mut other = greeting.encode();
        other[HEADER] = VERSION + 1;
        let error = parse(&other).expect_err("another version");
        assert_eq!(error.to_string(), "frames of version 3, ours are 2");
    }
}
