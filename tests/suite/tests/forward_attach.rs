//! The forwarding plane on devices and in its pins: again and again, over changes of layout and kills, beside foreign programs, and gone
//! without a trace.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path as FilePath;

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use bascule::dataplane::forward::{Forward, ForwardError, ForwardOptions, Path, Wish};
use bascule::dataplane::{Attach, clean};
use bascule::handle::forward::Hook;
use bascule_core::balance::Recovered;
use bascule_core::balance::io::{Action, EndpointEntry, EndpointSlot, NodeEntry, ServiceEntry, ServiceSlot, Table};
use bascule_core::balance::rows::Row;
use bascule_core::balance::sites::{SiteEntry, SiteSpec};
use bascule_core::service::{Affinity, Delivery, NodeSpec, Protocol, Return, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::types::Mac;
use bascule_ebpf_common::forward::{CONFIG_OWN_MACS, CONFIG_SITES, Config, NODE_RESOLVED, Node};
use bascule_suite::devices::{device_links, flow, flows, foreign_xdp, open, options, put_flow, veth, xdp_of};
use bascule_suite::fence::Ground;

fn names(dir: &FilePath, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

fn devices(of: &[u32]) -> BTreeSet<u32> {
    of.iter().copied().collect()
}

fn key() -> ServiceKey {
    ServiceKey { vip: "10.9.0.100".parse().expect("an address"), port: 443, protocol: Protocol::Tcp }
}

fn put_service(forward: &mut Forward) -> Result<()> {
    let entry = ServiceEntry {
        name: "web".to_owned(),
        key: key(),
        number: 7,
        delivery: Delivery::Direct,
        returns: Return::Direct,
        affinity: Affinity::None,
        sources: false,
        ask: false,
        quic: false,
        drain_minutes: 60,
    };
    let slot = ServiceSlot(3);
    let rows = [Row { home: 1, previous: 2, older: 0, stamp: 9 }, Row { home: 2, previous: 0, older: 0, stamp: 0 }];
    let endpoint = EndpointEntry {
        name: "a".to_owned(),
        service: slot,
        address: "10.0.0.1".parse()?,
        port: 8443,
        protocol: Protocol::Tcp,
        ready: true,
        draining: false,
        remote: false,
    };
    for action in [
        Action::PutService { slot, entry },
        Action::PutEndpoint { slot: EndpointSlot(5), entry: endpoint },
        Action::WriteRows { base: 100, rows: rows.into() },
        Action::SwapNodes { slot, table: Table { base: 100, rows: 2, epoch: 4 } },
        Action::PutKey { key: key(), slot },
        Action::PutAddress { slot: ServiceSlot(4), vip: key().vip },
        Action::SetAnswering { slot: ServiceSlot(4), answering: true },
    ] {
        forward.apply(action)?;
    }
    Ok(())
}

fn check_recovered(found: &Recovered) {
    let service = &found.services[0];
    assert_eq!((found.services.len(), service.slot, service.key), (1, ServiceSlot(3), key()));
    assert_eq!(service.nodes, Table { base: 100, rows: 2, epoch: 4 });
    assert_eq!(service.node_rows[0], Row { home: 1, previous: 2, older: 0, stamp: 9 });
    assert_eq!(found.addresses, [(ServiceSlot(4), key().vip, true)]);
    let endpoint = &found.endpoints[0];
    assert_eq!((found.endpoints.len(), endpoint.slot, endpoint.port, endpoint.ready), (1, EndpointSlot(5), 8443, true));
}

#[test]
fn native_xdp_stands_and_is_replaced_under_the_same_link() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut forward = open(ground)?;
        let first = forward.attach(a, Wish::Auto)?;
        assert_eq!((first.ingress, first.egress), (Hook::Xdp, Hook::Tcx), "{:?}", first.reasons);
        assert!(first.reasons.is_empty(), "{:?}", first.reasons);
        forward.settle(&devices(&[a]))?;
        let before = device_links(a)?;
        assert_eq!(before.len(), 2, "one link per hook: {before:?}");
        let dir = forward.pin_dir().to_owned();
        drop(forward);
        assert_eq!(device_links(a)?, before, "the end of the daemon takes nothing away");
        for _ in 0..2 {
            let mut again = open(ground)?;
            assert!(again.reused());
            again.attach(a, Wish::Auto)?;
            again.settle(&devices(&[a]))?;
            let now = device_links(a)?;
            assert_eq!(now.iter().map(|l| l.id).collect::<Vec<_>>(), before.iter().map(|l| l.id).collect::<Vec<_>>());
            assert!(now.iter().zip(&before).all(|(now, before)| now.program != before.program), "other programs");
        }
        assert_eq!(names(&dir, "maps-").len(), 1);
        assert_eq!(names(&dir, "load-").len(), 1, "arrays of former loads are gone");
        Ok(())
    })
    .unwrap();
}

