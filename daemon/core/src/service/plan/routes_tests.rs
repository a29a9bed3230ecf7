use super::tests::{intent, ip, policy, refused, service};
use super::*;
use crate::intent::rules::{BgpRule, Choice, PeerRule};
use crate::ipam::Selector;

fn labels(rack: &str) -> Selector {
    Selector { labels: [("rack".to_owned(), rack.to_owned())].into(), expressions: vec![] }
}

fn rule(namespace: &str, peers: &[&str]) -> BgpRule {
    let choice = Choice { namespaces: [namespace.to_owned()].into(), ..Choice::default() };
    let peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
    BgpRule { choice, nodes: Selector::default(), peers, words: "{}".into() }
}

/// A Service in `shop` and one in `bank`; n1 in rack `x`.
fn cluster(rules: &[(&str, BgpRule)]) -> Intent {
    let mut bank = service("b", &["198.51.100.1"]);
    bank.service.namespace = "bank".into();
    let mut all = intent(vec![bank, service("a", &["192.0.2.1"])], 2);
    let _none = all.nodes.get_mut("n1").expect("a node").facts.labels.insert("rack".into(), "x".into());
    all.rules.bgp = rules.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect();
    let peer = |nodes| PeerRule { nodes, words: "{}".into() };
    all.rules.peers = [("tor".to_owned(), peer(labels("x"))), ("far".to_owned(), peer(labels("y")))].into();
    all
}

fn plan(this: &str, announce: Announce, all: &Intent) -> Plan {
    let mut policy = policy(this);
    policy.file_neighbors = Some(["file".to_owned()].into());
    (policy.announce, policy.translate.everywhere) = (announce, announce == Announce::Bgp);
    Planner::new(policy).plan(all)
}

fn told(plan: &Plan, neighbor: &str) -> Vec<(String, Vec<IpAddr>)> {
    let told = plan.routes.of(neighbor).expect("there are announcements");
    told.into_iter().map(|(announcement, vips)| (announcement.name.clone(), vips.into_iter().collect())).collect()
}

#[test]
fn peers_are_of_the_nodes_that_their_selector_takes() {
    let all = cluster(&[]);
    let names = |plan: &Plan| plan.routes.peers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&plan("n1", Announce::Bgp, &all)), ["tor"]);
    assert_eq!(names(&plan("n2", Announce::Both, &all)), [""; 0]);
    assert_eq!(plan("n1", Announce::Bgp, &all).routes.of("tor"), None, "its own export holds");
    let silent = plan("n1", Announce::L2, &all);
    assert_eq!(silent.routes, Routes::default());
    assert!(silent.objects.iter().all(|object| object.refused.is_some()) && silent.objects.len() == 2);
}

#[test]
fn a_neighbor_is_told_by_the_first_that_selects_a_vip_for_it_and_of_nothing_else() {
    let elsewhere = BgpRule { nodes: labels("y"), ..rule("shop", &[]) };
    let all = cluster(&[("a", rule("shop", &["tor"])), ("b", rule("shop", &[])), ("c", elsewhere)]);
    let plan = plan("n1", Announce::Both, &all);
    let web = vec![ip("192.0.2.1")];
    assert_eq!(told(&plan, "tor"), [("a".to_owned(), web.clone())]);
    assert_eq!(told(&plan, "file"), [("b".to_owned(), web)]);
    assert_eq!(
        (plan.routes.shards.len(), plan.routes.shards[0].as_str()),
        (16, "shard-0"),
        "nothing else of them is told"
    );
    assert!(plan.shards.values().flatten().any(|vip| *vip == ip("198.51.100.1")), "ARP announces it all the same");
    let counts: Vec<(&str, usize)> = plan.objects.iter().map(|object| (object.name.as_str(), object.vips)).collect();
    assert_eq!(counts, [("a", 1), ("b", 1), ("c", 0), ("far", 0), ("tor", 0)]);
}

#[test]
fn where_there_are_only_routes_what_none_selects_is_announced_by_nobody() {
    let all = cluster(&[("a", rule("shop", &["gone"]))]);
    let plan = plan("n1", Announce::Bgp, &all);
    assert_eq!(plan.anycast.iter().flat_map(|vip| vip.addresses.clone()).collect::<Vec<_>>(), [ip("192.0.2.1")]);
    assert_eq!(refused(&plan, "bank/b"), ["no BgpAnnouncement that holds selects 198.51.100.1"]);
    let standing = plan.objects.iter().find(|object| object.name == "a").expect("it stands");
    assert_eq!(standing.refused.as_deref(), Some("spec.peers: no neighbor is called gone; the others are told"));
    assert!(told(&plan, "tor").is_empty());
}
