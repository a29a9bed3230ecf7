//! A script of inputs for a BGP speaker: one octet says which, the next ones are its arguments. What a wrong driver, a hostile neighbour
//! and an operator in a hurry could do together, in any order. After each input the promises of the calling contract are checked.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bascule_bgp::config::{MaxPrefixAction, Mode, NeighborConfig, Secret, SpeakerConfig, Transport};
use bascule_bgp::event::Event;
use bascule_bgp::graceful::{FormerRun, RestartMarker};
use bascule_bgp::io::{Action, BfdState, Command, Conn, Input, Route};
use bascule_bgp::session::State;
use bascule_bgp::speaker::Speaker;
use bascule_bgp::time::Instant;
use bascule_bgp::wire::{Capability, Family, FamilySet, Open, encode_keepalive};

/// A turn never yields more: two neighbours with three connections each, a handful of actions for each of them.
const ACTIONS: usize = 200;
/// Timer turns at one moment.
const TURNS: usize = 50;

/// Accepted is a script in which a session is Established at some time.
pub fn bgp_session(data: &[u8]) -> bool {
    let mut script = Script { data, at: 0 };
    let mut run = Run::new();
    while let Some(op) = script.byte() {
        run.step(op, &mut script);
    }
    // Once and not in every step: it is most of the cost then.
    let status = run.speaker.status(run.now);
    assert!(status.neighbors.len() <= 2, "{status:?}");
    run.established
}

struct Script<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.data.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn arg(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.arg()) * 4;
        let rest = self.data.get(self.at..).unwrap_or_default();
        let taken = &rest[..len.min(rest.len())];
        self.at += taken.len();
        taken
    }
}

struct Run {
    speaker: Speaker,
    now: Instant,
    /// Every connection there was, and those that the speaker closed.
    conns: Vec<Conn>,
    closed: BTreeSet<Conn>,
    inbound: u64,
    established: bool,
}

