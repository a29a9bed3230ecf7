use super::tests::{intent, ip, policy, refused, service};
use super::*;
use crate::intent::rules::{Choice, L2Rule, RULE_SHARDS, Wrong};
use crate::ipam::{Block, Selector};

fn labels(value: &str) -> Selector {
    Selector { labels: [("rack".to_owned(), value.to_owned())].into(), expressions: vec![] }
}

fn rule(created: &str) -> L2Rule {
    let (choice, nodes) = (Choice::default(), Selector::default());
    L2Rule { created: created.into(), choice, nodes, interfaces: vec![], shards: RULE_SHARDS }
}

fn of_pool(pool: &str) -> L2Rule {
    L2Rule { choice: Choice { pools: [pool.to_owned()].into(), ..Choice::default() }, ..rule("") }
}

/// Two Services with a VIP of a pool each, and four nodes of which two are in a rack.
fn cluster(rules: &[(&str, L2Rule)]) -> Intent {
    let mut all = intent(vec![service("a", &["192.0.2.1"]), service("b", &["198.51.100.1"])], 4);
    for node in ["n2", "n3"] {
        let _none = all.nodes.get_mut(node).expect("a node").facts.labels.insert("rack".into(), "x".into());
    }
    let block = |net: &str| vec![Block::Cidr(net.parse().expect("a prefix"))];
    all.rules.pools =
        [("edge".to_owned(), block("192.0.2.0/24")), ("inner".to_owned(), block("198.51.100.0/24"))].into();
    all.rules.l2 = rules.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect();
    all
}

fn plan(this: &str, all: &Intent) -> Plan {
    Planner::new(policy(this)).plan(all)
}

fn shard_with(plan: &Plan, vip: &str) -> Option<ShardId> {
    plan.shards.iter().find(|(_, vips)| vips.contains(&ip(vip))).map(|(shard, _)| *shard)
}

fn objects(plan: &Plan) -> Vec<(&str, usize, Option<&str>)> {
    plan.objects.iter().map(|o| (o.name.as_str(), o.vips, o.refused.as_deref())).collect()
}

#[test]
fn without_announcements_nothing_is_otherwise_than_before() {
    let mut all = cluster(&[]);
    let with_pools = plan("n1", &all);
    all.rules = Default::default();
    assert_eq!(with_pools, plan("n1", &all));
    assert_eq!(with_pools.shards.len(), 16);
}

#[test]
fn what_none_selects_is_announced_by_nobody_and_says_so() {
    let all = cluster(&[("edge", of_pool("edge"))]);
    let plan = plan("n1", &all);
    assert!(shard_with(&plan, "192.0.2.1").is_some_and(|shard| shard.0 < 16), "it names no nodes: a common shard");
    assert_eq!(shard_with(&plan, "198.51.100.1"), None);
    assert_eq!(refused(&plan, "shop/a"), [""; 0]);
    assert_eq!(refused(&plan, "shop/b"), ["no L2Announcement that holds selects 198.51.100.1"]);
    assert!(plan.told.iter().all(|told| told.vips.is_empty() == (told.name == "shop/b")));
    assert_eq!(plan.services.len(), 2, "tables are there all the same");
    assert_eq!(objects(&plan), [("edge", 1, None)]);
}

#[test]
fn nodes_and_links_of_its_own_make_shards_of_its_own() {
    let racked = L2Rule { nodes: labels("x"), interfaces: vec!["eth1".into(), "eth2".into()], ..of_pool("edge") };
    let all = cluster(&[("racked", racked), ("rest", rule(""))]);
    let [one, two, three] = ["n1", "n2", "n3"].map(|this| plan(this, &all));
    let shard = shard_with(&one, "192.0.2.1").expect("it is announced");
    assert!(shard.0 >= 16 && shard_with(&two, "192.0.2.1") == Some(shard), "every node knows the same shard");
    assert!(shard_with(&one, "198.51.100.1").is_some_and(|shard| shard.0 < 16));
    assert_eq!((one.groups.len(), two.groups.len(), three.groups.len()), (16, 20, 20));
    let group = |plan: &Plan| plan.groups.iter().find(|group| group.name == shard_name(shard)).cloned();
    let (two, three) = (group(&two).expect("it takes part"), group(&three).expect("it takes part"));
    assert_eq!(two.addresses, [ip("192.0.2.1")]);
    assert_eq!(
        (two.interface.as_deref(), two.further_interfaces.as_slice()),
        (Some("eth1"), ["eth2".to_owned()].as_slice())
    );
    assert_eq!((two.vrid, two.shard.map(|s| s.identity)), (three.vrid, three.shard.map(|s| s.identity)));
    assert_ne!(two.priority, three.priority);
    let vrids: BTreeSet<u8> = plan("n2", &all).groups.iter().map(|group| group.vrid).collect();
    assert_eq!(vrids.len(), 20, "no two shards have one VRID");
    let owners: BTreeSet<&str> = one.shards.keys().filter(|s| s.0 >= 16).filter_map(|s| one.best(*s)).collect();
    assert_eq!(owners, ["n2", "n3"].into());
}

