//! Do all daemons of a site say the same?

use serde_json::Value;

use super::DaemonSite;
use super::daemons::{DaemonNode, HOMES, SOON};
use super::entries::address;
use crate::bascule::Bascule;
use crate::{LabError, Result, wait_for};

impl DaemonSite {
    /// Waits until every daemon that can be asked says the same: what each node is worth, which endpoints take new flows, no node without a way.
    ///
    /// # Errors
    /// When they do not in time; what the last one said is in the error.
    pub fn wait_agreement(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| !node.frozen) {
            let Some(daemon) = &node.daemon else { continue };
            let mut last = Value::Null;
            let agreed = wait_for(SOON, "the daemons to agree", || {
                last = services(daemon)?;
                self.agrees(&last).then_some(())
            });
            if let Err(error) = agreed {
                let why = format!("{error}: {last:#}\n{}", daemon.process.tail());
                return Err(LabError::answer(format!("node {}", node.id), why));
            }
        }
        Ok(())
    }

    fn agrees(&self, said: &Value) -> bool {
        let service = &said["balance"]["services"][0];
        let lives = |node: &DaemonNode| node.daemon.is_some() && !node.frozen;
        // A frozen daemon's endpoints vouch for its programs; a balancer has none.
        let worth = |node: &DaemonNode| match lives(node) {
            true => "up",
            false if node.frozen && HOMES.contains(&node.id) => "vouched",
            false => "dead",
        };
        let state = |id: u16| said["nodes"].as_array()?.iter().find(|n| n["id"] == id)?["state"].as_str();
        let nodes = self.nodes.iter().all(|node| state(node.id) == Some(worth(node)));
        let reached = |id: u16| self.nodes.iter().any(|node| node.id == id && lives(node));
        let shown = service["endpoints"].as_array().cloned().unwrap_or_default();
        let listed = self.backends.iter().enumerate().filter(|(_, b)| b.listed);
        let serving = listed.clone().all(|(number, b)| {
            let found = shown.iter().find(|e| e["name"] == format!("e{number}"));
            found.is_some_and(|e| e["serving"] == (!b.draining && reached(b.node)))
        });
        let conditions = said["conditions"].as_array().cloned().unwrap_or_default();
        let no_way = |node: &DaemonNode| {
            let way = format!("no way to the node at {}:", address(node.id));
            lives(node) && conditions.iter().any(|c| c.as_str().is_some_and(|c| c.starts_with(&way)))
        };
        let table = service["nodes"]["rows"].as_u64().is_some_and(|rows| rows > 0);
        said["on"] == true
            && table
            && said["devices"][0]["device"] == "eth0"
            && nodes
            && serving
            && shown.len() == listed.count()
            && !self.nodes.iter().any(no_way)
    }
}

/// What `GET /services` says.
pub(super) fn services(daemon: &Bascule) -> Option<Value> {
    let (status, body) = daemon.get("/services").ok()?;
    (status == 200).then(|| serde_json::from_str(&body).ok())?
}
