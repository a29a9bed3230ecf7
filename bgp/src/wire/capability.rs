//! Capabilities (RFC 5492). Those we act on are typed; every other one is kept as it came, never refused.

use std::fmt;

use super::EncodeError;
use super::bytes::Reader;
use super::family::Family;

/// Code points (IANA "Capability Codes").
pub mod code {
    /// Multiprotocol extensions (RFC 4760 section 8).
    pub const MULTI_PROTOCOL: u8 = 1;
    /// Route refresh (RFC 2918 section 2).
    pub const ROUTE_REFRESH: u8 = 2;
    /// Extended message (RFC 8654 section 3).
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// Graceful restart (RFC 4724 section 3).
    pub const GRACEFUL_RESTART: u8 = 64;
    /// Four-octet AS numbers (RFC 6793 section 3).
    pub const FOUR_OCTET_AS: u8 = 65;
    /// Enhanced route refresh (RFC 7313 section 3.1).
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
}

/// "Restart State", R: the speaker has restarted (RFC 4724 section 3). The top bit of flags and time together.
const RESTARTING: u16 = 0x8000;
/// "Graceful Notification", N: routes outlive NOTIFICATION and the hold timer too (RFC 8538 section 2).
const NOTIFICATION: u16 = 0x4000;
/// Seconds of restart time: twelve bits (RFC 4724 section 3).
const RESTART_TIME: u16 = 0x0fff;
/// "Forwarding State", F, in the flags of each family (RFC 4724 section 3).
const FORWARDING: u8 = 0x80;

/// What a speaker says it can do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Routes of this AFI and SAFI.
    MultiProtocol(u16, u8),
    /// Answers ROUTE-REFRESH.
    RouteRefresh,
    /// Marks begin and end of a refresh.
    EnhancedRouteRefresh,
    /// Accepts messages of up to 65,535 octets.
    ExtendedMessage,
    /// Graceful restart, as restarting speaker and as helper. Without families it means helper only.
    GracefulRestart {
        /// R: has restarted; its peer must not wait for End-of-RIB before it sends its own routes.
        restarting: bool,
        /// N: NOTIFICATION and hold timer keep routes too (RFC 8538).
        notification: bool,
        /// Seconds until the session must be back; 0 to 4095, more is sent as 4095.
        restart_time: u16,
        /// AFI, SAFI, and F: forwarding was preserved.
        families: Vec<(u16, u8, bool)>,
    },
    /// Four-octet AS numbers, and the sender's own.
    FourOctetAs(u32),
    /// One we do not act on.
    Unknown {
        /// Its code.
        code: u8,
        /// Its value as it came.
        value: Vec<u8>,
    },
}

impl Capability {
    /// Multiprotocol for one of our families.
    pub const fn multi_protocol(family: Family) -> Self {
        Self::MultiProtocol(family.afi(), family.safi())
    }

