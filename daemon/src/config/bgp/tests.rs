use std::path::Path;

use bascule_bgp::config::{ExportAction, MaxPrefixAction, NextHopMode, RemoteAs, RouteAttributes, Secret, Ttl};
use bascule_bgp::wire::{Family, FamilySet};
use bascule_core::node::config::{Announce, AnycastConfig};

use super::super::tests::{folder, key_file};
use super::super::{Loaded, parse};
use super::*;

/// A file in which a field of this section may stand in the place of `@`, for the tests of the table.
pub(in crate::config) fn carrier(minimal: &str, section: &str, key: &str) -> String {
    let given: String =
        [("name", "name: r1, "), ("address", "address: 10.0.0.1, "), ("remoteAs", "remoteAs: external, ")]
            .into_iter()
            .filter(|(own, _)| section != "bgp.neighbors[]" || *own != key)
            .map(|(_, text)| text)
            .collect();
    let neighbor = match section {
        // A listener that nobody uses is worth a warning.
        "bgp" => format!("{given}mode: both"),
        "bgp.neighbors[]" if key == "maxPrefixAction" => format!("{given}maxPrefix: 9, @"),
        "bgp.neighbors[]" => format!("{given}@"),
        "bgp.neighbors[].bfd" if key == "minimumTtl" => format!("{given}multihop: 2, bfd: {{ @ }}"),
        "bgp.neighbors[].bfd" => format!("{given}bfd: {{ @ }}"),
        "bgp.neighbors[].export" => format!("{given}export: {{ @ }}"),
        "bgp.neighbors[].export.rules[]" => format!("{given}export: {{ rules: [{{ vips: [api], @ }}] }}"),
        other => panic!("no carrier for {other}"),
    };
    let at = if section == "bgp" { "@" } else { "" };
    format!("{minimal}    announce: bgp\nbgp: {{ asn: 65001, neighbors: [{{ {neighbor} }}], {at} }}\n")
}

const VIPS: &str = "vips:\n  - { name: dns, addresses: [10.9.0.53, '2001:db8::53'], announce: bgp, scope: all }\n";

