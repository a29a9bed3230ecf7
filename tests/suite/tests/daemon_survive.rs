//! Live TCP flows through what happens to a site of real daemons: Show 3 of issue 4, small. A bench does the same with 10,000 flows.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::audit::Load;
use bascule_lab::forward::{ENCAPSULATION, Hook, OTHER, SHORT, survive_daemons};

/// Flows whose way leads by a node that dies: BFD misses it after 1.5 s (5 x 300 ms), its witnesses are silent for 0.2 s, and the next
/// retransmission after that finds its way, the one 3.0 s after the first packet (RTO from 0.2 s, doubled each time, RFC 6298). With a
/// flow's own pace of 0.4 s that is 3.4 s; the rest is for a machine that is busy. The checks alone would need 3 s more than BFD's part.
const STALL: Duration = Duration::from_millis(4800);

#[test]
fn flows_survive_a_move_a_freeze_a_drain_a_boot_and_the_death_of_others() -> Result<()> {
    // The site has its own address.
    let target = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let load = Load { target, paced: 200, every: Duration::from_millis(400), full_speed: 2, window: 64 };
    let survival = survive_daemons(Hook::Xdp, load, SHORT)?;
    let why = || format!("{}\n{:?}\n{}", survival.audit.describe(&survival.dead), survival.steps, survival.counted);
    ensure!(survival.audit.broken(&survival.dead).is_empty(), "{}", why());
    ensure!(survival.disorder == 0, "{}", why());
    for step in &survival.steps {
        ensure!(step.settled, "{}: a flow does not get on\n{}", step.name, why());
        ensure!(step.fresh == step.fresh_wanted, "{}: new flows\n{}", step.name, why());
    }
    let (stall, late) = (survival.audit.longest_stall(&survival.dead), survival.audit.late);
    println!("longest stall {stall:?}, client late by {late:?}");
    ensure!(stall <= STALL, "a flow stood still for {stall:?} (client late by {late:?})\n{}", why());
    ensure!(survival.class(OTHER).bytes == 0, "nodes told each other something: {:?}", survival.traffic);
    // It was put to the test: packets went from node to node, flows lived on every backend of the start.
    ensure!(survival.class(ENCAPSULATION).packets > 0, "{:?}", survival.traffic);
    ensure!((0..6).all(|server| survival.audit.on(server) > 0), "{}", why());
    Ok(())
}
