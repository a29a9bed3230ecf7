use super::*;
use crate::time::Instant;
use crate::wire::FamilySet;

fn route(vip: &str, draining: bool) -> Route {
    let prefix = "10.9.0.1/32".parse().unwrap();
    Route { prefix, vip: vip.to_owned(), draining, since: Instant::ZERO }
}

#[test]
fn only_changes_that_can_be_seen_are_changes() {
    let mut rib = Rib::new();
    let prefix = route("a", false).prefix;
    assert_eq!(rib.announce(&route("a", false)), Some(prefix));
    let later = Route { since: Instant::from_nanos(5), ..route("a", false) };
    assert_eq!(rib.announce(&later), None);
    assert_eq!(rib.generation(), 1);
    assert_eq!(rib.announce(&route("a", true)), Some(prefix));
    assert_eq!(rib.announce(&route("b", true)), Some(prefix));
    assert_eq!(rib.withdraw(prefix), Some(prefix));
    assert_eq!(rib.withdraw(prefix), None);
    assert_eq!(rib.generation(), 4);
    assert!(rib.is_empty());
}

#[test]
fn families_are_walked_apart() {
    let mut rib = Rib::new();
    let all = ["0.0.0.0/0", "255.255.255.255/32", "::/0", "2001:db8::1/128"].map(|prefix| prefix.parse().unwrap());
    for prefix in all {
        assert!(rib.announce(&Route { prefix, ..route("a", false) }).is_some());
    }
    let past = |family, after| rib.past(family, after).copied().collect::<Vec<IpNet>>();
    assert_eq!(past(Family::Ipv4, None), all[..2]);
    assert_eq!(past(Family::Ipv4, Some(all[1])), []);
    assert_eq!(past(Family::Ipv6, None), all[2..]);
    assert_eq!(past(Family::Ipv6, Some(all[2])), all[3..]);
}

#[test]
fn equal_neighbors_share_a_group_while_it_has_sessions() {
    let facts = SessionFacts {
        own_as: 65001,
        internal: false,
        four_octet_as: true,
        families: FamilySet::EMPTY.with(Family::Ipv4),
        local: "10.0.0.11".parse().unwrap(),
        remote: "10.0.0.1".parse().unwrap(),
        link_local: None,
    };
    let mut rib = Rib::new();
    let policy = ExportPolicy::default();
    let first = rib.group(&facts, &policy);
    let second = rib.group(&SessionFacts { remote: "10.0.0.2".parse().unwrap(), ..facts.clone() }, &policy);
    assert!(Arc::ptr_eq(&first, &second));
    drop((first, second));
    let _other = rib.group(&SessionFacts { internal: true, ..facts }, &policy);
    assert_eq!(rib.groups.len(), 1, "groups without sessions are forgotten");
}
