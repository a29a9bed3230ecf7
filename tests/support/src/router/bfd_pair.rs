//! Bascule and a foreign BFD speaker, FRR's bfdd or BIRD, on a link or with a router between them, without BGP. The other one's own
//! command line is the judge, and ours must agree with it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{BfdPeer, BfdSession, BfdState, BfdTimers, Bird, Config, Family, Frr, Kind, Routed, Router, unsupported};
use crate::bascule::Bascule;
use crate::{Lab, LabError, Netns, Result, Stamp, sleep_until, wait_for};

/// A state or an interval comes within this or not at all: FRR's daemons start one after another, and BFD begins with a packet a second.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any detection time of the table: within it nothing goes down that should not.
const QUIET: Duration = Duration::from_secs(2);

/// Milliseconds of both intervals, and the multiplier.
pub const fn timers(transmit: u64, receive: u64, multiplier: u8) -> BfdTimers {
    BfdTimers { transmit: Duration::from_millis(transmit), receive: Duration::from_millis(receive), multiplier }
}

/// The default of most routers.
pub const SLOW: BfdTimers = timers(300, 300, 3);
/// The shortest that is recommended without offload.
pub const FAST: BfdTimers = timers(50, 50, 3);
/// Ours and theirs of the asymmetric case: every value differs, and each way is ruled by another side.
pub const OURS: BfdTimers = timers(60, 300, 4);
/// See [`OURS`].
pub const THEIRS: BfdTimers = timers(100, 80, 5);

/// Sets of timers with their names: ours, then theirs.
pub const SETS: [(&str, BfdTimers, BfdTimers); 4] =
    [("300x3", SLOW, SLOW), ("50x3", FAST, FAST), ("asymmetric", OURS, THEIRS), ("reversed", THEIRS, OURS)];

/// Where the two speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// On a link.
    Link(Family),
    /// Through a router (RFC 5883).
    Behind(Family),
}

impl Place {
    /// Every place there is.
    pub const ALL: [Self; 4] =
        [Self::Link(Family::Ipv4), Self::Link(Family::Ipv6), Self::Behind(Family::Ipv4), Self::Behind(Family::Ipv6)];

    /// Its name in tables.
    pub fn name(self) -> String {
        match self {
            Self::Link(family) => format!("{} single hop", family.word()),
            Self::Behind(family) => format!("{} multihop", family.word()),
        }
    }

    fn multihop(self) -> bool {
        matches!(self, Self::Behind(_))
    }
}

/// The other one.
pub enum Other {
    /// bfdd of FRRouting.
    Frr(Frr),
    /// BIRD 2.
    Bird(Bird),
}

impl Other {
    fn start(kind: Kind, lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        match kind {
            Kind::Frr => Ok(Self::Frr(Frr::start(lab, netns, config)?)),
            Kind::Bird => Ok(Self::Bird(Bird::start(lab, netns, config)?)),
            Kind::GoBgp | Kind::OpenBgpd | Kind::ExaBgp => Err(unsupported(kind, "BFD")),
        }
    }

    /// As a router.
    pub fn router(&self) -> &dyn Router {
        match self {
            Self::Frr(frr) => frr,
            Self::Bird(bird) => bird,
        }
    }

    /// What it shows of its sessions, in its own words.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sessions(&self) -> Result<String> {
        match self {
            Self::Frr(frr) => frr.vtysh("show bfd peers json"),
            Self::Bird(bird) => bird.birdc("show bfd sessions"),
        }
    }

    /// Kills the process that speaks BFD.
    ///
    /// # Errors
    /// When it is not there.
    pub fn kill(&mut self) -> Result<Stamp> {
        // FRR: bgpd, bfdd, zebra.
        let (mut processes, index) = match self {
            Self::Frr(frr) => (frr.processes(), 1),
            Self::Bird(bird) => (bird.processes(), 0),
        };
        match processes.get_mut(index) {
            Some(process) => process.sigkill(),
            None => Err(LabError::answer("the router", "no process speaks BFD".to_owned())),
        }
    }
}

