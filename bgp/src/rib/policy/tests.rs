use std::collections::BTreeSet;

use super::*;
use crate::config::{ExportRule, RouteAttributes};

const V4: FamilySet = FamilySet::EMPTY.with(Family::Ipv4);
const BOTH: FamilySet = V4.with(Family::Ipv6);

fn external() -> SessionFacts {
    SessionFacts {
        own_as: 65001,
        internal: false,
        four_octet_as: true,
        families: BOTH,
        local: "10.0.0.11".parse().unwrap(),
        remote: "10.0.0.1".parse().unwrap(),
        link_local: None,
    }
}

fn over_ipv6() -> SessionFacts {
    SessionFacts {
        local: "2001:db8::11".parse().unwrap(),
        remote: "2001:db8::1".parse().unwrap(),
        link_local: Some("fe80::11".parse().unwrap()),
        ..external()
    }
}

fn address(v4: Option<&str>, v6: Option<&str>) -> ExportAction {
    let (v4, v6) = (v4.map(|a| a.parse().unwrap()), v6.map(|a| a.parse().unwrap()));
    ExportAction { next_hop: NextHopMode::Address { v4, v6 }, ..ExportAction::default() }
}

fn v6(global: &str, link_local: Option<&str>) -> NextHop {
    NextHop::V6 { global: global.parse().unwrap(), link_local: link_local.map(|a| a.parse().unwrap()) }
}

#[test]
fn s4271_5_1_external_neighbors_see_the_own_as_and_no_local_pref() {
    let action = ExportAction {
        prepend: 2,
        attributes: RouteAttributes { local_pref: Some(300), med: Some(10), ..RouteAttributes::default() },
        ..ExportAction::default()
    };
    let (attributes, next_hop) = export(&action, &external(), false, Family::Ipv4).unwrap();
    let expected = Attributes {
        origin: Origin::Igp,
        as_path: AsPath::sequence([65001; 3]),
        med: Some(10),
        ..Attributes::default()
    };
    assert_eq!(attributes, expected);
    assert_eq!(next_hop, NextHop::V4("10.0.0.11".parse().unwrap()));
}

#[test]
fn s4271_5_1_internal_neighbors_see_an_empty_path_and_local_pref() {
    let internal = SessionFacts { internal: true, ..external() };
    let shown = |local_pref, draining| {
        let attributes = RouteAttributes { local_pref, ..RouteAttributes::default() };
        let action = ExportAction { attributes, prepend: 3, ..ExportAction::default() };
        export(&action, &internal, draining, Family::Ipv4).unwrap().0
    };
    assert_eq!(shown(None, false).as_path, AsPath::default());
    assert_eq!(shown(None, false).local_pref, Some(100));
    assert_eq!(shown(Some(200), false).local_pref, Some(200));
    assert_eq!(shown(Some(200), true).local_pref, Some(0), "RFC 8326: the lowest while draining");
}

#[test]
fn s8326_draining_adds_graceful_shutdown_once() {
    let attributes = RouteAttributes { communities: vec![GRACEFUL_SHUTDOWN, 7], ..RouteAttributes::default() };
    for (configured, draining, sent) in [
        (RouteAttributes::default(), false, vec![]),
        (RouteAttributes::default(), true, vec![GRACEFUL_SHUTDOWN]),
        (attributes.clone(), false, vec![7, GRACEFUL_SHUTDOWN]),
        (attributes, true, vec![7, GRACEFUL_SHUTDOWN]),
    ] {
        let action = ExportAction { attributes: configured, ..ExportAction::default() };
        let (shown, _) = export(&action, &external(), draining, Family::Ipv4).unwrap();
        assert_eq!(shown.communities, sent);
        assert_eq!(shown.local_pref, None);
    }
}

#[test]
fn communities_of_every_kind_are_sent_as_sets() {
    let attributes = RouteAttributes {
        communities: vec![9, 3, 9],
        large_communities: vec![[2, 0, 0], [1, 2, 3], [2, 0, 0]],
        extended_communities: vec![[1; 8], [0; 8], [1; 8]],
        ..RouteAttributes::default()
    };
    let action = ExportAction { attributes, ..ExportAction::default() };
    let (shown, _) = export(&action, &external(), false, Family::Ipv4).unwrap();
    assert_eq!(shown.communities, [3, 9]);
    assert_eq!(shown.large_communities, [[1, 2, 3], [2, 0, 0]].map(|one| large(&one)));
    assert_eq!(shown.ext_communities, [[0; 8], [1; 8]]);
}

