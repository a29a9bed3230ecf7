//! The invariants, seen from outside: from tables in force and from what the world knows, never from what a machine thinks.

mod dead;

use std::collections::BTreeMap;

use bascule_core::site::path::io::Carriage;

use super::host::{Host, LOCAL, SERVICES, SPREAD, id, vip};
use super::node::{NAMES, Node, RELAYS};
use super::scene::{Class, Scene};
use super::words::Words;
use crate::violation::Violation;

/// What is true of the world.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    pub(super) alive: Vec<bool>,
    /// Nothing passes from one site to another.
    pub(super) cut: Vec<Vec<bool>>,
    pub(super) ready: Vec<bool>,
    pub(super) hole: Vec<bool>,
    /// Could own the activePassive VIP: its daemon runs, its endpoints are ready, it reaches the majority. Kept only where a scene bounds a vacancy.
    pub(super) able: Vec<bool>,
    /// When any of these last changed.
    pub(super) changed: u64,
}

impl Truth {
    /// A new flow that `from` sends to `to` is served.
    pub(super) fn serves(&self, from: usize, to: usize) -> bool {
        let way = from == to || !(self.cut[from][to] || self.cut[to][from]);
        way && self.alive[to] && self.ready[to] && !self.hole[to]
    }
}

/// New flows that a site on probation may get.
const PROBATION: f64 = 0.02;
/// Of a way whose round trip is four times the usual, to two digits (F12: 0.3). Medians wander by a thousandth.
const SLOW: f64 = 0.305;
/// Changes of a standing by a longer way (F12).
const TRANSITIONS: usize = 2;

/// The checker of a run.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// What relays and nodes know.
    pub(super) words: Words,
    /// First tables after the first fault are counted from here.
    pub(super) tables: Option<u64>,
    pub(super) moves: Option<u64>,
    /// Since when no site that could own the activePassive VIP does, although there is one.
    vacant: Option<u64>,
    /// Of who served the activePassive VIP last.
    term: u64,
    /// Since when one site can reach another one.
    open: BTreeMap<(usize, usize), u64>,
    /// Longest time after a change of the truth during which flows went where they are not served, in nanoseconds.
    pub(super) longest: u64,
}

impl Checker {
    /// After every event.
    pub(super) fn look(
        &mut self,
        scene: &Scene,
        truth: &Truth,
        hosts: &[Option<Host>],
        moves: u64,
        now: u64,
    ) -> Result<(), Violation> {
        let wrong = |rule, text| Err(Violation { rule, at: now, text });
        let live = || hosts.iter().enumerate().filter_map(|(site, h)| Some((site, h.as_ref()?)));
        let serving: Vec<usize> =
            live().filter(|(_, h)| h.holds.is_some_and(|u| now < u)).map(|(site, _)| site).collect();
        if serving.len() > 1 {
            return wrong("one owner of an activePassive VIP", format!("sites {serving:?}"));
        }
        if let Some(host) = serving.first().and_then(|site| hosts[*site].as_ref()) {
            if host.term < self.term {
                return wrong(
                    "terms only grow",
                    format!("site {} serves by {}, after {}", host.site, host.term, self.term),
                );
            }
            self.term = host.term;
        }
        if now < super::scene::START {
            return Ok(());
        }
        if let Some(most) = scene.vacant {
            let kept = serving.iter().any(|site| truth.able[*site]);
            let open = !kept && truth.able.contains(&true);
            self.vacant = open.then(|| self.vacant.unwrap_or(now));
            if let Some(since) = self.vacant.filter(|since| now - since > most) {
                let text =
                    format!("none since {:.3} s, sites {serving:?} serve, able: {:?}", since as f64 / 1e9, truth.able);
                return wrong("an activePassive VIP finds another owner", text);
            }
        }
        if let Some((slow, by)) = scene.slow {
            slower_is_not_down(&live().map(|(_, host)| host).collect::<Vec<_>>(), now)?;
            let ways = live().flat_map(|(site, host)| host.paths.keys().map(move |other| (site, host, *other)));
            let slow = ways.filter(|(site, _, other)| now >= by && slow.has(*site, *other));
            let mut weights = slow.filter_map(|(site, host, other)| Some((site, other, host.weighs(other)?)));
            if let Some((site, other, weight)) = weights.find(|(.., weight)| *weight >= SLOW) {
                return wrong("a slow way weighs less", format!("at site {site} that to {other} weighs {weight:.3}"));
            }
        }
        let written: u64 = live().map(|(_, h)| h.written()).sum();
        let tables = written - (*self.tables.get_or_insert(written)).min(written);
        if scene.tables.is_some_and(|most| tables > most) {
            return wrong("traffic stays", format!("{tables} tables were written since the first fault"));
        }
        let moved = moves - *self.moves.get_or_insert(moves);
        if scene.moves.is_some_and(|most| moved > most) {
            return wrong("the activePassive service stays", format!("it moved {moved} times"));
        }
        for (site, host) in live() {
            if let Some((origin, ip)) =
                host.vips.iter().find(|(origin, ip)| !SERVICES.map(|service| vip(*origin, service)).contains(ip))
            {
                return wrong("no foreign VIP", format!("site {site} took {ip} from site {origin}"));
            }
            let good: Vec<usize> = (0..scene.sites).filter(|to| truth.serves(site, *to)).collect();
            if good.is_empty() {
                continue;
            }
            for ((number, node, _), service) in host.running().flat_map(|one| [LOCAL, SPREAD].map(move |of| (one, of)))
            {
                let served: f64 = good.iter().map(|to| node.share(service, *to)).sum();
                // A daemon that did not run could not act.
                let since = now - truth.changed.max(node.since).max(node.woke);
                if served < 1.0 - PROBATION && truth.changed >= super::scene::START {
                    self.longest = self.longest.max(since);
                    if since > scene.settle {
                        let name = NAMES[number];
                        let text =
                            format!("{served:.3} of {service:?} at site {site}, node {name}, is served by {good:?}");
                        return wrong("no black hole", text);
                    }
                }
            }
        }
        Ok(())
    }

