//! The invariants, seen from outside: from tables in force and from what the world knows, never from what a machine thinks.

mod dead;

use std::collections::BTreeMap;

use bascule_core::site::path::io::Carriage;
use bascule_core::site::state::message::Cursor;

use super::host::{Host, LOCAL, SERVICES, SPREAD, id, vip};
use super::link::SEC;
use super::node::{NAMES, Node};
use super::scene::{Class, Scene};
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
/// An urgent record is known at the other end of a session that works.
const URGENT: u64 = SEC;

/// The checker of a run.
#[derive(Debug, Default)]
pub(super) struct Checker {
    cursors: BTreeMap<(usize, usize), (u64, Cursor)>,
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
                let since = now - truth.changed;
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

    /// Every 100 ms: what the sites know of one another. `sessions`: since when two sites can talk, and by which nodes' relays.
    pub(super) fn records(
        &mut self,
        hosts: &[Option<Host>],
        sessions: &BTreeMap<(usize, usize), (u64, [usize; 2])>,
        said: &[u64],
        now: u64,
    ) -> Result<(), Violation> {
        let wrong = |rule, text| Err(Violation { rule, at: now, text });
        for ((a, b), (since, ends)) in sessions {
            for (reader, node, writer) in [(*a, ends[0], *b), (*b, ends[1], *a)] {
                let (Some(reads), Some(writes)) = (&hosts[reader], &hosts[writer]) else { continue };
                let (at, Some(state)) = (reads.at(now), reads.state(node)) else { continue };
                let cursor = state.cursor(id(writer));
                let run = state.own().instance;
                let before = self.cursors.insert((reader, writer), (run, cursor));
                if let Some((_, old)) = before.filter(|(r, old)| *r == run && old.incarnation > cursor.incarnation) {
                    return wrong(
                        "no older incarnation",
                        format!("site {reader} of {writer}: {old:?} then {cursor:?}"),
                    );
                }
                let quiet = now.saturating_sub(*since) > 15 * SEC && now.saturating_sub(said[writer]) > URGENT;
                if !quiet {
                    continue;
                }
                let known = state.records(id(writer), at).find_map(|(key, body, _)| match body {
                    bascule_core::site::state::record::Body::Service(summary)
                        if key == bascule_core::site::state::record::Key::Service(LOCAL) =>
                    {
                        Some(summary.ready)
                    }
                    _ => None,
                });
                if known != Some(writes.ready) {
                    let text =
                        format!("site {reader} knows {known:?} ready of site {writer}, which has {}", writes.ready);
                    return wrong("what is said is known", text);
                }
                every_node_knows(reads, writes, now)?;
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
        for host in hosts.iter().flatten().filter(|_| calm) {
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
            let Some(state) = reader.speaker().and_then(|node| reader.state(node)) else {
                return wrong(format!("nobody speaks for site {}", reader.site));
            };
            let agreed = state.speaks(of).0;
            if agreed != Some(reader.newest.min(writer.newest)) {
                return wrong(format!("site {} speaks {agreed:?} with {}", reader.site, writer.site));
            }
            if state.refused(of).closed > 0 || reader.closed > 0 {
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

/// What the relay of a site knows of another one every node of the site knows, if it has run for a while: it listens within seconds, and after it
/// stood still hears of sessions again within a beat of `state`.
fn every_node_knows(reads: &Host, writes: &Host, now: u64) -> Result<(), Violation> {
    let of = id(writes.site);
    for (number, node, daemon) in reads.running().filter(|(_, node, _)| now - node.since > 15 * SEC) {
        let wrong = |what| {
            let (name, since) = (NAMES[number], node.since as f64 / 1e9);
            let text =
                format!("node {name} of site {}, since {since:.3} s, of site {}: {what}", reads.site, writes.site);
            Err(Violation { rule: "what is said is known to every node", at: now, text })
        };
        let known = daemon.join.summary(of, LOCAL).map(|summary| summary.ready);
        if known != Some(writes.ready) {
            return wrong(format!("{known:?} ready, where {} are", writes.ready));
        }
        if now.saturating_sub(reads.woke) > 15 * SEC && !daemon.join.session(of) {
            return wrong("no session".to_owned());
        }
    }
    Ok(())
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
