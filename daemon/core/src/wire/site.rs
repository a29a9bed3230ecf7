//! Probes between sites: 28 bytes and a tag, probe and echo at once.
//!
//! Layout (big endian): version 1 and kind (4 bits each), flags, flow, sender's interval in units of 50 ms, run, your run, sequence, echoed
//! sequence, count received, hold time in microseconds, then the first 16 bytes of HMAC-SHA256. A large probe is padded behind the tag;
//! its authenticated `received` field holds its length, so that padding can be neither added nor cut.
//!
//! Every packet says what its sender last received, how many it has received and how long it has held the echo (as RFC 5880 is
//! asynchronous, plus the receive count): loss is known for each direction, and the round trip without comparing clocks. Freshness leans on
//! no clock and no disk: `run` is a random number of the sender's process, and only packets that repeat the receiver's own run count, so
//! that nothing recorded before a restart is taken for the path of today.
//!
//! A later version may add kinds and flags: those that are unknown here are left out, a kind with its packet, a flag alone (ADR 0035).

use core::time::Duration;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Bytes before the tag.
pub const HEADER: usize = 28;
/// Bytes of the tag: 128 bits, the shortest truncation that RFC 2104 section 5 recommends for a hash of 256 bits.
pub const TAG: usize = 16;
/// Bytes of a probe without padding: 72 on the wire with IPv4 and UDP, 92 with IPv6.
pub const LEN: usize = HEADER + TAG;
/// Largest datagram accepted: a jumbo frame.
pub const MAX: usize = 9000;
const VERSION: u8 = 1;
/// Unit of the interval field; eight bits reach 12.75 s, beyond the slowest rate of twelve flows (a second each, in turn); of more it is less than the truth.
const UNIT: Duration = Duration::from_millis(50);
/// The sender wants to hear its peer at full rate.
const WANTS_FULL: u8 = 1;
const LABEL: &[u8] = b"bascule site probe v1";

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Probe and echo.
    Probe,
    /// A padded probe of the path's MTU; `received` is its length.
    Large,
    /// The answer; `received` is the length that arrived, `echo` the sequence.
    LargeAck,
    /// From an end that does not know the other's run, or is not sure of it: `seq` is a challenge, `echo` repeats the other's; 0: none.
    Hello,
}

/// A packet of a path, its tag checked or still to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// What it is.
    pub kind: Kind,
    /// The sender has no other evidence of the path: answer at full rate.
    pub wants_full: bool,
    /// Flow of the node pair.
    pub flow: u8,
    /// How far apart the sender sends on this flow, at most 12.75 s.
    pub interval: Duration,
    /// Run of the sender, never 0.
    pub run: u32,
    /// Run of the receiver as the sender knows it; 0: not yet.
    pub your_run: u32,
    /// Sequence on this flow, from 1.
    pub seq: u32,
    /// Highest sequence received; 0: none.
    pub echo: u32,
    /// How many were received in this run; of large probes: length of the datagram.
    pub received: u32,
    /// How long ago `echo` arrived, in microseconds.
    pub hold: u32,
}

/// Why a datagram is not a probe for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProbeError {
    /// Wrong length or run.
    #[error("not a site probe ({len} bytes)")]
    Malformed {
        /// Bytes received.
        len: usize,
    },
    /// Of another version of all packets.
    #[error("a site probe of version {version}, ours are {VERSION}")]
    Version {
        /// Which.
        version: u8,
    },
    /// A kind that only later versions have.
    #[error("a site probe of kind {kind}")]
    Unknown {
        /// Which.
        kind: u8,
    },
    /// Made with none of our keys, or for another pair of sites, or the other way round.
    #[error("tag fits none of the {keys} keys")]
    Tag {
        /// Keys tried.
        keys: usize,
    },
}

/// Keys of one pair of sites: the first signs, all verify, so that a key is replaced without a lost probe.
#[derive(Clone)]
pub struct PairKeys {
    here: u8,
    there: u8,
    secrets: Vec<Vec<u8>>,
    /// Of each secret, for what leaves and what comes. Keyed once: half of the work on a probe would be the key.
    macs: Vec<[Hmac<Sha256>; 2]>,
}

