//! NOTIFICATION (RFC 4271 section 4.5): why a session ends, in numbers for the peer and in words for people.
//!
//! Codes nobody knows yet are kept as they are: a session that ended must always be able to say why.

use super::bytes::Reader;
use super::capability::Capability;
use super::family::Family;
use super::header::{self, HEADER_LEN, MAX_LEN, MessageType};

mod words;

/// Subcodes of Message Header Error (RFC 4271 section 6.1).
pub mod header_error {
    /// The marker is not all ones.
    pub const CONNECTION_NOT_SYNCHRONIZED: u8 = 1;
    /// Too short or too long, for any message or for one of its type.
    pub const BAD_MESSAGE_LENGTH: u8 = 2;
    /// A type nobody defined.
    pub const BAD_MESSAGE_TYPE: u8 = 3;
}

/// Subcodes of OPEN Message Error (RFC 4271 section 6.2).
pub mod open_error {
    /// Malformed, and nothing more special fits.
    pub const UNSPECIFIC: u8 = 0;
    /// Another version than 4.
    pub const UNSUPPORTED_VERSION: u8 = 1;
    /// Not the AS that is configured.
    pub const BAD_PEER_AS: u8 = 2;
    /// 0.0.0.0, or our own (RFC 6286 section 2.2).
    pub const BAD_BGP_IDENTIFIER: u8 = 3;
    /// An optional parameter other than capabilities.
    pub const UNSUPPORTED_OPTIONAL_PARAMETER: u8 = 4;
    /// One or two seconds.
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
    /// A capability is missing that the sender insists on (RFC 5492 section 5).
    pub const UNSUPPORTED_CAPABILITY: u8 = 7;
}

/// Subcodes of UPDATE Message Error (RFC 4271 section 6.3).
pub mod update_error {
    /// Lengths that contradict one another, or MP_REACH_NLRI twice (RFC 7606 section 3 g).
    pub const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
    /// Marked well-known, and unknown.
    pub const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    /// A mandatory attribute is missing.
    pub const MISSING_WELL_KNOWN: u8 = 3;
    /// Optional or transitive bit against the attribute's definition.
    pub const ATTRIBUTE_FLAGS: u8 = 4;
    /// A length against the attribute's definition.
    pub const ATTRIBUTE_LENGTH: u8 = 5;
    /// An origin above 2.
    pub const INVALID_ORIGIN: u8 = 6;
    /// Not an address of a host.
    pub const INVALID_NEXT_HOP: u8 = 8;
    /// An optional attribute, MP_REACH_NLRI among them, cannot be read.
    pub const OPTIONAL_ATTRIBUTE: u8 = 9;
    /// Prefixes cannot be read.
    pub const INVALID_NETWORK_FIELD: u8 = 10;
    /// AS_PATH cannot be read.
    pub const MALFORMED_AS_PATH: u8 = 11;
}

/// Subcodes of ROUTE-REFRESH Message Error (RFC 7313 section 5).
pub mod refresh_error {
    /// Not four octets after the header.
    pub const INVALID_MESSAGE_LENGTH: u8 = 1;
}

/// Error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotificationCode {
    /// 1 (RFC 4271 section 6.1), see [`header_error`].
    MessageHeader,
    /// 2 (RFC 4271 section 6.2), see [`open_error`].
    Open,
    /// 3 (RFC 4271 section 6.3), see [`update_error`].
    Update,
    /// 4 (RFC 4271 section 6.5).
    HoldTimerExpired,
    /// 5 (RFC 4271 section 6.6; RFC 6608), see [`FsmState`].
    FiniteStateMachine,
    /// 6 (RFC 4271 section 6.7; RFC 4486), see [`Cease`].
    Cease,
    /// 7 (RFC 7313 section 5), see [`refresh_error`].
    RouteRefresh,
    /// 8 (RFC 9687 section 3.2).
    SendHoldTimerExpired,
    /// Any other number.
    Unknown(u8),
}

