//! BFD Control packets, RFC 5880 section 4.1, without authentication.

use core::fmt;

use serde::Serialize;
use thiserror::Error;

/// The only version there is (RFC 5880 section 4.1).
const VERSION: u8 = 1;
/// Length of a packet without authentication section, in bytes (RFC 5880 section 4.1).
pub const LEN: usize = 24;
/// Shortest packet that may carry an authentication section, in bytes (RFC 5880 section 6.8.6).
const LEN_WITH_AUTH: u8 = 26;
/// UDP port of single-hop sessions (RFC 5881 section 4).
pub const PORT_SINGLE_HOP: u16 = 3784;
/// UDP port of multihop sessions (RFC 5883 section 5).
pub const PORT_MULTIHOP: u16 = 4784;
/// First and last UDP source port of a session (RFC 5881 section 4).
pub const SOURCE_PORTS: core::ops::RangeInclusive<u16> = 49152..=65535;
/// TTL and hop limit of every packet sent, and of every single-hop packet received (RFC 5881 section 5).
pub const HOP_LIMIT: u8 = 255;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 section 4.1, field Sta).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Held down by an operator; no statement about the path.
    AdminDown,
    /// Not up, or just created.
    Down,
    /// The peer is heard and does not hear us yet, as far as we know.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    /// The word used in logs, JSON and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Diagnostic: why a session last left Up (RFC 5880 section 4.1, five bits). Unknown codes are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Diag(u8);

impl Diag {
    /// 0.
    pub const NONE: Self = Self(0);
    /// 1: the peer was not heard for the detection time.
    pub const DETECTION_EXPIRED: Self = Self(1);
    /// 3: the peer said that its side is down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// 7: an operator took it down.
    pub const ADMIN_DOWN: Self = Self(7);

    /// The code on the wire, 0..=31.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The code in words.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            0 => "none",
            1 => "detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            9 => "mis-connectivity defect",
            _ => "unknown diagnostic",
        }
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.as_str(), self.0)
    }
}

impl Serialize for Diag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a packet was discarded (RFC 5880 section 6.8.6, RFC 5881 section 5, RFC 5883 section 3). The name is the metric's label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum Discard {
    /// Fewer bytes than the mandatory section.
    #[error("{got} bytes are no BFD packet")]
    Truncated {
        /// Bytes received.
        got: usize,
    },
    /// Not version 1.
    #[error("BFD version {version}, not 1")]
    Version {
        /// The version field.
        version: u8,
    },
    /// The length field is below the minimum, or beyond the datagram.
    #[error("length field {length} in a datagram of {got} bytes")]
    Length {
        /// The field.
        length: u8,
        /// Bytes received.
        got: usize,
    },
    /// Detect Mult is zero.
    #[error("detect multiplier 0")]
    Multiplier,
    /// The Multipoint bit is set.
    #[error("multipoint bit set")]
    Multipoint,
    /// My Discriminator is zero.
    #[error("my discriminator 0")]
    MyDiscriminator,
    /// Your Discriminator is zero in a state that implies that the sender knows it.
    #[error("your discriminator 0 in state {state}")]
    YourDiscriminator {
        /// The sender's state.
        state: State,
    },
    /// It carries authentication, and no session here uses any.
    #[error("authenticated packet, and no authentication in use")]
    Authenticated,
    /// TTL or hop limit below what the session demands.
    #[error("TTL {ttl}, below {min}")]
    Ttl {
        /// As received.
        ttl: u8,
        /// As demanded.
        min: u8,
    },
    /// No session fits.
    #[error("no session for it")]
    NoSession,
    /// The session is administratively down and hears nothing.
    #[error("the session is administratively down")]
    AdminDown,
}

impl Discard {
    /// The values of [`Self::name`].
    pub const NAMES: [&'static str; 11] = [
        "truncated",
        "version",
        "length",
        "multiplier",
        "multipoint",
        "my-discriminator",
        "your-discriminator",
        "authenticated",
        "ttl",
        "no-session",
        "admin-down",
    ];

    /// Place in [`Self::NAMES`].
    pub const fn index(self) -> usize {
        match self {
            Self::Truncated { .. } => 0,
            Self::Version { .. } => 1,
            Self::Length { .. } => 2,
            Self::Multiplier => 3,
            Self::Multipoint => 4,
            Self::MyDiscriminator => 5,
            Self::YourDiscriminator { .. } => 6,
            Self::Authenticated => 7,
            Self::Ttl { .. } => 8,
            Self::NoSession => 9,
            Self::AdminDown => 10,
        }
    }

    /// The label of the metric that counts it.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// The mandatory section of a BFD Control packet. Times are in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// Why the sender last left Up.
    pub diag: Diag,
    /// The sender's state.
    pub state: State,
    /// Poll: an answer with `is_final` is demanded.
    pub poll: bool,
    /// Final: the answer to a poll.
    pub is_final: bool,
    /// The sender's BFD does not share fate with its control plane.
    pub control_plane_independent: bool,
    /// The sender wants us to fall silent while both sides are Up.
    pub demand: bool,
    /// The sender's detection time multiplier, 1..=255.
    pub detect_mult: u8,
    /// The sender's discriminator, not zero.
    pub my_discr: u32,
    /// Ours as the sender knows it, or zero.
    pub your_discr: u32,
    /// Shortest interval at which the sender would like to send, in microseconds.
    pub desired_min_tx: u32,
    /// Shortest interval at which the sender can receive, in microseconds; 0 = send nothing periodically.
    pub required_min_rx: u32,
    /// Shortest interval at which the sender can reflect Echo packets, in microseconds; 0 = does not.
    pub required_min_echo_rx: u32,
}

impl Control {
    /// Reads a UDP payload, by the rules of RFC 5880 section 6.8.6 that need no session.
    ///
    /// # Errors
    /// The first rule that the packet breaks, in the order of the section.
    pub fn parse(payload: &[u8]) -> Result<Self, Discard> {
        let got = payload.len();
        let Some(fixed) = payload.first_chunk::<LEN>() else { return Err(Discard::Truncated { got }) };
        let version = fixed[0] >> 5;
        if version != VERSION {
            return Err(Discard::Version { version });
        }
        let (flags, detect_mult, length) = (fixed[1], fixed[2], fixed[3]);
        let authenticated = flags & AUTHENTICATED != 0;
        let least = if authenticated { LEN_WITH_AUTH } else { 24 };
        if length < least || usize::from(length) > got {
            return Err(Discard::Length { length, got });
        }
        if detect_mult == 0 {
            return Err(Discard::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Discard::Multipoint);
        }
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (my_discr, your_discr) = (word(4), word(8));
        if my_discr == 0 {
            return Err(Discard::MyDiscriminator);
        }
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        if your_discr == 0 && matches!(state, State::Init | State::Up) {
            return Err(Discard::YourDiscriminator { state });
        }
        if authenticated {
            return Err(Discard::Authenticated);
        }
        Ok(Self {
            diag: Diag(fixed[0] & 0x1f),
            state,
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            detect_mult,
            my_discr,
            your_discr,
            desired_min_tx: word(12),
            required_min_rx: word(16),
            required_min_echo_rx: word(20),
        })
    }

    /// The packet as sent.
    pub fn encode(&self) -> [u8; LEN] {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut out = [0; LEN];
        out[0] = VERSION << 5 | self.diag.0;
        out[1] = self.state.bits() << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        out[2] = self.detect_mult;
        out[3] = 24;
        let words =
            [self.my_discr, self.your_discr, self.desired_min_tx, self.required_min_rx, self.required_min_echo_rx];
        for (place, word) in out[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests;