#[track_caller]
fn good(text: &str, dir: &Path) -> Loaded {
    match parse(text, "bascule.yaml", dir, "n1") {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn speaker(text: &str) -> Bgp {
    good(text, Path::new("/")).bgp.expect("a speaker")
}

#[test]
fn three_fields_make_a_neighbor() {
    let loaded = good(
        &format!("{VIPS}bgp: {{ asn: 65001, neighbors: [{{ name: tor1, address: 10.0.0.1, remoteAs: external }}] }}\n"),
        Path::new("/"),
    );
    let bgp = loaded.bgp.expect("a speaker");
    assert_eq!(
        (bgp.speaker.asn, bgp.drain_time, bgp.listen, bgp.router_id_given),
        (65001, Duration::from_secs(5), None, false)
    );
    let [tor] = &bgp.speaker.neighbors[..] else { panic!("one neighbor") };
    assert_eq!((tor.name.as_str(), tor.port, tor.remote_as, tor.mode), ("tor1", 179, RemoteAs::External, Mode::Active));
    assert_eq!((tor.families, tor.hold_time), (FamilySet::EMPTY.with(Family::Ipv4), 90));
    assert_eq!((tor.connect_retry, tor.graceful_restart, tor.max_prefix), (Duration::from_secs(5), None, None));
    assert!(!tor.bfd && loaded.bfd.is_empty() && tor.transport.ttl == Ttl::Default && tor.export.rules.is_empty());
    assert_eq!(loaded.node.route_drain, bgp.drain_time);
    let vip = AnycastConfig {
        name: "dns".into(),
        addresses: vec!["10.9.0.53".parse().expect("address"), "2001:db8::53".parse().expect("address")],
        gates: vec![],
    };
    assert_eq!((loaded.node.anycast, loaded.node.groups.len()), (vec![vip], 0));
}

#[test]
fn every_field_reaches_the_speaker_and_bfd() {
    let dir = folder();
    let loaded = good(include_str!("../full.yaml"), dir.path());
    let bgp = loaded.bgp.expect("a speaker");
    assert_eq!(
        (bgp.speaker.router_id, bgp.listen),
        ([10, 0, 0, 11].into(), Some("[::]:179".parse().expect("address")))
    );
    assert_eq!(bgp.password_files, [dir.path().join("tor.key")]);
    let [tor, far] = &bgp.speaker.neighbors[..] else { panic!("two neighbors") };
    assert_eq!((tor.local_as, tor.mode, tor.graceful_restart), (Some(65010), Mode::Both, Some(120)));
    assert_eq!((tor.max_prefix, tor.max_prefix_action), (Some(1000), MaxPrefixAction::Warn));
    assert_eq!(tor.transport.password, Some(Secret(b"s3cret".to_vec())));
    assert_eq!((tor.transport.ttl, tor.transport.interface.as_deref()), (Ttl::Security(1), Some("eth0")));
    let hop =
        NextHopMode::Address { v4: Some([10, 0, 0, 11].into()), v6: Some("2001:db8::11".parse().expect("address")) };
    let default = ExportAction {
        deny: false,
        attributes: RouteAttributes {
            communities: vec![0xfde9_0064, 0xffff_ff01],
            large_communities: vec![[65001, 1, 2]],
            extended_communities: vec![[0, 2, 0xfd, 0xe9, 0, 0, 0, 100]],
            med: Some(10),
            local_pref: Some(200),
        },
        prepend: 0,
        next_hop: hop,
    };
    assert_eq!(tor.export.default, default);
    let [rule] = &tor.export.rules[..] else { panic!("one rule") };
    assert_eq!((rule.vips.as_slice(), rule.action.prepend, rule.action.next_hop), (&["dns".to_owned()][..], 1, hop));
    assert_eq!((far.remote_as, far.transport.ttl), (RemoteAs::Is(65002), Ttl::Multihop(2)));
    let [bfd, ..] = &loaded.bfd[..] else { panic!("a BFD session") };
    assert_eq!((bfd.name.as_str(), bfd.local, bfd.multihop), ("tor1", Some([10, 0, 0, 11].into()), None));
    let vias: Vec<Announce> = loaded.node.groups.iter().map(|g| g.announce).collect();
    assert_eq!(vias, [Announce::Both, Announce::L2, Announce::L2]);
}

#[test]
fn bfd_with_a_multihop_neighbor_is_multihop() {
    let text = format!(
        "{VIPS}bgp: {{ asn: 65001, neighbors: [{{ name: far, address: 10.0.0.1, remoteAs: 65002, multihop: 3, bfd: {{ multiplier: 5 }} }}] }}\n"
    );
    let loaded = good(&text, Path::new("/"));
    // Three hops away: sent with 255, two routers have taken one each, and the third is the neighbor itself.
    assert_eq!((loaded.bfd[0].multihop, loaded.bfd[0].multiplier), (Some(253), 5));
    assert!(loaded.bgp.is_some_and(|b| b.speaker.neighbors[0].bfd));
    let loaded = good(&text.replace("multiplier: 5", "minimumTtl: 61"), Path::new("/"));
    assert_eq!(loaded.bfd[0].multihop, Some(61));
}

#[test]
fn a_router_id_is_chosen_once_and_never_zero() {
    let neighbor = |extra: &str| {
        format!(
            "{VIPS}bgp: {{ asn: 65001, neighbors: [{{ name: six, address: '2001:db8::1', remoteAs: external }}, {{ name: four, address: 10.0.0.1, remoteAs: external{extra} }}] }}\n"
        )
    };
    let own: [IpAddr; 4] =
        [[127, 0, 0, 1].into(), [169, 254, 0, 1].into(), [192, 168, 0, 9].into(), [10, 0, 0, 11].into()];
    let mut chosen = speaker(&neighbor(""));
    let by_name = chosen.speaker.router_id;
    assert!(!by_name.is_unspecified() && by_name != id_of_name("n2"));
    chosen.choose_router_id(std::iter::empty());
    assert_eq!(chosen.speaker.router_id, by_name);
    chosen.choose_router_id(own);
    assert_eq!(chosen.speaker.router_id, Ipv4Addr::from([10, 0, 0, 11]));
    let mut by_source = speaker(&neighbor(", source: 192.168.0.9"));
    by_source.choose_router_id(own);
    assert_eq!(by_source.speaker.router_id, Ipv4Addr::from([192, 168, 0, 9]));
    let mut given = speaker(&neighbor("").replace("asn: 65001", "asn: 65001, routerId: 1.2.3.4"));
    given.choose_router_id(own);
    assert_eq!(given.speaker.router_id, Ipv4Addr::from([1, 2, 3, 4]));
}

#[test]
fn a_changed_password_is_a_changed_configuration() {
    let dir = folder();
    let text = format!(
        "{VIPS}bgp: {{ asn: 65001, neighbors: [{{ name: tor1, address: 10.0.0.1, remoteAs: external, passwordFile: tor.key }}] }}\n"
    );
    let before = good(&text, dir.path());
    assert_eq!(before.secret_files(), [dir.path().join("tor.key")]);
    key_file(&dir.path().join("tor.key"), "an0ther", 0o600);
    let after = good(&text, dir.path());
    assert_ne!(before, after);
    let [old, new] = [before, after].map(|l| l.bgp.expect("a speaker").speaker.neighbors.remove(0));
    assert_ne!(old, new);
    assert!(!old.needs_reset(&new), "the connection that stands takes the key");
    assert!(!format!("{old:?}").contains("s3cret"), "a secret is never printed");
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = "bgp:\n  asn: 65001\n  listen: 10.0.0.11:179\n  neighbors:\n    - { name: tor1, address: 10.0.0.1, remoteAs: external, families: [ipv4, ipv6], maxPrefixAction: reset, export: { localPref: 200, rules: [{ vips: [api], deny: true, med: 1 }] } }\nvips:\n  - { name: api, addresses: ['2001:db8::100'], vrid: 1, priority: 200, announce: bgp, conflictProbe: true }\n";
    assert_eq!(
        good(text, Path::new("/")).warnings,
        [
            "vips[0].conflictProbe: has no effect with announce: bgp",
            "bgp.neighbors[0].export.localPref: is not sent to an external neighbor",
            "bgp.neighbors[0].export.rules[0].med: has no effect with deny: true",
            "bgp.neighbors[0].nextHop6: IPv6 routes are not announced over an IPv4 session without it",
            "bgp.neighbors[0].maxPrefixAction: has no effect without maxPrefix",
            "bgp.listen: has no effect while the mode of every neighbor is active",
        ]
    );
    let text = "bgp: { asn: 1, neighbors: [{ name: r, address: 10.0.0.1, remoteAs: internal }] }\nvips:\n  - { name: a, addresses: [10.9.0.1], vrid: 1, priority: 200 }\n";
    assert_eq!(
        good(text, Path::new("/")).warnings,
        ["bgp: no VIP is announced over it; set announce: bgp or both on one"]
    );
    let text = "bgp: { asn: 1, neighbors: [{ name: r, address: 10.0.0.1, remoteAs: internal }] }\nvips:\n  - { name: a, addresses: ['2001:db8::1'], announce: bgp, scope: all }\n";
    assert_eq!(
        good(text, Path::new("/")).warnings,
        ["bgp.neighbors: no neighbor has the family ipv6, and VIPs have IPv6 addresses"]
    );
}
