//! Dead, or only cut off from here: what every node makes of a site that it does not reach (sites.md 4.5, ADR 0044).

use bascule_core::site::policy::facts::Verdict;

use super::super::host::{Host, SPREAD, place};
use super::super::link::SEC;
use super::super::node::NAMES;
use super::super::scene::{START, Scene};
use super::{Checker, Truth};
use crate::violation::Violation;

/// A site that can be reached is known to be, and others have been told: its path is up after 10 s, and who cannot be told any more has lost the
/// session within 15 s of that.
const KNOWN: u64 = 30 * SEC;

impl Checker {
    /// Every 100 ms. A site that is off or cut off from all is dead to every node of every other one by the bound of the scene, and one that a third
    /// site reaches is dead to nobody.
    pub(in super::super) fn deaths(
        &mut self,
        scene: &Scene,
        truth: &Truth,
        paused: &[bool],
        hosts: &[Option<Host>],
        now: u64,
    ) -> Result<(), Violation> {
        let runs = |site: usize| truth.alive[site] && !paused[site];
        for (from, to) in (0..scene.sites).flat_map(|from| (0..scene.sites).map(move |to| (from, to))) {
            if runs(from) && runs(to) && !truth.cut[from][to] && !truth.cut[to][from] {
                let _since = self.open.entry((from, to)).or_insert(now);
            } else {
                let _before = self.open.remove(&(from, to));
            }
        }
        if now < START {
            return Ok(());
        }
        let reaches = |from: usize, to: usize| self.open.get(&(from, to)).is_some_and(|since| now - since >= KNOWN);
        for host in hosts.iter().flatten().filter(|host| !paused[host.site]) {
            for (number, _, daemon) in host.running() {
                for opinion in daemon.join.opinions(SPREAD, host.at(now)) {
                    let of = place(opinion.site);
                    let wrong = |rule, what| {
                        let text = format!(
                            "site {of} is {} to node {} of site {}{what}",
                            opinion.verdict.as_str(),
                            NAMES[number],
                            host.site
                        );
                        Err(Violation { rule, at: now, text })
                    };
                    let third = (0..scene.sites).find(|third| ![host.site, of].contains(third) && reaches(*third, of));
                    if let (Verdict::SiteDead, Some(third)) = (opinion.verdict, third) {
                        return wrong("who is reached by others is not dead", format!(", and site {third} reaches it"));
                    }
                    let dead = scene.dead.is_some_and(|dead| dead.site == of && (dead.from..dead.until).contains(&now));
                    if dead && host.site != of && opinion.verdict != Verdict::SiteDead {
                        return wrong("who is reached by nobody is dead", String::new());
                    }
                }
            }
        }
        Ok(())
    }
}
