//! Foreign BGP routers: FRR, BIRD, GoBGP, OpenBGPD and ExaBGP in a namespace, from one typed configuration, asked through
//! their own command lines.
//!
//! Each router runs in the foreground, keeps its state in a directory of its own below the lab's, and ends with its guard.
//! What a router cannot do is an error of [`Kind::start`] that says so, never a silently ignored field.

pub mod bfd_pair;
mod bird;
mod config;
mod exabgp;
mod frr;
mod gobgp;
pub mod matrix;
mod names;
mod openbgpd;
pub mod scripted;
mod seen;
mod topology;
mod watch;

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

pub use bird::Bird;
pub use config::{BfdPeer, BfdTimers, Config, Family, GracefulRestart, Hops, Neighbor};
pub use exabgp::ExaBgp;
pub use frr::Frr;
pub use gobgp::GoBgp;
pub use openbgpd::OpenBgpd;
pub use seen::{BfdSession, BfdState, Capabilities, GrCapability, Path, Route, Session, State};
pub use topology::{Cut, Link, Routed, host};
pub use watch::{Change, RouteEvent, RouteWatch};

use crate::{Lab, LabError, Netns, Process, Result, wait_for};

/// Time a router gets to answer on its control socket after its start: FRR's three daemons start one after another.
const START: Duration = Duration::from_secs(20);

/// Which router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// zebra, bgpd and bfdd of FRRouting.
    Frr,
    /// BIRD 2.
    Bird,
    /// gobgpd: a control plane without a forwarding table.
    GoBgp,
    /// bgpd of OpenBSD: a control plane without a forwarding table on Linux.
    OpenBgpd,
    /// ExaBGP: sessions and updates only, no best path and no policy.
    ExaBgp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Frr, Self::Bird, Self::GoBgp, Self::OpenBgpd, Self::ExaBgp];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frr => "FRR",
            Self::Bird => "BIRD",
            Self::GoBgp => "GoBGP",
            Self::OpenBgpd => "OpenBGPD",
            Self::ExaBgp => "ExaBGP",
        }
    }

    /// Starts one in `netns` and waits until its control socket answers.
    ///
    /// # Errors
    /// When it is not installed, refuses the configuration, or cannot do what the configuration asks.
    pub fn start(self, lab: &Lab, netns: &Netns, config: &Config) -> Result<Box<dyn Router>> {
        if !config.bfd.is_empty() && !matches!(self, Self::Frr | Self::Bird) {
            return Err(unsupported(self, "BFD"));
        }
        if self != Self::Bird && config.neighbors.iter().any(|neighbor| neighbor.interface.is_some()) {
            return Err(unsupported(self, "link of a neighbour in this lab"));
        }
        Ok(match self {
            Self::Frr => Box::new(Frr::start(lab, netns, config)?),
            Self::Bird => Box::new(Bird::start(lab, netns, config)?),
            Self::GoBgp => Box::new(GoBgp::start(lab, netns, config)?),
            Self::OpenBgpd => Box::new(OpenBgpd::start(lab, netns, config)?),
            Self::ExaBgp => Box::new(ExaBgp::start(lab, netns, config)?),
        })
    }
}

/// A running router. Dropped, all its processes are killed, also while a test unwinds.
pub trait Router: Debug + Send {
    /// Which one.
    fn kind(&self) -> Kind;

    /// What it says about the session with this neighbour.
    ///
    /// # Errors
    /// When it does not answer, or does not know the neighbour.
    fn session(&self, neighbor: IpAddr) -> Result<Session>;

    /// Every path it has for a prefix, after its import policy.
    ///
    /// # Errors
    /// When it does not answer as expected.
    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>>;

    /// What it says about the BFD session with this peer; None when it has none.
    ///
    /// # Errors
    /// When it does not answer, or has no BFD at all.
    fn bfd(&self, peer: IpAddr) -> Result<Option<BfdSession>>;

    /// Asks the neighbour for its routes again by ROUTE-REFRESH (RFC 2918).
    ///
    /// # Errors
    /// When the router refuses, for example because the capability was not negotiated.
    fn refresh(&self, neighbor: IpAddr) -> Result<()>;

    /// Ends the session with this neighbour by an administrative reset; the router dials again by its own timers.
    ///
    /// # Errors
    /// When the router refuses.
    fn reset(&self, neighbor: IpAddr) -> Result<()>;

    /// Its processes: the one that speaks BGP first.
    fn processes(&mut self) -> Vec<&mut Process>;

    /// What its processes wrote.
    fn log(&self) -> String;

    /// The best path to a prefix, with the next hops of all paths that it shares traffic among.
    ///
    /// # Errors
    /// Those of [`Router::paths`].
    fn route(&self, prefix: IpNet) -> Result<Option<Route>> {
        Ok(Route::select(self.paths(prefix)?))
    }

