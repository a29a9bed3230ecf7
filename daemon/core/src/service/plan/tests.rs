use core::time::Duration;

use super::super::translate::{KubePort, KubeService, Slice, SliceEndpoint, SlicePort};
use super::super::{Affinity, Delivery, Protocol, Return, WhenUnplaced};
use super::*;
use crate::intent::{NodeIntent, ServiceIntent};
use crate::shard::eligible::{DRAIN_ANNOTATION, EXCLUDE_LABEL, NodeFacts};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn service(name: &str, vips: &[&str]) -> ServiceIntent {
    let ports = vec![KubePort { name: "http".into(), port: 80, protocol: Protocol::Tcp }];
    let endpoint = |n: u8| SliceEndpoint {
        address: IpAddr::from([10, 0, n, 1]),
        ready: None,
        serving: None,
        terminating: None,
        node: Some(format!("n{n}").into()),
    };
    ServiceIntent {
        service: KubeService {
            namespace: "shop".into(),
            name: name.into(),
            labels: BTreeMap::new(),
            class: None,
            vips: vips.iter().map(|vip| ip(vip)).collect(),
            ports,
            local: false,
            affinity: Affinity::None,
            sources: vec![],
            publish_not_ready: false,
            health_check_node_port: 0,
        },
        slices: vec![Arc::new(Slice {
            family: Family::V4,
            ports: vec![SlicePort { name: "http".into(), port: 8080, protocol: Protocol::Tcp }],
            endpoints: vec![endpoint(1), endpoint(2)],
        })],
    }
}

fn node(n: u8) -> (String, NodeIntent) {
    let facts = NodeFacts::default();
    (format!("n{n}"), NodeIntent { id: Some(n.into()), addresses: vec![IpAddr::from([10, 9, 0, n])], facts })
}

pub(super) fn intent(services: Vec<ServiceIntent>, nodes: u8) -> Intent {
    Intent {
        services: services.into_iter().map(Arc::new).collect(),
        nodes: (1..=nodes).map(node).collect(),
        ..Intent::default()
    }
}

pub(super) fn policy(this: &str) -> PlanPolicy {
    PlanPolicy {
        translate: Policy {
            classes: ["bascule.dev/vip".to_owned()].into(),
            unclassed: true,
            node: this.into(),
            everywhere: false,
            delivery: Delivery::Direct,
            returns: Return::Direct,
            when_unplaced: WhenUnplaced::Delegate,
            drain: Duration::from_secs(60),
        },
        nodes: NodePolicy::default(),
        cluster: "prod".into(),
        shards: 16,
        announce: Announce::L2,
        interface: None,
        taken: BTreeSet::new(),
        file_vrids: BTreeMap::new(),
        file_neighbors: None,
        file_services: vec![],
        file_nodes: vec![],
        sites: None,
        limits: Limits { addresses: 8192, frames: 16_384, slots: 16_383, sources: 16_384 },
    }
}

fn plan(this: &str, intent: &Intent) -> Plan {
    Planner::new(policy(this)).plan(intent)
}

pub(super) fn refused(plan: &Plan, name: &str) -> Vec<String> {
    let told = plan.told.iter().find(|told| told.name == name).expect("told");
    told.refused.iter().map(ToString::to_string).collect()
}

#[test]
fn nodes_agree_on_routers_and_vips_and_differ_in_priorities() {
    let vips: Vec<String> = (1..=40).map(|n| format!("192.0.2.{n}")).collect();
    let all = intent(vips.iter().map(|vip| service(&format!("s{vip}"), &[vip])).collect(), 3);
    let plans: Vec<Plan> = (1..=3).map(|n| plan(&format!("n{n}"), &all)).collect();
    for shard in 0..16 {
        let of: Vec<&GroupConfig> = plans.iter().map(|plan| &plan.groups[shard]).collect();
        assert!(of.iter().all(|g| (g.vrid, &g.addresses, &g.name) == (of[0].vrid, &of[0].addresses, &of[0].name)));
        assert!(of.iter().all(|g| g.advertised(Family::V4) == of[0].advertised(Family::V4)));
        let mut priorities: Vec<u8> = of.iter().map(|g| g.priority).collect();
        priorities.sort_unstable();
        assert_eq!(priorities, [158, 206, 254]);
    }
    assert_eq!(plans[0].groups.iter().map(|g| g.addresses.len()).sum::<usize>(), 40);
    let firsts = |plan: &Plan| plan.groups.iter().filter(|g| g.priority == 254).count();
    assert!(plans.iter().all(|plan| (5..=6).contains(&firsts(plan))));
    assert_eq!(plans[0].services, plans[1].services, "every node forwards the same");
    assert_eq!(plans[0].nodes.len(), 3);
}

