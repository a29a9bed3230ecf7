//! Messages on the wire (RFC 4271 section 4 and the extensions we speak): bytes to values and back, and what RFC 7606 says of
//! bytes that are wrong.
//!
//! Bytes of the peer go into a [`Framer`], each [`Frame`] into [`Message::decode`]; either answers with the [`Notification`]
//! that ends the session when it must end. What we send is appended to a `Vec<u8>` by `encode` of each message and by
//! [`update::encode`]. Nothing here decides about sessions, timers or routes. All numbers are in network byte order (RFC 4271 section 4).

pub mod attr;
mod bytes;
pub mod capability;
pub mod family;
pub mod header;
pub mod message;
pub mod mp;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod refresh;
pub mod update;

pub use attr::{AsPath, Attributes, LargeCommunity, Origin};
pub use capability::Capability;
pub use family::{Family, FamilySet};
pub use header::{Frame, Framer, MessageType};
pub use message::{DecodeContext, Message, encode_keepalive};
pub use mp::NextHop;
pub use notification::{Cease, FsmState, Notification, NotificationCode};
pub use open::Open;
pub use refresh::RouteRefresh;
pub use update::encode::EncodedAttributes;
pub use update::{Disposition, Update};

/// AS_TRANS: what stands for an AS number that does not fit in two octets (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23456;

/// What we were asked to send does not fit its field. Always ours: nothing a peer sends leads here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The value of a capability is longer than its length octet can say (RFC 5492 section 4).
    #[error("capability {code} has a value of {len} octets, at most 255 are possible")]
    Capability {
        /// The capability's code.
        code: u8,
        /// Octets of its value.
        len: usize,
    },
    /// The OPEN is longer than any OPEN may be, extended messages or not (RFC 8654 section 4).
    #[error("the OPEN message would have {len} octets, at most 4096 are possible")]
    Open {
        /// Octets of the whole message.
        len: usize,
    },
    /// Such a path is not sent any more (RFC 9774 section 3).
    #[error("the AS path has an AS_SET or AS_CONFED_SET")]
    AsSet,
    /// The attributes leave no room for a prefix in a message of 4,096 octets.
    #[error("the path attributes have {len} octets, at most {max} leave room for a prefix")]
    Attributes {
        /// Octets of the encoded attributes.
        len: usize,
        /// What [`EncodedAttributes`] accepts.
        max: usize,
    },
}