impl PartialEq for PairKeys {
    fn eq(&self, other: &Self) -> bool {
        (self.here, self.there, &self.secrets) == (other.here, other.there, &other.secrets)
    }
}

impl Eq for PairKeys {}

impl core::fmt::Debug for PairKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PairKeys({} -> {}, {} secret)", self.here, self.there, self.secrets.len())
    }
}

impl PairKeys {
    /// Keys between this site and another, in order of use.
    pub fn new(here: u8, there: u8, secrets: Vec<Vec<u8>>) -> Self {
        let both = |secret: &Vec<u8>| [Self::keyed(secret, here, there), Self::keyed(secret, there, here)];
        let macs = secrets.iter().map(both).collect();
        Self { here, there, secrets, macs }
    }

    /// The two sites are part of what is signed: a packet that is reflected, or sent on to a third site, fits no key.
    fn keyed(secret: &[u8], from: u8, to: u8) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.update(LABEL);
        mac.update(&[from, to]);
        mac
    }

    fn tag(keyed: &Hmac<Sha256>, header: &[u8]) -> [u8; TAG] {
        let mut mac = keyed.clone();
        mac.update(header);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&full[..TAG]);
        tag
    }
}

impl Probe {
    /// The datagram; `None` without a key.
    pub fn encode(&self, keys: &PairKeys) -> Option<Vec<u8>> {
        let [leaving, _] = keys.macs.first()?;
        let kind = match self.kind {
            Kind::Probe => 0,
            Kind::Large => 1,
            Kind::LargeAck => 2,
            Kind::Hello => 3,
        };
        let units = (self.interval.as_millis() / UNIT.as_millis()).clamp(1, 255);
        let mut out = Vec::with_capacity(LEN);
        let flags = if self.wants_full { WANTS_FULL } else { 0 };
        out.extend([VERSION << 4 | kind, flags, self.flow, u8::try_from(units).unwrap_or(u8::MAX)]);
        for word in [self.run, self.your_run, self.seq, self.echo, self.received, self.hold] {
            out.extend(word.to_be_bytes());
        }
        let tag = PairKeys::tag(leaving, &out);
        out.extend(tag);
        if self.kind == Kind::Large {
            out.resize(usize::try_from(self.received).unwrap_or(MAX).clamp(LEN, MAX), 0);
        }
        Some(out)
    }