    /// Waits until the session is Established, and gives it.
    ///
    /// # Errors
    /// [`LabError::Answer`] with the last state seen and the end of the router's log.
    fn wait_established(&self, neighbor: IpAddr, deadline: Duration) -> Result<Session> {
        self.wait_session(neighbor, deadline, "to be Established", &|s| s.state == State::Established)
    }

    /// Waits until the session fulfils `wanted`, and gives it.
    ///
    /// # Errors
    /// [`LabError::Answer`] with the last state seen and the end of the router's log.
    fn wait_session(
        &self,
        neighbor: IpAddr,
        deadline: Duration,
        what: &str,
        wanted: &dyn Fn(&Session) -> bool,
    ) -> Result<Session> {
        let what = format!("{}: session with {neighbor} {what}", self.kind().name());
        let mut last = None;
        let waited = wait_for(deadline, &what, || {
            last = Some(self.session(neighbor));
            last.as_ref().and_then(|s| s.as_ref().ok()).filter(|s| wanted(s)).cloned()
        });
        waited.map_err(|_| LabError::answer(what, format!("last: {last:?}\n{}", tail(&self.log()))))
    }

    /// Waits until the best path fulfils `wanted` (it is asked about None too), and gives it.
    ///
    /// # Errors
    /// [`LabError::Answer`] with the last route seen and the end of the router's log.
    fn wait_route(
        &self,
        prefix: IpNet,
        deadline: Duration,
        what: &str,
        wanted: &dyn Fn(Option<&Route>) -> bool,
    ) -> Result<Option<Route>> {
        let what = format!("{}: route to {prefix} {what}", self.kind().name());
        let mut last = None;
        let waited = wait_for(deadline, &what, || {
            last = Some(self.route(prefix));
            last.as_ref().and_then(|r| r.as_ref().ok()).filter(|r| wanted(r.as_ref())).cloned()
        });
        waited.map_err(|_| LabError::answer(what, format!("last: {last:?}\n{}", tail(&self.log()))))
    }

    /// Waits until the BFD session fulfils `wanted`, and gives it.
    ///
    /// # Errors
    /// [`LabError::Answer`] with the last state seen.
    fn wait_bfd(&self, peer: IpAddr, deadline: Duration, wanted: &dyn Fn(&BfdSession) -> bool) -> Result<BfdSession> {
        let what = format!("{}: BFD session with {peer}", self.kind().name());
        let mut last = None;
        let waited = wait_for(deadline, &what, || {
            last = Some(self.bfd(peer));
            last.as_ref().and_then(|s| s.as_ref().ok()).and_then(Option::as_ref).filter(|s| wanted(s)).cloned()
        });
        waited.map_err(|_| LabError::answer(what, format!("last: {last:?}\n{}", tail(&self.log()))))
    }
}

/// The end of a log, for an error.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// A router's own directory. Others may pass through the lab's directory to it, as a router that drops root needs.
fn directory(lab: &Lab, kind: Kind, netns: &Netns) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let serial = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = lab.directory().join(format!("{}-{}-{serial}", kind.name().to_lowercase(), netns.name()));
    let make = || {
        std::fs::set_permissions(lab.directory(), std::fs::Permissions::from_mode(0o711))?;
        std::fs::create_dir(&path)
    };
    make().map_err(LabError::io(path.display().to_string()))?;
    Ok(path)
}

/// Waits until `answer` succeeds; a router that ends instead is shown with its output.
fn wait_ready(what: &str, process: &mut Process, answer: impl Fn() -> Result<String>) -> Result<()> {
    let waited =
        wait_for(START, what, || if answer().is_ok() { Some(true) } else { (!process.alive()).then_some(false) });
    match waited {
        Ok(true) => Ok(()),
        Ok(false) => Err(LabError::answer(what, format!("it ended:\n{}", process.tail()))),
        Err(error) => Err(LabError::answer(what, format!("{error}\n{}", process.tail()))),
    }
}

/// JSON of a command line tool.
fn json(what: &str, text: &str) -> Result<serde_json::Value> {
    serde_json::from_str(text).map_err(|error| LabError::answer(what, format!("{error} in {text}")))
}

/// A number of a JSON answer that fits the field it belongs to.
fn number<T: TryFrom<u64>>(value: &serde_json::Value) -> Option<T> {
    value.as_u64().and_then(|n| n.try_into().ok())
}

fn unsupported(kind: Kind, what: &str) -> LabError {
    LabError::answer(kind.name(), format!("this router has no {what}"))
}

#[cfg(test)]
mod tests;