#[test]
fn s2545_3_link_local_goes_along_only_on_a_shared_link_and_only_with_our_own_address() {
    let far = SessionFacts { link_local: None, ..over_ipv6() };
    let own = ExportAction::default();
    for (action, facts, expected) in [
        (&own, over_ipv6(), v6("2001:db8::11", Some("fe80::11"))),
        (&own, far, v6("2001:db8::11", None)),
        (&address(None, Some("2001:db8::99")), over_ipv6(), v6("2001:db8::99", None)),
        (&address(None, Some("2001:db8::11")), over_ipv6(), v6("2001:db8::11", Some("fe80::11"))),
        (&address(None, Some("2001:db8::11")), external(), v6("2001:db8::11", None)),
    ] {
        assert_eq!(export(action, &facts, false, Family::Ipv6).unwrap().1, expected, "{action:?} {facts:?}");
    }
}

#[test]
fn a_family_without_a_next_hop_is_held_back_with_the_reason() {
    let own = ExportAction::default();
    let link_local = SessionFacts { local: "fe80::11".parse().unwrap(), ..over_ipv6() };
    let (v4, v6) = (Family::Ipv4, Family::Ipv6);
    for (action, facts, family, reason, says) in [
        (&own, external(), v6, NotAnnounced::NoNextHop { family: v6 }, "nextHop6"),
        (&own, over_ipv6(), v4, NotAnnounced::NoNextHop { family: v4 }, "set nextHop"),
        (&own, link_local, v6, NotAnnounced::LinkLocalSession, "link-local"),
        (&address(Some("10.0.0.1"), None), external(), v4, NotAnnounced::NextHopIsNeighbor, "neighbor's own"),
        (&address(None, Some("2001:db8::1")), over_ipv6(), v6, NotAnnounced::NextHopIsNeighbor, "neighbor's own"),
        (&ExportAction { deny: true, ..own.clone() }, external(), v4, NotAnnounced::Denied, "policy"),
    ] {
        assert_eq!(export(action, &facts, false, family), Err(reason));
        assert!(reason.to_string().contains(says), "{reason}");
    }
    let both = address(Some("10.0.0.12"), Some("2001:db8::12"));
    assert_eq!(export(&both, &over_ipv6(), false, v4).unwrap().1, NextHop::V4("10.0.0.12".parse().unwrap()));
    let only_v6 = address(None, Some("2001:db8::12"));
    assert_eq!(export(&only_v6, &external(), false, v4).unwrap().1, NextHop::V4("10.0.0.11".parse().unwrap()));
    let mapped = SessionFacts { local: "::ffff:10.0.0.11".parse().unwrap(), ..external() };
    assert_eq!(export(&own, &mapped, false, v4).unwrap().1, NextHop::V4("10.0.0.11".parse().unwrap()));
}

/// How a route of this VIP and family is shown.
fn show<'g>(group: &'g Group, vip: &str, family: Family) -> Result<&'g Arc<Exported>, NotAnnounced> {
    let prefix = if family == Family::Ipv4 { "10.9.0.1/32" } else { "2001:db8:9::1/128" };
    group.show(&prefix.parse().unwrap(), vip, false)
}

