//! Daemons killed at any point of an upgrade while traffic runs through their programs: nothing is lost, nothing is left.

use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::forward::{Fleet, KillPlan, kills, unless_void};

/// The drill `forward-kills` has 200.
const KILLS: u32 = 10;

#[test]
fn ten_kills_during_upgrades_lose_no_packet_and_leave_no_link() -> Result<()> {
    let (_, toll) = unless_void(|| {
        let mut fleet = Fleet::new("fkill", 2, "auto")?;
        // How long it may take (F6: 2 s) is the drill's: this machine may be busy, and late.
        let plan =
            KillPlan { seed: 1, kills: KILLS, traffic: (6, 20), fresh: 4, adoptions: 2, allowance: Duration::MAX };
        let report = kills(&mut fleet, plan, |line| println!("{line}"))?;
        println!("{report:#?}");
        ensure!(report.links.is_empty(), "{:?}", report.links);
        ensure!(report.adopt_ms.len() == 2, "{:?}", report.adopt_ms);
        ensure!(report.leftovers.is_empty(), "{:?}", report.leftovers);
        ensure!(report.refused.0 == 0, "{} of {} new connections did not open", report.refused.0, report.refused.1);
        Ok(((), report.toll))
    })?;
    ensure!(toll.broken.is_empty(), "{:?}", toll.broken);
    ensure!(toll.datagrams.0 > 1000 && toll.datagrams.1 == 0, "{toll:?}");
    ensure!(toll.echoed > 1000, "{} records", toll.echoed);
    Ok(())
}

/// What the audit must be able to see: a plane that is taken off its devices loses datagrams, and pins that stay are named.
#[test]
fn a_plane_that_is_taken_away_is_seen() -> Result<()> {
    let mut fleet = Fleet::new("fplant", 2, "tc")?;
    fleet.start_all(16_384)?;
    let traffic = fleet.traffic(6, 4)?;
    fleet.daemon(1).process.sigkill()?;
    let program = bascule_lab::bascule::binary()?;
    fleet.crew.node(1).netns.tool(&program.display().to_string(), &["clean"])?;
    ensure!(fleet.links(1)?.is_empty());
    let opened = fleet.fresh(16)?;
    let toll = traffic.finish()?;
    ensure!(toll.datagrams.1 > 0, "{toll:?}");
    ensure!(opened < 16, "half of the new connections come by the node without programs: {opened}");
    Ok(())
}
