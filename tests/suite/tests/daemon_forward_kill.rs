//! Daemons killed at any point of an upgrade while traffic runs through their programs: nothing is lost, nothing is left.

use anyhow::{Result, ensure};
use bascule_lab::forward::{Fleet, KillPlan, kills};

/// The drill `forward-kills` has 200.
const KILLS: u32 = 10;

#[test]
fn ten_kills_during_upgrades_lose_no_packet_and_leave_no_link() -> Result<()> {
    let mut fleet = Fleet::new("fkill", 2, "auto")?;
    let plan = KillPlan { seed: 1, kills: KILLS, traffic: (6, 20), fresh: 4 };
    let report = kills(&mut fleet, plan, |line| println!("{line}"))?;
    println!("{report:#?}");
    ensure!(report.links.is_empty(), "{:?}", report.links);
    ensure!(report.leftovers.is_empty(), "{:?}", report.leftovers);
    let toll = report.toll;
    ensure!(toll.broken.is_empty(), "{:?}", toll.broken);
    ensure!(
        toll.datagrams.0 > 1000 && toll.datagrams.1 == 0,
        "{} of {} datagrams lost",
        toll.datagrams.1,
        toll.datagrams.0
    );
    ensure!(toll.echoed > 1000, "{} records", toll.echoed);
    ensure!(report.refused.0 == 0, "{} of {} new connections did not open", report.refused.0, report.refused.1);
    Ok(())
}