#[test]
fn the_first_rule_that_names_the_vip_or_the_prefix_holds() {
    let med = |med| ExportAction {
        attributes: RouteAttributes { med: Some(med), ..RouteAttributes::default() },
        ..ExportAction::default()
    };
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let rule = |vips: &[&str], prefixes: &[&str], action| ExportRule {
        vips: vips.iter().map(|vip| (*vip).to_owned()).collect(),
        prefixes: prefixes.iter().map(|prefix| net(prefix)).collect(),
        action,
    };
    let rules = vec![
        rule(&[], &["10.9.0.1/32"], med(2)),
        rule(&["a"], &["10.9.0.1/32", "10.9.0.2/32"], med(3)),
        rule(&[], &["10.9.0.3/32"], med(4)),
    ];
    let group = Group::new(&external(), &ExportPolicy { default: med(1), rules });
    let shown = |prefix, vip| group.show(&net(prefix), vip, false).map(|exported| exported.attributes.med);
    assert_eq!(shown("10.9.0.1/32", "a"), Ok(Some(2)), "the prefix stands in an earlier rule");
    assert_eq!(shown("10.9.0.2/32", "b"), Ok(Some(3)));
    assert_eq!(shown("10.9.0.3/32", "a"), Ok(Some(3)), "the VIP stands in an earlier rule");
    assert_eq!(shown("10.9.0.3/32", "b"), Ok(Some(4)));
    assert_eq!(shown("10.9.0.4/32", "b"), Ok(Some(1)));
}

#[test]
fn the_first_rule_that_names_the_vip_holds() {
    let med = |med| ExportAction {
        attributes: RouteAttributes { med: Some(med), ..RouteAttributes::default() },
        ..ExportAction::default()
    };
    let rule = |vips: &[&str], action| ExportRule {
        vips: vips.iter().map(|vip| (*vip).to_owned()).collect(),
        prefixes: BTreeSet::new(),
        action,
    };
    let deny = ExportAction { deny: true, ..ExportAction::default() };
    let policy = ExportPolicy {
        default: med(1),
        rules: vec![rule(&["a", "b"], med(2)), rule(&["b", "c"], deny), rule(&["d"], med(1))],
    };
    let group = Group::new(&external(), &policy);
    let shown = |vip| show(&group, vip, Family::Ipv4).map(|exported| exported.attributes.med);
    assert_eq!(shown("a"), Ok(Some(2)));
    assert_eq!(shown("b"), Ok(Some(2)));
    assert_eq!(shown("c"), Err(NotAnnounced::Denied));
    assert_eq!(shown("d"), Ok(Some(1)));
    assert_eq!(shown("e"), Ok(Some(1)));
    let set = |vip| show(&group, vip, Family::Ipv4).unwrap();
    assert!(Arc::ptr_eq(set("d"), set("e")), "equal actions share one set");
}

#[test]
fn only_negotiated_families_are_shown_and_attributes_must_fit() {
    let group = Group::new(&SessionFacts { families: V4, ..over_ipv6() }, &ExportPolicy::default());
    let refused = show(&group, "a", Family::Ipv6).map(drop);
    assert_eq!(refused, Err(NotAnnounced::FamilyNotNegotiated { family: Family::Ipv6 }));

    let attributes = RouteAttributes { communities: (0..1100).collect(), ..RouteAttributes::default() };
    let action = ExportAction { attributes, ..ExportAction::default() };
    let group = Group::new(&external(), &ExportPolicy { default: action, rules: vec![] });
    assert_eq!(show(&group, "a", Family::Ipv4).map(drop), Err(NotAnnounced::TooLarge));
}

#[test]
fn neighbors_of_one_kind_share_a_group_unless_one_is_named_as_next_hop() {
    let other = SessionFacts { remote: "10.0.0.2".parse().unwrap(), ..external() };
    let plain = ExportPolicy::default();
    assert!(Group::new(&external(), &plain).is_for(&other, &plain));
    for different in [
        SessionFacts { own_as: 65002, ..external() },
        SessionFacts { internal: true, ..external() },
        SessionFacts { four_octet_as: false, ..external() },
        SessionFacts { families: V4, ..external() },
        SessionFacts { local: "10.0.0.12".parse().unwrap(), ..external() },
        SessionFacts { link_local: Some("fe80::1".parse().unwrap()), ..external() },
    ] {
        assert!(!Group::new(&external(), &plain).is_for(&different, &plain), "{different:?}");
    }
    let naming = ExportPolicy { default: address(Some("10.0.0.2"), None), rules: vec![] };
    let group = Group::new(&external(), &naming);
    assert!(!group.is_for(&external(), &plain));
    assert!(!group.is_for(&other, &naming), "it would be told to send to itself");
    assert!(show(&group, "a", Family::Ipv4).is_ok());
    assert!(show(&Group::new(&other, &naming), "a", Family::Ipv4).is_err());
}
