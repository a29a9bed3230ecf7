//! From wishes about VIPs to routes of the speaker.

use bascule_bgp::io::{Input, Route};
use bascule_core::announce::route::{RouteWish, Want};
use ipnet::IpNet;

use super::to_bgp;

/// The inputs that carry out `wishes`: withdrawals first, in one input for each moment of decision.
pub(super) fn inputs(wishes: Vec<RouteWish>) -> Vec<Input<'static>> {
    let mut inputs: Vec<Input<'static>> = Vec::new();
    let mut routes = Vec::new();
    for wish in wishes {
        let (prefix, since) = (IpNet::from(wish.address), to_bgp(wish.since));
        let draining = match wish.want {
            Want::Announce => false,
            Want::Drain => true,
            Want::Withdraw => {
                match inputs.last_mut() {
                    Some(Input::Withdraw(prefixes, at)) if *at == since => prefixes.push(prefix),
                    _ => inputs.push(Input::Withdraw(vec![prefix], since)),
                }
                continue;
            }
        };
        routes.push(Route { prefix, vip: wish.vip, draining, since });
    }
    if !routes.is_empty() {
        inputs.push(Input::Announce(routes));
    }
    inputs
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bascule_bgp::time::Instant;

    use super::*;

    fn wish(address: &str, want: Want, since: u64) -> RouteWish {
        let address: IpAddr = address.parse().expect("an address");
        RouteWish { address, vip: "dns".into(), want, since: bascule_core::time::Instant::from_nanos(since) }
    }

    #[test]
    fn withdrawals_come_first_and_keep_their_time() {
        let wishes = vec![
            wish("10.9.0.1", Want::Announce, 3),
            wish("10.9.0.2", Want::Withdraw, 4),
            wish("2001:db8::1", Want::Withdraw, 4),
            wish("10.9.0.3", Want::Drain, 5),
            wish("10.9.0.4", Want::Withdraw, 6),
        ];
        let route = |prefix: &str, draining, since| Route {
            prefix: prefix.parse().expect("a prefix"),
            vip: "dns".into(),
            draining,
            since: Instant::from_nanos(since),
        };
        let gone = |prefixes: &[&str], since| {
            let prefixes = prefixes.iter().map(|p| p.parse().expect("a prefix")).collect();
            Input::Withdraw(prefixes, Instant::from_nanos(since))
        };
        let expected = [
            gone(&["10.9.0.2/32", "2001:db8::1/128"], 4),
            gone(&["10.9.0.4/32"], 6),
            Input::Announce(vec![route("10.9.0.1/32", false, 3), route("10.9.0.3/32", true, 5)]),
        ];
        assert_eq!(inputs(wishes), expected);
        assert!(inputs(Vec::new()).is_empty());
    }
}
