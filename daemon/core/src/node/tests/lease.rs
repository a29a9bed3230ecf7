//! A group that a lease elects: words of the elector in, fence, addresses and announcements out, and the word that all is closed.

use super::config::{GroupConfig, LeaseConfig, Store};
use super::harness::{LINK, Rig, START, at, group, ip, ip6, link, mac, node};
use super::health::gated;
use super::io::{ElectorId, Order};
use super::*;
use crate::election::lease::timing::Timing;
use crate::election::lease::{self, CloseReason, Condition, Standing, Word};
use crate::fence::{FenceCtl, FenceRole};

const S: Duration = Duration::from_secs(1);
/// The elector of the first group of a node.
const FIRST: ElectorId = ElectorId(1);

fn on_lease(name: &str) -> LeaseConfig {
    let store = Store::Kubernetes { namespace: "kube-system".into(), name: name.into() };
    LeaseConfig { store, timing: Timing::kubernetes(S * 3, S * 2, S / 2).expect("good times") }
}

fn leased() -> GroupConfig {
    GroupConfig { vrid: 0, lease: Some(on_lease("plndr-cp-lock")), ..group(100) }
}

/// One node with one such group that takes part; nothing owed.
fn candidate() -> Rig {
    let mut rig = Rig::new(node(1, vec![leased()]));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(300);
    assert_eq!(rig.take(), Vec::<String>::new(), "silence is no reason to claim");
    rig
}

impl Rig {
    fn word(&mut self, word: Word) {
        self.input(Input::Word { elector: FIRST, word });
    }

    /// The elector owns for the next `ms`; its claims count from `START`.
    fn claims(&mut self, count: u64, ms: u64) -> Term {
        let term = Term(at(START).as_nanos() + count);
        self.word(Word::Claim { term, epoch: 4 + count, deadline: self.now + Duration::from_millis(ms) });
        term
    }

    fn closes(&mut self, term: Term, reason: CloseReason) {
        self.word(Word::Close { term, reason });
    }

    fn last_fence(&self) -> Option<FenceCtl> {
        self.owed.iter().rev().find_map(|action| match action {
            Action::Fence(FenceWrite::Ctl(_, ctl)) => Some(*ctl),
            _ => None,
        })
    }
}

/// An owner, with its addresses announced and nothing owed.
fn owner() -> (Rig, Term) {
    let mut rig = candidate();
    let term = rig.claims(1, 2_000);
    rig.installed(0);
    let _ = rig.take();
    (rig, term)
}

#[test]
fn it_is_registered_without_a_router_and_its_elector_starts_with_the_first_participation() {
    let config = node(1, vec![GroupConfig { addresses: vec![ip(100), ip6("2001:db8::100")], ..leased() }]);
    let mut rig = Rig::bare(&config, 1);
    rig.input(Input::Config(Box::new(config)));
    rig.input(Input::Link(link(1)));
    assert!(!rig.take().iter().any(|w| w.starts_with("start")), "no fence, no elector");
    rig.input(Input::Fence(FenceState::Ready));
    let bare =
        rig.owed.iter().any(|a| matches!(a, Action::Fence(FenceWrite::Register { routers, .. }) if routers.is_empty()));
    assert!(bare, "{:?}", rig.owed);
    let start = rig.owed.iter().find_map(|a| match a {
        Action::Elect { elector, order } => Some((*elector, order.as_ref().clone())),
        _ => None,
    });
    let order = Order::Start { group: "api".into(), lease: on_lease("plndr-cp-lock"), term: Term(rig.now.as_nanos()) };
    assert_eq!(start, Some((FIRST, order)));
    let taken = rig.take();
    let want = [
        "Fence",
        "register 0 10.9.0.100,2001:db8::100",
        "Blocked",
        "start kube-system/plndr-cp-lock",
        "backup by started",
    ];
    assert_eq!(taken, want, "and no link-local address of a router");
}

#[test]
fn a_claim_is_fence_then_addresses_then_announcement() {
    let mut rig = candidate();
    let term = rig.claims(1, 2_000);
    let ctl = rig.last_fence().expect("the fence comes first");
    assert_eq!((ctl.role, ctl.term, ctl.deadline), (FenceRole::Active, term, rig.now + S * 2));
    assert_eq!(rig.take(), ["fence active", "install 10.9.0.100", "active by lease_acquired"], "and no advert");
    rig.installed(0);
    assert_eq!(rig.take(), ["first 10.9.0.100", "first 10.9.0.100", "Takeover"]);
    let status = rig.node.status(rig.now).groups[0].clone();
    let seen = status.lease.expect("a lease");
    assert_eq!((status.vrid, seen.transitions, seen.name.as_str()), (0, 5, "kube-system/plndr-cp-lock"));
    assert!(status.fence_margin_seconds.is_some_and(|s| s > 1.9) && seen.seconds_left.is_some_and(|s| s > 1.9));
    assert_eq!(status.owner, Some(ip(1)));
}

