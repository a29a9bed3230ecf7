//! Planned moves, both sides.

use super::harness::{LINK, Lan, Rig, group, ip, keyed};
use super::*;
use crate::wire::peer::{Keys, Kind};

fn three() -> Lan {
    let mut lan = Lan::new((1u8..=3).zip([254, 206, 158]).map(|(n, p)| keyed(n, vec![group(p)])).collect());
    lan.run(2_000);
    assert_eq!(lan.roles(), [Role::Active, Role::Backup, Role::Backup]);
    lan
}

fn to(vip: &str, node: &str) -> Command {
    Command::Move { vip: vip.into(), to: node.into() }
}

#[test]
fn move_arms_the_mute_before_the_grant_and_drains_after_the_successor_is_seen() {
    let mut lan = three();
    let start = lan.now;
    lan.command(0, 1, to("api", "n3"));
    lan.run(1_500);
    assert_eq!(lan.roles(), [Role::Backup, Role::Backup, Role::Active]);
    let owner: Vec<String> =
        lan.did(0, start, &[]).into_iter().map(|(_, w)| w).filter(|w| !w.starts_with("advert 254")).collect();
    assert_eq!(
        owner,
        [
            "Query to 224.0.0.18",
            "fence active handover",
            "Grant to 10.9.0.3",
            "fence leaving",
            "Handover",
            "backup by handover",
            "done 1 ok",
            "fence backup",
            "remove 10.9.0.100"
        ]
    );
    let successor: Vec<String> = lan.did(2, start, &[]).into_iter().map(|(_, w)| w).take(8).collect();
    assert_eq!(
        successor,
        [
            "Offer to 10.9.0.1",
            "install 10.9.0.100",
            "fence active",
            "advert 158 10.9.0.3",
            "active by handover",
            "first 10.9.0.100",
            "first 10.9.0.100",
            "Takeover"
        ]
    );
    let left = lan.when(0, start, "fence leaving");
    assert!(left > lan.when(2, start, "advert 158"), "the owner gives up only when it hears the successor");
    assert_eq!(lan.when(0, start, "remove"), left + Duration::from_secs(1), "stragglers are served for drainTime");
    assert!(lan.did(0, start, &["advert 0"]).is_empty(), "a release would hurry the third node");
    assert_eq!(lan.did(1, start, &["active", "backup"]), []);
}

#[test]
fn move_may_be_asked_of_any_node_and_is_confirmed_when_it_happened() {
    let mut lan = three();
    let start = lan.now;
    lan.command(1, 5, to("10.9.0.100", "n3"));
    lan.run(1_500);
    assert_eq!(lan.roles(), [Role::Backup, Role::Backup, Role::Active]);
    assert!(lan.when(1, start, "done 5 ok") >= lan.when(2, start, "active by handover"));
}

#[test]
fn move_to_oneself_takes_the_group() {
    let mut lan = three();
    lan.command(1, 5, to("api", "n2"));
    lan.run(1_500);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active, Role::Backup]);
}

#[test]
fn move_to_an_unknown_node_changes_nothing() {
    let mut lan = three();
    let start = lan.now;
    lan.command(0, 1, to("api", "n9"));
    lan.run(1_500);
    assert_eq!(lan.roles(), [Role::Active, Role::Backup, Role::Backup]);
    assert_eq!(lan.did(0, start, &["fence", "install", "remove", "active", "backup"]), []);
    assert_eq!(lan.did(0, start, &["done"]).len(), 1);
    assert_eq!(lan.did(0, start, &["done 1 err"]).len(), 1);
}

#[test]
fn move_is_refused_with_the_reason() {
    let mut rig = Rig::active(keyed(1, vec![group(254)]));
    let mut answer = |command| {
        rig.owed.clear();
        rig.command(1, command);
        rig.owed.iter().find_map(|a| match a {
            Action::CommandDone { result, .. } => Some(result.clone()),
            _ => None,
        })
    };
    assert_eq!(answer(to("web", "n2")), Some(Err("no group or address web; known groups: api".into())));
    assert_eq!(answer(to("api", "n1")), Some(Err("api is owned by n1 already".into())));
    assert_eq!(answer(to("api", "n2")), None, "under way");
    assert_eq!(answer(to("api", "n3")), Some(Err("api is being handed over already".into())));
    let mut unkeyed = Rig::active(super::harness::node(1, vec![group(254)]));
    unkeyed.command(1, to("api", "n2"));
    assert_eq!(unkeyed.take(), ["done 1 err"]);
}

