//! 10,000 live flows through every event: Show 3 of issue 4. What happens is in `bascule_lab::forward::survive`.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Result;
use bascule_lab::Report;
use bascule_lab::audit::Load;
use bascule_lab::forward::{Hook, survive};

/// Flows of Show 3 with one packet per 2 s.
pub const PACED: usize = 10_000;
const EVERY: Duration = Duration::from_secs(2);
/// And at full speed.
const FULL_SPEED: usize = 100;
/// Records of such a flow under way: with 100 of them the machine is busy all the time.
const WINDOW: u64 = 256;
/// A flow without progress for longer has stalled: four retransmissions take 3 s (RTO from 0.2 s, doubled each time, RFC 6298).
const STALL_S: f64 = 5.0;
/// A client that was later than this with its own records says nothing about stalls.
const ALLOWANCE: Duration = Duration::from_secs(1);

/// Runs all events with `paced` slow flows and adds the rows.
///
/// # Errors
/// When the site cannot be built or flows do not open.
pub fn measure(report: &mut Report, hook: Hook, paced: usize) -> Result<()> {
    // The site has its own address.
    let target = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let load = Load { target, paced, every: EVERY, full_speed: FULL_SPEED, window: WINDOW };
    let survival = survive(hook, load)?;
    let scene = format!("{paced} flows live, {}", if hook == Hook::Xdp { "XDP" } else { "tc" });
    for step in &survival.steps {
        let lost = step.alive.0.saturating_sub(step.alive.1);
        report.note(&scene, &format!("{}: flows ended", step.name), lost as f64, "flows", 1);
        let refused = step.fresh_wanted - step.fresh;
        report.at_most(&scene, &format!("{}: new flows refused", step.name), refused as f64, "flows", 0.0, 1);
    }
    let audit = &survival.audit;
    let broken = audit.broken(&survival.dead).len();
    if broken > 0 {
        eprintln!("{}\n{}", audit.describe(&survival.dead), survival.counted);
    }
    report.at_most(&scene, "flows broken whose backend lives", broken as f64, "flows", 0.0, 1);
    report.at_most(&scene, "records out of order, lost or twice", survival.disorder as f64, "records", 0.0, 1);
    let stall = audit.longest_stall(&survival.dead).as_secs_f64();
    if audit.late > ALLOWANCE {
        report.note(&scene, "longest stall of a flow (void: the client itself was late)", stall, "s", 1);
    } else {
        report.at_most(&scene, "longest stall of a flow", stall, "s", STALL_S, 1);
    }
    report.note(&scene, "records echoed", audit.echoed() as f64, "records", 1);
    report.note(&scene, "client behind its schedule, at most", audit.late.as_secs_f64() * 1e3, "ms", 1);
    Ok(())
}
