//! Connection collision (RFC 4271 section 6.8, RFC 6286 section 2.3): which of two connections to one neighbor is kept. Which states
//! collide, and that an Established one always wins, is decided by the machine.

use core::net::Ipv4Addr;

/// One end, as its OPEN names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// BGP Identifier.
    pub id: Ipv4Addr,
    /// Autonomous system, 4 octets.
    pub asn: u32,
}

/// Who dialled the connection that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Winner {
    /// We did.
    Dialled,
    /// The neighbor did.
    Accepted,
}

/// The connection of the higher identifier is kept, identifiers compared as unsigned numbers of four octets; of equal ones that of the
/// higher AS (RFC 6286). Both equal cannot meet: an internal neighbor with our identifier is refused with 2/3 before.
pub fn winner(local: Identity, remote: Identity) -> Winner {
    if (u32::from(local.id), local.asn) > (u32::from(remote.id), remote.asn) {
        Winner::Dialled
    } else {
        Winner::Accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_identifier_wins_then_the_higher_as() {
        let end = |id: [u8; 4], asn| Identity { id: id.into(), asn };
        let table = [
            (end([10, 0, 0, 2], 1), end([10, 0, 0, 1], 9), Winner::Dialled),
            (end([10, 0, 0, 1], 9), end([10, 0, 0, 2], 1), Winner::Accepted),
            // A signed comparison would call 200.0.0.1 negative; one in host order of a little-endian machine would see 1.0.0.200.
            (end([200, 0, 0, 1], 1), end([10, 0, 0, 2], 1), Winner::Dialled),
            (end([10, 0, 0, 200], 1), end([10, 0, 1, 1], 1), Winner::Accepted),
            (end([10, 0, 0, 1], 4_200_000_000), end([10, 0, 0, 1], 65_000), Winner::Dialled),
            (end([10, 0, 0, 1], 65_000), end([10, 0, 0, 1], 4_200_000_000), Winner::Accepted),
        ];
        for (local, remote, wins) in table {
            assert_eq!(winner(local, remote), wins, "{local:?} {remote:?}");
            assert_ne!(winner(remote, local), wins, "both ends keep the same connection: {local:?} {remote:?}");
        }
    }
}
