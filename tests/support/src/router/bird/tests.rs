use super::{parse_bfd, parse_paths, parse_session};
use crate::router::{BfdState, Family, GrCapability, State};

const SESSION: &str = "BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
n1         BGP        ---        up     15:42:55.092  Established   
  BGP state:          Established
    Neighbor address: 10.5.0.1
    Local capabilities
      Multiprotocol
        AF announced: ipv4 ipv6
      Extended message
    Neighbor capabilities
      Multiprotocol
        AF announced: ipv6
      Route refresh
      Graceful restart
        Restart time: 120
        Restart recovery
        AF supported: ipv4 ipv6
        AF preserved: ipv6
      4-octet AS numbers
    Session:          external AS4
    Hold timer:       5.571/9
  Channel ipv4
    Routes:         3 imported, 2 exported, 3 preferred
  Channel ipv6
    Routes:         4 imported, 2 exported, 3 preferred
";

#[test]
fn a_session_says_what_the_neighbour_offered_and_not_what_it_offers_itself() {
    let seen = parse_session(SESSION).unwrap();
    assert_eq!((seen.state, seen.hold_time, seen.received), (State::Established, Some(9), Some(7)));
    let offered = seen.capabilities;
    assert_eq!(offered.families, [Family::Ipv6]);
    assert_eq!((offered.extended_message, offered.route_refresh), (Some(false), Some(true)));
    let families = vec![(Family::Ipv4, false), (Family::Ipv6, true)];
    assert_eq!(offered.graceful_restart, Some(GrCapability { restart_time: 120, families }));
}

#[test]
fn a_session_that_is_down_says_nothing_of_capabilities() {
    let text = "n0 BGP --- start 1 Active Socket: Connection refused\n  BGP state:          Active\n    Last error:       Socket: x\n";
    let seen = parse_session(text).unwrap();
    assert_eq!((seen.state, seen.capabilities.route_refresh, seen.received), (State::Active, None, None));
    assert_eq!(seen.last_error.as_deref(), Some("Socket: x"));
}

#[test]
fn paths_with_all_attributes() {
    let text = "BIRD 2.0.12 ready.
Table master4:
192.0.2.1/32         unicast [n1 15:42:56.393] * (100) [AS65001i]
\tvia 10.5.0.1 on eth0
\tType: BGP univ
\tBGP.as_path: 65001 65002
\tBGP.next_hop: fd05::1 fe80::1
\tBGP.med: 7
\tBGP.local_pref: 0
\tBGP.community: (65002,7) (65535,0)
\tBGP.large_community: (65002, 1, 2) (65002, 3, 4)
                     unicast [n2 15:42:57.393 from 10.5.0.9] (100) [AS65003i]
\tBGP.as_path: 65003
";
    let paths = parse_paths(text, &|name| (name == "n1").then(|| "10.5.0.1".parse().unwrap()));
    assert_eq!(paths.len(), 2);
    let first = &paths[0];
    assert!(first.best && !paths[1].best);
    assert_eq!(first.neighbor, Some("10.5.0.1".parse().unwrap()));
    assert_eq!((first.next_hop, first.med), (Some("fd05::1".parse().unwrap()), Some(7)));
    assert_eq!((first.local_pref, first.as_path.as_slice()), (Some(0), &[65001, 65002][..]));
    assert_eq!(first.communities, [(65002, 7), (65535, 0)]);
    assert_eq!(first.large, [(65002, 1, 2), (65002, 3, 4)]);
}

#[test]
fn bfd_times_are_in_seconds() {
    let line = "10.5.0.1                  eth0       Up         15:44:36.311    0.050    0.150";
    let seen = parse_bfd(line).unwrap();
    assert_eq!((seen.state, seen.transmit.as_millis(), seen.detection.as_millis()), (BfdState::Up, 50, 150));
    assert_eq!(seen.multihop, Some(false));
}