#[test]
fn a_list_of_vips_changes_within_the_election() {
    let before = plan("n1", &intent(vec![service("a", &["192.0.2.1"])], 3));
    let after = plan("n1", &intent(vec![service("a", &["192.0.2.1"]), service("b", &["192.0.2.2", "2001:db8::2"])], 3));
    let joined = plan("n1", &intent(vec![], 4));
    for (group, (more, other)) in before.groups.iter().zip(after.groups.iter().zip(&joined.groups)) {
        assert!(group.updatable_to(more) && group.updatable_to(other), "{group:?}");
        assert_eq!(group.advertised(Family::V4).len(), 1);
    }
    assert_eq!(after.groups.iter().flat_map(|g| g.owned()).count(), 3, "and nothing besides");
}

#[test]
fn lasting_reasons_leave_the_list_and_passing_ones_bar() {
    let mut all = intent(vec![service("a", &["192.0.2.1"])], 3);
    let facts = |all: &mut Intent, n: &str| all.nodes.get_mut(n).map(|n| &mut n.facts).expect("a node").clone();
    let mut excluded = facts(&mut all, "n1");
    let _none = excluded.labels.insert(EXCLUDE_LABEL.into(), String::new());
    all.nodes.get_mut("n1").expect("a node").facts = excluded;
    let mut drained = facts(&mut all, "n2");
    let _none = drained.annotations.insert(DRAIN_ANNOTATION.into(), "true".into());
    all.nodes.get_mut("n2").expect("a node").facts = drained;
    let (one, two, three) = (plan("n1", &all), plan("n2", &all), plan("n3", &all));
    assert!(one.groups.is_empty() && one.nodes.len() == 3, "it forwards all the same");
    assert_eq!(two.groups[0].barred.as_deref(), Some("annotation bascule.dev/drain is true"));
    assert!(three.groups.iter().all(|g| g.barred.is_none() && g.priority >= 206), "two are in the list");
    let standing = |plan: &Plan, n: usize| (plan.standings[n].forwards, plan.standings[n].may_own);
    assert_eq!([0, 1, 2].map(|n| standing(&three, n)), [(true, false), (true, false), (true, true)]);
    let owners = (0..16).map(|n| (ShardId(n), "n2".to_owned())).collect();
    assert!(three.rebalance(&owners).iter().all(|m| m.to == "n3"), "nothing is moved to one that is drained");
}

#[test]
fn a_node_without_an_id_or_with_that_of_another_takes_no_part() {
    let mut all = intent(vec![service("a", &["192.0.2.1"])], 4);
    all.nodes.get_mut("n1").expect("a node").id = None;
    all.nodes.get_mut("n3").expect("a node").id = Some(2);
    all.nodes.get_mut("n4").expect("a node").addresses = vec![ip("fd00::4")];
    let plan = plan("n1", &all);
    assert!(plan.groups.is_empty());
    assert_eq!(plan.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["n2"]);
    let said: Vec<String> = plan.standings.iter().flat_map(|s| &s.reasons).map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "annotation bascule.dev/node-id is missing or no id",
            "annotation bascule.dev/node-id is that of n2",
            "it has no IPv4 InternalIP, and the others do"
        ]
    );
}

#[test]
fn only_ipv6_in_common_makes_elections_of_ipv6() {
    let mut all = intent(vec![service("a", &["192.0.2.1"])], 2);
    all.nodes.get_mut("n1").expect("a node").addresses = vec![ip("10.9.0.1"), ip("fd00::1")];
    all.nodes.get_mut("n2").expect("a node").addresses = vec![ip("fd00::2")];
    let plan = plan("n1", &all);
    assert_eq!(plan.nodes[0].addresses, [ip("fd00::1"), ip("10.9.0.1")]);
    assert!(plan.groups.iter().all(|g| g.families() == [Family::V6] && g.main_family() == Family::V6));
}

