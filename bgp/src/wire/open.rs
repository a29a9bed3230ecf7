//! OPEN (RFC 4271 section 4.2) with capabilities as its only optional parameters, in the old and the extended form (RFC 9072).

use std::net::Ipv4Addr;

use super::bytes::Reader;
use super::capability::{Capability, decode_all};
use super::family::{Family, FamilySet};
use super::header::{self, HEADER_LEN, MAX_LEN, MessageType};
use super::notification::{Notification, open_error};
use super::{AS_TRANS, EncodeError};

/// The version of BGP (RFC 4271 section 4.2).
pub const VERSION: u8 = 4;

/// The type of the parameter that holds capabilities (RFC 5492 section 4).
const CAPABILITIES: u8 = 2;

/// As length and as first type: the parameters are in the extended form (RFC 9072 section 2).
const EXTENDED: u8 = 255;

/// What each side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// [`VERSION`]; no other is decoded.
    pub version: u8,
    /// The AS number in two octets: [`AS_TRANS`] when it does not fit.
    pub my_as: u16,
    /// Seconds of silence after which the session is dead; 0 for never. Whether it is acceptable is the session's business.
    pub hold_time: u16,
    /// BGP Identifier (RFC 6286): unique in the AS, not zero. Checked by the session.
    pub id: Ipv4Addr,
    /// In the order sent, repetitions kept.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Our own OPEN. Two octets of AS are derived; [`Capability::FourOctetAs`] is the caller's to add.
    pub fn new(asn: u32, hold_time: u16, id: Ipv4Addr, capabilities: Vec<Capability>) -> Self {
        let my_as = u16::try_from(asn).unwrap_or(AS_TRANS);
        Self { version: VERSION, my_as, hold_time, id, capabilities }
    }

    /// The sender's AS number by its four-octet capability, if it sent one (RFC 6793 section 4.1).
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(number) => Some(*number),
            _ => None,
        })
    }

    /// The sender's AS number.
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.my_as))
    }

    /// Families the sender exchanges. Without any multiprotocol capability that is IPv4 unicast (RFC 4760 section 8 leaves RFC 4271 as is).
    pub fn families(&self) -> FamilySet {
        let mut named = false;
        let mut families = FamilySet::EMPTY;
        for capability in &self.capabilities {
            if let Capability::MultiProtocol(afi, safi) = capability {
                named = true;
                families = Family::from_wire(*afi, *safi).map_or(families, |family| families.with(family));
            }
        }
        if named { families } else { families.with(Family::Ipv4) }
    }

    /// Whether it has this very capability.
    pub fn has(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// Appends the message: one capabilities parameter, in the extended form only where the old one is too short (RFC 9072 section 2).
    ///
    /// # Errors
    /// A capability or the whole message does not fit; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut list = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut list)?;
        }
        let parameters = parameters(&list).ok_or(EncodeError::Open { len: list.len() })?;
        let len = HEADER_LEN + 9 + parameters.len();
        if len > MAX_LEN {
            return Err(EncodeError::Open { len });
        }
        let start = header::begin(out, MessageType::Open);
        out.push(self.version);
        out.extend_from_slice(&self.my_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.id.octets());
        out.extend_from_slice(&parameters);
        header::finish(out, start);
        Ok(())
    }

    /// Reads the body. Values are not judged, except the version: in another one the rest means something else.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let malformed = || Notification::open(open_error::UNSPECIFIC);
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or_else(malformed)?;
        if version != VERSION {
            return Err(Notification::unsupported_version());
        }
        let my_as = reader.u16().ok_or_else(malformed)?;
        let hold_time = reader.u16().ok_or_else(malformed)?;
        let id = Ipv4Addr::from(reader.u32().ok_or_else(malformed)?);
        let capabilities = decode_parameters(&mut reader)?;
        Ok(Self { version, my_as, hold_time, id, capabilities })
    }
}

/// Length fields and the one parameter around a list of capabilities. None when two octets cannot hold the length.
fn parameters(list: &[u8]) -> Option<Vec<u8>> {
    if list.is_empty() {
        return Some(vec![0]);
    }
    let head = match u8::try_from(list.len() + 2) {
        Ok(len) => vec![len, CAPABILITIES, len - 2],
        Err(_) => {
            let value = u16::try_from(list.len()).ok()?.to_be_bytes();
            let all = u16::try_from(list.len() + 3).ok()?.to_be_bytes();
            vec![EXTENDED, EXTENDED, all[0], all[1], CAPABILITIES, value[0], value[1]]
        }
    };
    Some([head.as_slice(), list].concat())
}

fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, Notification> {
    let malformed = || Notification::open(open_error::UNSPECIFIC);
    let len = reader.u8().ok_or_else(malformed)?;
    // RFC 9072 section 2: the extended form is told by its first type; a length of 255 is usual there and not required.
    let extended = len != 0 && reader.rest().first() == Some(&EXTENDED);
    let len = if extended {
        reader.u8();
        reader.u16().map(usize::from)
    } else {
        Some(usize::from(len))
    };
    if len != Some(reader.rest().len()) {
        return Err(malformed());
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let len = if extended { reader.u16().map(usize::from) } else { reader.u8().map(usize::from) };
        let value = len.and_then(|len| reader.take(len)).ok_or_else(malformed)?;
        if kind != CAPABILITIES {
            return Err(Notification::open(open_error::UNSUPPORTED_OPTIONAL_PARAMETER));
        }
        capabilities.extend(decode_all(value).map_err(|_| malformed())?);
    }
    Ok(capabilities)
}

#[cfg(test)]
mod tests;
