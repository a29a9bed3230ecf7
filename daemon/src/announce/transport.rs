//! From the speaker's words for a connection to the socket's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bascule_bgp::config::{NeighborConfig, SpeakerConfig, Transport, Ttl};

use crate::net::tcp::{Hops, Key, Options};

/// SendHoldTime that the speaker takes where none is configured (RFC 9687 section 3.1).
const SEND_HOLD: Duration = Duration::from_secs(480);
/// How much later than the speaker the kernel gives a connection up: the speaker names the reason, the kernel is its second line.
const LATER: Duration = Duration::from_secs(60);

/// How long the kernel waits for acknowledgements, by neighbor.
#[derive(Debug, Default)]
pub(super) struct Patience(HashMap<IpAddr, Duration>);

impl Patience {
    pub(super) fn of(config: &SpeakerConfig) -> Self {
        let mut longest = HashMap::new();
        for neighbor in &config.neighbors {
            let wanted = patience(neighbor);
            let known = longest.entry(neighbor.address).or_insert(wanted);
            *known = wanted.max(*known);
        }
        Self(longest)
    }

    fn with(&self, remote: IpAddr) -> Duration {
        self.0.get(&remote).copied().unwrap_or(SEND_HOLD + LATER)
    }

    /// What `transport` asks of a socket. RFC 4271 is silent on the TTL; 1 for external neighbors is what routers do, so that a session
    /// never forms over a path that nobody meant.
    pub(super) fn options(&self, remote: IpAddr, transport: &Transport, external: bool) -> Options {
        let hops = match transport.ttl {
            Ttl::Default if external => Hops::Limit(1),
            Ttl::Default => Hops::Limit(u8::MAX),
            Ttl::Multihop(ttl) => Hops::Limit(ttl),
            Ttl::Security(hops) => Hops::Security(hops),
        };
        Options {
            source: transport.source,
            interface: transport.interface.clone(),
            hops,
            key: transport.password.as_ref().map(|secret| Key(secret.0.clone())),
            user_timeout: self.with(remote),
        }
    }
}

/// Longer than the hold time and the send hold time: both end a session with a NOTIFICATION, the kernel only cuts it.
fn patience(neighbor: &NeighborConfig) -> Duration {
    let hold = Duration::from_secs(u64::from(neighbor.hold_time));
    neighbor.send_hold.unwrap_or(SEND_HOLD.max(hold * 2)).max(hold) + LATER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_follows_distance_and_as() {
        let remote = IpAddr::from([10, 0, 0, 1]);
        let hops = |ttl, external| {
            let transport = Transport { ttl, ..Transport::default() };
            Patience::default().options(remote, &transport, external).hops
        };
        assert_eq!(hops(Ttl::Default, true), Hops::Limit(1));
        assert_eq!(hops(Ttl::Default, false), Hops::Limit(255));
        assert_eq!(hops(Ttl::Multihop(4), true), Hops::Limit(4));
        assert_eq!(hops(Ttl::Security(1), true), Hops::Security(1));
    }

    #[test]
    fn the_kernel_is_more_patient_than_every_timer_of_the_session() {
        let mut first = NeighborConfig::external("tor1", [10, 0, 0, 1].into());
        assert_eq!(patience(&first), Duration::from_secs(540));
        first.hold_time = 600;
        assert_eq!(patience(&first), Duration::from_secs(1260));
        first.send_hold = Some(Duration::from_secs(10));
        assert_eq!(patience(&first), Duration::from_secs(660), "never below the hold time");
        first.hold_time = 0;
        let second = NeighborConfig::external("tor1b", first.address);
        let config = SpeakerConfig { asn: 1, router_id: [1, 1, 1, 1].into(), neighbors: vec![first, second] };
        let patience = Patience::of(&config);
        assert_eq!(patience.with([10, 0, 0, 1].into()), Duration::from_secs(540), "the longer of one address");
    }
}
