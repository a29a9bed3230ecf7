//! Show 3 of the sites issue: many established flows come in at the other site from one moment to the next, and back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::audit::{Flows, Load};
use bascule_lab::sites::{FLOWS, ROUND_TRIP, SiteLab};
use bascule_lab::{Stamp, sleep_until};
use serde_json::Value;

use super::planned::SHIFT;
use super::stage::{THERE, count, ms, p99, turns};
use super::{Scene, Seen};

/// Records a second of all flows together: what forward-survive has with 10,000.
const RECORDS: usize = 5_000;
/// Until all are open, on a busy machine.
const OPEN: Duration = Duration::from_secs(240);
/// A flow without an answer for so long waits for more than a retransmission or two.
const STILL: Duration = Duration::from_secs(10);
/// After this time packets are to take one hop,
const SHORT: Duration = Duration::from_secs(10);
/// and for so long their ways are counted.
const WINDOW: Duration = Duration::from_secs(6);
/// Of all packets, at most: the rest takes one hop.
const LONGER: f64 = 5.0;

/// Two sites of `nodes` each; `flows` established flows, of which half live in each site, are brought to the other site by the route of the VIP, and
/// back.
///
/// # Errors
/// When the sites cannot be built, not every flow opens, or a flow does not get on.
pub fn shift_many(name: &str, nodes: u8, flows: usize) -> Result<Seen> {
    let lab = SiteLab::start(name, nodes)?;
    let every = Duration::from_secs(1).mul_f64(count(flows) / count(RECORDS)).max(Duration::from_millis(200));
    let load = Load { target: lab.target(FLOWS), paced: flows, every, full_speed: 0, window: 1 };
    let live = Flows::start(lab.client(), load)?;
    let open = live.wait_open(OPEN).unwrap_or_else(|_| live.alive());
    ensure!(open == flows, "{open} of {flows} flows opened: {}", live.look()?.describe(&[]));
    turns(&live)?;
    let homes = live.window()?;
    let there: usize = lab.numbers(THERE).into_iter().map(|number| homes.on(number)).sum();
    let mut seen = Seen::new(Scene::Many, Stamp::now());
    seen.note("flows", count(flows), "flows");
    seen.note("of them with an endpoint of the other site", count(there), "flows");
    lab.take_lateness();
    for (site, what, still_of, stall_of, longer_of, surely) in [
        (
            THERE,
            "the other site",
            "there: flows that stood still for 10 s",
            "there: longest stall of 99 of 100 flows",
            "there: packets that may take more than one hop, 10 s after",
            "there: packets that surely take more than one hop",
        ),
        (
            1 - THERE,
            "where it was",
            "back: flows that stood still for 10 s",
            "back: longest stall of 99 of 100 flows",
            "back: packets that may take more than one hop, 10 s after",
            "back: packets that surely take more than one hop",
        ),
    ] {
        lab.shift(site)?;
        let shifted = Stamp::now();
        seen.tell(shifted, format!("the route of the VIP leads to {what}"));
        match turns(&live) {
            Ok(()) => seen.tell(Stamp::now(), "every flow has had an answer twice".to_owned()),
            // Its stalls say how many stand still, and its end which of them are broken: the other rows are worth having.
            Err(error) => eprintln!("after the shift to {what}: {error}\n{}", drops(&lab)?),
        }
        let report = live.window()?;
        let still = report.flows.iter().filter(|flow| flow.stall > STILL).count();
        seen.at_most(still_of, count(still), "flows", 0.0);
        seen.late = seen.late.max(report.late).max(lab.take_lateness());
        let bound = ms(ROUND_TRIP + SHIFT);
        seen.at_most(stall_of, ms(p99(report.flows.iter().map(|flow| flow.stall))), "ms", bound);
        sleep_until(shifted + SHORT);
        let before = Ways::of(&lab, site)?;
        sleep_until(Stamp::now() + WINDOW);
        let ways = Ways::of(&lab, site)?.since(before);
        ensure!(ways.delivered > 0.0, "no packet was delivered within {WINDOW:?}");
        seen.at_most(
            longer_of,
            ways.share(ways.beyond + (ways.across - ways.pinned).max(0.0) + ways.onward),
            "%",
            LONGER,
        );
        seen.note(surely, ways.share(ways.onward), "%");
    }
    let report = live.finish();
    if !report.broken(&[]).is_empty() {
        eprintln!("{}", report.describe(&[]));
    }
    seen.at_most("flows broken, there and back", count(report.broken(&[]).len()), "flows", 0.0);
    Ok(seen)
}

/// What the programs of each node dropped so far, by reason.
fn drops(lab: &SiteLab) -> Result<String> {
    let mut text = String::new();
    for node in &lab.nodes {
        let (_, body) = node.daemon.get("/metrics")?;
        let dropped = |line: &&str| line.starts_with("bascule_forward_drops_total{") && !line.ends_with(" 0");
        text += &format!("{}: {}\n", node.name, body.lines().filter(dropped).collect::<Vec<_>>().join("; "));
    }
    Ok(text)
}

/// Which ways packets of clients took, as all nodes counted them.
#[derive(Debug, Clone, Copy, Default)]
struct Ways {
    /// Handed to endpoints.
    delivered: f64,
    /// In the site where they come in: sent on by a node that had them from another one.
    beyond: f64,
    /// Came into the other site over the WAN: asked for here first, or sent there at once.
    across: f64,
    /// Of them, sent straight to the node that has their flow.
    pinned: f64,
    /// In the other site: sent on by its gateway. At least the way over the WAN and one more.
    onward: f64,
}

impl Ways {
    /// What has been counted so far, while clients come in at `site`.
    fn of(lab: &SiteLab, site: usize) -> Result<Self> {
        let mut ways = Self::default();
        for node in &lab.nodes {
            let (_, body) = node.daemon.get("/services")?;
            let told: Value = serde_json::from_str(&body).with_context(|| format!("{}: {body}", node.name))?;
            let verdict = |name: &str| -> Result<f64> {
                let all = told["verdicts"].as_array().context("verdicts")?;
                let found = all.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_f64());
                found.with_context(|| format!("no verdict {name} in {}", told["verdicts"]))
            };
            for delivered in ["flow_hit", "flow_new", "socket_hit", "cookie_hit"] {
                ways.delivered += verdict(delivered)?;
            }
            // By the number of nodes that had a packet before, the one that sent it first not counted.
            let hops = told["hops"].as_array().context("hops")?;
            let later: f64 = hops.iter().skip(1).filter_map(Value::as_f64).sum();
            if node.site == site {
                ways.beyond += later;
                ways.pinned += verdict("pinned")?;
            } else {
                ways.across += verdict("from_site")?;
                ways.onward += later;
            }
        }
        Ok(ways)
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            delivered: self.delivered - earlier.delivered,
            beyond: self.beyond - earlier.beyond,
            across: self.across - earlier.across,
            pinned: self.pinned - earlier.pinned,
            onward: self.onward - earlier.onward,
        }
    }

    /// A part of all packets, in percent.
    fn share(&self, part: f64) -> f64 {
        (part / self.delivered * 100.0).min(100.0)
    }
}