    /// Reads a datagram from the other site and checks its tag.
    ///
    /// # Errors
    /// [`ProbeError`] when it is not a probe or was not made for this pair of sites.
    pub fn parse(datagram: &[u8], keys: &PairKeys) -> Result<Self, ProbeError> {
        let malformed = ProbeError::Malformed { len: datagram.len() };
        let Some((header, rest)) = datagram.split_at_checked(HEADER) else { return Err(malformed) };
        let Some((tag, _padding)) = rest.split_at_checked(TAG) else { return Err(malformed) };
        if datagram.len() > MAX {
            return Err(malformed);
        }
        let genuine =
            keys.macs.iter().fold(false, |ok, [_, coming]| ok | bool::from(PairKeys::tag(coming, header).ct_eq(tag)));
        if !genuine {
            return Err(ProbeError::Tag { keys: keys.secrets.len() });
        }
        let version = header[0] >> 4;
        if version != VERSION {
            return Err(ProbeError::Version { version });
        }
        let word = |at: usize| header[at..at + 4].iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        let kind = match header[0] & 0x0f {
            0 => Kind::Probe,
            1 => Kind::Large,
            2 => Kind::LargeAck,
            3 => Kind::Hello,
            kind => return Err(ProbeError::Unknown { kind }),
        };
        let probe = Self {
            kind,
            wants_full: header[1] & WANTS_FULL != 0,
            flow: header[2],
            interval: UNIT * u32::from(header[3]),
            run: word(4),
            your_run: word(8),
            seq: word(12),
            echo: word(16),
            received: word(20),
            hold: word(24),
        };
        let len = match kind {
            Kind::Probe | Kind::LargeAck | Kind::Hello => LEN,
            Kind::Large => usize::try_from(probe.received).unwrap_or(usize::MAX),
        };
        if header[3] == 0 || probe.run == 0 || probe.seq == 0 || datagram.len() != len {
            return Err(malformed);
        }
        Ok(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe(kind: Kind) -> Probe {
        Probe {
            kind,
            wants_full: true,
            flow: 4,
            interval: Duration::from_millis(100),
            run: 0x0102_0304,
            your_run: 9,
            seq: 77,
            echo: 76,
            received: if kind == Kind::Large { 1472 } else { 70 },
            hold: 1234,
        }
    }

    fn ends() -> (PairKeys, PairKeys) {
        let secrets = vec![b"pair secret".to_vec()];
        (PairKeys::new(1, 2, secrets.clone()), PairKeys::new(2, 1, secrets))
    }

    #[test]
    fn every_kind_survives_the_wire() {
        let (a, b) = ends();
        for (kind, len) in [(Kind::Probe, 44), (Kind::Large, 1472), (Kind::LargeAck, 44), (Kind::Hello, 44)] {
            let bytes = probe(kind).encode(&a).expect("a key");
            assert_eq!(bytes.len(), len);
            assert_eq!(Probe::parse(&bytes, &b), Ok(probe(kind)));
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = probe(Kind::Probe).encode(&ends().0).expect("a key");
        let header = [16, 1, 4, 2, 1, 2, 3, 4, 0, 0, 0, 9, 0, 0, 0, 77, 0, 0, 0, 76, 0, 0, 0, 70, 0, 0, 4, 210];
        assert_eq!(bytes[..HEADER], header);
        // HMAC-SHA256 of the label, the two sites and the header under "pair secret", by another implementation.
        assert_eq!(bytes[HEADER..HEADER + 4], GOLDEN);
    }

    #[test]
    fn a_reflected_probe_and_one_for_another_site_fit_no_key() {
        let (a, b) = ends();
        let bytes = probe(Kind::Probe).encode(&a).expect("a key");
        assert_eq!(Probe::parse(&bytes, &a), Err(ProbeError::Tag { keys: 1 }));
        let third = PairKeys::new(3, 1, vec![b"pair secret".to_vec()]);
        assert_eq!(Probe::parse(&bytes, &third), Err(ProbeError::Tag { keys: 1 }));
        let rotated = PairKeys::new(2, 1, vec![b"new".to_vec(), b"pair secret".to_vec()]);
        assert!(Probe::parse(&bytes, &rotated).is_ok());
        assert!(Probe::parse(&probe(Kind::Probe).encode(&rotated).expect("a key"), &b).is_err());
    }

    #[test]
    fn kinds_flags_and_versions_that_are_unknown_here_are_told_from_nonsense() {
        let (a, b) = ends();
        let made = |first: u8, flags: u8| {
            let mut bytes = probe(Kind::Probe).encode(&a).expect("a key");
            (bytes[0], bytes[1]) = (first, flags);
            let tag = PairKeys::tag(&a.macs[0][0], &bytes[..HEADER]);
            bytes[HEADER..].copy_from_slice(&tag);
            Probe::parse(&bytes, &b)
        };
        assert_eq!(made(0x10, 0xff), Ok(probe(Kind::Probe)), "flags that are unknown are not minded");
        assert_eq!(made(0x17, 1), Err(ProbeError::Unknown { kind: 7 }));
        assert_eq!(made(0x20, 1), Err(ProbeError::Version { version: 2 }));
    }

    proptest! {
        #[test]
        fn no_changed_bit_and_no_other_length_is_accepted(bit in 0usize..LEN * 8, len in 0usize..1600) {
            let (a, b) = ends();
            let small = probe(Kind::Probe).encode(&a).expect("a key");
            let mut changed = small.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Probe::parse(&changed, &b).is_err());
            let mut large = probe(Kind::Large).encode(&a).expect("a key");
            large.resize(len, 0);
            prop_assert_eq!(Probe::parse(&large, &b).is_ok(), len == 1472);
        }

        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Probe::parse(&bytes, &ends().1);
        }
    }

    const GOLDEN: [u8; 4] = [0x54, 0x59, 0xef, 0x79];
}