/// Bascule on n1, the other on r1, or behind r1.
pub struct BfdPair {
    /// Ours.
    pub bascule: Bascule,
    /// Theirs.
    pub other: Other,
    /// Our address.
    pub near: IpAddr,
    /// Theirs.
    pub far: IpAddr,
    /// The network.
    pub net: Routed,
    place: Place,
    _lab: Lab,
}

impl BfdPair {
    /// Starts both.
    ///
    /// # Errors
    /// When the lab or one of them refuses.
    pub fn start(name: &str, kind: Kind, place: Place, ours: BfdTimers, theirs: BfdTimers) -> Result<Self> {
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
        let other = Other::start(kind, &lab, host, &Config::new(65001, [10, 255, 0, 1].into()).bfd(peer))?;
        let bascule = Bascule::start(&lab, &net.nodes[0], &config(place, kind, near, far, ours))?;
        Ok(Self { bascule, other, near, far, net, place, _lab: lab })
    }

    /// Our session as `/bfd` shows it.
    ///
    /// # Errors
    /// When the daemon does not answer, or has none.
    pub fn session(&self) -> Result<Value> {
        let (code, body) = self.bascule.get("/bfd")?;
        let session = serde_json::from_str::<Value>(&body).ok().and_then(|all| all["peers"].get(0).cloned());
        session.filter(|_| code == 200).ok_or_else(|| LabError::answer(format!("/bfd ({code})"), body))
    }

    /// Waits until our session looks like this.
    ///
    /// # Errors
    /// [`LabError::Timeout`], with what it looks like instead.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(PATIENCE, what, || self.session().ok().filter(&wanted)).map_err(|error| {
            LabError::answer(error.to_string(), format!("{:?}\n{}", self.session(), self.bascule.process.tail()))
        })
    }

    /// Waits until both sides are Up, and each shows the intervals that follow from both configurations (RFC 5880 sections 6.8.4 and
    /// 6.8.7).
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn agree(&self, ours: BfdTimers, theirs: BfdTimers) -> Result<()> {
        let theirs_seen = BfdSession {
            state: BfdState::Up,
            transmit: theirs.transmit.max(ours.receive),
            detection: theirs.receive.max(ours.transmit) * u32::from(ours.multiplier),
            multihop: Some(self.place.multihop()),
        };
        self.other.router().wait_bfd(self.near, PATIENCE, &|s| *s == theirs_seen)?;
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

    /// They agree, stay so without a failure for longer than a detection time, and agree still.
    ///
    /// # Errors
    /// What did not hold.
    pub fn hold(&self, ours: BfdTimers, theirs: BfdTimers) -> Result<()> {
        self.agree(ours, theirs)?;
        sleep_until(Stamp::now() + QUIET);
        let session = self.session()?;
        if session["state"] != "up" || session["failures"] != 0 {
            return Err(LabError::answer("our session", session.to_string()));
        }
        self.agree(ours, theirs)
    }

    /// Gives our side other timers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reconfigure(&self, ours: BfdTimers) -> Result<()> {
        self.bascule.rewrite(&config(self.place, self.other.router().kind(), self.near, self.far, ours))
    }
}

/// A VIP is there because a node must have one; nobody else is on the link, and no fence is needed.
fn config(place: Place, kind: Kind, near: IpAddr, far: IpAddr, ours: BfdTimers) -> Value {
    let millis = |d: Duration| format!("{}ms", d.as_millis());
    let mut peer = json!({
        "address": far, "source": near, "transmitInterval": millis(ours.transmit),
        "receiveInterval": millis(ours.receive), "multiplier": ours.multiplier,
    });
    if place.multihop() {
        // One router stands between: packets of FRR arrive with TTL 254, the default of two hops.
        peer["multihop"] = json!(2);
        if kind == Kind::Bird {
            // It sends those of multihop sessions with the system's default of 64.
            peer["minimumTtl"] = json!(63);
        }
    }
    json!({
        "node": "n1", "fence": "off", "bfd": { "peers": [peer] },
        "vips": [{ "name": "api", "addresses": ["10.20.17.100"], "vrid": 51, "priority": 200 }],
    })
}
