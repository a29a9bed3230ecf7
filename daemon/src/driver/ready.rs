//! Which of the loop's sockets have something to read.

use bascule_core::types::Family;

/// A kind of socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Requests and news of tasks.
    Wake,
    /// Adverts of one family.
    Vrrp(Family),
    /// The peer channel.
    Peer,
    /// ARP and NDP of any link.
    Neighbor,
    /// BFD of any kind.
    Bfd,
}

impl Source {
    /// What the poller calls it: the number of its bit.
    pub(super) const fn token(self) -> u64 {
        match self {
            Self::Wake => 1,
            Self::Vrrp(Family::V4) => 2,
            Self::Vrrp(Family::V6) => 3,
            Self::Peer => 4,
            Self::Neighbor => 5,
            Self::Bfd => 6,
        }
    }
}

/// Those that are ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ready(u8);

impl Ready {
    /// Nobody was asked: any may be.
    pub(super) const ALL: Self = Self(u8::MAX);

    /// By the poller's word.
    pub(super) fn of(tokens: &[u64]) -> Self {
        Self(tokens.iter().fold(0, |bits, token| bits | 1 << (token & 7)))
    }

    pub(super) const fn has(self, source: Source) -> bool {
        self.0 >> source.token() & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_a_bit_of_its_own() {
        let all = [
            Source::Wake,
            Source::Vrrp(Family::V4),
            Source::Vrrp(Family::V6),
            Source::Peer,
            Source::Neighbor,
            Source::Bfd,
        ];
        for one in all {
            let ready = Ready::of(&[one.token(), one.token()]);
            assert!(all.into_iter().all(|other| ready.has(other) == (other == one)), "{one:?}");
            assert!(Ready::ALL.has(one) && !Ready::of(&[]).has(one));
        }
    }
}
