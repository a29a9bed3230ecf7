//! Links come and go, the node is drained and stopped.

use super::config::GroupConfig;
use super::harness::{LINK, Rig, group, ip, link, mac, node};
use super::*;

#[test]
fn link_down_gives_up_without_a_release_and_up_begins_again() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.input(Input::Link(LinkInfo { up: false, ..link(1) }));
    assert_eq!(rig.take(), ["Blocked", "fence backup", "remove 10.9.0.100", "initialize by link_down"]);
    let condition = rig.node.status(rig.now).groups[0].condition.clone();
    assert_eq!(condition.as_deref(), Some("interface eth0 is down"));
    rig.run(5_000);
    assert_eq!((rig.take(), rig.node.status(rig.now).ready), (vec![], false));
    rig.input(Input::Link(link(1)));
    assert_eq!(rig.take(), ["Blocked", "backup by started"], "a fresh start, not a fresh claim");
}

#[test]
fn link_gone_and_link_replaced_trust_nothing_of_the_old_one() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.input(Input::LinkGone(LINK));
    let owed = rig.take();
    assert!(owed.contains(&"initialize by link_down".to_owned()), "{owed:?}");
    assert_eq!(rig.node.status(rig.now).groups[0].interface, None);
    rig.input(Input::Link(LinkInfo { id: LinkId(9), mac: mac(4), ..link(1) }));
    assert_eq!(rig.take(), ["register 0 10.9.0.100", "Blocked", "backup by started"]);
    rig.run(400);
    let on_new = rig.owed.iter().any(|a| matches!(a, Action::Install { link: LinkId(9), .. }));
    assert!(on_new && rig.role() == Role::Active);
    // The same name with another index, without a gap.
    let mut swapped = Rig::active(node(1, vec![GroupConfig { interface: Some("eth0".into()), ..group(254) }]));
    swapped.input(Input::Link(LinkInfo { id: LinkId(9), name: "eth0".into(), ..link(1) }));
    assert_eq!(swapped.take(), Vec::<String>::new(), "the first of that name stays while it is there");
    swapped.input(Input::LinkGone(LINK));
    let owed = swapped.take();
    let order: Vec<&str> = owed.iter().map(String::as_str).collect();
    let want =
        ["fence backup", "remove 10.9.0.100", "initialize by link_down", "register 0 10.9.0.100", "backup by started"];
    assert_eq!(order, want);
}

#[test]
fn link_is_found_by_the_subnet_of_the_first_address_or_by_name() {
    let mut rig = Rig::new(node(1, vec![GroupConfig { addresses: vec![[192, 0, 2, 7].into()], ..group(254) }]));
    let condition = |rig: &Rig| rig.node.status(rig.now).groups[0].condition.clone();
    assert_eq!(condition(&rig).as_deref(), Some("no interface has a subnet with the first address"));
    rig.reload(node(1, vec![GroupConfig { interface: Some("eth7".into()), ..group(254) }]));
    assert_eq!(condition(&rig).as_deref(), Some("interface eth7 does not exist"));
    rig.reload(node(1, vec![GroupConfig { interface: Some("eth0".into()), ..group(254) }]));
    assert_eq!(condition(&rig), None);
}

#[test]
fn our_own_vip_on_the_link_is_not_an_address_of_ours() {
    let mut rig = Rig::new(node(1, vec![group(254)]));
    let mut held = link(1);
    held.addresses.insert(0, ipnet::IpNet::new(ip(100), 24).expect("prefix"));
    rig.input(Input::Link(held));
    rig.run(400);
    assert!(rig.take().contains(&"advert 254 10.9.0.1".to_owned()), "never the VIP as source");
}

#[test]
fn an_unchanged_link_is_no_news() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.input(Input::Link(link(1)));
    assert_eq!(rig.take(), Vec::<String>::new());
}

#[test]
fn drain_gives_away_and_undrain_takes_part_again() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.command(1, Command::Drain);
    assert_eq!(rig.role(), Role::Initialize);
    let status = rig.node.status(rig.now);
    assert_eq!((status.drained, status.ready), (true, true), "out on purpose is ready");
    rig.run(5_000);
    assert_eq!(rig.role(), Role::Initialize);
    let _ = rig.take();
    rig.command(2, Command::Drain);
    assert_eq!(rig.take(), ["done 2 ok"], "the same again");
    rig.command(3, Command::Undrain);
    let owed = rig.take();
    assert_eq!(rig.role(), Role::Backup);
    assert!(owed.contains(&"Drain".to_owned()) && owed.contains(&"done 3 ok".to_owned()), "{owed:?}");
}

