//! Messages between Bascule peers: small, signed, fresh by nonce.
//!
//! Layout (big endian): magic `BSP1`, kind, VRID, priority, text length, nonce A (8), nonce B (8), text (UTF-8, at most 63 bytes),
//! HMAC-SHA256 (32) over all before it. Freshness never leans on a clock: an order counts only with a nonce that its receiver chose
//! a moment ago.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

const MAGIC: [u8; 4] = *b"BSP1";
const FIXED: usize = 24;
const TAG: usize = 32;
/// Longest text: a Kubernetes node name is a DNS label here.
pub const TEXT_MAX: usize = 63;

/// What a message asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Owner to all: who can take this virtual router? Nonce A is the owner's.
    Query,
    /// Backup to owner: I can. Nonce A echoed, nonce B is the Backup's, text its node name.
    Offer,
    /// Owner to one Backup: take it now. Nonce B echoed, text the Backup's node name.
    Grant,
    /// Any node to the owner: I want to ask for a move. Nonce A is the asker's.
    MoveAsk,
    /// Owner to asker: prove freshness with nonce B.
    MoveChallenge,
    /// Asker to owner: move to the node in the text. Nonce B echoed.
    MoveOrder,
}

/// A message, its signature checked or still to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Virtual router it speaks of, on the link where it travels.
    pub vrid: u8,
    /// Offer: the Backup's effective priority.
    pub priority: u8,
    /// Nonce of the asker.
    pub nonce_a: u64,
    /// Nonce of the answerer.
    pub nonce_b: u64,
    /// A node name.
    pub text: String,
}

/// Why a datagram is not a message of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PeerError {
    /// Too short, wrong magic, unknown kind or bad text.
    #[error("not a peer message ({len} bytes)")]
    Malformed {
        /// Bytes received.
        len: usize,
    },
    /// Signed with none of our keys.
    #[error("signature fits none of the {keys} keys")]
    Signature {
        /// Keys tried.
        keys: usize,
    },
}

/// The shared keys: the first signs, all verify, so that a key can be replaced node by node.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Keys(Vec<Vec<u8>>);

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Keys({} secret)", self.0.len())
    }
}

impl Keys {
    /// Keys in order of use.
    pub fn new(keys: Vec<Vec<u8>>) -> Self {
        Self(keys)
    }

    /// True when there is no key: the channel is off.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn tag(key: &[u8], body: &[u8]) -> [u8; TAG] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

impl Message {
    /// The datagram, signed with the first key; `None` without one.
    pub fn encode(&self, keys: &Keys) -> Option<Vec<u8>> {
        let key = keys.0.first()?;
        let text = &self.text.as_bytes()[..self.text.len().min(TEXT_MAX)];
        let kind = match self.kind {
            Kind::Query => 1,
            Kind::Offer => 2,
            Kind::Grant => 3,
            Kind::MoveAsk => 4,
            Kind::MoveChallenge => 5,
            Kind::MoveOrder => 6,
        };
        let mut out = Vec::with_capacity(FIXED + text.len() + TAG);
        out.extend(MAGIC);
        out.extend([kind, self.vrid, self.priority, u8::try_from(text.len()).unwrap_or(0)]);
        out.extend(self.nonce_a.to_be_bytes());
        out.extend(self.nonce_b.to_be_bytes());
        out.extend(text);
        let tag = Keys::tag(key, &out);
        out.extend(tag);
        Some(out)
    }

    /// Reads a datagram and checks its signature.
    ///
    /// # Errors
    /// [`PeerError`] when it is not a message or not signed by one of `keys`.
    pub fn parse(datagram: &[u8], keys: &Keys) -> Result<Self, PeerError> {
        let malformed = PeerError::Malformed { len: datagram.len() };
        let Some((body, tag)) = datagram.len().checked_sub(TAG).and_then(|at| datagram.split_at_checked(at)) else {
            return Err(malformed);
        };
        let Some((fixed, text)) = body.split_at_checked(FIXED) else { return Err(malformed) };
        if fixed[..4] != MAGIC || text.len() != usize::from(fixed[7]) || text.len() > TEXT_MAX {
            return Err(malformed);
        }
        let genuine = keys.0.iter().fold(false, |ok, key| ok | bool::from(Keys::tag(key, body).ct_eq(tag)));
        if !genuine {
            return Err(PeerError::Signature { keys: keys.0.len() });
        }
        let kind = match fixed[4] {
            1 => Kind::Query,
            2 => Kind::Offer,
            3 => Kind::Grant,
            4 => Kind::MoveAsk,
            5 => Kind::MoveChallenge,
            6 => Kind::MoveOrder,
            _ => return Err(malformed),
        };
        let nonce = |at: usize| fixed[at..at + 8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let text = core::str::from_utf8(text).map_err(|_| malformed)?.to_owned();
        Ok(Self { kind, vrid: fixed[5], priority: fixed[6], nonce_a: nonce(8), nonce_b: nonce(16), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> Message {
        Message {
            kind: Kind::Offer,
            vrid: 51,
            priority: 206,
            nonce_a: 0x0102_0304_0506_0708,
            nonce_b: 9,
            text: "n2".into(),
        }
    }

    #[test]
    fn second_key_verifies_but_does_not_sign() {
        let old = Keys::new(vec![b"old key".to_vec()]);
        let both = Keys::new(vec![b"new key".to_vec(), b"old key".to_vec()]);
        let by_old = message().encode(&old).expect("a key");
        assert_eq!(Message::parse(&by_old, &both), Ok(message()));
        let by_new = message().encode(&both).expect("a key");
        assert_eq!(Message::parse(&by_new, &old), Err(PeerError::Signature { keys: 1 }));
        assert_eq!(message().encode(&Keys::default()), None);
    }

    proptest! {
        #[test]
        fn no_changed_bit_is_accepted(bit in 0usize..(24 + 2 + 32) * 8) {
            let keys = Keys::new(vec![b"key".to_vec()]);
            let mut bytes = message().encode(&keys).expect("a key");
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Message::parse(&bytes, &keys).is_err());
        }

        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&bytes, &Keys::new(vec![b"key".to_vec()]));
        }
    }
}