    /// Its code point.
    pub const fn code(&self) -> u8 {
        match self {
            Self::MultiProtocol(..) => code::MULTI_PROTOCOL,
            Self::RouteRefresh => code::ROUTE_REFRESH,
            Self::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
            Self::ExtendedMessage => code::EXTENDED_MESSAGE,
            Self::GracefulRestart { .. } => code::GRACEFUL_RESTART,
            Self::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Appends code, length and value.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let value = self.value();
        let len =
            u8::try_from(value.len()).map_err(|_| EncodeError::Capability { code: self.code(), len: value.len() })?;
        out.extend_from_slice(&[self.code(), len]);
        out.extend_from_slice(&value);
        Ok(())
    }

    fn value(&self) -> Vec<u8> {
        match self {
            Self::MultiProtocol(afi, safi) => {
                let [high, low] = afi.to_be_bytes();
                vec![high, low, 0, *safi]
            }
            Self::RouteRefresh | Self::EnhancedRouteRefresh | Self::ExtendedMessage => Vec::new(),
            Self::GracefulRestart { restarting, notification, restart_time, families } => {
                let mut word = (*restart_time).min(RESTART_TIME);
                word |= if *restarting { RESTARTING } else { 0 };
                word |= if *notification { NOTIFICATION } else { 0 };
                let mut value = word.to_be_bytes().to_vec();
                for (afi, safi, forwarding) in families {
                    value.extend_from_slice(&afi.to_be_bytes());
                    value.extend_from_slice(&[*safi, if *forwarding { FORWARDING } else { 0 }]);
                }
                value
            }
            Self::FourOctetAs(number) => number.to_be_bytes().to_vec(),
            Self::Unknown { value, .. } => value.clone(),
        }
    }

    /// A known code with a length that its RFC does not allow is malformed: what it was meant to say is anyone's guess.
    fn decode(code: u8, value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let decoded = match code {
            code::MULTI_PROTOCOL => {
                let (afi, _reserved, safi) = (reader.u16(), reader.u8(), reader.u8());
                afi.zip(safi).map(|(afi, safi)| Self::MultiProtocol(afi, safi))
            }
            code::ROUTE_REFRESH => Some(Self::RouteRefresh),
            code::ENHANCED_ROUTE_REFRESH => Some(Self::EnhancedRouteRefresh),
            code::EXTENDED_MESSAGE => Some(Self::ExtendedMessage),
            code::GRACEFUL_RESTART => graceful_restart(&mut reader),
            code::FOUR_OCTET_AS => reader.u32().map(Self::FourOctetAs),
            _ => return Ok(Self::Unknown { code, value: value.to_vec() }),
        };
        decoded.filter(|_| reader.is_empty()).ok_or(Malformed)
    }
}

fn graceful_restart(reader: &mut Reader<'_>) -> Option<Capability> {
    let word = reader.u16()?;
    let mut families = Vec::new();
    while !reader.is_empty() {
        families.push((reader.u16()?, reader.u8()?, reader.u8()? & FORWARDING != 0));
    }
    Some(Capability::GracefulRestart {
        restarting: word & RESTARTING != 0,
        notification: word & NOTIFICATION != 0,
        restart_time: word & RESTART_TIME,
        families,
    })
}

/// A list of capabilities cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Every capability of one optional parameter (RFC 5492 section 4).
pub(super) fn decode_all(bytes: &[u8]) -> Result<Vec<Capability>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while !reader.is_empty() {
        let (code, len) = reader.u8().zip(reader.u8()).ok_or(Malformed)?;
        let value = reader.take(usize::from(len)).ok_or(Malformed)?;
        all.push(Capability::decode(code, value)?);
    }
    Ok(all)
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MultiProtocol(afi, safi) => match Family::from_wire(*afi, *safi) {
                Some(family) => write!(f, "{family}"),
                None => write!(f, "AFI {afi} SAFI {safi}"),
            },
            Self::RouteRefresh => f.write_str("route refresh"),
            Self::EnhancedRouteRefresh => f.write_str("enhanced route refresh"),
            Self::ExtendedMessage => f.write_str("extended message"),
            Self::GracefulRestart { restarting, notification, restart_time, families } => {
                write!(f, "graceful restart {restart_time} s")?;
                f.write_str(if *restarting { ", restarting" } else { "" })?;
                f.write_str(if *notification { ", notification" } else { "" })?;
                f.write_str(if families.is_empty() { ", helper only" } else { "" })?;
                for (afi, safi, forwarding) in families {
                    write!(f, ", {}", Self::MultiProtocol(*afi, *safi))?;
                    f.write_str(if *forwarding { " forwarding" } else { "" })?;
                }
                Ok(())
            }
            Self::FourOctetAs(number) => write!(f, "four-octet AS {number}"),
            Self::Unknown { code, value } => match known_name(*code) {
                Some(name) => write!(f, "{name} ({code})"),
                None => write!(f, "capability {code} of {} octets", value.len()),
            },
        }
    }
}

/// Names of what peers often offer and we leave alone (IANA "Capability Codes").
fn known_name(code: u8) -> Option<&'static str> {
    Some(match code {
        3 => "outbound route filtering",
        5 => "extended next hop encoding",
        8 => "multiple labels",
        9 => "role",
        67 => "dynamic capability",
        69 => "ADD-PATH",
        71 => "long-lived graceful restart",
        73 => "FQDN",
        75 => "software version",
        77 => "link-local next hop",
        128 => "route refresh (old)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