#[test]
fn the_first_by_name_holds_and_services_are_chosen_by_their_labels() {
    let mut named = rule("");
    named.choice.namespaces = ["bank".to_owned()].into();
    let tier = Selector { labels: [("tier".to_owned(), "edge".to_owned())].into(), expressions: vec![] };
    let labelled = L2Rule { choice: Choice { services: tier, ..Choice::default() }, nodes: labels("x"), ..rule("") };
    let mut all = cluster(&[("a-bank", named), ("b-edge", labelled), ("c-all", rule(""))]);
    let _none = Arc::make_mut(&mut all.services[0]).service.labels.insert("tier".into(), "edge".into());
    let plan = plan("n1", &all);
    assert_eq!(objects(&plan), [("a-bank", 0, None), ("b-edge", 1, None), ("c-all", 1, None)]);
    assert!(shard_with(&plan, "192.0.2.1").is_some_and(|shard| shard.0 >= 16));
}

#[test]
fn what_cannot_be_had_is_refused_by_name_and_holds_up_nothing_else() {
    let none = L2Rule { nodes: labels("nobody"), ..of_pool("edge") };
    let many = |created: &str| L2Rule { nodes: labels("x"), shards: 32, ..rule(created) };
    let mut rules = vec![("none", none), ("rest", of_pool("inner"))];
    let names: Vec<String> = (0..8).map(|n| format!("z{n}")).collect();
    rules.extend(names.iter().map(|name| (name.as_str(), many(name))));
    let mut all = cluster(&rules);
    all.rules.wrong = vec![
        Wrong { kind: "L2Announcement".into(), name: "rest".into(), why: "spec.shards: 0".into(), kept: true },
        Wrong { kind: "L2Announcement".into(), name: "broken".into(), why: "spec.shards: 99".into(), kept: false },
    ];
    let said = plan("n1", &all);
    let why = |name: &str| said.objects.iter().find(|o| o.name == name).and_then(|o| o.refused.clone());
    assert!(why("none").is_some_and(|why| why.starts_with("spec.nodeSelector: takes no node")));
    assert_eq!(shard_with(&said, "192.0.2.1"), None, "the first that selects it holds, though it cannot be had");
    assert_eq!(why("rest").as_deref(), Some("spec.shards: 0; what it said before holds"));
    assert_eq!(why("broken").as_deref(), Some("spec.shards: 99"));
    assert!(shard_with(&said, "198.51.100.1").is_some());
    assert_eq!(why("z6"), None, "16 + 4 + 7 * 32 of 255");
    assert!(why("z7").is_some_and(|why| why.starts_with("spec.shards: 32")));
    // A VIP of the file has the VRID of one of its shards.
    let edge = cluster(&[("edge", L2Rule { nodes: labels("x"), ..of_pool("edge") })]);
    let shard = shard_with(&plan("n2", &edge), "192.0.2.1").expect("it is announced");
    let mut policy = policy("n2");
    policy.file_vrids = [(identity(&policy.cluster, shard).vrid, "api".to_owned())].into();
    let clashes = Planner::new(policy).plan(&edge);
    assert!(clashes.objects[0].refused.as_ref().is_some_and(|why| why.contains("VIP api")));
}

#[test]
fn where_every_node_announces_routes_they_mean_nothing() {
    let all = cluster(&[("edge", of_pool("edge"))]);
    let mut policy = policy("n1");
    (policy.announce, policy.translate.everywhere) = (Announce::Bgp, true);
    let plan = Planner::new(policy).plan(&all);
    assert_eq!(plan.anycast.iter().map(|vip| vip.addresses.len()).sum::<usize>(), 2);
    assert!(plan.objects[0].refused.is_some());
}
