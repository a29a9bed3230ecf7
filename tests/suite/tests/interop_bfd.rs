//! BFD with FRR's bfdd and with BIRD: intervals as both sides see them, changes under a live session, multihop, and each way to go down.
//!
//! The peer's own command line is the judge; ours must agree with it. The whole matrix is the drill `bfd-matrix`.

use anyhow::{Result, ensure};
use bascule_lab::Stamp;
use bascule_lab::router::bfd_pair::{BfdPair, FAST, OURS, Place, SLOW, THEIRS, timers};
use bascule_lab::router::{BfdState, BfdTimers, Family, Kind};
use bascule_suite::cluster::SOON;

/// Three configurations of ours, one after the other, under one session that never goes down; then the daemon stops.
fn intervals_and_changes(name: &str, kind: Kind) -> Result<()> {
    let mut scene = BfdPair::start(name, kind, Place::Link(Family::Ipv4), SLOW, FAST)?;
    scene.agree(SLOW, FAST)?;
    let discriminator = scene.session()?["localDiscriminator"].clone();
    // Faster both ways, then slower one way with another multiplier, then back: each direction of RFC 5880 section 6.8.3.
    for ours in [FAST, OURS, SLOW, FAST] {
        scene.reconfigure(ours)?;
        scene.agree(ours, FAST)?;
    }
    let session = scene.session()?;
    ensure!(session["failures"] == 0 && session["localDiscriminator"] == discriminator, "{session}");
    let ups = scene.bascule.metric(&format!("bascule_bfd_transitions_total{{peer=\"{}\",to=\"up\"}}", scene.far));
    ensure!(ups == Some(1.0), "{ups:?}");
    let table = scene.bascule.ctl(&["bfd"])?;
    ensure!(table.contains(&scene.far.to_string()) && table.contains("150 ms"), "{table}");

    // The peer is told, and does not have to find out: its detection time is made far longer than the wait.
    scene.reconfigure(timers(1000, 50, 60))?;
    scene.agree(timers(1000, 50, 60), FAST)?;
    let stopped = scene.bascule.process.sigterm()?;
    scene.other.router().wait_bfd(scene.near, SOON, &|s| s.state != BfdState::Up)?;
    let ended = scene.bascule.process.wait(SOON)?;
    ensure!(ended.success(), "{ended}\n{}", scene.bascule.process.tail());
    println!("{}: told and gone {:?} after SIGTERM", kind.name(), Stamp::now().since(stopped));
    if kind == Kind::Frr {
        let seen = scene.other.sessions()?;
        ensure!(seen.contains("administratively down"), "{seen}");
    }
    Ok(())
}

/// A cut link, a killed peer, and back each time.
fn ways_down(name: &str, kind: Kind) -> Result<()> {
    let mut scene = BfdPair::start(name, kind, Place::Link(Family::Ipv4), OURS, THEIRS)?;
    scene.agree(OURS, THEIRS)?;

    let cut = scene.net.cut(0, &[0])?;
    let session = scene.wait("our session to be down", |s| s["state"] == "down")?;
    // Until now: the wait looks every few milliseconds, and nft takes its time. The bench measures.
    println!("{}: cut to Down {:?} (1500 ms and a poll of /bfd)", kind.name(), Stamp::now().since(cut.in_force));
    ensure!(session["diag"] == "detection time expired (1)" && session["failures"] == 1, "{session}");
    scene.other.router().wait_bfd(scene.near, SOON, &|s| s.state == BfdState::Down)?;
    ensure!(cut.dropped()? > 0, "the cut dropped nothing");
    drop(cut);
    scene.agree(OURS, THEIRS)?;

    let killed = scene.other.kill()?;
    scene.wait("our session to be down", |s| s["state"] == "down")?;
    println!("{}: kill to Down {:?} (1500 ms)", kind.name(), Stamp::now().since(killed));
    ensure!(scene.session()?["failures"] == 2, "{:?}", scene.session());
    let lateness = scene.bascule.metric("bascule_bfd_detection_lateness_seconds_count");
    ensure!(lateness == Some(2.0), "{lateness:?}");
    let (_, events) = scene.bascule.get("/events")?;
    ensure!(events.matches("\"event\":\"bfd\"").count() >= 4, "{events}");
    Ok(())
}

fn negotiated(name: &str, kind: Kind, place: Place, ours: BfdTimers, theirs: BfdTimers) -> Result<()> {
    Ok(BfdPair::start(name, kind, place, ours, theirs)?.hold(ours, theirs)?)
}

#[test]
fn frr_follows_every_change_of_intervals_and_hears_the_stop() -> Result<()> {
    intervals_and_changes("bfdchangefrr", Kind::Frr)
}

#[test]
fn bird_follows_every_change_of_intervals_and_hears_the_stop() -> Result<()> {
    intervals_and_changes("bfdchangebird", Kind::Bird)
}

#[test]
fn frr_cut_and_killed_is_down_within_the_detection_time_and_comes_back() -> Result<()> {
    ways_down("bfddownfrr", Kind::Frr)
}

#[test]
fn bird_cut_and_killed_is_down_within_the_detection_time_and_comes_back() -> Result<()> {
    ways_down("bfddownbird", Kind::Bird)
}

#[test]
fn frr_behind_a_router_is_a_multihop_session() -> Result<()> {
    negotiated("bfdfarfrr", Kind::Frr, Place::Behind(Family::Ipv4), FAST, SLOW)
}

#[test]
fn bird_behind_a_router_is_a_multihop_session() -> Result<()> {
    negotiated("bfdfarbird", Kind::Bird, Place::Behind(Family::Ipv6), OURS, THEIRS)
}

#[test]
fn frr_over_ipv6() -> Result<()> {
    negotiated("bfdsixfrr", Kind::Frr, Place::Link(Family::Ipv6), OURS, THEIRS)
}
