//! ROUTE-REFRESH (RFC 2918) and its enhancement (RFC 7313).

use super::bytes::Reader;
use super::family::Family;
use super::header::{self, HEADER_LEN, MARKER, MessageType};
use super::message::{DecodeContext, bad_length};
use super::notification::{Notification, NotificationCode, refresh_error};

/// The whole message: a request, or a mark in the stream of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// One of the constants here, or a number to be ignored (RFC 7313 section 5).
    pub subtype: u8,
}

impl RouteRefresh {
    /// Send all routes of the family again (RFC 2918 section 3; RFC 7313 section 3.2).
    pub const REQUEST: u8 = 0;
    /// Beginning of a route refresh, BoRR (RFC 7313 section 3.2).
    pub const BEGIN: u8 = 1;
    /// End of a route refresh, EoRR (RFC 7313 section 3.2).
    pub const END: u8 = 2;

    /// A message about one of our families.
    pub const fn new(family: Family, subtype: u8) -> Self {
        Self { afi: family.afi(), safi: family.safi(), subtype }
    }

    /// The family, if it is one of ours.
    pub const fn family(&self) -> Option<Family> {
        Family::from_wire(self.afi, self.safi)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = header::begin(out, MessageType::RouteRefresh);
        out.extend_from_slice(&self.afi.to_be_bytes());
        out.extend_from_slice(&[self.subtype, self.safi]);
        header::finish(out, start);
    }

    /// Reads the body.
    pub(super) fn decode(body: &[u8], context: &DecodeContext) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let fields = (reader.u16(), reader.u8(), reader.u8());
        if let (Some(afi), Some(subtype), Some(safi)) = fields
            && reader.is_empty()
        {
            return Ok(Self { afi, safi, subtype });
        }
        let len = HEADER_LEN + body.len();
        if !context.enhanced_refresh {
            return Err(bad_length(len));
        }
        // RFC 7313 section 5: the data is the whole message, header included.
        let mut whole = MARKER.to_vec();
        whole.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        whole.push(MessageType::RouteRefresh.code());
        whole.extend_from_slice(body);
        Err(Notification::new(NotificationCode::RouteRefresh, refresh_error::INVALID_MESSAGE_LENGTH).with_data(&whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read_back() {
        for family in Family::ALL {
            for subtype in [RouteRefresh::REQUEST, RouteRefresh::BEGIN, RouteRefresh::END, 255] {
                let message = RouteRefresh::new(family, subtype);
                let mut out = Vec::new();
                message.encode(&mut out);
                assert_eq!(out[16..19], [0, 23, 5]);
                assert_eq!(RouteRefresh::decode(&out[HEADER_LEN..], &DecodeContext::default()), Ok(message));
                assert_eq!(message.family(), Some(family));
            }
        }
    }

    #[test]
    fn a_wrong_length_is_1_2_or_with_enhanced_refresh_7_1_with_the_message() {
        for body in [&[][..], &[0, 1, 0], &[0, 1, 0, 1, 0]] {
            let plain = RouteRefresh::decode(body, &DecodeContext::default()).unwrap_err();
            let len = u8::try_from(HEADER_LEN + body.len()).unwrap();
            assert_eq!((plain.code.number(), plain.subcode, plain.data), (1, 2, vec![0, len]));
            let enhanced = DecodeContext { enhanced_refresh: true, ..DecodeContext::default() };
            let error = RouteRefresh::decode(body, &enhanced).unwrap_err();
            let whole = [&MARKER[..], &[0, len, 5], body].concat();
            assert_eq!((error.code.number(), error.subcode, error.data), (7, 1, whole));
        }
    }
}
