//! 10,000 live flows through every event: Show 3 of issue 4. What happens is in `bascule_lab::forward`: to a site whose maps the lab writes,
//! and to one of real daemons.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Result;
use bascule_lab::Report;
use bascule_lab::audit::Load;
use bascule_lab::forward::{ALL, Hook, OTHER, Survival, survive, survive_daemons};

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

/// Runs all events with `paced` slow flows on a site whose maps the lab writes, and adds the rows.
///
/// # Errors
/// When the site cannot be built or flows do not open.
pub fn measure(report: &mut Report, hook: Hook, paced: usize) -> Result<()> {
    let survival = survive(hook, load(paced))?;
    let scene = scene("maps by the lab", hook, paced);
    add(report, &scene, &survival);
    // Nothing but packets of clients goes from node to node inside the encapsulation.
    if let Some(untold) = survival.untold {
        let what = "encapsulated frames beyond the packets of clients that were sent on";
        report.at_most(&scene, what, untold as f64, "frames", 0.0, 1);
    }
    Ok(())
}

/// The same with a real daemon on every node.
///
/// # Errors
/// When the site cannot be built, its daemons do not agree, or flows do not open.
pub fn measure_daemons(report: &mut Report, hook: Hook, paced: usize) -> Result<()> {
    let survival = survive_daemons(hook, load(paced), ALL)?;
    let scene = scene("daemons", hook, paced);
    add(report, &scene, &survival);
    for class in ["vrrp", "bfd", "peers", "checks", "neighbours", "unreachable"] {
        let counted = survival.class(class);
        report.note(&scene, &format!("sent by nodes: {class}"), counted.bytes as f64, "bytes", 1);
    }
    Ok(())
}

fn load(paced: usize) -> Load {
    // The site has its own address.
    let target = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    Load { target, paced, every: EVERY, full_speed: FULL_SPEED, window: WINDOW }
}

fn scene(what: &str, hook: Hook, paced: usize) -> String {
    format!("{what}, {} flows, {}", paced + FULL_SPEED, if hook == Hook::Xdp { "XDP" } else { "tc" })
}

/// The rows every kind of site has.
fn add(report: &mut Report, scene: &str, survival: &Survival) {
    let mut before = 0;
    for step in &survival.steps {
        let lost = step.alive.0.saturating_sub(step.alive.1);
        let broken = step.broken.saturating_sub(before);
        before = step.broken;
        report.note(
            scene,
            &format!("{}: flows of dead backends ended", step.name),
            lost.saturating_sub(broken) as f64,
            "flows",
            1,
        );
        report.at_most(scene, &format!("{}: other flows broken", step.name), broken as f64, "flows", 0.0, 1);
        let refused = step.fresh_wanted - step.fresh;
        report.at_most(scene, &format!("{}: new flows refused", step.name), refused as f64, "flows", 0.0, 1);
    }
    let audit = &survival.audit;
    let broken = audit.broken(&survival.dead).len();
    if broken > 0 {
        eprintln!("{}", audit.describe(&survival.dead));
    }
    eprintln!("{}", survival.counted);
    report.at_most(scene, "flows broken whose backend lives", broken as f64, "flows", 0.0, 1);
    report.at_most(scene, "records out of order, lost or twice", survival.disorder as f64, "records", 0.0, 1);
    let stall = audit.longest_stall(&survival.dead).as_secs_f64();
    if audit.late > ALLOWANCE {
        report.note(scene, "longest stall of a flow (void: the client itself was late)", stall, "s", 1);
    } else {
        report.at_most(scene, "longest stall of a flow", stall, "s", STALL_S, 1);
    }
    report.note(scene, "records echoed", audit.echoed() as f64, "records", 1);
    report.note(scene, "client behind its schedule, at most", audit.late.as_secs_f64() * 1e3, "ms", 1);
    // What is no packet of a client (bare or encapsulated), no neighbour discovery and, with daemons, neither VRRP, BFD, the peer channel
    // nor a check: flow state that nodes told each other would be here.
    let other = survival.class(OTHER).bytes;
    report.at_most(scene, "flow state synchronised between nodes", other as f64, "bytes", 0.0, 1);
    for class in ["clients", "encapsulation"] {
        let counted = survival.class(class);
        report.note(scene, &format!("sent by nodes: {class}"), counted.bytes as f64, "bytes", 1);
    }
}
