use super::tests::{intent, ip, policy, service};
use super::*;
use crate::intent::rules::{Choice, SitePart, TrafficRule};
use crate::service::{Delivery, number_of};
use crate::site::SiteId;
use crate::site::join::io::Capacity;
use crate::site::policy::io::Mode;

fn sites() -> PlanSites {
    let other = NodeSpec { name: "dc-b/n1".into(), id: 2, addresses: vec![ip("10.9.2.1")], site: 2, draining: false };
    PlanSites {
        here: "dc-a".into(),
        all: [("dc-a".to_owned(), SiteId(1)), ("dc-b".to_owned(), SiteId(2))].into(),
        prefixes: vec!["192.0.2.0/24".parse().expect("a network")],
        gateways: [("n1".to_owned(), 1)].into(),
        others: vec![other],
        file_services: BTreeMap::new(),
    }
}

fn rule(parts: &[(&str, u32)]) -> TrafficRule {
    let part = |weight: u32| SitePart { weight: Some(weight), ..SitePart::default() };
    TrafficRule {
        choice: Choice::default(),
        names: BTreeSet::new(),
        weighted: true,
        sites: parts.iter().map(|(name, weight)| ((*name).to_owned(), part(*weight))).collect(),
        number: None,
    }
}

/// Two Services with a VIP each, of which the second one's is not this site's.
fn cluster(rules: &[(&str, TrafficRule)]) -> Intent {
    let mut all = intent(vec![service("a", &["192.0.2.1"]), service("b", &["198.51.100.1"])], 3);
    all.rules.traffic = rules.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect();
    all
}

fn plan_of(sites: Option<PlanSites>, all: &Intent) -> Plan {
    Planner::new(PlanPolicy { sites, ..policy("n1") }).plan(all)
}

fn plan(all: &Intent) -> Plan {
    plan_of(Some(sites()), all)
}

fn said(plan: &Plan) -> Vec<(&str, usize, Option<&str>)> {
    plan.objects.iter().map(|o| (o.name.as_str(), o.vips, o.refused.as_deref())).collect()
}

const A: &str = "shop/a/192.0.2.1/80/tcp";

#[test]
fn what_a_policy_selects_is_spread_under_the_number_that_its_name_makes() {
    let mut halves = rule(&[("dc-a", 50), ("dc-b", 30)]);
    halves.names = ["a".to_owned()].into();
    halves.sites.get_mut("dc-a").expect("a part").capacity_per_endpoint = Some(40);
    let plan = plan(&cluster(&[("halves", halves)]));
    assert_eq!(said(&plan), [("halves", 1, None)]);
    let (id, spread) = plan.spreads.iter().next().expect("one");
    assert_eq!((id.0, spread.name.as_str()), (u32::from(number_of(A)), A));
    assert_eq!(spread.policy.mode, Mode::Weighted([(SiteId(1), 50), (SiteId(2), 30)].into()));
    assert_eq!(spread.capacity, Capacity::Endpoint(40));
    assert_eq!(spread.key.vip, ip("192.0.2.1"));
    assert!(plan.services.iter().all(|spec| !spec.draining && spec.number == number_of(&spec.name)));
}

#[test]
fn this_sites_part_alone_drains_here_and_says_what_it_carries() {
    for (site, draining) in [("dc-a", true), ("dc-b", false)] {
        let mut local = rule(&[]);
        local.weighted = false;
        let part = SitePart { capacity: Some(9), draining: true, ..SitePart::default() };
        let _none = local.sites.insert(site.to_owned(), part);
        let plan = plan(&cluster(&[("local", local)]));
        let spread = plan.spreads.values().next().expect("one");
        assert_eq!(spread.policy.mode, Mode::LocalFirst);
        assert_eq!(spread.capacity, if draining { Capacity::Service(9) } else { Capacity::Unknown });
        assert_eq!((plan.services[0].draining, plan.services[0].elsewhere), (draining, true));
        let alone = &plan.services[1];
        assert!(!alone.draining && !alone.elsewhere, "it is not spread");
    }
}

