//! Why a session ended last, for `bascule bgp`: in numbers, and in the words an operator acts on.

use serde::Serialize;

use crate::time::Instant;
use crate::wire::{Notification, NotificationCode};

/// The last error of a neighbor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LastError {
    /// When.
    pub at: Instant,
    /// In words.
    pub text: String,
    /// The NOTIFICATION, if there was one.
    pub notification: Option<NotificationError>,
}

impl LastError {
    pub(super) fn words(at: Instant, text: &str) -> Self {
        Self { at, text: text.to_owned(), notification: None }
    }
}

/// A NOTIFICATION in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NotificationError {
    /// Sent by us?
    pub sent: bool,
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data in hexadecimal, at most 64 octets of it.
    pub data: String,
}

/// Octets of data that are shown.
const SHOWN: usize = 64;

impl NotificationError {
    pub(super) fn new(sent: bool, notification: &Notification) -> Self {
        let data = notification.data.iter().take(SHOWN).map(|octet| format!("{octet:02x}")).collect();
        Self { sent, code: notification.code.number(), subcode: notification.subcode, data }
    }
}

/// What a NOTIFICATION that refuses our OPEN is about. `asn`, `hold_time` and `id` are what our OPEN said.
pub(super) fn refusal(
    notification: &Notification,
    asn: u32,
    hold_time: u16,
    id: core::net::Ipv4Addr,
) -> Option<String> {
    use crate::wire::notification::{Cease, open_error};
    let what = match (notification.code, notification.subcode) {
        (NotificationCode::Open, open_error::UNSUPPORTED_VERSION) => "BGP version 4".to_owned(),
        (NotificationCode::Open, open_error::BAD_PEER_AS) => format!("our AS number {asn}"),
        (NotificationCode::Open, open_error::BAD_BGP_IDENTIFIER) => format!("our BGP identifier {id}"),
        (NotificationCode::Open, open_error::UNACCEPTABLE_HOLD_TIME) => format!("our hold time {hold_time} s"),
        // 5 is Authentication Failure, deprecated by RFC 4271 and still sent.
        (NotificationCode::Open, 5) => "our authentication".to_owned(),
        (NotificationCode::Open, open_error::UNSUPPORTED_OPTIONAL_PARAMETER | open_error::UNSUPPORTED_CAPABILITY) => {
            "our capabilities".to_owned()
        }
        (NotificationCode::Open, _) => "our OPEN".to_owned(),
        (NotificationCode::Cease, subcode) if subcode == Cease::ConnectionRejected as u8 => "the connection".to_owned(),
        (NotificationCode::Cease, subcode) if subcode == Cease::PeerDeconfigured as u8 => {
            "the connection: we are not configured there".to_owned()
        }
        _ => return None,
    };
    Some(format!("peer refused {what}: {}", notification.describe()))
}