#[test]
fn undrain_within_the_drain_time_may_claim_again() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.command(1, Command::Drain);
    rig.run(100);
    rig.command(2, Command::Undrain);
    rig.run(400);
    assert_eq!(rig.role(), Role::Active);
    let _ = rig.take();
    rig.run(2_000);
    assert!(!rig.take().iter().any(|w| w.starts_with("remove")), "the old drain time is void");
}

fn stopped(rig: &mut Rig) -> usize {
    rig.take().iter().filter(|w| *w == "stopped").count()
}

#[test]
fn stop_ends_in_exactly_one_stopped() {
    let mut active = Rig::active(node(1, vec![group(254)]));
    active.command(1, Command::Stop);
    assert_eq!(stopped(&mut active), 0, "stragglers are served first");
    active.command(2, Command::Stop);
    active.run(999);
    assert_eq!(stopped(&mut active), 0);
    active.run(1);
    assert_eq!(stopped(&mut active), 1);
    active.command(3, Command::Stop);
    active.run(5_000);
    assert_eq!(stopped(&mut active), 0, "once");

    let mut backup = Rig::new(node(1, vec![group(254)]));
    backup.hear(9, 254);
    backup.command(1, Command::Stop);
    assert_eq!(stopped(&mut backup), 1, "a Backup owes nothing");

    let mut probing = Rig::new(node(1, vec![GroupConfig { conflict_probe: true, ..group(254) }]));
    probing.run(300);
    probing.command(1, Command::Stop);
    assert_eq!(stopped(&mut probing), 1);

    let mut empty = Rig::new(node(1, vec![]));
    empty.command(1, Command::Stop);
    assert_eq!(stopped(&mut empty), 1);
}

#[test]
fn stop_with_no_drain_time_is_immediate() {
    let mut rig = Rig::active(node(1, vec![GroupConfig { drain_time: Duration::ZERO, ..group(254) }]));
    rig.command(1, Command::Stop);
    let owed = rig.take();
    let order: Vec<&str> =
        owed.iter().map(String::as_str).filter(|w| !w.starts_with("done") && *w != "Blocked").collect();
    let want =
        ["fence leaving", "advert 0 10.9.0.1", "fence backup", "remove 10.9.0.100", "initialize by stopped", "stopped"];
    assert_eq!(order, want);
}

#[test]
fn a_link_that_settles_at_the_start_is_no_news_and_one_that_does_not_is() {
    for (settles, expected) in [(true, 0), (false, 1)] {
        let config = node(1, vec![group(254)]);
        let mut rig = Rig::bare(&config, 1);
        rig.input(Input::Fence(FenceState::Ready));
        rig.input(Input::Link(LinkInfo { up: false, ..link(1) }));
        rig.input(Input::Config(Box::new(config)));
        rig.run(1_000);
        if settles {
            rig.input(Input::Link(link(1)));
        }
        rig.run(1_500);
        assert_eq!(rig.take().iter().filter(|w| *w == "Blocked").count(), expected, "settles: {settles}");
        assert_eq!(rig.role() == Role::Active, settles);
    }
}

#[test]
fn a_planned_claim_announces_when_its_addresses_are_there() {
    let mut rig = Rig::new(node(1, vec![group(110)]));
    let now = rig.now;
    rig.node.each(now, |g, env, now| {
        g.vrrp.claim(g.vrrp.granter(ip(9)), now + Duration::from_millis(100), now);
        g.drain_outputs(env, now);
    });
    rig.run(50);
    assert_eq!(rig.role(), Role::Active);
    let announced = |rig: &mut Rig| rig.take().iter().any(|w| w.starts_with("first"));
    assert!(!announced(&mut rig), "the predecessor still serves: nobody waits for us");
    rig.input(Input::Installed(Slot(0)));
    rig.run(1);
    assert!(announced(&mut rig));
}