#[test]
fn maps_are_reused_with_what_they_hold() {
    Ground::run(|ground| {
        let mut forward = open(ground)?;
        assert!(!forward.reused());
        put_service(&mut forward)?;
        let dir = forward.map_dir().to_owned();
        check_recovered(&forward.recovered()?);
        put_flow(&dir, &flow(1, 10))?;
        drop(forward);
        let mut again = open(ground)?;
        assert!(again.reused() && again.map_dir() == dir);
        check_recovered(&again.recovered()?);
        assert_eq!(flows(again.map_dir())?.len(), 1);
        // What the new run does not name goes, and the flow goes with its service.
        again.apply(Action::Sweep)?;
        let found = again.recovered()?;
        assert_eq!(found, Recovered::default());
        assert!(flows(again.map_dir())?.is_empty());
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_ways_of_a_former_run_hold_until_this_one_has_looked() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let address: IpAddr = "10.9.0.2".parse()?;
        let spec = NodeSpec { name: "n2".to_owned(), id: 2, addresses: vec![address], site: 1, draining: false };
        let put = || Action::PutNode(NodeEntry { spec: spec.clone(), dead: false, this: false });
        let path = Path { ifindex: a, source_mac: [2; 6], next_mac: [3; 6], mtu: 1500 };
        let node = |forward: &Forward| -> Result<Node> {
            let map = Map::Array(MapData::from_pin(forward.map_dir().join("NODES"))?);
            Ok(Array::<_, Node>::try_from(map)?.get(&2, 0)?)
        };
        let mut first = open(ground)?;
        first.apply(put())?;
        assert_eq!(node(&first)?.flags & NODE_RESOLVED, 0);
        assert!(first.conditions(&[])[0].contains("no way to the node at 10.9.0.2"));
        assert!(first.set_path(address, Some(path))? && !first.set_path(address, Some(path))?);
        drop(first);
        let mut second = open(ground)?;
        second.apply(put())?;
        let written = node(&second)?;
        assert_eq!((written.flags, written.ifindex, written.next_mac), (NODE_RESOLVED, a, [3; 6]));
        assert!(second.conditions(&[]).is_empty());
        assert!(second.set_path(address, None)?);
        assert_eq!(node(&second)?.flags, 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn that_there_are_sites_and_links_is_not_forgotten_while_a_run_takes_over() {
    Ground::run(|ground| {
        let config = Config { node: 1, site: 1, ..Config::default() };
        let both = CONFIG_SITES | CONFIG_OWN_MACS;
        let flags = |forward: &Forward| -> Result<u16> { Ok(forward.config()?.flags) };
        let macs = BTreeSet::from([Mac([2, 0, 0, 0, 0, 1])]);
        let spec = SiteSpec { site: SiteId(2), reachable: true, lost: false, via_ingress: false, mtu: None };
        let there = |gateways| Action::PutSite(SiteEntry { gateways, spec });
        let mut first = open(ground)?;
        first.set_config(&config)?;
        assert_eq!(flags(&first)?, 0, "a first run has nothing to go on with");
        first.set_macs(&macs)?;
        first.apply(there(vec![7]))?;
        assert_eq!(flags(&first)?, both);
        drop(first);
        // Programs of the first run go by these flags until the second has said all it knows.
        let mut second = open(ground)?;
        second.set_config(&config)?;
        assert_eq!(flags(&second)?, both);
        second.set_macs(&macs)?;
        second.apply(there(vec![7]))?;
        second.apply(Action::Sweep)?;
        assert_eq!(flags(&second)?, both, "said anew");
        second.set_macs(&BTreeSet::new())?;
        second.apply(there(vec![]))?;
        assert_eq!(flags(&second)?, 0);
        second.set_macs(&macs)?;
        second.apply(there(vec![7]))?;
        drop(second);
        // What this one does not say is over with the sweep; no MACs at all are said at once.
        let mut third = open(ground)?;
        third.set_config(&config)?;
        third.set_macs(&BTreeSet::new())?;
        assert_eq!(flags(&third)?, CONFIG_SITES);
        third.apply(Action::Sweep)?;
        assert_eq!(flags(&third)?, 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn another_size_of_the_flow_table_brings_every_flow_along() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut old = open(ground)?;
        old.attach(a, Wish::Auto)?;
        old.settle(&devices(&[a]))?;
        let links = device_links(a)?;
        let old_maps = old.map_dir().to_owned();
        for n in 0..20_000 {
            put_flow(&old_maps, &flow(n, 10))?;
        }
        drop(old);

        let mut new = Forward::open(&ForwardOptions { flows: 100_000, ..options(ground) })?;
        assert!(!new.reused());
        assert_ne!(new.map_dir(), old_maps);
        assert_eq!(flows(new.map_dir())?.len(), 20_000, "carried over before any link changed");
        put_service(&mut new)?;
        // The old program goes on: a flow opened, and one seen later.
        put_flow(&old_maps, &flow(20_000, 11))?;
        put_flow(&old_maps, &flow(7, 12))?;
        // The new one saw this flow last.
        put_flow(new.map_dir(), &flow(8, 13))?;
        put_flow(&old_maps, &flow(8, 12))?;
        new.attach(a, Wish::Auto)?;
        let settled = new.settle(&devices(&[a]))?;
        assert_eq!((settled.carried, settled.sets), (2, 1));
        let all = flows(new.map_dir())?;
        let seen = |n: u32| all.iter().find(|(key, _)| *key == flow(n, 0).0).map(|(_, flow)| flow.seen_s);
        assert_eq!((all.len(), seen(20_000), seen(7), seen(8)), (20_001, Some(11), Some(12), Some(13)));
        assert!(!old_maps.exists());
        let now = device_links(a)?;
        assert_eq!(now.iter().map(|l| l.id).collect::<Vec<_>>(), links.iter().map(|l| l.id).collect::<Vec<_>>());

        // Slots of flows are those of this run.
        new.apply(Action::Sweep)?;
        let all = flows(new.map_dir())?;
        assert_eq!(all.len(), 20_001);
        assert!(all.iter().all(|(_, flow)| flow.service == 3 && flow.endpoint == 5), "renamed");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_map_of_another_layout_is_never_reused() {
    Ground::run(|ground| {
        let forward = open(ground)?;
        let dir = forward.map_dir().to_owned();
        drop(forward);
        // Same name, same kind, another value size.
        fs::remove_file(dir.join("PEERS"))?;
        let wrong = aya::maps::HashMap::<_, [u8; 16], u64>::create(8192, 0)?;
        wrong.pin(dir.join("PEERS"))?;
        let forward = open(ground)?;
        assert!(!forward.reused());
        assert_ne!(forward.map_dir(), dir);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_set_that_was_never_finished_is_removed() {
    Ground::run(|ground| {
        let forward = open(ground)?;
        let dir = forward.map_dir().to_owned();
        drop(forward);
        fs::remove_file(dir.join("FORWARD_STAMP"))?;
        let mut forward = open(ground)?;
        assert!(!forward.reused());
        assert_eq!(names(forward.pin_dir(), "maps-").len(), 1);
        forward.settle(&BTreeSet::new())?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_device_without_native_xdp_gets_the_tc_twin_and_says_why() {
    Ground::run(|ground| {
        ground.ip("link add br0 type bridge")?;
        let bridge = ground.ifindex("br0")?;
        let mut forward = open(ground)?;
        let standing = forward.attach(bridge, Wish::Auto)?;
        assert_eq!((standing.ingress, standing.egress), (Hook::Tcx, Hook::Tcx));
        assert_eq!(standing.reasons, ["xdp: the driver has none"]);
        assert!(xdp_of("br0")?.is_none(), "never generic XDP");

        let standing = forward.attach(bridge, Wish::Clsact)?;
        assert_eq!((standing.ingress, standing.egress), (Hook::Clsact, Hook::Clsact));
        assert!(device_links(bridge)?.is_empty(), "only one kind stands");
        assert_eq!(ground.tc("filter show dev br0 ingress")?.matches("handle 0xba5d bascule_tc_ingress").count(), 1);
        let standing = forward.attach(bridge, Wish::Tc)?;
        assert_eq!(standing.ingress, Hook::Tcx);
        assert!(!ground.tc("qdisc show dev br0")?.contains("clsact"));
        assert!(matches!(forward.attach(9999, Wish::Auto), Err(ForwardError::Plane(_))));
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_takes_the_programs_off_a_device_is_seen() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut forward = open(ground)?;
        let standing = forward.attach(a, Wish::Clsact)?;
        assert!(forward.stands(&standing)?);
        ground.tc("qdisc del dev va clsact")?;
        assert!(!forward.stands(&standing)?);
        let standing = forward.attach(a, Wish::Clsact)?;
        assert!(forward.stands(&standing)?, "put on again");
        ground.tc("filter del dev va ingress handle 0xba5d prio 9 protocol all bpf")?;
        assert!(!forward.stands(&standing)?, "one direction is not both");
        for (wish, place) in [(Wish::Tc, "egress"), (Wish::Xdp, "xdp")] {
            let standing = forward.attach(a, wish)?;
            assert!(forward.stands(&standing)?);
            fs::remove_file(forward.pin_dir().join(format!("link-{a}-{place}")))?;
            assert!(!forward.stands(&standing)?, "{place}");
        }
        let standing = forward.attach(a, Wish::Auto)?;
        ground.ip("link del va")?;
        assert!(forward.stands(&standing)?, "a device that is gone misses nothing");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_foreign_xdp_program_keeps_its_place() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let _foreign = foreign_xdp(a)?;
        let id = xdp_of("va")?;
        let mut forward = open(ground)?;
        let standing = forward.attach(a, Wish::Auto)?;
        assert_eq!(standing.ingress, Hook::Tcx);
        assert!(standing.reasons[0].starts_with("xdp: another program stands there"), "{:?}", standing.reasons);
        assert!(id.is_some() && xdp_of("va")? == id);
        // Again, and taken off: it still stands.
        forward.attach(a, Wish::Auto)?;
        forward.detach(a)?;
        drop(forward);
        clean(ground.root())?;
        assert!(id.is_some() && xdp_of("va")? == id);
        Ok(())
    })
    .unwrap();
}

#[test]
fn replies_are_rewritten_behind_the_fence() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let order = || -> Result<Vec<String>> {
            let (_, chain) = SchedClassifier::query_tcx("va", TcAttachType::Egress)?;
            Ok(chain.iter().filter_map(|info| info.name_as_str().map(str::to_owned)).collect())
        };
        let mut fence = ground.fence()?;
        let mut forward = open(ground)?;
        // Whichever comes first.
        fence.attach(a, Attach::Tcx)?;
        let standing = forward.attach(a, Wish::Tc)?;
        assert_eq!(order()?, ["bascule_egress", "bascule_tc_egre"]);
        forward.detach(a)?;
        fence.detach(a)?;
        forward.attach(a, Wish::Tc)?;
        fence.attach(a, Attach::Tcx)?;
        assert_eq!(order()?, ["bascule_egress", "bascule_tc_egre"]);
        assert!(!forward.conditions(&[standing]).iter().any(|c| c.contains("tcx:")), "{:?}", forward.conditions(&[]));
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_a_former_run_left_on_other_devices_goes_when_the_start_is_over() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let b = ground.ifindex("vb")?;
        let mut first = open(ground)?;
        first.attach(a, Wish::Auto)?;
        first.attach(b, Wish::Clsact)?;
        first.settle(&devices(&[a, b]))?;
        drop(first);
        let mut second = open(ground)?;
        second.attach(a, Wish::Auto)?;
        assert!(ground.tc("filter show dev vb egress")?.contains("0xba5d"), "not before");
        assert_eq!(second.settle(&devices(&[a]))?.detached, 2);
        assert!(!ground.tc("qdisc show dev vb")?.contains("clsact"));
        assert_eq!(device_links(a)?.len(), 2);
        Ok(())
    })
    .unwrap();
}

#[test]
fn links_whose_pins_are_hidden_are_found_and_detached() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut first = open(ground)?;
        first.attach(a, Wish::Auto)?;
        let held = device_links(a)?;
        // A second pin root is what a bpffs mounted over the first one looks like.
        let other = ground.root().with_file_name("v9");
        let mut second = Forward::open(&ForwardOptions { pin_root: other.clone(), ..ForwardOptions::default() })?;
        let standing = second.attach(a, Wish::Auto)?;
        assert_eq!((standing.ingress, standing.egress), (Hook::Xdp, Hook::Tcx), "{:?}", standing.reasons);
        let now = device_links(a)?;
        assert_eq!(now.len(), 2, "{now:?}");
        assert!(now.iter().all(|link| held.iter().all(|old| old.id != link.id)));
        drop((first, second));
        clean(&other)?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn clean_removes_everything_of_ours_and_nothing_else() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let b = ground.ifindex("vb")?;
        ground.tc("qdisc add dev vb clsact")?;
        ground.tc("filter add dev vb ingress protocol ip prio 40 u32 match u32 0 0 flowid 1:1")?;
        let mut forward = open(ground)?;
        let mut fence = ground.fence()?;
        fence.attach(a, Attach::Tcx)?;
        forward.attach(a, Wish::Auto)?;
        forward.attach(b, Wish::Clsact)?;
        drop((forward, fence));
        let report = clean(ground.root())?;
        assert_eq!((report.links, report.filters, report.qdiscs), (4, 2, 0));
        assert_eq!(report.maps, 8 + 24 + 2, "the fence's, a set, the arrays of a load");
        assert!(device_links(a)?.is_empty() && xdp_of("va")?.is_none());
        let filters = ground.tc("filter show dev vb ingress")?;
        assert!(filters.contains("u32") && !filters.contains("bascule"), "{filters}");
        assert!(clean(ground.root())?.is_empty());
        assert!(!ground.root().exists(), "and no folder is left");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_fence_alone_can_go() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut forward = open(ground)?;
        let mut fence = ground.fence()?;
        fence.attach(a, Attach::Tcx)?;
        forward.attach(a, Wish::Auto)?;
        drop(fence);
        let mut report = bascule::dataplane::CleanReport::default();
        bascule::dataplane::clean_fence(ground.root(), &mut report)?;
        assert_eq!((report.links, report.maps), (2, 8));
        assert_eq!(device_links(a)?.len(), 2, "forwarding stands");
        drop(forward);
        assert!(open(ground)?.reused());
        Ok(())
    })
    .unwrap();
}
