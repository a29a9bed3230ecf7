//! One Service after the other: from the first write to the address in its status, and to a client outside that is answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use bascule_lab::scale::{ATTEMPT, Made, PATIENCE, PORT, Scale, endpoint, knock};
use bascule_lab::{Report, Samples, Stamp, wait_for};

use super::{NODES, ms};

/// Enough for a 99th percentile.
const RUNS: usize = 200;
const STATUS_MS: f64 = 200.0;
const ANSWER_MS: f64 = 1000.0;

pub(super) fn measure(scale: &mut Scale, report: &mut Report) -> Result<()> {
    let (mut status, mut answer) = (Samples::default(), Samples::default());
    let mut made = Vec::new();
    for run in 0..RUNS {
        scale.refresh()?;
        let endpoints = (1..=NODES).map(|n| (n, endpoint(n, run), true)).collect();
        let service = Made { name: format!("one-{run:03}"), endpoints };
        let calls = service.calls();
        let began = Stamp::now();
        scale.api.many(1, &calls)?;
        let given = |one: &(String, Ipv4Addr)| one.0 == service.name;
        let (at, (_, vip)) = scale.given.wait(PATIENCE, "an address in the status", began, given)?;
        status.0.push(ms(at.since(began)));
        let to = SocketAddr::new(vip.into(), PORT);
        let answered =
            scale.client.run(|| wait_for(PATIENCE, "an answer", || knock(to, ATTEMPT).ok().map(|_| Stamp::now())))?;
        answer.0.push(ms(answered.since(began)));
        made.push(service);
    }
    let scene = "one Service";
    for (what, samples, bound) in
        [("created to address in status", &status, STATUS_MS), ("created to an answer outside", &answer, ANSWER_MS)]
    {
        report.note(scene, &format!("{what}, median"), samples.median().unwrap_or(f64::MAX), "ms", RUNS);
        report.at_most(scene, &format!("{what}, p99"), samples.p99().unwrap_or(f64::MAX), "ms", bound, RUNS);
    }
    // The next scene begins without them.
    let gone: Vec<_> = made.iter().flat_map(Made::gone).collect();
    scale.api.many(bascule_lab::scale::WIDTH, &gone)?;
    bascule_lab::sleep_until(Stamp::now() + Duration::from_secs(2));
    Ok(())
}
