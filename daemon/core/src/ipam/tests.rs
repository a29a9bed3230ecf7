use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::service::Protocol;

fn id(namespace: &str, name: &str) -> ServiceId {
    ServiceId { namespace: namespace.into(), name: name.into() }
}

fn request(name: &str) -> Request {
    Request {
        id: id("default", name),
        created: 0,
        namespace_labels: Labels::new(),
        labels: Labels::new(),
        families: Families::V4,
        requested: vec![],
        pool: None,
        sharing: None,
        ports: [(Protocol::Tcp, 80)].into(),
        local: None,
        status: vec![],
    }
}

fn pool(name: &str, blocks: &[&str]) -> PoolSpec {
    let block = |(n, text): (usize, &&str)| {
        let block = match text.split_once('-') {
            Some((first, last)) => Block::Range(ip(first), ip(last)),
            None => Block::Cidr(text.parse().expect("a prefix")),
        };
        (format!("block-{n}"), block)
    };
    let blocks = blocks.iter().enumerate().map(block).collect();
    PoolSpec { name: name.into(), blocks, auto_assign: true, ..PoolSpec::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn synced(pools: Vec<PoolSpec>) -> Ipam {
    let mut ipam = Ipam::new();
    ipam.handle_pools(pools);
    ipam.handle_synced();
    ipam
}

/// What a service was last told of all that is owed.
fn told(ipam: &mut Ipam) -> BTreeMap<String, (BTreeSet<IpAddr>, Vec<Reason>)> {
    core::iter::from_fn(|| ipam.poll_action())
        .map(|Action::Tell { id, addresses, reasons }| (id.name, (addresses, reasons)))
        .collect()
}

fn one(ipam: &mut Ipam, request: Request) -> (BTreeSet<IpAddr>, Vec<Reason>) {
    let name = request.id.name.clone();
    ipam.handle_service(request);
    told(ipam).remove(&name).expect("told")
}

fn shared(name: &str, namespace: &str, port: u16, cross: Cross) -> Request {
    let sharing = Some(Sharing { key: "k".into(), cross });
    Request { id: id(namespace, name), sharing, ports: [(Protocol::Tcp, port)].into(), ..request(name) }
}

#[test]
fn the_lowest_address_of_the_best_pool_that_serves_the_service() {
    let selector = |key: &str, operator| Selector {
        expressions: vec![Expression { key: key.into(), operator }],
        ..Selector::default()
    };
    let gold = PoolSpec {
        priority: 10,
        services: selector("tier", Operator::In(["gold".to_owned()].into())),
        ..pool("gold", &["10.0.1.0/29"])
    };
    let team = PoolSpec {
        priority: 5,
        namespaces: Namespaces {
            names: ["team".to_owned()].into(),
            selector: Some(selector("open", Operator::Exists)),
        },
        ..pool("team", &["10.0.2.7-10.0.2.9"])
    };
    let manual = PoolSpec { priority: 99, auto_assign: false, ..pool("manual", &["10.0.3.0/24"]) };
    let last = PoolSpec { avoid_ends: true, ..pool("zz", &["10.0.4.0/30"]) };
    let mut ipam = synced(vec![gold, team, manual, last]);
    let labels: Labels = [("tier".to_owned(), "gold".to_owned())].into();
    let of_team = |name| Request { id: id("team", name), ..request(name) };
    let open = Request { namespace_labels: [("open".to_owned(), String::new())].into(), ..request("open") };
    let cases = [
        (Request { labels, ..request("gold") }, "10.0.1.0"),
        (of_team("a"), "10.0.2.7"),
        (open, "10.0.2.8"),
        (request("plain"), "10.0.4.1"),
        (Request { pool: Some("manual".into()), ..request("named") }, "10.0.3.0"),
        (Request { requested: vec![ip("10.0.3.200")], ..request("exact") }, "10.0.3.200"),
        (request("next"), "10.0.4.2"),
    ];
    for (request, want) in cases {
        assert_eq!(one(&mut ipam, request.clone()), (ips(&[want]), vec![]), "{}", request.id);
    }
    assert_eq!(ipam.usage()["zz"], Usage { used: 2, free: 0 });
    let zz = || vec!["zz".to_owned()];
    assert_eq!(one(&mut ipam, request("late")).1, [Reason::Exhausted { family: Family::V4, pools: zz() }]);
    ipam.handle_removed(&id("default", "plain"));
    assert_eq!(told(&mut ipam)["late"], (ips(&["10.0.4.1"]), vec![]), "who waits gets what becomes free");
}

#[test]
fn every_reason_is_told_in_words() {
    let refusing = PoolSpec {
        namespaces: Namespaces { names: ["x".to_owned()].into(), selector: None },
        ..pool("x", &["10.9.0.0/24"])
    };
    let manual = PoolSpec { auto_assign: false, ..pool("manual", &["10.0.3.0/24"]) };
    let mut ipam = synced(vec![refusing, manual]);
    let asks = |address: &str| Request { requested: vec![ip(address)], ..request("asks") };
    let _first =
        one(&mut ipam, Request { requested: vec![ip("10.0.3.1")], ..shared("owner", "default", 80, Cross::Own) });
    let cases = [
        (request("asks"), "autoAssign is off"),
        (Request { pool: Some("none".into()), ..request("asks") }, "pool none does not exist"),
        (Request { pool: Some("x".into()), ..request("asks") }, "pool x does not serve"),
        (asks("10.9.0.1"), "10.9.0.1 is in no pool"),
        (asks("10.0.3.1"), "10.0.3.1 belongs to default/owner"),
        (
            Request { requested: vec![ip("10.0.3.1")], ..shared("asks", "default", 80, Cross::Own) },
            "has port 80/tcp on it",
        ),
        (
            Request { families: Families::V6, pool: Some("manual".into()), ..request("asks") },
            "no free IPv6 address in pools manual",
        ),
        (
            Request { families: Families::RequireDual, pool: Some("manual".into()), ..request("asks") },
            "RequireDualStack",
        ),
    ];
    for (request, words) in cases {
        let (addresses, reasons) = one(&mut ipam, request);
        assert!(addresses.is_empty() && reasons.iter().any(|r| r.to_string().contains(words)), "{words}: {reasons:?}");
    }
    let mut none = synced(vec![]);
    assert_eq!(one(&mut none, request("a")).1, [Reason::NoPool]);
}

#[test]
fn services_share_by_key_with_disjoint_ports_and_permission_of_both() {
    let mut ipam = synced(vec![pool("p", &["10.0.0.1-10.0.0.9"])]);
    let with = |namespace: &str| Cross::With([namespace.to_owned()].into());
    let local = |name, what: &str| Request { local: Some(what.into()), ..shared(name, "a", 90, Cross::Own) };
    let cases = [
        (shared("one", "a", 80, with("b")), "10.0.0.1"),
        (shared("two", "a", 443, Cross::Own), "10.0.0.1"),
        (shared("three", "a", 80, Cross::Own), "10.0.0.2"),
        // `two` does not allow b, so the whole address is not for it.
        (shared("four", "b", 81, with("a")), "10.0.0.3"),
        (shared("five", "c", 82, Cross::Any), "10.0.0.4"),
        (Request { ports: [(Protocol::Udp, 80)].into(), ..shared("six", "a", 80, Cross::Own) }, "10.0.0.1"),
        (local("seven", "app=x"), "10.0.0.5"),
        (Request { ports: [(Protocol::Tcp, 91)].into(), ..local("eight", "app=x") }, "10.0.0.5"),
        (Request { ports: [(Protocol::Tcp, 92)].into(), ..local("nine", "app=y") }, "10.0.0.6"),
        (Request { sharing: None, ..shared("alone", "a", 99, Cross::Own) }, "10.0.0.7"),
        (shared("ten", "d", 83, Cross::Any), "10.0.0.4"),
    ];
    for (request, want) in cases {
        assert_eq!(one(&mut ipam, request.clone()).0, ips(&[want]), "{}", request.id);
    }
    // An edit that collides costs the one who edits.
    let (addresses, _) = one(&mut ipam, shared("two", "a", 80, Cross::Own));
    assert_eq!(addresses, ips(&["10.0.0.8"]));
    assert_eq!(ipam.held(&id("a", "one")), Some(&ips(&["10.0.0.1"])));
}

#[test]
fn dual_stack_takes_both_what_there_is_or_nothing() {
    let mut ipam = synced(vec![
        pool("v4", &["10.0.0.0/30"]),
        PoolSpec { priority: -1, ..pool("both", &["10.1.0.0/30", "fd00::/64"]) },
    ]);
    let dual = |name, families| Request { families, ..request(name) };
    assert_eq!(
        one(&mut ipam, dual("a", Families::PreferDual)).0,
        ips(&["10.1.0.0", "fd00::"]),
        "a pool that has both comes first"
    );
    assert_eq!(one(&mut ipam, dual("b", Families::RequireDual)).0, ips(&["10.1.0.1", "fd00::1"]));
    // From one family to two keeps the first.
    assert_eq!(one(&mut ipam, request("c")).0, ips(&["10.0.0.0"]));
    assert_eq!(one(&mut ipam, dual("c", Families::PreferDual)).0, ips(&["10.0.0.0", "fd00::2"]));
    assert_eq!(one(&mut ipam, dual("c", Families::V6)).0, ips(&["fd00::2"]));
    ipam.handle_pools(vec![pool("v4", &["10.0.0.0/30"])]);
    assert_eq!(one(&mut ipam, dual("d", Families::PreferDual)), (ips(&["10.0.0.0"]), vec![]));
    let (addresses, reasons) = one(&mut ipam, dual("e", Families::RequireDual));
    assert!(addresses.is_empty() && reasons.contains(&Reason::NeedsBoth));
    assert_eq!(one(&mut ipam, request("f")).0, ips(&["10.0.0.1"]), "what was given in vain went back");
    assert_eq!(
        ipam.held(&id("default", "b")),
        Some(&ips(&["10.1.0.1", "fd00::1"])),
        "pools come and go, addresses stay"
    );
}

#[test]
fn another_address_that_cannot_be_had_costs_nothing() {
    let mut ipam = synced(vec![pool("p", &["10.0.0.1-10.0.0.9"])]);
    let asks = |address: &str| Request { requested: vec![ip(address)], ..request("a") };
    let _b = one(&mut ipam, Request { requested: vec![ip("10.0.0.5")], ..request("b") });
    assert_eq!(one(&mut ipam, request("a")).0, ips(&["10.0.0.1"]));
    let (addresses, reasons) = one(&mut ipam, asks("10.0.0.5"));
    assert_eq!((addresses, reasons.len()), (ips(&["10.0.0.1"]), 1));
    ipam.handle_removed(&id("default", "b"));
    assert_eq!(told(&mut ipam)["a"], (ips(&["10.0.0.5"]), vec![]));
    assert_eq!(one(&mut ipam, request("c")).0, ips(&["10.0.0.1"]), "and the old one is free");
}

#[test]
fn nothing_is_given_before_everything_was_seen_and_the_older_keeps_a_contested_address() {
    let mut ipam = Ipam::new();
    let has = |name, created| Request { created, status: vec![ip("10.0.0.1")], ..request(name) };
    ipam.handle_service(request("new"));
    ipam.handle_service(has("young", 9));
    ipam.handle_service(has("old", 3));
    ipam.handle_pools(vec![pool("p", &["10.0.0.1-10.0.0.9"])]);
    assert!(ipam.poll_action().is_none());
    ipam.handle_synced();
    let told = told(&mut ipam);
    assert_eq!(told["old"].0, ips(&["10.0.0.1"]));
    assert_eq!((told["new"].0.clone(), told["young"].0.clone()), (ips(&["10.0.0.2"]), ips(&["10.0.0.3"])));
}

#[test]
fn five_thousand_services_take_milliseconds() {
    let started = std::time::Instant::now();
    let mut ipam = synced(vec![pool("p", &["10.0.0.0/19"])]);
    for n in 0..5_000 {
        ipam.handle_service(request(&format!("s{n:04}")));
    }
    let told = told(&mut ipam);
    let took = started.elapsed();
    println!("5,000 services: {took:?}");
    let given: BTreeSet<&BTreeSet<IpAddr>> = told.values().map(|(addresses, _)| addresses).collect();
    assert_eq!(given.len(), 5_000);
    // 50 ms on an idle core; the bound is for a loaded one, and quadratic work would take longer.
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

#[derive(Clone, Debug)]
enum Event {
    Put(Box<Request>),
    Remove(u8),
    Pools(u8),
    Restart,
}

fn arbitrary_request() -> impl Strategy<Value = Request> {
    let families =
        prop_oneof![Just(Families::V4), Just(Families::V6), Just(Families::PreferDual), Just(Families::RequireDual)];
    let sharing = proptest::option::of((0_u8..2, 0_u8..3));
    (0_u8..12, families, sharing, 80_u16..83, proptest::option::of(1_u8..12), 0_u64..3, any::<bool>()).prop_map(
        |(n, families, sharing, port, asks, created, local)| {
            let cross = |c| match c {
                0 => Cross::Own,
                1 => Cross::With(["ns-0".to_owned()].into()),
                _ => Cross::Any,
            };
            Request {
                id: id(&format!("ns-{}", n % 3), &format!("s{n}")),
                created,
                families,
                sharing: sharing.map(|(key, c)| Sharing { key: key.to_string(), cross: cross(c) }),
                ports: [(Protocol::Tcp, port)].into(),
                requested: asks.map(|last| IpAddr::from([10, 0, 0, last])).into_iter().collect(),
                local: local.then(|| "app".to_owned()),
                ..request("x")
            }
        },
    )
}

fn arbitrary_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => arbitrary_request().prop_map(|request| Event::Put(Box::new(request))),
        2 => (0_u8..12).prop_map(Event::Remove),
        1 => (0_u8..4).prop_map(Event::Pools),
        1 => Just(Event::Restart),
    ]
}

fn pools(n: u8) -> Vec<PoolSpec> {
    match n {
        0 => vec![],
        1 => vec![pool("p", &["10.0.0.1-10.0.0.4", "fd00::/126"])],
        2 => vec![pool("p", &["10.0.0.3-10.0.0.8"]), pool("q", &["10.0.0.6-10.0.0.12", "fd00::2-fd00::9"])],
        _ => vec![pool("q", &["10.0.0.1-10.0.0.12", "fd00::/120"])],
    }
}

/// No two services hold an address against the rules.
fn lawful(services: &BTreeMap<ServiceId, Request>, ipam: &Ipam) -> Result<(), TestCaseError> {
    for (a, of_a) in services {
        let held = ipam.held(a).expect("known");
        prop_assert!(held.iter().all(|address| of_a.families.wants(Family::of(address))));
        for (b, of_b) in services.iter().filter(|(b, _)| *b != a) {
            let common = held.intersection(ipam.held(b).expect("known")).next();
            let (Some(s), Some(t)) = (&of_a.sharing, &of_b.sharing) else {
                prop_assert_eq!(common, None, "{} and {} do not share", a, b);
                continue;
            };
            let lets = |x: &Sharing, ns: &str| match &x.cross {
                Cross::Own => false,
                Cross::With(all) => all.contains(ns),
                Cross::Any => true,
            };
            let near = a.namespace == b.namespace || lets(s, &b.namespace) && lets(t, &a.namespace);
            let may = near && s.key == t.key && of_a.local == of_b.local && of_a.ports.is_disjoint(&of_b.ports);
            prop_assert!(common.is_none() || may, "{} and {} share {:?}", a, b, common);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_duplicates_and_nothing_moves_that_did_not_ask(events in proptest::collection::vec(arbitrary_event(), 1..40)) {
        let mut ipam = synced(pools(3));
        let mut now = pools(3);
        let mut services: BTreeMap<ServiceId, Request> = BTreeMap::new();
        for event in events {
            let before: BTreeMap<ServiceId, BTreeSet<IpAddr>> =
                services.keys().map(|id| (id.clone(), ipam.held(id).cloned().unwrap_or_default())).collect();
            let mut touched = None;
            match event {
                Event::Put(request) => {
                    touched = Some(request.id.clone());
                    let _old = services.insert(request.id.clone(), (*request).clone());
                    ipam.handle_service(*request);
                }
                Event::Remove(n) => {
                    let id = id(&format!("ns-{}", n % 3), &format!("s{n}"));
                    let _old = services.remove(&id);
                    ipam.handle_removed(&id);
                }
                Event::Pools(n) => {
                    now = pools(n);
                    ipam.handle_pools(now.clone());
                }
                Event::Restart => {
                    // A new process learns the same in another order, with what the statuses say.
                    let mut fresh = Ipam::new();
                    for (id, request) in services.iter().rev() {
                        let status = ipam.held(id).into_iter().flatten().copied().collect();
                        fresh.handle_service(Request { status, ..request.clone() });
                    }
                    fresh.handle_pools(now.clone());
                    fresh.handle_synced();
                    ipam = fresh;
                }
            }
            while ipam.poll_action().is_some() {}
            lawful(&services, &ipam)?;
            for pool in &now {
                let held = services.keys().filter_map(|id| ipam.held(id)).flatten().filter(|address| pool.contains(**address));
                let held: BTreeSet<&IpAddr> = held.collect();
                prop_assert_eq!(ipam.usage()[pool.name.as_str()].used, held.len() as u128);
            }
            for (id, held) in before.iter().filter(|(id, _)| Some(*id) != touched.as_ref()) {
                let Some(request) = services.get(id) else { continue };
                let after = ipam.held(id).expect("known");
                // What it asked for by name, and waited for, is the one thing that may move it.
                let moved = held.difference(after).filter(|gone| !request.requested.iter().any(|r| after.contains(r) && Family::of(r) == Family::of(gone)));
                prop_assert_eq!(moved.collect::<Vec<_>>(), Vec::<&IpAddr>::new(), "{} had {:?}, has {:?}", id, held, after);
            }
        }
    }

    #[test]
    fn the_same_services_get_the_same_addresses_in_any_order(order in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut ipam = Ipam::new();
        for n in &order {
            ipam.handle_service(Request { created: n / 4, ..request(&format!("s{n:02}")) });
        }
        ipam.handle_pools(vec![pool("p", &["10.0.0.0/28"])]);
        ipam.handle_synced();
        let told = told(&mut ipam);
        for n in 0..16_u8 {
            prop_assert_eq!(&told[&format!("s{n:02}")].0, &BTreeSet::from([IpAddr::from([10, 0, 0, n])]));
        }
        for n in 16..20 {
            let exhausted = matches!(told[&format!("s{n}")].1[..], [Reason::Exhausted { .. }]);
            prop_assert!(exhausted);
        }
    }
}
