//! Any message: which decoder a frame goes to, and what the decoder must know of the session.

use super::family::FamilySet;
use super::header::{self, Frame, MessageType};
use super::notification::{Notification, NotificationCode, header_error};
use super::open::Open;
use super::refresh::RouteRefresh;
use super::update::{Disposition, Update};

/// What was negotiated, as far as it changes the meaning of bytes. The default is what holds before the OPENs are exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeContext {
    /// Both sides sent the four-octet AS capability (RFC 6793 section 4.1): AS numbers in AS_PATH and AGGREGATOR have four octets.
    pub four_octet_as: bool,
    /// Families that both sides announced; routes of others are ignored.
    pub families: FamilySet,
    /// The peer is in our AS: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST are attributes and not errors.
    pub ibgp: bool,
    /// Enhanced route refresh was negotiated (RFC 7313): a ROUTE-REFRESH of a wrong length has an error code of its own.
    pub enhanced_refresh: bool,
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The peer's offer.
    Open(Open),
    /// Routes.
    Update(Box<Update>),
    /// The peer ends the session, and why.
    Notification(Notification),
    /// The peer is alive.
    Keepalive,
    /// The peer wants our routes again, or marks the begin or end of its own.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// Reads one frame. An UPDATE that is [`Disposition::Reset`] is answered as an error; any other disposition is in the [`Update`].
    ///
    /// # Errors
    /// The NOTIFICATION that ends the session.
    pub fn decode(frame: &Frame, context: &DecodeContext) -> Result<Self, Notification> {
        match frame.kind {
            MessageType::Open => Open::decode(&frame.body).map(Self::Open),
            MessageType::Update => {
                let mut update = Update::decode(&frame.body, context);
                match std::mem::take(&mut update.disposition) {
                    Disposition::Reset(notification) => Err(notification),
                    other => {
                        update.disposition = other;
                        Ok(Self::Update(Box::new(update)))
                    }
                }
            }
            MessageType::Notification => Notification::decode(&frame.body).map(Self::Notification),
            MessageType::Keepalive => {
                if frame.body.is_empty() {
                    Ok(Self::Keepalive)
                } else {
                    Err(bad_length(frame.wire_len()))
                }
            }
            MessageType::RouteRefresh => RouteRefresh::decode(&frame.body, context).map(Self::RouteRefresh),
        }
    }

    /// What it is.
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Update(_) => MessageType::Update,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}

/// Appends a KEEPALIVE (RFC 4271 section 4.4).
pub fn encode_keepalive(out: &mut Vec<u8>) {
    let start = header::begin(out, MessageType::Keepalive);
    header::finish(out, start);
}

/// 1/2 with the length of the whole message, for decoders that find what the framer leaves to them.
pub(super) fn bad_length(wire_len: usize) -> Notification {
    let len = u16::try_from(wire_len).unwrap_or(u16::MAX);
    Notification::new(NotificationCode::MessageHeader, header_error::BAD_MESSAGE_LENGTH).with_data(&len.to_be_bytes())
}