#[test]
fn an_extension_moves_the_deadline_of_its_own_claim_only() {
    let (mut rig, term) = owner();
    rig.run(1_000);
    let _ = rig.take();
    let deadline = rig.now + S * 2;
    rig.word(Word::Extend { term: Term(term.0 - 1), deadline });
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.word(Word::Extend { term, deadline });
    assert_eq!(
        rig.last_fence().map(|ctl| (ctl.role, ctl.term, ctl.deadline)),
        Some((FenceRole::Active, term, deadline))
    );
    let _ = rig.take();
    rig.run(1_900);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn what_the_elector_closes_is_confirmed_when_the_addresses_are_gone_and_not_before() {
    for (reason, word) in
        [(CloseReason::Lost, "backup by lease_lost"), (CloseReason::Expired, "backup by fence_expired")]
    {
        let (mut rig, term) = owner();
        rig.closes(term, reason);
        let owed = rig.take();
        assert_eq!(owed[..3], ["fence backup", "remove 10.9.0.100", word], "{owed:?}");
        assert!(!owed.iter().any(|w| w.starts_with("tell")), "{owed:?}");
        rig.input(Input::Removed(Slot(0)));
        assert_eq!(rig.take(), [format!("tell Closed({term:?})")]);
        rig.claims(2, 2_000);
        assert_eq!(rig.role(), Role::Active, "the next claim is taken");
    }
}

#[test]
fn addresses_that_cannot_be_taken_off_are_gone_with_their_lifetime() {
    let (mut rig, term) = owner();
    rig.closes(term, CloseReason::Lost);
    let _ = rig.take();
    rig.run(10_900);
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.run(200);
    assert_eq!(rig.take(), [format!("tell Closed({term:?})")]);
}

#[test]
fn a_deadline_without_a_word_ends_the_claim_here_and_the_elector_must_claim_anew() {
    let (mut rig, term) = owner();
    rig.run(2_100);
    let owed = rig.take();
    let want = ["fence backup", "remove 10.9.0.100", "backup by fence_expired", "FenceClosed", "tell Standing(Barred)"];
    assert_eq!(owed.iter().filter(|w| !w.starts_with("burst")).collect::<Vec<_>>(), want.iter().collect::<Vec<_>>());
    // Its proof came in time, and was read too late.
    rig.word(Word::Extend { term, deadline: rig.now + S });
    assert_eq!(rig.take(), Vec::<String>::new(), "only a new term opens what has closed");
    rig.input(Input::Removed(Slot(0)));
    rig.closes(term, CloseReason::Barred);
    assert_eq!(rig.take(), [format!("tell Closed({term:?})"), "tell Standing(Fit)".into()]);
    rig.claims(2, 2_000);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_claim_that_is_over_as_it_is_read_is_refused() {
    let mut rig = candidate();
    let term = Term(at(START).as_nanos() + 1);
    rig.word(Word::Claim { term, epoch: 1, deadline: rig.now });
    assert_eq!((rig.take(), rig.role()), (vec!["tell Standing(Barred)".to_owned()], Role::Backup));
    rig.closes(term, CloseReason::Barred);
    assert_eq!(rig.take(), [format!("tell Closed({term:?})"), "tell Standing(Fit)".into()]);
}

#[test]
fn what_stands_in_the_way_closes_at_once_and_is_told() {
    let gone = |rig: &mut Rig, term: Term, reason: &str| {
        let owed = rig.take();
        let place = |what: &str| owed.iter().position(|w| w == what).unwrap_or_else(|| panic!("{what} in {owed:?}"));
        assert!(place("fence backup") < place("remove 10.9.0.100"), "{owed:?}");
        assert!(place(reason) < place("tell Standing(Barred)"), "{owed:?}");
        rig.closes(term, CloseReason::Barred);
        assert!(!rig.take().iter().any(|w| w.starts_with("tell")), "the addresses are still there");
        rig.input(Input::Removed(Slot(0)));
        assert_eq!(rig.take(), [format!("tell Closed({term:?})")]);
    };
    let (mut rig, term) = owner();
    rig.input(Input::Link(LinkInfo { up: false, ..link(1) }));
    gone(&mut rig, term, "initialize by link_down");
    rig.input(Input::Link(link(1)));
    assert_eq!(rig.take(), ["Blocked", "backup by started", "tell Standing(Fit)"], "the same elector goes on");

    let (mut rig, term) = owner();
    rig.command(1, Command::Drain);
    gone(&mut rig, term, "initialize by stopped");
    rig.command(2, Command::Undrain);
    assert_eq!(rig.take(), ["Drain", "backup by started", "tell Standing(Fit)", "done 2 ok"]);

    let (mut rig, term) = owner();
    rig.input(Input::InstallFailed { slot: Slot(0), error: "EPERM".into() });
    gone(&mut rig, term, "initialize by install_failed");

    // Without its programs nothing can be written to the fence, and nobody may own.
    let (mut rig, _) = owner();
    rig.input(Input::Fence(FenceState::Unavailable("no bpffs".into())));
    let owed = rig.take();
    assert!(owed.contains(&"initialize by fence_unavailable".to_owned()), "{owed:?}");
    assert!(owed.contains(&"tell Standing(Barred)".to_owned()), "{owed:?}");
}

#[test]
fn a_stop_ends_with_the_word_that_all_is_closed() {
    let (mut rig, term) = owner();
    rig.command(1, Command::Stop);
    let owed = rig.take();
    assert!(owed.contains(&"tell Stop".to_owned()) && !owed.contains(&"stopped".to_owned()), "{owed:?}");
    rig.closes(term, CloseReason::Stopped);
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.input(Input::Removed(Slot(0)));
    assert_eq!(rig.take(), [format!("tell Closed({term:?})"), "stopped".into()]);
    let mut idle = candidate();
    idle.command(1, Command::Stop);
    assert_eq!(idle.take(), ["initialize by stopped", "tell Stop", "done 1 ok", "stopped"]);
}

#[test]
fn a_sick_node_keeps_what_it_has_and_says_so() {
    let mut rig = Rig::new(gated(node(1, vec![leased()])));
    rig.input(Input::Probed { gate: "local".into(), ok: true, detail: "ok".into() });
    let _ = rig.take();
    rig.claims(1, 20_000);
    rig.installed(0);
    let _ = rig.take();
    for _ in 0..3 {
        rig.input(Input::Probed { gate: "local".into(), ok: false, detail: "refused".into() });
    }
    let owed = rig.take();
    assert!(owed.contains(&"tell Standing(Sick)".to_owned()), "{owed:?}");
    assert_eq!(rig.role(), Role::Active);
    let seen = rig.node.status(rig.now).groups[0].lease.clone().expect("a lease");
    assert_eq!(seen.standing, Standing::Sick);
}

#[test]
fn no_advert_is_heeded_and_none_is_sent() {
    let (mut rig, _) = owner();
    let before = rig.node.status(rig.now).groups[0].clone();
    for (n, priority) in [(2, 254), (3, 0)] {
        let (src, dst) = (ip(n), IpAddr::V4(crate::wire::vrrp::GROUP_V4));
        let advert = Advert { vrid: 1, priority, interval: super::harness::centis(10), addresses: vec![ip(100)] };
        let payload = advert.encode(src, dst);
        rig.input(Input::Vrrp { link: LINK, src, dst, ttl: 255, payload: &payload });
    }
    rig.run(500);
    let after = rig.node.status(rig.now).groups[0].clone();
    assert_eq!((after.role, after.adverts_heard, after.adverts_sent), (before.role, 0, 0));
    assert!(!rig.take().iter().any(|w| w.starts_with("advert")), "none leaves");
}

#[test]
fn a_rival_is_reported_and_answered() {
    let (mut rig, _) = owner();
    rig.run(2_000 - 100);
    let _ = rig.take();
    let frame = Arp::gratuitous_reply(mac(9), "10.9.0.100".parse().expect("address")).encode(Mac::BROADCAST);
    rig.input(Input::Neighbor { link: LINK, frame: &frame });
    let owed = rig.take();
    assert!(owed.contains(&"Rival".to_owned()) && owed.contains(&"defend 10.9.0.100".to_owned()), "{owed:?}");
    assert_eq!(rig.role(), Role::Active);
}

fn answer(rig: &mut Rig) {
    let vip = "10.9.0.100".parse().expect("address");
    let reply =
        Arp { operation: crate::wire::arp::Operation::Reply, target_mac: mac(1), ..Arp::gratuitous_reply(mac(9), vip) };
    rig.input(Input::Neighbor { link: LINK, frame: &reply.encode(mac(1)) });
}

/// Somebody answers the probe: the holder of the lease, or a foreign host. The lease tells which.
#[test]
fn whoever_answers_the_probe_is_foreign_unless_another_holds_the_lease() {
    let probing = || {
        let mut rig = Rig::new(node(1, vec![GroupConfig { conflict_probe: true, ..leased() }]));
        rig.run(250);
        answer(&mut rig);
        rig.run(350);
        assert_eq!(rig.role(), Role::Backup, "the elector must look before anybody can judge");
        let _ = rig.take();
        rig
    };
    let mut beside_owner = probing();
    beside_owner.word(Word::Holder(Some(lease_name(2))));
    beside_owner.word(Word::Holder(None));
    beside_owner.claims(1, 2_000);
    assert_eq!(beside_owner.role(), Role::Active, "the owner answered, and is gone");

    let mut rig = probing();
    rig.word(Word::Holder(Some(lease_name(1))));
    let term = rig.claims(1, 2_000);
    assert_eq!(rig.take()[1..], ["AddressInUse", "Blocked", "initialize by address_in_use", "tell Standing(Barred)"]);
    rig.closes(term, CloseReason::Barred);
    assert_eq!(rig.take(), [format!("tell Closed({term:?})")], "somebody else may have better luck");
    rig.run(5_000 + 300);
    assert!(rig.take().contains(&"probe 10.9.0.100".to_owned()), "asked again");
    rig.run(400);
    assert_eq!(rig.role(), Role::Backup);
    rig.claims(2, 2_000);
    assert_eq!(rig.role(), Role::Active, "the foreign host is gone");
}

fn lease_name(n: u8) -> String {
    super::super::lease::identity(&format!("n{n}"))
}

#[test]
fn changes_of_one_group_never_touch_another() {
    let web = |name: &str| GroupConfig {
        name: "web".into(),
        addresses: vec![ip(101)],
        lease: Some(on_lease(name)),
        ..leased()
    };
    let mut rig = Rig::new(node(1, vec![leased(), web("web")]));
    rig.claims(1, 60_000);
    rig.installed(0);
    let term = Term(at(START).as_nanos() + 1);
    rig.input(Input::Word { elector: ElectorId(2), word: Word::Claim { term, epoch: 1, deadline: rig.now + S * 60 } });
    rig.installed(1);
    let _ = rig.take();
    rig.reload(node(1, vec![leased(), web("other")]));
    let owed = rig.take();
    let about_first = owed.iter().filter(|w| w.contains("10.9.0.100")).count();
    assert_eq!(about_first, 0, "{owed:?}");
    assert_eq!(rig.role(), Role::Active);
    for what in ["fence backup", "remove 10.9.0.101", "tell Stop", "start kube-system/other"] {
        assert!(owed.contains(&what.to_owned()), "{what} in {owed:?}");
    }
    // A word of the elector that was left reaches nobody else.
    rig.input(Input::Word { elector: ElectorId(2), word: Word::Close { term, reason: CloseReason::Stopped } });
    rig.input(Input::Removed(Slot(1)));
    assert!(rig.take().contains(&format!("tell Closed({term:?})")), "so that it releases");
    rig.input(Input::Word { elector: ElectorId(2), word: Word::Holder(None) });
    assert_eq!(rig.take(), Vec::<String>::new());
}

#[test]
fn another_elector_is_leave_and_join() {
    let (mut rig, term) = owner();
    rig.reload(node(1, vec![group(200)]));
    let owed = rig.take();
    for what in ["initialize by reconfigured", "tell Stop", "backup by started"] {
        assert!(owed.contains(&what.to_owned()), "{what} in {owed:?}");
    }
    rig.closes(term, CloseReason::Stopped);
    rig.input(Input::Removed(Slot(0)));
    assert!(rig.take().contains(&format!("tell Closed({term:?})")));
    rig.run(400);
    assert_eq!(rig.role(), Role::Active, "by VRRP now");
    let _ = rig.take();
    rig.reload(node(1, vec![leased()]));
    assert!(rig.take().contains(&"start kube-system/plndr-cp-lock".to_owned()));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn nobody_can_be_named_for_a_move() {
    let mut rig = Rig::active(super::harness::keyed(1, vec![group(254)]));
    rig.reload(super::harness::keyed(1, vec![leased()]));
    let _ = rig.take();
    rig.command(7, Command::Move { vip: "api".into(), to: "n2".into() });
    let Some(Action::CommandDone { result: Err(why), .. }) = rig.owed.last() else { panic!("{:?}", rig.owed) };
    assert!(why.starts_with("api is elected by a lease") && why.contains("bascule drain"), "{why}");
}

#[test]
fn the_store_and_the_holder_are_news_once_and_stand_in_the_status() {
    let mut rig = candidate();
    rig.word(Word::Condition { condition: Condition::Denied, detail: Some("403".into()) });
    rig.word(Word::Holder(Some("cp2".into())));
    assert_eq!(rig.take(), ["LeaseStore", "LeaseHolder"]);
    let seen = rig.node.status(rig.now).groups[0].lease.clone().expect("a lease");
    assert_eq!(
        (seen.store_condition, seen.detail.as_deref(), seen.holder.as_deref()),
        (Condition::Denied, Some("403"), Some("cp2"))
    );
    assert_eq!((seen.standing, seen.seconds_left), (lease::Standing::Fit, None));
    assert!((seen.takeover_bound_seconds - 4.504).abs() < 1e-6, "{}", seen.takeover_bound_seconds);
}
