//! Every state with every event (RFC 4271 section 8.2.2), and what negotiation makes of two OPENs.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::collision::Identity;
use super::negotiate::{Restarted, Rung, accept, offer};
use super::{Effect, LocalEnd, Session, State, Stop};
use crate::config::{Mode, NeighborConfig, RemoteAs};
use crate::io::{Action, Conn};
use crate::time::Instant;
use crate::wire::header::{HEADER_LEN, MAX_LEN};
use crate::wire::notification::Notification;
use crate::wire::{
    Capability, Cease, DecodeContext, Family, FamilySet, Framer, Message, Open, RouteRefresh, encode_keepalive,
};

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const US: Identity = Identity { id: Ipv4Addr::new(192, 0, 2, 1), asn: 65_001 };

fn config() -> NeighborConfig {
    let external = NeighborConfig::external("n2", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
    NeighborConfig { remote_as: RemoteAs::Is(65_002), mode: Mode::Both, ..external }
}

fn their_open(asn: u32) -> Open {
    let capabilities =
        vec![Capability::multi_protocol(Family::Ipv4), Capability::RouteRefresh, Capability::FourOctetAs(asn)];
    Open::new(asn, 90, [192, 0, 2, 2].into(), capabilities)
}

struct Bench {
    session: Session,
    now: Instant,
    conn: Option<Conn>,
    notified: Vec<(u8, u8)>,
}

impl Bench {
    /// A session that was just brought to this state, with the connection that brought it there.
    fn at(state: State) -> Self {
        let mut bench =
            Self { session: Session::new(config(), US, None, 1 << 32, 5, NOW), now: NOW, conn: None, notified: vec![] };
        bench.session.start(NOW);
        bench.pump();
        let local = local();
        let Some(conn) = bench.conn else { return bench };
        match state {
            State::Connect => {}
            State::Active => bench.session.handle_connect_failed(conn, "refused", NOW),
            State::Idle => {
                bench.session.handle_connected(conn, local, NOW);
                bench.feed(|out| Notification::cease(Cease::AdministrativeReset, "").encode(out));
            }
            State::OpenSent => bench.session.handle_connected(conn, local, NOW),
            State::OpenConfirm | State::Established => {
                bench.session.handle_connected(conn, local, NOW);
                bench.feed(|out| their_open(65_002).encode(out).expect("it fits"));
                if state == State::Established {
                    bench.feed(encode_keepalive);
                }
            }
        }
        bench.pump();
        bench.notified.clear();
        assert_eq!(bench.session.state(), state);
        bench
    }

    fn feed(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        if let Some(conn) = self.conn {
            self.session.handle_received(conn, &bytes, self.now);
        }
    }

    fn pump(&mut self) {
        self.session.pump(self.now, |_| None);
        while let Some(effect) = self.session.poll_effect() {
            match effect {
                Effect::Act(Action::Connect { conn, .. }) => self.conn = self.conn.or(Some(conn)),
                Effect::Act(Action::Write { conn, bytes }) => {
                    let mut framer = Framer::new();
                    framer.push(&bytes);
                    while let Some(frame) = framer.next(MAX_LEN).expect("whole messages") {
                        let message = Message::decode(&frame, &DecodeContext::default()).expect("good messages");
                        if let Message::Notification(n) = message {
                            self.notified.push((n.code.number(), n.subcode));
                        }
                    }
                    self.session.handle_written(conn, 0, None, self.now);
                }
                Effect::Act(_) | Effect::Up(_) | Effect::Down(_) | Effect::Refresh(_) => {}
            }
        }
    }

    fn event(&mut self, event: &str) {
        let conn = self.conn.unwrap_or(Conn(0));
        let second = Duration::from_secs(1);
        match event {
            "start" => self.session.start(self.now),
            "stop" => self.session.stop(&Stop::Shutdown(String::new()), self.now),
            "reset" => self.session.reset(self.now),
            "connected" => self.session.handle_connected(conn, local(), self.now),
            "connect failed" => self.session.handle_connect_failed(conn, "refused", self.now),
            "accepted" => {
                let _ = self.session.handle_accepted(Conn(Conn::INBOUND), local(), self.now);
            }
            "closed" => self.session.handle_closed(conn, None, self.now),
            "retry timer" => self.wait(second * 5),
            "hold timer" => self.wait(second * 90),
            "bad header" => self.feed(|out| out.extend([0; HEADER_LEN])),
            "open" => self.feed(|out| their_open(65_002).encode(out).expect("it fits")),
            "bad open" => self.feed(|out| their_open(65_009).encode(out).expect("it fits")),
            "keepalive" => self.feed(encode_keepalive),
            "update" => self.feed(|out| crate::wire::update::encode::end_of_rib(out, Family::Ipv4)),
            "notification" => self.feed(|out| Notification::cease(Cease::OutOfResources, "").encode(out)),
            "refresh" => self.feed(|out| RouteRefresh::new(Family::Ipv4, RouteRefresh::REQUEST).encode(out)),
            other => panic!("{other}"),
        }
        self.pump();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.session.handle_timeout(self.now);
    }
}

fn local() -> LocalEnd {
    LocalEnd { address: ([192, 0, 2, 1], 40_000).into(), on_link: true, link_local: None }
}

/// Columns: Idle, Connect, Active, OpenSent, OpenConfirm, Established. The state that follows, and the NOTIFICATION that is sent.
const TABLE: &[(&str, [&str; 6])] = &[
    ("start", ["Connect", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"]),
    ("stop", ["Idle", "Idle", "Idle", "Idle 6/2", "Idle 6/2", "Idle 6/2"]),
    ("reset", ["Connect", "Connect", "Connect", "Connect 6/4", "Connect 6/4", "Connect 6/4"]),
    ("connected", ["Idle", "OpenSent", "Active", "OpenSent", "OpenConfirm", "Established"]),
    ("connect failed", ["Idle", "Active", "Active", "OpenSent", "OpenConfirm", "Established"]),
    ("accepted", ["Idle", "OpenSent", "OpenSent", "OpenSent", "OpenConfirm", "Established"]),
    ("closed", ["Idle", "Active", "Active", "Active", "Idle", "Idle"]),
    ("retry timer", ["Connect", "Connect", "Connect", "OpenSent", "OpenConfirm", "Established"]),
    ("hold timer", ["Connect", "Connect", "Connect", "OpenSent", "Idle 4/0", "Idle 4/0"]),
    ("bad header", ["Idle", "Connect", "Active", "Idle 1/1", "Idle 1/1", "Idle 1/1"]),
    ("open", ["Idle", "Connect", "Active", "OpenConfirm", "Idle 5/2", "Idle 5/3"]),
    ("bad open", ["Idle", "Connect", "Active", "Idle 2/2", "Idle 5/2", "Idle 5/3"]),
    ("keepalive", ["Idle", "Connect", "Active", "Idle 5/1", "Established", "Established"]),
    ("update", ["Idle", "Connect", "Active", "Idle 5/1", "Idle 5/2", "Established"]),
    ("notification", ["Idle", "Connect", "Active", "Idle", "Idle", "Idle"]),
    ("refresh", ["Idle", "Connect", "Active", "Idle 5/1", "Idle 5/2", "Established"]),
];

#[test]
fn every_state_with_every_event() {
    let mut wrong = Vec::new();
    for (event, expected) in TABLE {
        for (state, expected) in State::ALL.into_iter().zip(expected) {
            let mut bench = Bench::at(state);
            bench.event(event);
            let notified: String = bench.notified.iter().map(|(code, sub)| format!(" {code}/{sub}")).collect();
            let found = format!("{:?}{notified}", bench.session.state());
            if found != *expected {
                wrong.push(format!("{state:?} + {event}: {found}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn opens_are_judged_in_order() {
    let ours = offer(&config(), US, Rung::Full, Restarted::default());
    let internal = NeighborConfig { remote_as: RemoteAs::Internal, ..config() };
    let with = |change: &dyn Fn(&mut Open)| {
        let mut open = their_open(65_002);
        change(&mut open);
        open
    };
    let verdict = |config: &NeighborConfig, open: &Open| match accept(config, US, &ours, open) {
        Ok(_) => (0, 0),
        Err(refusal) => (refusal.code.number(), refusal.subcode),
    };
    let table: [(&str, NeighborConfig, Open, (u8, u8)); 12] = [
        ("good", config(), their_open(65_002), (0, 0)),
        ("wrong AS", config(), their_open(65_003), (2, 2)),
        (
            "our AS from an external neighbor",
            NeighborConfig { remote_as: RemoteAs::External, ..config() },
            their_open(65_001),
            (2, 2),
        ),
        ("AS 0", NeighborConfig { remote_as: RemoteAs::External, ..config() }, their_open(0), (2, 2)),
        ("another AS from an internal neighbor", internal.clone(), their_open(65_002), (2, 2)),
        ("identifier 0", config(), with(&|open| open.id = Ipv4Addr::UNSPECIFIED), (2, 3)),
        ("our identifier, external", config(), with(&|open| open.id = US.id), (0, 0)),
        ("our identifier, internal", internal, Open { id: US.id, ..their_open(65_001) }, (2, 3)),
        ("hold time 1", config(), with(&|open| open.hold_time = 1), (2, 6)),
        ("hold time 2", config(), with(&|open| open.hold_time = 2), (2, 6)),
        ("hold time 0", config(), with(&|open| open.hold_time = 0), (0, 0)),
        (
            "no family in common",
            config(),
            with(&|open| open.capabilities[0] = Capability::multi_protocol(Family::Ipv6)),
            (2, 7),
        ),
    ];
    for (name, config, open, expected) in table {
        assert_eq!(verdict(&config, &open), expected, "{name}");
    }
}

#[test]
fn what_is_agreed_is_what_both_offer() {
    let graceful = |restarting, notification, families: Vec<_>| Capability::GracefulRestart {
        restarting,
        notification,
        restart_time: 77,
        families,
    };
    let config = NeighborConfig { families: FamilySet::ALL, graceful_restart: Some(120), ..config() };
    let restarted = Restarted { restarting: true, forwarding: FamilySet::EMPTY.with(Family::Ipv6) };
    let ours = offer(&config, US, Rung::Full, restarted);
    let sent = Capability::GracefulRestart {
        restarting: true,
        notification: true,
        restart_time: 120,
        families: vec![(1, 1, false), (2, 1, true)],
    };
    assert!(ours.has(&sent), "{:?}", ours.capabilities);

    let mut theirs = their_open(65_002);
    theirs.hold_time = 9;
    theirs.capabilities.extend([Capability::ExtendedMessage, graceful(true, false, vec![])]);
    let agreed = accept(&config, US, &ours, &theirs).expect("acceptable");
    assert_eq!((agreed.hold_time, agreed.keepalive()), (9, Some(Duration::from_secs(3))));
    assert_eq!(agreed.families, FamilySet::EMPTY.with(Family::Ipv4));
    assert!(agreed.four_octet_as && agreed.route_refresh && agreed.extended_send && !agreed.enhanced_refresh);
    let helper = agreed.graceful.expect("both have it");
    assert!(!helper.restarting && !helper.notification, "without families the R bit says nothing");
    theirs.capabilities.pop();
    theirs.capabilities.push(graceful(true, true, vec![(1, 1, true)]));
    let agreed = accept(&config, US, &ours, &theirs).expect("acceptable");
    assert!(agreed.graceful.is_some_and(|graceful| graceful.restarting && graceful.notification));

    let bare = offer(&config, US, Rung::Bare, restarted);
    assert!(bare.capabilities.is_empty());
    let agreed = accept(&config, US, &bare, &theirs).expect("acceptable");
    assert_eq!(agreed.families, FamilySet::EMPTY.with(Family::Ipv4));
    assert!(!agreed.four_octet_as && agreed.graceful.is_none() && !agreed.extended_receive);
}

#[test]
fn no_rung_offers_what_must_fail() {
    let both = NeighborConfig { families: FamilySet::ALL, ..config() };
    let v6 = NeighborConfig { families: FamilySet::EMPTY.with(Family::Ipv6), ..config() };
    let table = [
        (Rung::Full, &both, 65_001, Some(Rung::Basic)),
        (Rung::Basic, &both, 65_001, Some(Rung::Bare)),
        (Rung::Basic, &v6, 65_001, None),
        (Rung::Basic, &both, 4_200_000_000, None),
        (Rung::Bare, &both, 65_001, None),
    ];
    for (rung, config, asn, below) in table {
        assert_eq!(rung.below(config, asn), below, "{rung:?} {asn}");
    }
}