#[test]
fn the_first_by_name_holds_and_a_given_number_is_that_of_one_port() {
    let mut numbered = TrafficRule { number: Some(7), ..rule(&[("dc-a", 1)]) };
    numbered.names = ["a".to_owned()].into();
    let all = cluster(&[("a-one", numbered.clone()), ("b-rest", rule(&[("dc-b", 1)]))]);
    let both = plan(&all);
    assert_eq!(both.spreads[&ServiceId(7)].policy.mode, Mode::Weighted([(SiteId(1), 1)].into()));
    assert_eq!(both.services[0].number, 7, "packets between sites carry it");
    assert!(said(&both)[0] == ("a-one", 1, None) && both.spreads.len() == 1);
    // Of two ports it would be nobody's.
    numbered.names = BTreeSet::new();
    let two = plan(&cluster(&[("two", numbered.clone())]));
    assert!(two.spreads.is_empty() && two.services[0].number != 7);
    assert!(said(&two)[0].2.is_some_and(|why| why.starts_with("spec.number: ") && why.contains("2 are selected")));
    // A service of the file has it.
    numbered.names = ["a".to_owned()].into();
    let mut sites = sites();
    let _none = sites.file_services.insert(ServiceId(7), "db".into());
    let taken = plan_of(Some(sites), &cluster(&[("one", numbered)]));
    assert!(taken.spreads.is_empty() && taken.services[0].number != 7);
    assert!(said(&taken)[0].2.is_some_and(|why| why.contains("has the number of db, 7")), "{:?}", said(&taken));
}

#[test]
fn what_cannot_be_spread_stays_here_and_the_policy_says_why() {
    let all = cluster(&[("all", rule(&[("dc-a", 1), ("dc-c", 1)]))]);
    let one = plan(&all);
    assert_eq!(said(&one), [("all", 1, Some("spec.sites.dc-c: no site is called so; the others hold"))]);
    assert_eq!(one.spreads.len(), 1, "a VIP beyond the prefixes is not spread");
    let beyond = plan(&cluster(&[("all", rule(&[("dc-a", 1)]))]));
    assert!(said(&beyond)[0].2.is_some_and(|why| why.contains("198.51.100.1 is in none of the prefixes of site dc-a")));
    let nobody = plan(&cluster(&[("all", rule(&[("dc-a", 0), ("dc-c", 5)]))]));
    assert!(nobody.spreads.is_empty());
    assert!(said(&nobody)[0].2.is_some_and(|why| why.starts_with("spec.sites: no site that is known has a weight")));
    let alone = plan_of(None, &all);
    assert!(alone.spreads.is_empty() && said(&alone)[0].2.is_some_and(|why| why.starts_with("has no effect")));
    let mut policy = PlanPolicy { sites: Some(sites()), ..policy("n1") };
    policy.translate.delivery = Delivery::None;
    let untouched = Planner::new(policy.clone()).plan(&all);
    assert!(untouched.spreads.is_empty() && !untouched.services.is_empty());
    (policy.translate.delivery, policy.translate.everywhere, policy.announce) = (Delivery::Direct, true, Announce::Bgp);
    let mut local = all;
    Arc::make_mut(&mut local.services[0]).service.local = true;
    assert!(Planner::new(policy).plan(&local).spreads.is_empty(), "each node has tables of its own");
}

#[test]
fn without_policies_nothing_is_otherwise_than_alone() {
    let all = cluster(&[]);
    let mut sites = sites();
    sites.others.clear();
    assert_eq!(plan_of(Some(sites), &all), plan_of(None, &all));
}

#[test]
fn ids_of_other_sites_are_nobodys_here_and_a_gateway_of_two_ids_spreads_nothing() {
    let all = cluster(&[("all", rule(&[("dc-b", 1)]))]);
    let whole = plan(&all);
    let ids: Vec<(&str, u16)> = whole.nodes.iter().map(|node| (node.name.as_str(), node.id)).collect();
    assert_eq!(ids, [("n1", 1), ("n3", 3)]);
    let second = whole.standings.iter().find(|standing| standing.name == "n2").expect("a node");
    assert_eq!(second.reasons, [NodeTrouble::SameId { node: "dc-b/n1".into() }]);
    let mut sites = sites();
    let _before = sites.gateways.insert("n3".to_owned(), 33);
    let clash = plan_of(Some(sites), &all);
    assert!(clash.spreads.is_empty() && !whole.spreads.is_empty());
    assert!(said(&clash)[0].2.is_some_and(|why| why.starts_with("gateway n3 of site dc-a has the id 33, and 3 is")));
}
