//! BFD with FRR's bfdd and with BIRD: intervals as both sides see them, changes under a live session, multihop, and each way to go down.
//!
//! The peer's own command line is the judge; ours must agree with it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::{BfdPeer, BfdSession, BfdState, BfdTimers, Bird, Config, Family, Frr, Kind, Routed, Router};
use bascule_lab::{Lab, Netns, Stamp, sleep_until, wait_for};
use bascule_suite::cluster::SOON;
use serde_json::{Value, json};

/// Longer than any detection time of these tests: within it nothing goes down that should not.
const QUIET: Duration = Duration::from_secs(2);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn timers(transmit: u64, receive: u64, multiplier: u8) -> BfdTimers {
    BfdTimers { transmit: ms(transmit), receive: ms(receive), multiplier }
}

const SLOW: BfdTimers = timers(300, 300, 3);
const FAST: BfdTimers = timers(50, 50, 3);
/// Ours and theirs of the asymmetric case: every value differs, and each way is ruled by another side.
const OURS: BfdTimers = timers(60, 300, 4);
const THEIRS: BfdTimers = timers(100, 80, 5);

/// Where the two speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// On a link.
    Link(Family),
    /// Through a router.
    Behind(Family),
}

impl Place {
    fn multihop(self) -> bool {
        matches!(self, Self::Behind(_))
    }
}

/// The other one.
enum Peer {
    Frr(Frr),
    Bird(Bird),
}

impl Peer {
    fn start(kind: Kind, lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        Ok(match kind {
            Kind::Frr => Self::Frr(Frr::start(lab, netns, config)?),
            Kind::Bird => Self::Bird(Bird::start(lab, netns, config)?),
            Kind::GoBgp | Kind::OpenBgpd | Kind::ExaBgp => bail!("{} has no BFD of its own", kind.name()),
        })
    }

    fn router(&self) -> &dyn Router {
        match self {
            Self::Frr(frr) => frr,
            Self::Bird(bird) => bird,
        }
    }

    /// What it shows of its sessions, in its own words.
    fn sessions(&self) -> Result<String> {
        Ok(match self {
            Self::Frr(frr) => frr.vtysh("show bfd peers json")?,
            Self::Bird(bird) => bird.birdc("show bfd sessions")?,
        })
    }

    /// Kills the process that speaks BFD.
    fn kill(&mut self) -> Result<Stamp> {
        // FRR: bgpd, bfdd, zebra.
        let (mut processes, index) = match self {
            Self::Frr(frr) => (frr.processes(), 1),
            Self::Bird(bird) => (bird.processes(), 0),
        };
        Ok(processes.get_mut(index).context("no such process")?.sigkill()?)
    }
}

/// Bascule on n1, the other on r1, or behind r1.
struct Scene {
    bascule: Bascule,
    peer: Peer,
    place: Place,
    near: IpAddr,
    far: IpAddr,
    net: Routed,
    _lab: Lab,
}

impl Scene {
    fn new(name: &str, kind: Kind, place: Place, ours: BfdTimers, theirs: BfdTimers) -> Result<Self> {
        let lab = Lab::new(name)?;
        let net = Routed::build(&lab, 1, 1)?;
        let link = net.link(0, 0);
        let (near, far, host) = match place {
            Place::Link(family) => (link.node_address(family), link.router_address(family), &net.routers[0]),
            Place::Behind(family) => {
                let (v4, v6) = net.client_addresses;
                let far = if family == Family::Ipv4 { IpAddr::V4(v4) } else { IpAddr::V6(v6) };
                (link.node_address(family), far, &net.client)
            }
        };
        let peer = BfdPeer { address: near, local: far, multihop: place.multihop(), timers: theirs };
        let peer = Peer::start(kind, &lab, host, &Config::new(65001, [10, 255, 0, 1].into()).bfd(peer))?;
        let bascule = Bascule::start(&lab, &net.nodes[0], &config(place, hops(kind), near, far, ours))?;
        Ok(Self { bascule, peer, place, near, far, net, _lab: lab })
    }

    /// Our session as `/bfd` shows it.
    fn session(&self) -> Result<Value> {
        let (code, body) = self.bascule.get("/bfd")?;
        ensure!(code == 200, "{code}: {body}");
        let all: Value = serde_json::from_str(&body)?;
        all["peers"].get(0).cloned().context(body)
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let seen = wait_for(SOON, what, || self.session().ok().filter(&wanted));
        seen.with_context(|| format!("{:?}\n{}", self.session(), self.bascule.process.tail()))
    }

