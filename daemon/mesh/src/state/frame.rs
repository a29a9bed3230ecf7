//! Frames on the stream between two relays: a kind, a length, a payload.
//!
//! Layout: kind (1 byte), length (3 bytes, big endian), payload. A length above what the kind may have is refused before anything is
//! reserved for it.

use std::io;

use bascule_core::site::state::message::MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Version of frames and messages; both ends must say the same.
const VERSION: u8 = 1;
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
}

impl Frame {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Message(bytes) => (0, bytes),
            Self::Greeting { process, renews } => {
                let p = process.to_be_bytes();
                (1, &[VERSION, u8::from(*renews), p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]])
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
            (1, [VERSION, renews @ (0 | 1), process @ ..]) => {
                Self::Greeting { process: u64::from_be_bytes(process.try_into().ok()?), renews: *renews == 1 }
            }
            (2, []) => Self::Ping,
            (3, []) => Self::Pong,
            (4, []) => Self::Moved,
            (5, [0]) => Self::Goodbye(Goodbye::Standby),
            (5, [1]) => Self::Goodbye(Goodbye::Held),
            (5, [2]) => Self::Goodbye(Goodbye::Stopping),
            (5, [3]) => Self::Goodbye(Goodbye::Closed),
            _ => return None,
        })
    }

    const fn most(kind: u8) -> usize {
        match kind {
            0 => MAX,
            1 => 10,
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
            Frame::Greeting { process: 0x0102_0304_0506_0708, renews: true },
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
        assert!(matches!(parse(&[1, 0, 0, 10, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::Malformed { .. })));
    }
}
