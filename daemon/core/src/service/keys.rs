//! Keys of the data plane from secrets of any length.

use core::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// A key of 128 bits, as little-endian halves. Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SipKey(pub [u64; 2]);

impl fmt::Debug for SipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SipKey(..)")
    }
}

/// What a key is for: equal secrets make different keys for different purposes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Choosing rows.
    FlowHash,
    /// Authenticating encapsulation.
    Tag,
}

/// The first half of HMAC-SHA-256 (RFC 2104) of the purpose, keyed with the secret: a PRF, as RFC 5869 section 2.3 uses it.
pub fn derive(secret: &[u8], purpose: Purpose) -> SipKey {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(match purpose {
        Purpose::FlowHash => b"bascule flow hash v1",
        Purpose::Tag => b"bascule encapsulation tag v1",
    });
    let bytes = mac.finalize().into_bytes();
    let half = |i: usize| bytes[i..i + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    SipKey([half(0), half(8)])
}

/// The keys of forwarding: one hash key for ever, and one or two tag keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardKeys {
    /// Key of the flow hash, the same on all nodes of all sites. Another one moves every flow.
    pub flow: SipKey,
    /// Tag keys by slot; both are accepted.
    pub tags: [Option<SipKey>; 2],
    /// Slot of the key to send with; it holds one.
    pub send: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_secret_and_purpose_and_are_not_shown() {
        let (a, b) = (derive(b"secret", Purpose::Tag), derive(b"secret", Purpose::FlowHash));
        assert!(a != b && a != derive(b"Secret", Purpose::Tag));
        // HMAC-SHA-256 of "bascule encapsulation tag v1" under "secret", by another implementation.
        assert_eq!(a.0[0].to_le_bytes()[..4], GOLDEN);
        assert_eq!(format!("{a:?}"), "SipKey(..)");
    }

    const GOLDEN: [u8; 4] = [0x70, 0x3a, 0x14, 0x26];
}