    fn wait_state(&self, state: &str) -> Result<Value> {
        self.wait(&format!("our session to be {state}"), |s| s["state"] == state)
    }

    /// Both sides are Up, and each shows the intervals that follow from both configurations (RFC 5880 sections 6.8.4 and 6.8.7).
    fn agree(&self, ours: BfdTimers, theirs: BfdTimers) -> Result<()> {
        let theirs_seen = BfdSession {
            state: BfdState::Up,
            transmit: theirs.transmit.max(ours.receive),
            detection: theirs.receive.max(ours.transmit) * u32::from(ours.multiplier),
            multihop: Some(self.place.multihop()),
        };
        self.peer.router().wait_bfd(self.near, SOON, &|s| *s == theirs_seen)?;
        let number = |d: Duration| d.as_secs_f64() * 1000.0;
        let transmit = number(ours.transmit.max(theirs.receive));
        let detection = number(ours.receive.max(theirs.transmit) * u32::from(theirs.multiplier));
        self.wait("our intervals", |s| {
            s["state"] == "up"
                && s["remoteState"] == "up"
                && s["transmitIntervalMs"].as_f64() == Some(transmit)
                && s["detectionTimeMs"].as_f64() == Some(detection)
                && s["polling"] == false
        })?;
        Ok(())
    }

    fn reconfigure(&self, ours: BfdTimers) -> Result<()> {
        Ok(self.bascule.rewrite(&config(self.place, hops(self.peer.router().kind()), self.near, self.far, ours))?)
    }
}

/// One router stands between: packets of FRR arrive with TTL 254. BIRD sends those of multihop sessions with the system's default of 64.
fn hops(kind: Kind) -> u8 {
    if kind == Kind::Bird { 255 } else { 2 }
}

/// A VIP is there because a node must have one; nobody else is on the link, and no fence is needed.
fn config(place: Place, hops: u8, near: IpAddr, far: IpAddr, ours: BfdTimers) -> Value {
    let millis = |d: Duration| format!("{}ms", d.as_millis());
    let mut peer = json!({
        "address": far, "source": near, "transmitInterval": millis(ours.transmit),
        "receiveInterval": millis(ours.receive), "multiplier": ours.multiplier,
    });
    if place.multihop() {
        peer["multihop"] = json!(hops);
    }
    json!({
        "node": "n1", "fence": "off", "bfd": { "peers": [peer] },
        "vips": [{ "name": "api", "addresses": ["10.20.17.100"], "vrid": 51, "priority": 200 }],
    })
}

/// Three configurations of ours, one after the other, under one session that never goes down; then the daemon stops.
fn intervals_and_changes(name: &str, kind: Kind) -> Result<()> {
    let mut scene = Scene::new(name, kind, Place::Link(Family::Ipv4), SLOW, FAST)?;
    scene.agree(SLOW, FAST)?;
    let discriminator = scene.session()?["localDiscriminator"].clone();
    // Faster both ways, then slower one way with another multiplier, then back: each direction of RFC 5880 section 6.8.3.
    for ours in [FAST, OURS, SLOW, FAST] {
        scene.reconfigure(ours)?;
        scene.agree(ours, FAST)?;
    }
    let session = scene.session()?;
    ensure!(session["failures"] == 0 && session["localDiscriminator"] == discriminator, "{session}");
    let ups = scene.bascule.metric(&format!("bascule_bfd_transitions_total{{peer=\"{}\",to=\"up\"}}", scene.far));
    ensure!(ups == Some(1.0), "{ups:?}");
    let table = scene.bascule.ctl(&["bfd"])?;
    ensure!(table.contains(&scene.far.to_string()) && table.contains("150 ms"), "{table}");

    // The peer is told, and does not have to find out: its detection time is made far longer than the wait.
    scene.reconfigure(timers(1000, 50, 60))?;
    scene.agree(timers(1000, 50, 60), FAST)?;
    let stopped = scene.bascule.process.sigterm()?;
    scene.peer.router().wait_bfd(scene.near, SOON, &|s| s.state != BfdState::Up)?;
    let ended = scene.bascule.process.wait(SOON)?;
    ensure!(ended.success(), "{ended}\n{}", scene.bascule.process.tail());
    println!("{}: told and gone {:?} after SIGTERM", kind.name(), Stamp::now().since(stopped));
    if kind == Kind::Frr {
        let seen = scene.peer.sessions()?;
        ensure!(seen.contains("administratively down"), "{seen}");
    }
    Ok(())
}

