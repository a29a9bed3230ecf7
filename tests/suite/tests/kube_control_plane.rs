//! The VIP of a control plane with real API servers: it is there before the first of them, leaves one that dies, does not care for their
//! store; and with the data plane every healthy server gets its part. The bounds on time are the drill's (`control-plane`).

use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_suite::control_plane::{ControlPlane, NODES};

#[test]
fn a_control_plane_boots_behind_its_vip_survives_its_server_and_its_store_and_is_balanced() -> Result<()> {
    let (mut control_plane, boot) = ControlPlane::boot("cp")?;
    let costs = control_plane.faults(boot, Duration::from_secs(15))?;
    println!("measured: {costs:?}");
    ensure!(costs.moves == 0, "the store's outage moved the VIP {} times", costs.moves);

    control_plane.restart(1)?;
    control_plane.balance()?;
    let got = control_plane.spread(300)?;
    println!("measured: 300 connections over three servers: {got:?}");
    ensure!(got.iter().all(|count| *count > 0), "a server got none: {got:?}");
    let mut held = control_plane.sessions()?;
    control_plane.kill(3)?;
    for n in 1..=NODES {
        control_plane.wait_endpoints(n, 2)?;
    }
    let after = control_plane.spread(100)?;
    ensure!(after[2] == 0, "connections to a server whose check has failed: {after:?}");
    for session in held.iter_mut().filter(|session| session.server != 3) {
        let status = session.get("/livez?exclude=etcd", false)?;
        ensure!(status == 200, "an established connection to server {} answered {status}", session.server);
    }
    Ok(())
}