#[test]
fn what_cannot_be_had_is_said_and_the_rest_is_served() {
    let mut foreign = service("foreign", &["192.0.2.9"]);
    foreign.service.class = Some("io.cilium/bgp".into());
    let services = vec![
        service("a", &["192.0.2.1"]),
        service("b", &["192.0.2.1", "192.0.2.2"]),
        service("c", &["10.9.0.2"]),
        service("d", &["127.0.0.1", "192.0.2.3"]),
        service("e", &[]),
        service("f", &["198.51.100.1"]),
        foreign,
    ];
    let mut policy = policy("n1");
    policy.taken = [ip("198.51.100.1")].into();
    let plan = Planner::new(policy).plan(&intent(services, 2));
    assert_eq!(refused(&plan, "shop/a"), [""; 0]);
    assert_eq!(refused(&plan, "shop/b"), ["192.0.2.1:80/tcp is served for shop/a"]);
    assert_eq!(refused(&plan, "shop/c"), ["10.9.0.2 is an address of node n2"]);
    assert_eq!(refused(&plan, "shop/d"), ["127.0.0.1 is no address of one host"]);
    assert_eq!(refused(&plan, "shop/e"), ["it has no address yet"]);
    assert_eq!(refused(&plan, "shop/f"), ["198.51.100.1 is an address of a VIP of the configuration file"]);
    assert_eq!(refused(&plan, "shop/foreign"), ["loadBalancerClass io.cilium/bgp is not ours"]);
    let vips: BTreeSet<IpAddr> = plan.shards.values().flatten().copied().collect();
    assert_eq!(vips, ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(ip).into());
    assert_eq!(plan.services.len(), 3);
}

#[test]
fn a_thousand_vips_fit_and_what_does_not_is_refused_by_name() {
    let vip = |n: u16| format!("192.168.{}.{}", n / 250, 1 + n % 250);
    let many: Vec<ServiceIntent> = (0..1_200).map(|n| service(&format!("s{n:04}"), &[&vip(n)])).collect();
    let all = intent(many, 3);
    let fits = plan("n1", &all);
    assert_eq!(fits.services.len(), 1_200);
    assert!(fits.groups.iter().all(|g| (40..=120).contains(&g.addresses.len())), "16 groups carry them");
    for (limits, words) in [
        (Limits { addresses: 1_000, ..policy("n1").limits }, "no room: addresses of the fence on a node, at most 1000"),
        (Limits { slots: 2_000, ..policy("n1").limits }, "no room: slots of services and VIPs on a node, at most 2000"),
        (Limits { frames: 3_000, ..policy("n1").limits }, "no room: frames of the fence on a node, at most 3000"),
    ] {
        let short = Planner::new(PlanPolicy { limits, ..policy("n1") }).plan(&all);
        assert_eq!(short.services.len(), 1_000);
        assert_eq!(refused(&short, "shop/s0999"), [""; 0]);
        assert_eq!(refused(&short, "shop/s1000"), [words]);
    }
    let mut ranges = service("z", &["192.0.2.1"]);
    ranges.service.sources =
        vec!["10.0.0.0/8".parse().expect("a network"), "172.16.0.0/12".parse().expect("a network")];
    let limits = Limits { sources: 1, ..policy("n1").limits };
    let short = Planner::new(PlanPolicy { limits, ..policy("n1") }).plan(&intent(vec![ranges], 1));
    assert_eq!(refused(&short, "shop/z"), ["no room: source ranges on a node, at most 1"]);
}

#[test]
fn where_every_node_announces_local_services_need_an_endpoint_here() {
    let mut local = service("local", &["192.0.2.1"]);
    local.service.local = true;
    let all = intent(vec![local, service("shared", &["192.0.2.2"])], 3);
    let everywhere = |this: &str| {
        let mut policy = policy(this);
        policy.announce = Announce::Bgp;
        policy.translate.everywhere = true;
        Planner::new(policy).plan(&all)
    };
    let announces = |plan: &Plan| plan.anycast.iter().flat_map(|a| a.addresses.clone()).collect::<BTreeSet<_>>();
    let (here, elsewhere) = (everywhere("n1"), everywhere("n3"));
    assert!(here.groups.is_empty());
    assert_eq!(announces(&here), ["192.0.2.1", "192.0.2.2"].map(ip).into());
    assert_eq!(announces(&elsewhere), [ip("192.0.2.2")].into());
}

#[test]
fn only_what_changed_is_translated_anew_and_gives_the_same() {
    let mut planner = Planner::new(policy("n1"));
    let mut all = intent(vec![service("a", &["192.0.2.1"]), service("b", &["192.0.2.2"])], 2);
    let first = planner.plan(&all);
    Arc::make_mut(&mut Arc::make_mut(&mut all.services[1]).slices[0]).endpoints[0].ready = Some(false);
    let second = planner.plan(&all);
    assert_eq!((&first.groups, &first.nodes), (&second.groups, &second.nodes), "a slice is no matter of ownership");
    assert_ne!(first.services, second.services);
    assert_eq!(second, plan("n1", &all));
    let _gone = all.services.remove(0);
    assert_eq!(planner.plan(&all), plan("n1", &all));
    let mut other = policy("n1");
    other.translate.delivery = Delivery::None;
    assert!(planner.set_policy(other.clone()) && !planner.set_policy(other));
    assert!(planner.plan(&all).services.iter().all(|s| s.delivery == Delivery::None));
}