/// A cut link, a killed peer, and back each time.
fn ways_down(name: &str, kind: Kind) -> Result<()> {
    let mut scene = Scene::new(name, kind, Place::Link(Family::Ipv4), OURS, THEIRS)?;
    scene.agree(OURS, THEIRS)?;

    let cut = scene.net.cut(0, &[0])?;
    let session = scene.wait_state("down")?;
    // Until now: the wait looks every few milliseconds, and nft takes its time. The bench measures.
    println!("{}: cut to Down {:?} (1500 ms and a poll of /bfd)", kind.name(), Stamp::now().since(cut.in_force));
    ensure!(session["diag"] == "detection time expired (1)" && session["failures"] == 1, "{session}");
    scene.peer.router().wait_bfd(scene.near, SOON, &|s| s.state == BfdState::Down)?;
    ensure!(cut.dropped()? > 0, "the cut dropped nothing");
    drop(cut);
    scene.agree(OURS, THEIRS)?;

    let killed = scene.peer.kill()?;
    scene.wait_state("down")?;
    println!("{}: kill to Down {:?} (1500 ms)", kind.name(), Stamp::now().since(killed));
    ensure!(scene.session()?["failures"] == 2, "{:?}", scene.session());
    let lateness = scene.bascule.metric("bascule_bfd_detection_lateness_seconds_count");
    ensure!(lateness == Some(2.0), "{lateness:?}");
    let (_, events) = scene.bascule.get("/events")?;
    ensure!(events.matches("\"event\":\"bfd\"").count() >= 4, "{events}");
    Ok(())
}

fn negotiated(name: &str, kind: Kind, place: Place, ours: BfdTimers, theirs: BfdTimers) -> Result<()> {
    let scene = Scene::new(name, kind, place, ours, theirs)?;
    scene.agree(ours, theirs).with_context(|| format!("{} {place:?} {ours:?} {theirs:?}", kind.name()))?;
    // It stays so: detection times are right on both sides.
    let end = Stamp::now() + QUIET;
    sleep_until(end);
    let session = scene.session()?;
    ensure!(session["state"] == "up" && session["failures"] == 0, "{session}");
    scene.agree(ours, theirs)
}

#[test]
fn frr_follows_every_change_of_intervals_and_hears_the_stop() -> Result<()> {
    intervals_and_changes("bfdchangefrr", Kind::Frr)
}

#[test]
fn bird_follows_every_change_of_intervals_and_hears_the_stop() -> Result<()> {
    intervals_and_changes("bfdchangebird", Kind::Bird)
}

#[test]
fn frr_cut_and_killed_is_down_within_the_detection_time_and_comes_back() -> Result<()> {
    ways_down("bfddownfrr", Kind::Frr)
}

#[test]
fn bird_cut_and_killed_is_down_within_the_detection_time_and_comes_back() -> Result<()> {
    ways_down("bfddownbird", Kind::Bird)
}

#[test]
fn frr_behind_a_router_is_a_multihop_session() -> Result<()> {
    negotiated("bfdfarfrr", Kind::Frr, Place::Behind(Family::Ipv4), FAST, SLOW)
}

#[test]
fn bird_behind_a_router_is_a_multihop_session() -> Result<()> {
    negotiated("bfdfarbird", Kind::Bird, Place::Behind(Family::Ipv6), OURS, THEIRS)
}

#[test]
fn frr_over_ipv6() -> Result<()> {
    negotiated("bfdsixfrr", Kind::Frr, Place::Link(Family::Ipv6), OURS, THEIRS)
}

#[test]
#[ignore = "the whole matrix: two routers, two families, one and two hops, four sets of intervals; three minutes"]
fn matrix_of_intervals_families_and_hops() -> Result<()> {
    let sets = [("300x3", SLOW, SLOW), ("50x3", FAST, FAST), ("asymmetric", OURS, THEIRS), ("reversed", THEIRS, OURS)];
    let families = [Family::Ipv4, Family::Ipv6];
    let places = families.map(Place::Link).into_iter().chain(families.map(Place::Behind));
    for (number, place) in places.enumerate() {
        for kind in [Kind::Frr, Kind::Bird] {
            for (set, ours, theirs) in sets {
                let name = format!("bfdm{number}{}{}", kind.name().to_lowercase(), &set[..2]);
                negotiated(&name, kind, place, ours, theirs)?;
                println!("{} {place:?} {set}: as the arithmetic has it", kind.name());
            }
        }
    }
    Ok(())
}
