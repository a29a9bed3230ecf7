//! Do all daemons of a site say the same?

use serde_json::Value;

use super::DaemonSite;
use super::crew::CrewNode;
use super::daemons::{HOMES, SOON};
use super::entries::address;
use crate::Result;

impl DaemonSite {
    /// Waits until every daemon that can be asked says the same: what each node is worth, which endpoints take new flows, no node without a way.
    ///
    /// # Errors
    /// When they do not in time; what the last one said is in the error.
    pub fn wait_agreement(&self) -> Result<()> {
        for node in self.asked().filter(|node| node.daemon.is_some()) {
            self.crew.wait_page(node.id, SOON, "the daemons to agree", |said| self.agrees(said))?;
        }
        Ok(())
    }

    fn agrees(&self, said: &Value) -> bool {
        let service = &said["balance"]["services"][0];
        let frozen = |node: &CrewNode| self.frozen.contains(&node.id);
        let lives = |node: &CrewNode| node.daemon.is_some() && !frozen(node);
        // A frozen daemon's endpoints vouch for its programs; a balancer has none.
        let worth = |node: &CrewNode| match lives(node) {
            true => "up",
            false if frozen(node) && HOMES.contains(&node.id) => "vouched",
            false => "dead",
        };
        let state = |id: u16| said["nodes"].as_array()?.iter().find(|n| n["id"] == id)?["state"].as_str();
        let nodes = self.crew.nodes.iter().all(|node| state(node.id) == Some(worth(node)));
        let reached = |id: u16| self.crew.nodes.iter().any(|node| node.id == id && lives(node));
        let shown = service["endpoints"].as_array().cloned().unwrap_or_default();
        let listed = self.backends.iter().enumerate().filter(|(_, b)| b.listed);
        let serving = listed.clone().all(|(number, b)| {
            let found = shown.iter().find(|e| e["name"] == format!("e{number}"));
            found.is_some_and(|e| e["serving"] == (!b.draining && reached(b.node)))
        });
        let conditions = said["conditions"].as_array().cloned().unwrap_or_default();
        let no_way = |node: &CrewNode| {
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
            && !self.crew.nodes.iter().any(no_way)
    }
}
