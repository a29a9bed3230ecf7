//! Nodes of one LAN with the real daemon on each: what every site, fleet and yard of daemons is made of.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::Hook;
use super::ground::Ground;
use crate::bascule::Bascule;
use crate::{Bridge, Lab, LabError, Netns, Port, Result, Wall, wait_for};

/// A counter or state that follows what was done is exposed by then. What was done may be a change for which the daemon loads its programs
/// anew (200,000 verified instructions), and it says nothing of its data plane meanwhile: more than 15 s were seen at ten busy threads a core.
const SHOWN: Duration = Duration::from_secs(60);

/// A node with its daemon.
pub struct CrewNode {
    /// Its id.
    pub id: u16,
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// Its daemon; None before its start and while it is dead.
    pub daemon: Option<Bascule>,
}

/// The whole; the ground last, so that it goes after all that stands in it.
pub struct Crew {
    /// In the order in which they were added.
    pub nodes: Vec<CrewNode>,
    /// The wall clock of daemons that are started from now on; None: the machine's.
    pub wall: Option<Wall>,
    pub(super) ground: Ground,
}

impl Crew {
    /// Nobody yet.
    pub(super) fn new(ground: Ground) -> Self {
        Self { nodes: Vec::new(), wall: None, ground }
    }

    /// A LAN for nodes that judge by `hook`, without any.
    ///
    /// # Errors
    /// When the lab cannot be built.
    pub fn on_lan(name: &str, hook: Hook) -> Result<Self> {
        Ok(Self::new(Ground::new(name, hook == Hook::Xdp)?))
    }

    /// The lab all of it stands in.
    pub fn lab(&self) -> &Lab {
        &self.ground.lab
    }

    /// The LAN.
    pub fn lan(&self) -> &Bridge {
        &self.ground.lan
    }

    /// Adds node `n<id>` with these addresses, without a daemon.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn add(&mut self, id: u16, addresses: &[IpNet]) -> Result<()> {
        let (netns, port) = self.ground.host(&name(id), addresses)?;
        self.nodes.push(CrewNode { id, netns, port, daemon: None });
        Ok(())
    }

    /// The node with this id.
    ///
    /// # Panics
    /// When there is none: a fault of the test.
    pub fn node(&self, id: u16) -> &CrewNode {
        self.nodes.iter().find(|node| node.id == id).expect("a node of the crew")
    }

    /// The node with this id, to change it.
    ///
    /// # Panics
    /// When there is none: a fault of the test.
    pub fn node_mut(&mut self, id: u16) -> &mut CrewNode {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of the crew")
    }

    /// The daemon of a node.
    ///
    /// # Panics
    /// When it does not run: a fault of the test.
    pub fn daemon(&self, id: u16) -> &Bascule {
        self.node(id).daemon.as_ref().expect("the daemon was started")
    }

    /// The daemon of a node, to kill it.
    ///
    /// # Panics
    /// When it does not run: a fault of the test.
    pub fn daemon_mut(&mut self, id: u16) -> &mut Bascule {
        self.node_mut(id).daemon.as_mut().expect("the daemon was started")
    }

    /// Starts the daemon of a node, and does not wait for it. One that runs is killed only then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, id: u16, config: &Value) -> Result<()> {
        let daemon = Bascule::start_by(&self.ground.lab, &self.node(id).netns, config, self.wall.as_ref())?;
        self.node_mut(id).daemon = Some(daemon);
        Ok(())
    }

    /// Gives a running daemon another configuration, or starts it with that.
    ///
    /// # Errors
    /// When it cannot be started or the file cannot be written.
    pub fn tell(&mut self, id: u16, config: &Value) -> Result<()> {
        match &self.node(id).daemon {
            Some(daemon) => daemon.rewrite(config),
            None => self.start(id, config),
        }
    }

    /// What a node says of its data plane.
    pub fn page(&self, id: u16) -> Option<Value> {
        let (status, body) = self.node(id).daemon.as_ref()?.get("/services").ok()?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    }

    /// Waits until what a node says of its data plane is as `wanted`; gives it.
    ///
    /// # Errors
    /// When it is not in time; what it said last and the end of its log are in the error.
    pub fn wait_page(&self, id: u16, within: Duration, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_for(within, what, || {
            last = self.page(id)?;
            wanted(&last).then(|| last.clone())
        });
        let tail = || self.node(id).daemon.as_ref().map(|daemon| daemon.process.tail()).unwrap_or_default();
        found.map_err(|error| LabError::answer(name(id), format!("{error}; it says {last:#}\n{}", tail())))
    }

    /// Waits for a metric of a node to satisfy `wanted`; gives it.
    ///
    /// # Errors
    /// When it does not in time; the last value is in the error.
    pub fn wait_metric(&self, id: u16, line: &str, wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let mut last = None;
        let found = wait_for(SHOWN, line, || {
            last = self.daemon(id).metric(line);
            last.filter(|value| wanted(*value))
        });
        found.map_err(|error| LabError::answer(format!("{line} of {}", name(id)), format!("{error}; it is {last:?}")))
    }
}

/// The name of a node.
pub(super) fn name(id: u16) -> String {
    format!("n{id}")
}

/// The data plane stands on eth0 and knows the way to every node that it needs.
pub fn stands(page: &Value) -> bool {
    let said = page["conditions"].as_array();
    let lost = |c: &Value| c.as_str().is_some_and(|c| c.contains("no way to"));
    page["on"] == true && page["devices"][0]["device"] == "eth0" && said.is_some_and(|said| !said.iter().any(lost))
}

/// Writes a key file as an operator should: only root reads it, and whoever reads meanwhile reads one file or the other.
///
/// # Errors
/// When it cannot be written.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, text)
        .and_then(|()| std::fs::set_permissions(&new, Permissions::from_mode(0o600)))
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(LabError::io(path.display().to_string()))
}
