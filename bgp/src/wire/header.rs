//! Framing: a stream of bytes into messages, by the header of RFC 4271 section 4.1 and its checks (section 6.1).

use super::notification::{Notification, NotificationCode, header_error};

/// Sixteen octets of ones begin every message (RFC 4271 section 4.1).
pub const MARKER: [u8; 16] = [0xff; 16];

/// Octets of marker, length and type (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;

/// Octets of the longest message without extended messages (RFC 4271 section 4.1).
pub const MAX_LEN: usize = 4096;

/// Octets of the longest message where extended messages were negotiated (RFC 8654 section 3).
pub const MAX_LEN_EXTENDED: usize = 65535;

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 1 (RFC 4271 section 4.2).
    Open,
    /// 2 (RFC 4271 section 4.3).
    Update,
    /// 3 (RFC 4271 section 4.5).
    Notification,
    /// 4 (RFC 4271 section 4.4).
    Keepalive,
    /// 5 (RFC 2918 section 3).
    RouteRefresh,
}

impl MessageType {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh];

    /// The type octet.
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// The type of this octet, if there is one.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// Shortest and longest whole message of this type (RFC 4271 section 6.1), `max_len` being what was negotiated. A
    /// ROUTE-REFRESH of another length has an error of its own (RFC 7313 section 5) and is left to its decoder. OPEN and KEEPALIVE
    /// never become extended messages (RFC 8654 section 4).
    fn lengths(self, max_len: usize) -> (usize, usize) {
        match self {
            Self::Open => (29, MAX_LEN),
            Self::Update => (23, max_len),
            Self::Notification => (21, max_len),
            Self::Keepalive => (HEADER_LEN, HEADER_LEN),
            Self::RouteRefresh => (HEADER_LEN, max_len),
        }
    }
}

/// One message without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: MessageType,
    /// All after the header.
    pub body: Vec<u8>,
}

impl Frame {
    /// Octets of the whole message, header included: what the length field said.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }
}

/// Collects the bytes of one connection and gives out whole messages.
///
/// Call [`Framer::next`] until it answers `Ok(None)` after each [`Framer::push`]: then less than one message is held, and the
/// buffer never has more than one message of the longest kind and what was pushed last. After an error the stream has no
/// message borders any more: the same error is answered for ever and what is pushed is dropped.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were given out already.
    start: usize,
    failed: Option<Notification>,
}

impl Framer {
    /// For a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole message. `max_len` is [`MAX_LEN`], or [`MAX_LEN_EXTENDED`] once extended messages are negotiated.
    ///
    /// # Errors
    /// The NOTIFICATION that ends the session (RFC 4271 section 6.1).
    pub fn next(&mut self, max_len: usize) -> Result<Option<Frame>, Notification> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let unread = &self.buffer[self.start..];
        match parse(unread, max_len) {
            Ok(Some((frame, len))) => {
                self.start += len;
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(failed) => {
                self.buffer = Vec::new();
                self.start = 0;
                self.failed = Some(failed.clone());
                Err(failed)
            }
        }
    }

    /// Bytes that are held and not yet given out.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

/// The first message of `bytes` and its whole length, `None` while it is not complete.
fn parse(bytes: &[u8], max_len: usize) -> Result<Option<(Frame, usize)>, Notification> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let error = |subcode, data: &[u8]| Notification::new(NotificationCode::MessageHeader, subcode).with_data(data);
    if header[..16] != MARKER {
        return Err(error(header_error::CONNECTION_NOT_SYNCHRONIZED, &[]));
    }
    let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let bad_length = || error(header_error::BAD_MESSAGE_LENGTH, &header[16..18]);
    if len < HEADER_LEN || len > max_len {
        return Err(bad_length());
    }
    let Some(kind) = MessageType::from_code(header[18]) else {
        return Err(error(header_error::BAD_MESSAGE_TYPE, &header[18..19]));
    };
    let (shortest, longest) = kind.lengths(max_len);
    if len < shortest || len > longest {
        return Err(bad_length());
    }
    Ok(bytes.get(HEADER_LEN..len).map(|body| (Frame { kind, body: body.to_vec() }, len)))
}

/// Appends a header with a length to be filled in; [`finish`] does. Returns where the message begins.
pub(super) fn begin(out: &mut Vec<u8>, kind: MessageType) -> usize {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, kind.code()]);
    start
}

/// Writes the length of the message that began at `start`.
pub(super) fn finish(out: &mut [u8], start: usize) {
    let len = u16::try_from(out.len() - start).expect("encoders bound every message by 65535 octets");
    out[start + 16..start + 18].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests;
