//! A NOTIFICATION in words. Its data is a stranger's: bounded, and never printed as it came.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::{Cease, Notification, NotificationCode, open_error};
use crate::wire::capability::{Capability, decode_all};
use crate::wire::header::MessageType;

/// Octets of data that are shown; the rest is counted.
const SHOWN: usize = 32;

/// Octets of a shutdown communication (RFC 9003 section 2).
const LONGEST_TEXT: usize = 255;

/// `text` as it may be sent: no control characters, cut at a character's border.
pub(super) fn communication(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if out.len() + character.len_utf8() > LONGEST_TEXT {
            break;
        }
        out.push(character);
    }
    out
}

/// Received text as it may be printed.
pub(super) fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|character| !character.is_control()).collect()
}

pub(super) fn describe(notification: &Notification) -> String {
    match notification.hard_reset_reason() {
        // One level only: the nesting of a hostile message is as deep as the message is long.
        Some(inner) => format!("{}, because of {}", named(notification), described(&inner)),
        None => described(notification),
    }
}

fn described(notification: &Notification) -> String {
    let mut out = named(notification);
    if let Some(text) = notification.shutdown_communication() {
        let _ = write!(out, ": \"{text}\"");
    } else if let Some(meaning) = meaning(notification) {
        let _ = write!(out, ": {meaning}");
    } else if !notification.data.is_empty() {
        let shown = notification.data.iter().take(SHOWN);
        out.push_str(", data ");
        for byte in shown {
            let _ = write!(out, "{byte:02x}");
        }
        if notification.data.len() > SHOWN {
            let _ = write!(out, "... ({} octets)", notification.data.len());
        }
    }
    out
}

/// What the data says, for those code points whose data has a form.
fn meaning(notification: &Notification) -> Option<String> {
    let data = notification.data.as_slice();
    match (notification.code, notification.subcode, data) {
        (NotificationCode::MessageHeader, 2, &[high, low]) => {
            Some(format!("length {}", u16::from_be_bytes([high, low])))
        }
        (NotificationCode::MessageHeader, 3, [kind]) => Some(format!("type {kind}")),
        (NotificationCode::Open, open_error::UNSUPPORTED_VERSION, &[high, low]) => {
            Some(format!("version {} is spoken", u16::from_be_bytes([high, low])))
        }
        (NotificationCode::Open, open_error::BAD_PEER_AS, &[high, low]) => {
            Some(format!("AS {}", u16::from_be_bytes([high, low])))
        }
        (NotificationCode::Open, open_error::BAD_PEER_AS, &[a, b, c, d]) => {
            Some(format!("AS {}", u32::from_be_bytes([a, b, c, d])))
        }
        (NotificationCode::Open, open_error::BAD_BGP_IDENTIFIER, &[a, b, c, d]) => {
            Some(Ipv4Addr::new(a, b, c, d).to_string())
        }
        (NotificationCode::Open, open_error::UNACCEPTABLE_HOLD_TIME, &[high, low]) => {
            Some(format!("{} s", u16::from_be_bytes([high, low])))
        }
        (NotificationCode::Open, open_error::UNSUPPORTED_CAPABILITY, [_, ..]) => {
            let names: Vec<String> = decode_all(data).ok()?.iter().take(8).map(Capability::to_string).collect();
            Some(names.join(", "))
        }
        (NotificationCode::FiniteStateMachine, _, &[kind]) => {
            Some(format!("{:?} was not expected", MessageType::from_code(kind)?))
        }
        (NotificationCode::Cease, subcode, &[high, low, safi, a, b, c, d])
            if subcode == Cease::MaximumPrefixes as u8 =>
        {
            let (afi, limit) = (u16::from_be_bytes([high, low]), u32::from_be_bytes([a, b, c, d]));
            Some(format!("limit {limit} of AFI {afi} SAFI {safi}"))
        }
        _ => None,
    }
}

/// `Cease / Administrative Shutdown (6/2)`.
fn named(notification: &Notification) -> String {
    let (code, subcode) = (notification.code.number(), notification.subcode);
    let Some((name, subcodes)) = NAMES.iter().find(|(known, ..)| *known == code).map(|(_, name, all)| (name, all))
    else {
        return format!("unknown error ({code}/{subcode})");
    };
    match subcodes.iter().find(|(known, _)| *known == subcode) {
        Some((_, subname)) => format!("{name} / {subname} ({code}/{subcode})"),
        None if subcode == 0 => format!("{name} ({code}/0)"),
        None => format!("{name} / unknown ({code}/{subcode})"),
    }
}

/// Names of IANA's registry "BGP Error (Notification) Codes" and its subregistries.
type Names = (u8, &'static str, &'static [(u8, &'static str)]);

const NAMES: &[Names] = &[
    (
        1,
        "Message Header Error",
        &[(1, "Connection Not Synchronized"), (2, "Bad Message Length"), (3, "Bad Message Type")],
    ),
    (
        2,
        "OPEN Message Error",
        &[
            (1, "Unsupported Version Number"),
            (2, "Bad Peer AS"),
            (3, "Bad BGP Identifier"),
            (4, "Unsupported Optional Parameter"),
            (5, "Authentication Failure (deprecated)"),
            (6, "Unacceptable Hold Time"),
            (7, "Unsupported Capability"),
            (11, "Role Mismatch"),
        ],
    ),
    (
        3,
        "UPDATE Message Error",
        &[
            (1, "Malformed Attribute List"),
            (2, "Unrecognized Well-known Attribute"),
            (3, "Missing Well-known Attribute"),
            (4, "Attribute Flags Error"),
            (5, "Attribute Length Error"),
            (6, "Invalid ORIGIN Attribute"),
            (7, "AS Routing Loop (deprecated)"),
            (8, "Invalid NEXT_HOP Attribute"),
            (9, "Optional Attribute Error"),
            (10, "Invalid Network Field"),
            (11, "Malformed AS_PATH"),
        ],
    ),
    (4, "Hold Timer Expired", &[]),
    (
        5,
        "Finite State Machine Error",
        &[
            (1, "Unexpected Message in OpenSent"),
            (2, "Unexpected Message in OpenConfirm"),
            (3, "Unexpected Message in Established"),
        ],
    ),
    (
        6,
        "Cease",
        &[
            (1, "Maximum Number of Prefixes Reached"),
            (2, "Administrative Shutdown"),
            (3, "Peer De-configured"),
            (4, "Administrative Reset"),
            (5, "Connection Rejected"),
            (6, "Other Configuration Change"),
            (7, "Connection Collision Resolution"),
            (8, "Out of Resources"),
            (9, "Hard Reset"),
            (10, "BFD Down"),
        ],
    ),
    (7, "ROUTE-REFRESH Message Error", &[(1, "Invalid Message Length")]),
    (8, "Send Hold Timer Expired", &[]),
];
