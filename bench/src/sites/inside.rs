//! What happens inside one site, and what clients of both sites see of it: an endpoint dies, a node does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::router::Change;
use bascule_lab::sites::{SHOP, VIP};
use bascule_lab::{Probe, Stamp, sleep_until, wait_for};
use ipnet::IpNet;

use super::stage::{PATIENCE, THERE, count, last_answer, last_lost, ms, prober, settle};
use super::{Scene, Seen, Stage};

/// New connections elsewhere, by checks alone (F1).
const ENDPOINT_MS: f64 = 1_000.0;
/// New connections by other nodes (F2).
const NODE_MS: f64 = 600.0;
/// Clients of the other site are probed for so long before a node dies.
const BEFORE: Duration = Duration::from_secs(1);
/// The site whose parts die: the one where clients come in.
const HERE: usize = 1 - THERE;

impl Stage {
    pub(super) fn endpoint(&mut self) -> Result<Seen> {
        let victim = self.lab.node_mut(HERE, 1);
        let (name, number) = (victim.name.clone(), victim.number);
        let ready = format!("bascule_forward_endpoint_ready{{endpoint=\"{0}-{name}\",service=\"{0}\"}}", SHOP.name);
        let killed = victim.kill_endpoint();
        let out = self.metric(&ready, 0.0)?;
        let (probe, end) = settle(&self.shop);
        // Its sockets close a moment after it was told to go, and not before its last answer.
        let begun = last_answer(&probe, Stamp(0), |by| by == number).unwrap_or(killed).max(killed);
        let mut seen = Seen::new(Scene::Endpoint, begun);
        seen.tell(begun, format!("the endpoint of {} on {name} is gone", SHOP.name));
        out.into_iter().for_each(|(node, at)| seen.tell(at, format!("{node} shows it as not ready")));
        let last = last_lost(&probe, begun, end).unwrap_or(begun);
        seen.tell(last, "the last new connection that was lost".to_owned());
        seen.late = probe.lateness(begun, end).worst();
        seen.at_most("last new connection lost", ms(last.since(begun)), "ms", ENDPOINT_MS);
        let (opened, lost) = probe.lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.note("of them lost", count(lost), "lost");
        ensure!(lost > 0, "no connection noticed that an endpoint of {} died", SHOP.name);
        seen.at_most("flows broken", count(self.flows.broken()), "flows", 0.0);
        self.lab.node_mut(HERE, 1).revive_endpoint()?;
        self.metric(&ready, 1.0)?;
        Ok(seen)
    }

    pub(super) fn node_dies(&mut self) -> Result<Seen> {
        self.lab.wait_half(SHOP)?;
        let far = prober(&self.lab, self.lab.far_client(), SHOP)?;
        let routes = self.lab.watch_routes(HERE)?;
        sleep_until(Stamp::now() + BEFORE);
        let last = self.lab.numbers(HERE).len() - 1;
        let victim = self.lab.node_mut(HERE, last);
        let (name, number) = (victim.name.clone(), victim.number);
        self.flows.excuse(&[number]);
        let _before = self.flows.window()?;
        let killed = self.lab.node_mut(HERE, last).kill()?;
        let vip: IpNet = format!("{VIP}/32").parse()?;
        let unrouted = routes.wait(vip, Change::Set, killed, PATIENCE)?;
        let dead = self.metric(&format!("bascule_forward_node_dead{{node=\"{name}\"}}"), 1.0)?;
        let (near, end) = settle(&self.shop);
        let far = far.snapshot(Stamp(0));
        self.turns("the death of a node")?;
        let report = self.flows.window()?;
        // The cable is out a moment after the order, and not before the last answer that came from there.
        let spoke = |probe: &Probe| last_answer(probe, Stamp(0), |by| by == number);
        let begun = spoke(&near).max(spoke(&far)).unwrap_or(killed).max(killed);
        let mut seen = Seen::new(Scene::Node, begun);
        seen.tell(begun, format!("{name} is off, with its endpoints"));
        seen.tell(unrouted.at, format!("the router of dc-a sends nothing to {name} any more"));
        dead.into_iter().for_each(|(node, at)| seen.tell(at, format!("{node} shows it as dead")));
        seen.late = near.lateness(killed, end).worst().max(far.lateness(killed, end).worst()).max(report.late);
        seen.at_most("out of the router's routes", ms(unrouted.at.since(begun)), "ms", NODE_MS);
        for (probe, what) in [
            (&near, "last new connection lost, clients of its site"),
            (&far, "last new connection lost, clients of the other site"),
        ] {
            let last = last_lost(probe, begun, end).unwrap_or(begun);
            seen.tell(last, format!("the {what}"));
            seen.at_most(what, ms(last.since(begun)), "ms", NODE_MS);
        }
        let (opened, lost) = near.lost(begun, end);
        seen.note("new connections meanwhile, of clients of its site", count(opened), "opened");
        seen.note("of them lost", count(lost), "lost");
        ensure!(lost > 0, "no connection noticed that {name} died");
        let broken = self.flows.broken();
        seen.at_most("flows of other nodes broken", count(broken), "flows", 0.0);
        seen.note("their longest stall", ms(report.longest_stall(&[number])), "ms");
        Ok(seen)
    }

    /// Waits until each living node of the site where clients come in shows this value of a metric; when it was seen.
    fn metric(&self, line: &str, wanted: f64) -> Result<Vec<(String, Stamp)>> {
        let mut seen = Vec::new();
        for node in self.lab.of(HERE) {
            let mut last = None;
            let found = wait_for(PATIENCE, line, || {
                last = node.daemon.metric(line);
                (last == Some(wanted)).then(Stamp::now)
            });
            seen.push((node.name.clone(), found.with_context(|| format!("{}: {last:?}", node.name))?));
        }
        Ok(seen)
    }
}