impl Run {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let speaker = Speaker::new(1, now);
        let mut run = Self {
            speaker,
            now,
            conns: Vec::new(),
            closed: BTreeSet::new(),
            inbound: Conn::INBOUND,
            established: false,
        };
        run.input(Input::Config(Box::new(config(0))));
        run
    }

    fn step(&mut self, op: u8, script: &mut Script<'_>) {
        let conn = |run: &Self, at: u8| {
            run.conns.get(usize::from(at) % run.conns.len().max(1)).copied().unwrap_or(Conn(u64::from(at)))
        };
        let local = || ([192, 0, 2, 1], 40_000).into();
        match op % 18 {
            0 => self.advance(Duration::from_millis(u64::from(script.arg()) * u64::from(script.arg()) * 10)),
            1 => {
                let conn = conn(self, script.arg());
                self.input(Input::Connected { conn, local: local(), on_link: true, link_local: None });
            }
            2 => {
                let conn = conn(self, script.arg());
                self.input(Input::ConnectFailed { conn, error: "no".to_owned() });
            }
            3 => {
                let (conn, remote) = (Conn(self.inbound), address(2 + script.arg() % 3));
                self.inbound += 1;
                self.conns.push(conn);
                self.input(Input::Accepted { conn, remote, local: local(), on_link: false, link_local: None });
            }
            4 => {
                let (conn, bytes) = (conn(self, script.arg()), script.bytes());
                self.input(Input::Received { conn, bytes });
            }
            5 => {
                let conn = conn(self, script.arg());
                self.input(Input::Closed { conn, error: None });
            }
            6 | 7 => {
                let conn = conn(self, script.arg());
                let (pending, unacknowledged) = (usize::from(script.arg()), Some(usize::from(op % 18 == 7)));
                self.input(Input::Written { conn, pending, unacknowledged });
            }
            8 => {
                let routes = (0..script.arg() % 32).map(|i| route(script.arg().wrapping_add(i), self.now)).collect();
                self.input(Input::Announce(routes));
            }
            9 => self.input(Input::Withdraw(vec![route(script.arg(), self.now).prefix], self.now)),
            10 => self.input(Input::Config(Box::new(config(script.arg())))),
            11 => {
                let state = [BfdState::Up, BfdState::Down, BfdState::AdminDown][usize::from(script.arg() % 3)];
                self.input(Input::Bfd { neighbor: "n2".to_owned(), state });
            }
            12 => {
                let drain = Duration::from_millis(u64::from(script.arg()));
                let command = match script.arg() % 16 {
                    0 => Command::Restart,
                    1 => Command::Shutdown { drain, text: "\u{7} end".to_owned() },
                    _ => Command::Reset { neighbor: "n2".to_owned() },
                };
                self.input(Input::Command(command));
            }
            13 => self.input(Input::Synced),
            14 => {
                let (conn, bits) = (conn(self, script.arg()), script.arg());
                let mut bytes = Vec::new();
                open(bits).encode(&mut bytes).expect("it fits");
                self.input(Input::Received { conn, bytes: &bytes });
            }
            15 => {
                let conn = conn(self, script.arg());
                let mut bytes = Vec::new();
                encode_keepalive(&mut bytes);
                self.input(Input::Received { conn, bytes: &bytes });
            }
            16 => {
                // A body behind a good header: the fuzzer is not stopped by the marker.
                let (conn, kind, body) = (conn(self, script.arg()), script.arg() % 7, script.bytes());
                let length = u16::try_from(19 + body.len()).expect("at most 1,039").to_be_bytes();
                let bytes = [&[0xff; 16][..], &length, &[kind], body].concat();
                self.input(Input::Received { conn, bytes: &bytes });
            }
            _ => {
                let marker = RestartMarker {
                    boot_id: "b".to_owned(),
                    written: self.now,
                    restart_time: u16::from(script.arg()),
                    families: FamilySet::ALL,
                };
                if let Some(former) = FormerRun::new(&marker, "b", FamilySet::ALL, self.now) {
                    self.input(Input::Restarted(former));
                }
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.speaker.handle_input(input, self.now);
        self.take();
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let mut turns = (self.now, 0);
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            turns = if turns.0 == self.now { (self.now, turns.1 + 1) } else { (self.now, 0) };
            assert!(turns.1 < TURNS, "a timer fires again and again at {:?}", self.now);
            self.speaker.handle_timeout(self.now);
            self.take();
        }
        self.now = until;
    }

    fn take(&mut self) {
        let mut count = 0;
        while let Some(action) = self.speaker.poll_action() {
            count += 1;
            assert!(count <= ACTIONS, "more than {ACTIONS} actions in one turn");
            match action {
                Action::Connect { conn, .. } => self.conns.push(conn),
                Action::Write { conn, bytes } => {
                    assert!(bytes.len() <= 64 * 1024 + 4096, "a write of {} octets", bytes.len());
                    assert!(!self.closed.contains(&conn), "a write on {conn:?} after its end");
                }
                Action::Close { conn } => assert!(self.closed.insert(conn), "{conn:?} is closed twice"),
                Action::Report(Event::State { to: State::Established, .. }) => self.established = true,
                Action::Report(_)
                | Action::Listen { .. }
                | Action::Unlisten { .. }
                | Action::WatchAcknowledged { .. }
                | Action::Rekey { .. }
                | Action::Stopped => {}
            }
        }
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn route(last: u8, since: Instant) -> Route {
    let prefix = if last.is_multiple_of(2) { format!("10.9.0.{last}/32") } else { format!("2001:db8::{last:x}/128") };
    Route { prefix: prefix.parse().expect("a prefix"), vip: "v".to_owned(), draining: last > 200, since }
}

/// Two neighbours; the bits of `variant` are what a reload may change.
fn config(variant: u8) -> SpeakerConfig {
    let bit = |at: u8| variant >> at & 1 != 0;
    let neighbor = |last: u8| NeighborConfig {
        mode: if bit(0) { Mode::Both } else { Mode::Active },
        families: if bit(1) { FamilySet::EMPTY.with(Family::Ipv4) } else { FamilySet::ALL },
        hold_time: if bit(2) { 3 } else { 90 },
        connect_retry: Duration::from_secs(if bit(3) { 1 } else { 5 }),
        send_hold: bit(4).then_some(Duration::from_secs(10)),
        graceful_restart: bit(5).then_some(60),
        max_prefix: Some(5),
        max_prefix_action: if bit(6) { MaxPrefixAction::Reset } else { MaxPrefixAction::Warn },
        bfd: bit(7),
        // A rotated key must not reset anything; which key it is shows in no other bit.
        transport: Transport { password: bit(2).then(|| Secret(vec![variant])), ..Transport::default() },
        ..NeighborConfig::external(format!("n{last}"), address(last))
    };
    let neighbors = if variant == 255 { vec![] } else { vec![neighbor(2), neighbor(3)] };
    SpeakerConfig { asn: 65_001, router_id: [192, 0, 2, 1].into(), neighbors }
}

/// OPENs that differ in what is negotiated.
fn open(bits: u8) -> Open {
    let bit = |at: u8| bits >> at & 1 != 0;
    let offers = [
        (true, Capability::multi_protocol(Family::Ipv4)),
        (bit(0), Capability::multi_protocol(Family::Ipv6)),
        (bit(1), Capability::FourOctetAs(65_002)),
        (bit(2), Capability::RouteRefresh),
        (bit(2), Capability::EnhancedRouteRefresh),
        (bit(3), Capability::ExtendedMessage),
        (
            bit(4),
            Capability::GracefulRestart {
                restarting: bit(5),
                notification: bit(6),
                restart_time: 60,
                families: vec![(1, 1, true)],
            },
        ),
    ];
    let capabilities = offers.into_iter().filter(|(offered, _)| *offered).map(|(_, capability)| capability).collect();
    Open::new(65_002, if bit(7) { 3 } else { 90 }, [192, 0, 2, 2].into(), capabilities)
}