    /// At the end.
    pub(super) fn end(&self, scene: &Scene, hosts: &[Option<Host>]) -> Result<(), Violation> {
        let wrong = |rule, text| Err(Violation { rule, at: scene.end, text });
        let living = hosts.iter().flatten().count();
        if living < scene.sites {
            return Ok(());
        }
        // The sites that are well share again.
        let calm = matches!(scene.class, Class::F4 | Class::F9 | Class::F22 | Class::F23 | Class::F26 | Class::F32);
        for host in hosts.iter().flatten().filter(|_| calm && !scene.news) {
            // A node that has just begun learns first, as all do before the first fault.
            let learned = |node: &Node| scene.end - node.since >= super::scene::START;
            for (number, node, _) in host.running().filter(|(_, node, _)| learned(node)) {
                let third = node.share(SPREAD, host.site);
                if (third - 1.0 / scene.sites as f64).abs() > 0.02 {
                    let text = format!("node {} of site {} keeps {third:.3}", NAMES[number], host.site);
                    return wrong("shares as configured", text);
                }
            }
        }
        if scene.class == Class::F32 {
            return self.versions(scene, hosts);
        }
        Ok(())
    }

    /// Relays of all versions have understood one another (F32): no session was closed, and what the next version adds was left out and counted.
    fn versions(&self, scene: &Scene, hosts: &[Option<Host>]) -> Result<(), Violation> {
        let wrong = |text| Err(Violation { rule: "versions understand one another", at: scene.end, text });
        for (reader, writer) in hosts.iter().flatten().flat_map(|r| hosts.iter().flatten().map(move |w| (r, w))) {
            let of = id(writer.site);
            if reader.site == writer.site {
                continue;
            }
            let states = || RELAYS.filter_map(|node| Some(&reader.relay(node)?.state));
            let agreed: Vec<u8> = states().filter_map(|state| state.speaks(of).0).collect();
            if agreed.is_empty() || agreed.iter().any(|agreed| *agreed != reader.newest.min(writer.newest)) {
                return wrong(format!("site {} speaks {agreed:?} with {}", reader.site, writer.site));
            }
            if reader.closed > 0 || states().any(|state| state.refused(of).closed > 0) {
                return wrong(format!("site {} closed sessions with {}", reader.site, writer.site));
            }
        }
        let left_out: u64 = hosts.iter().flatten().map(|host| host.left_out).sum();
        if left_out == 0 {
            return wrong("the next version added nothing".to_owned());
        }
        Ok(())
    }
}

/// A longer way is judged once, and never as none (F12).
fn slower_is_not_down(hosts: &[&Host], now: u64) -> Result<(), Violation> {
    for host in hosts {
        let wrong = |text| Err(Violation { rule: "slower is not down", at: now, text });
        if let Some((other, _)) =
            host.paths.iter().find(|(_, path)| matches!(path.status().carriage, Carriage::Down(_)))
        {
            return wrong(format!("site {} has no path to {other}", host.site));
        }
        let begun = host.at(super::scene::START);
        for (number, node, _) in host.running() {
            let since = || node.stood.iter().filter(|(.., at)| *at >= begun);
            for (service, site, _) in since() {
                let times = since().filter(|(one, of, _)| one == service && of == site).count();
                if times > TRANSITIONS {
                    return wrong(format!(
                        "{service:?} at {site} stands otherwise for the {times}th time at node {} of site {}",
                        NAMES[number], host.site
                    ));
                }
            }
        }
    }
    Ok(())
}