impl NotificationCode {
    /// The code octet.
    pub const fn number(self) -> u8 {
        match self {
            Self::MessageHeader => 1,
            Self::Open => 2,
            Self::Update => 3,
            Self::HoldTimerExpired => 4,
            Self::FiniteStateMachine => 5,
            Self::Cease => 6,
            Self::RouteRefresh => 7,
            Self::SendHoldTimerExpired => 8,
            Self::Unknown(code) => code,
        }
    }
}

impl From<u8> for NotificationCode {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::MessageHeader,
            2 => Self::Open,
            3 => Self::Update,
            4 => Self::HoldTimerExpired,
            5 => Self::FiniteStateMachine,
            6 => Self::Cease,
            7 => Self::RouteRefresh,
            8 => Self::SendHoldTimerExpired,
            other => Self::Unknown(other),
        }
    }
}

/// Subcodes of Cease (RFC 4486 section 4 and what came later).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cease {
    /// More prefixes than we accept.
    MaximumPrefixes = 1,
    /// The operator ends the session, with a text (RFC 9003).
    AdministrativeShutdown = 2,
    /// The peer is no longer configured.
    PeerDeconfigured = 3,
    /// The operator restarts the session, with a text (RFC 9003).
    AdministrativeReset = 4,
    /// The connection is not wanted.
    ConnectionRejected = 5,
    /// Configuration changed in a way that needs a new session.
    OtherConfigurationChange = 6,
    /// The other of two connections stays (RFC 4271 section 6.8).
    ConnectionCollisionResolution = 7,
    /// No memory, no queue.
    OutOfResources = 8,
    /// The session ends and nothing of it is kept by graceful restart (RFC 8538 section 3); wraps the reason.
    HardReset = 9,
    /// BFD says the path is gone (RFC 9384).
    BfdDown = 10,
}

/// The state in which a message came that it does not expect (RFC 6608 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FsmState {
    /// OpenSent.
    OpenSent = 1,
    /// OpenConfirm.
    OpenConfirm = 2,
    /// Established.
    Established = 3,
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Notification {
    /// The kind of error.
    pub code: NotificationCode,
    /// More precisely, by the code; 0 is unspecific.
    pub subcode: u8,
    /// By code and subcode.
    pub data: Vec<u8>,
}

impl Notification {
    /// Without data.
    pub const fn new(code: NotificationCode, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    /// The same with data.
    #[must_use]
    pub fn with_data(self, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..self }
    }

    /// Cease. The text is sent with [`Cease::AdministrativeShutdown`] and [`Cease::AdministrativeReset`] only, the two that RFC 9003
    /// gives one; it is cut at the last character that ends within 255 octets and its control characters are left out.
    pub fn cease(subcode: Cease, text: &str) -> Self {
        let cease = Self::new(NotificationCode::Cease, subcode as u8);
        let text = match subcode {
            Cease::AdministrativeShutdown | Cease::AdministrativeReset => words::communication(text),
            _ => String::new(),
        };
        match u8::try_from(text.len()) {
            Ok(len) if len > 0 => cease.with_data(&[&[len], text.as_bytes()].concat()),
            _ => cease,
        }
    }

    /// Cease because the peer announced more than `limit` prefixes of `family`; the data says so (RFC 4486 section 4).
    pub fn maximum_prefixes(family: Family, limit: u32) -> Self {
        let [high, low] = family.afi().to_be_bytes();
        let data = [&[high, low, family.safi()][..], &limit.to_be_bytes()].concat();
        Self::new(NotificationCode::Cease, Cease::MaximumPrefixes as u8).with_data(&data)
    }

    /// Hard Reset (RFC 8538 section 3.1): `inner` is the reason, and the peer keeps no route of ours.
    pub fn hard_reset(inner: &Self) -> Self {
        let data = [&[inner.code.number(), inner.subcode], inner.data.as_slice()].concat();
        Self::new(NotificationCode::Cease, Cease::HardReset as u8).with_data(&data)
    }

    /// Nothing was heard for the hold time (RFC 4271 section 6.5).
    pub const fn hold_timer_expired() -> Self {
        Self::new(NotificationCode::HoldTimerExpired, 0)
    }

    /// Nothing could be sent for the send hold time (RFC 9687 section 3.2).
    pub const fn send_hold_timer_expired() -> Self {
        Self::new(NotificationCode::SendHoldTimerExpired, 0)
    }