/// Signs as node n2 and delivers.
fn message(rig: &mut Rig, kind: Kind, nonce_a: u64, nonce_b: u64, text: &str) {
    let keys = rig.node.config.keys.clone();
    let message = Message { kind, vrid: 51, priority: 206, nonce_a, nonce_b, text: text.into() };
    let payload = message.encode(&keys).expect("a key");
    rig.input(Input::Peer { link: LINK, src: ip(2), payload: &payload });
}

fn sent(rig: &Rig) -> Message {
    let keys = &rig.node.config.keys;
    let last = rig.owed.iter().rev().find_map(|a| match a {
        Action::SendPeer { payload, .. } => Some(Message::parse(payload, keys).expect("own message")),
        _ => None,
    });
    last.expect("a message")
}

#[test]
fn a_successor_that_vanishes_leaves_the_owner_with_a_fresh_term() {
    let mut rig = Rig::active(keyed(1, vec![group(254)]));
    rig.command(1, to("api", "n2"));
    let query = sent(&rig);
    let _ = rig.take();
    message(&mut rig, Kind::Offer, query.nonce_a, 77, "n2");
    assert_eq!(rig.take(), ["fence active handover", "Grant to 10.9.0.2"]);
    let term = rig.node.groups[0].term;
    rig.run(300);
    let owed = rig.take();
    // It may have muted us in the kernel: only a new term answers again, and the network is told.
    let fence = owed.iter().position(|w| w == "fence active").expect("a fresh term");
    let first = owed.iter().position(|w| w.starts_with("first")).expect("announced again");
    assert!(fence < first, "{owed:?}");
    assert!(owed.contains(&"done 1 err".to_owned()), "{owed:?}");
    assert!(rig.node.groups[0].term > term);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_backup_claims_on_a_genuine_fresh_grant_only() {
    let mut rig = Rig::new(keyed(2, vec![group(206)]));
    rig.hear(9, 254);
    message(&mut rig, Kind::Query, 5, 0, "n1");
    let offer = sent(&rig);
    assert_eq!((offer.kind, offer.nonce_a, offer.priority, offer.text.as_str()), (Kind::Offer, 5, 206, "n2"));
    let _ = rig.take();
    message(&mut rig, Kind::Grant, 0, offer.nonce_b ^ 1, "n2");
    assert_eq!(rig.take(), Vec::<String>::new(), "not our nonce");
    let forged =
        Message { kind: Kind::Grant, vrid: 51, priority: 0, nonce_a: 0, nonce_b: offer.nonce_b, text: "n2".into() };
    let payload = forged.encode(&Keys::new(vec![b"another key".to_vec()])).expect("a key");
    rig.input(Input::Peer { link: LINK, src: ip(9), payload: &payload });
    assert_eq!(rig.take(), ["Refused"]);
    message(&mut rig, Kind::Grant, 0, offer.nonce_b, "n2");
    assert_eq!(rig.take(), ["install 10.9.0.100"], "behind the closed fence: the owner serves on meanwhile");
    rig.input(Input::Installed(Slot(0)));
    assert_eq!(rig.take()[..2], ["fence active", "advert 206 10.9.0.1"]);
    rig.run(2);
    assert_eq!(rig.take(), ["first 10.9.0.100", "first 10.9.0.100", "Takeover"]);
}

/// A Backup that was granted the group by n9 and whose addresses are on their way.
fn granted() -> Rig {
    let mut rig = Rig::new(keyed(2, vec![group(206)]));
    rig.hear(9, 150);
    rig.run(1);
    for (kind, nonce) in [(Kind::Query, 0), (Kind::Grant, 1)] {
        let nonce = if nonce == 0 { 0 } else { sent(&rig).nonce_b };
        let text = if kind == Kind::Grant { "n2" } else { "n9" };
        let message = Message { kind, vrid: 51, priority: 150, nonce_a: 5, nonce_b: nonce, text: text.into() };
        let payload = message.encode(&rig.node.config.keys.clone()).expect("a key");
        rig.input(Input::Peer { link: LINK, src: ip(9), payload: &payload });
    }
    assert_eq!(rig.take(), ["Offer to 10.9.0.9", "install 10.9.0.100"]);
    rig
}

#[test]
fn a_grant_is_given_up_when_it_cannot_be_used_in_time() {
    type Act = fn(&mut Rig);
    let causes: [(&str, Act); 4] = [
        ("too late", |rig| {
            for _ in 0..5 {
                rig.hear(9, 150);
                rig.run(50);
            }
        }),
        ("another owner", |rig| rig.hear(4, 254)),
        ("the kernel refused", |rig| {
            rig.input(Input::InstallFailed { slot: Slot(0), error: "no".into() });
        }),
        ("out of the election", |rig| rig.command(1, Command::Drain)),
    ];
    for (what, act) in causes {
        let mut rig = granted();
        act(&mut rig);
        let owed = rig.take();
        assert!(owed.contains(&"remove 10.9.0.100".to_owned()), "{what}: {owed:?}");
        rig.input(Input::Installed(Slot(0)));
        rig.input(Input::Removed(Slot(0)));
        rig.run(50);
        assert!(!rig.take().iter().any(|w| w.starts_with("fence active") || w.starts_with("first")), "{what}");
        assert_ne!(rig.role(), Role::Active, "{what}");
    }
}

#[test]
fn the_granters_own_adverts_do_not_end_its_grant() {
    let mut rig = granted();
    rig.hear(9, 150);
    rig.input(Input::Installed(Slot(0)));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_granter_that_dies_meanwhile_is_succeeded_in_the_ordinary_way() {
    let mut rig = granted();
    rig.run(200);
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.run(200);
    let owed = rig.take();
    let position = |w: &str| owed.iter().position(|x| x == w).unwrap_or_else(|| panic!("{w} in {owed:?}"));
    assert!(position("remove 10.9.0.100") < position("fence active"), "{owed:?}");
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_grant_within_the_drain_time_of_an_earlier_move_keeps_the_addresses() {
    let mut lan = three();
    lan.command(0, 1, to("api", "n2"));
    lan.run(500);
    let back = lan.now;
    lan.command(0, 2, to("api", "n1"));
    lan.run(3_000);
    assert_eq!(lan.roles(), [Role::Active, Role::Backup, Role::Backup]);
    assert_eq!(lan.did(0, back, &["remove", "fence backup"]), []);
}

#[test]
fn a_node_that_cannot_take_the_group_does_not_offer() {
    let mut drained = Rig::new(keyed(2, vec![group(206)]));
    drained.command(1, Command::Drain);
    let mut conflict = Rig::new(keyed(2, vec![group(206)]));
    conflict.hear_from(ip(9), 100, vec![ip(77)]);
    for rig in [&mut drained, &mut conflict] {
        let _ = rig.take();
        message(rig, Kind::Query, 5, 0, "n1");
        assert_eq!(rig.take(), Vec::<String>::new());
    }
}

#[test]
fn stop_hands_over_first_and_ends_once_the_stragglers_are_served() {
    let mut lan = three();
    let start = lan.now;
    lan.command(0, 1, Command::Stop);
    lan.run(3_000);
    assert_eq!(lan.roles(), [Role::Initialize, Role::Active, Role::Backup], "to the best peer");
    assert_eq!(lan.did(0, start, &["stopped"]).len(), 1);
    assert_eq!(lan.did(0, start, &["advert 0"]), []);
    assert_eq!(lan.when(0, start, "stopped"), lan.when(0, start, "fence leaving") + Duration::from_secs(1));
    let words: Vec<String> = lan.did(0, start, &["fence", "remove", "stopped"]).into_iter().map(|(_, w)| w).collect();
    assert_eq!(words, ["fence active handover", "fence leaving", "fence backup", "remove 10.9.0.100", "stopped"]);
}

#[test]
fn stop_without_peers_falls_back_to_priority_0() {
    let mut rig = Rig::active(keyed(1, vec![group(254)]));
    let start = rig.now;
    rig.command(1, Command::Stop);
    rig.run(400);
    let released = rig.take().iter().any(|w| w == "advert 0 10.9.0.1");
    assert!(released, "three queries of 100 ms, then the release");
    rig.run(2_000);
    assert_eq!(rig.take().iter().filter(|w| *w == "stopped").count(), 1);
    assert!(rig.now > start);
}

#[test]
fn a_replaced_key_still_verifies() {
    let mut rig = Rig::new(keyed(2, vec![group(206)]));
    let both = Keys::new(vec![b"the new key".to_vec(), b"0123456789abcdef".to_vec()]);
    let mut config = keyed(2, vec![group(206)]);
    config.keys = both;
    rig.reload(config);
    rig.owed.clear();
    let by_old = Message { kind: Kind::Query, vrid: 51, priority: 0, nonce_a: 5, nonce_b: 0, text: "n1".into() };
    let payload = by_old.encode(&Keys::new(vec![b"0123456789abcdef".to_vec()])).expect("a key");
    rig.input(Input::Peer { link: LINK, src: ip(3), payload: &payload });
    assert_eq!(sent(&rig).kind, Kind::Offer);
}
