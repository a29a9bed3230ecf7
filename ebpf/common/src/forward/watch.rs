//! Handshakes under watch: what a node that sends a SYN on learns of what becomes of it, whichever way the answer takes.

/// Handshakes that are watched at a time, one in each place of an array. A SYN that finds its place taken is not watched: a sample, which the
/// keyed hash of the flow chooses.
pub const MAX_WATCHED: u32 = 8192;

/// The client has sent a segment that only an answer makes it send.
pub const WATCHED_ANSWERED: u64 = 1 << 24;

/// The golden ratio of 64 bits: what tells the ports of a client apart where the hash of its flows does not (`SERVICE_AFFINITY`).
const PORT: u64 = 0x9e37_79b9_7f4a_7c15;

/// A handshake that is watched, as the word in its place. No service has slot 0, so that no word is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    /// Slot of the service.
    pub service: u16,
    /// Site to which the SYN was sent.
    pub site: u8,
    /// [`WATCHED_ANSWERED`].
    pub answered: bool,
    /// What tells it from others in the same place.
    pub tag: u32,
}

impl Watched {
    /// Place and tag of the flow with `hash`, whose client has the port `client_port` (network order).
    #[inline(always)]
    pub const fn place(hash: u64, client_port: u16) -> (u32, u32) {
        let mixed = hash ^ (client_port as u64).wrapping_mul(PORT);
        (mixed as u32 & (MAX_WATCHED - 1), (mixed >> 32) as u32)
    }

    /// The tag in a word.
    #[inline(always)]
    pub const fn tag(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// As it stands in the map.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let answered = if self.answered { WATCHED_ANSWERED } else { 0 };
        self.service as u64 | (self.site as u64) << 16 | answered | (self.tag as u64) << 32
    }

    /// What a word says; `None`: nothing is watched there.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        Some(Self {
            service: word as u16,
            site: (word >> 16) as u8,
            answered: word & WATCHED_ANSWERED != 0,
            tag: Self::tag(word),
        })
    }
}

const _: () = assert!(MAX_WATCHED.is_power_of_two());