    /// A message that `state` does not expect; the data is its type (RFC 6608 section 4).
    pub fn fsm_error(state: FsmState, unexpected: MessageType) -> Self {
        Self::new(NotificationCode::FiniteStateMachine, state as u8).with_data(&[unexpected.code()])
    }

    /// OPEN of another version; the data is the one we speak (RFC 4271 section 6.2).
    pub fn unsupported_version() -> Self {
        Self::open(open_error::UNSUPPORTED_VERSION).with_data(&u16::from(super::open::VERSION).to_be_bytes())
    }

    /// OPEN of another AS than configured. RFC 4271 defines no data; like FRR and BIRD we say which AS it was.
    pub fn bad_peer_as(received: u32) -> Self {
        Self::open(open_error::BAD_PEER_AS).with_data(&received.to_be_bytes())
    }

    /// OPEN with an identifier that is no identifier, which is the data.
    pub fn bad_bgp_identifier(received: std::net::Ipv4Addr) -> Self {
        Self::open(open_error::BAD_BGP_IDENTIFIER).with_data(&received.octets())
    }

    /// OPEN with a hold time of one or two seconds, or one we refuse; the data is that time.
    pub fn unacceptable_hold_time(received: u16) -> Self {
        Self::open(open_error::UNACCEPTABLE_HOLD_TIME).with_data(&received.to_be_bytes())
    }

    /// OPEN without capabilities we insist on; the data lists them as they would have been sent (RFC 5492 section 5).
    ///
    /// # Errors
    /// A capability whose value does not fit its length octet.
    pub fn unsupported_capability(missing: &[Capability]) -> Result<Self, super::EncodeError> {
        let mut data = Vec::new();
        for capability in missing {
            capability.encode(&mut data)?;
        }
        Ok(Self::open(open_error::UNSUPPORTED_CAPABILITY).with_data(&data))
    }

    /// OPEN Message Error without data.
    pub const fn open(subcode: u8) -> Self {
        Self::new(NotificationCode::Open, subcode)
    }

    /// UPDATE Message Error without data.
    pub const fn update(subcode: u8) -> Self {
        Self::new(NotificationCode::Update, subcode)
    }

    /// What a Hard Reset wraps (RFC 8538 section 3.1).
    pub fn hard_reset_reason(&self) -> Option<Self> {
        match (self.code, self.subcode, self.data.as_slice()) {
            (NotificationCode::Cease, subcode, [code, inner, data @ ..]) if subcode == Cease::HardReset as u8 => {
                Some(Self { code: (*code).into(), subcode: *inner, data: data.to_vec() })
            }
            _ => None,
        }
    }

    /// The text of a shutdown or reset by the operator (RFC 9003), readable: invalid UTF-8 is replaced, control characters are
    /// left out. None when there is none, or when its length octet promises more than was sent.
    pub fn shutdown_communication(&self) -> Option<String> {
        let with_text = [Cease::AdministrativeShutdown as u8, Cease::AdministrativeReset as u8];
        if self.code != NotificationCode::Cease || !with_text.contains(&self.subcode) {
            return None;
        }
        let (len, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*len)).filter(|text| !text.is_empty())?;
        Some(words::readable(text))
    }

    /// In words: names of code and subcode with their numbers, the operator's text, the data.
    pub fn describe(&self) -> String {
        words::describe(self)
    }

    /// Appends the message. Data past 4,096 octets of message is cut: a peer without extended messages must be able to read it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = header::begin(out, MessageType::Notification);
        out.extend_from_slice(&[self.code.number(), self.subcode]);
        let room = MAX_LEN - HEADER_LEN - 2;
        out.extend_from_slice(self.data.get(..room).unwrap_or(&self.data));
        header::finish(out, start);
    }

    /// Reads the body: anything with a code and a subcode.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Self> {
        let mut reader = Reader::new(body);
        match (reader.u8(), reader.u8()) {
            (Some(code), Some(subcode)) => Ok(Self { code: code.into(), subcode, data: reader.rest().to_vec() }),
            _ => Err(super::message::bad_length(HEADER_LEN + body.len())),
        }
    }
}

#[cfg(test)]
mod tests;
