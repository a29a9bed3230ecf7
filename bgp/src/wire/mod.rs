//! Messages on the wire (RFC 4271 section 4 and the extensions we speak): bytes to values and back, and what RFC 7606 says of
//! bytes that are wrong. It decides nothing about sessions.

mod family;

pub use family::{Family, FamilySet};
