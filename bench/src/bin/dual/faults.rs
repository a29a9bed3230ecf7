//! One run: a fault, the successor, and every frame by which somebody else spoke for the VIPs after its announcement.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bascule_bench::trio::{GROUP, Node, Trio};
use bascule_lab::{Direction, Dropper, Filter, Frame, Mac, Stamp, sleep_until, wait_for};

use crate::seed::Seed;

/// Default interval; stalls use a shorter one, so that some of them reach past the fence.
const INTERVAL: Duration = Duration::from_millis(100);
const STALL_INTERVAL: Duration = Duration::from_millis(30);
/// A successor announces itself within three intervals and a skew; this is far more.
const TAKE_OVER: Duration = Duration::from_secs(3);
/// How long frames are counted after the last thing that was done.
const WATCH: Duration = Duration::from_millis(800);

/// What is done to the owner or to the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Kill,
    Stop,
    Freeze,
    Stall,
    Term,
    Move,
    LinkCut,
    /// The owner turns sick, and is stopped before a healthy node takes over.
    SickStop,
    OneWay,
    Loss,
    Rejoin,
    /// Not counted against the bound: it must show what the fence is for.
    StopUnfenced,
}

/// Every fault that is bound by issue 2, "Dual ownership".
pub(crate) const BOUND: [Fault; 11] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Freeze,
    Fault::Stall,
    Fault::Term,
    Fault::Move,
    Fault::LinkCut,
    Fault::SickStop,
    Fault::OneWay,
    Fault::Loss,
    Fault::Rejoin,
];

impl Fault {
    /// As it stands in the table.
    pub(crate) fn scene(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Stop => "SIGSTOP, SIGCONT",
            Self::Freeze => "freeze, thaw",
            Self::Stall => "stall 5-200 ms",
            Self::Term => "SIGTERM",
            Self::Move => "planned move",
            Self::LinkCut => "link cut",
            Self::SickStop => "sick and SIGSTOP, SIGCONT",
            Self::OneWay => "adverts lost one way",
            Self::Loss => "random loss of adverts",
            Self::Rejoin => "two LANs rejoined",
            Self::StopUnfenced => "SIGSTOP with fence: off",
        }
    }

    /// Milliseconds that two owners may last; 0 means not one frame.
    pub(crate) fn bound_ms(self) -> f64 {
        match self {
            // Issue 2, Shows 4 (b): at most 3 intervals; (c): at most 2 intervals after the first advert is delivered again.
            Self::OneWay => 300.0,
            Self::Loss | Self::Rejoin => 200.0,
            _ => 0.0,
        }
    }

    fn interval(self) -> Duration {
        if self == Self::Stall { STALL_INTERVAL } else { INTERVAL }
    }
}

/// What one run showed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcome {
    /// Claims by anybody but the owner, counted from the successor's first announcement.
    pub(crate) frames: usize,
    /// How long after that announcement (or the first advert delivered again) the last of them came.
    pub(crate) last_ms: f64,
    /// Those of them that went to a group address while the owner was one: it saw them too.
    pub(crate) told: usize,
    /// How many of these, and of the adverts that deposed it, the owner's `rival_claims_total` does not have.
    pub(crate) uncounted: f64,
    /// Somebody else became owner.
    pub(crate) moved: bool,
    /// How late the prober was, at most.
    pub(crate) late: Duration,
}

/// Run one fault.
pub(crate) fn run(fault: Fault, seed: &mut Seed) -> Result<Outcome> {
    let fence = if fault == Fault::StopUnfenced { "off" } else { "required" };
    let mut cluster = Trio::start(fault.interval(), fence)?;
    // The fault meets the advert timer in any phase.
    sleep_until(Stamp::now() + seed.between(0, 200));
    let begun = Stamp::now();
    let outcome = match fault {
        Fault::OneWay => one_way(&mut cluster, begun),
        Fault::Loss => loss(&cluster, seed),
        Fault::Rejoin => rejoin(&mut cluster, seed),
        _ => owner_fault(fault, &mut cluster, seed, begun),
    };
    // What the daemons said is the only witness of a run that went wrong: the lab goes away with it.
    let mut outcome = outcome.with_context(|| {
        let said = |node: &Node| format!("\n--- {} said:\n{}", node.name, node.daemon.process.tail());
        cluster.nodes.iter().map(said).collect::<String>()
    })?;
    let lost = cluster.sniffer.lost();
    ensure!(lost == 0, "the sniffer lost {lost} frames");
    outcome.late = cluster.lateness(begun, Stamp::now());
    Ok(outcome)
}

/// Faults of the owner alone: after the successor's announcement not one claim by anybody else.
fn owner_fault(fault: Fault, cluster: &mut Trio, seed: &mut Seed, begun: Stamp) -> Result<Outcome> {
    let mut guard: Option<Dropper> = None;
    match fault {
        Fault::Kill => drop(cluster.nodes[0].daemon.process.sigkill()?),
        Fault::Stop | Fault::StopUnfenced => drop(cluster.nodes[0].daemon.process.stop()),
        Fault::Freeze => drop(cluster.nodes[0].daemon.process.freeze(true)?),
        Fault::Stall => drop(cluster.nodes[0].daemon.process.stall(seed.between(5, 200))),
        Fault::Term => drop(cluster.nodes[0].daemon.process.sigterm()?),
        Fault::Move => drop(cluster.nodes[0].daemon.ctl(&["move", GROUP, "--to", "n2"])?),
        Fault::SickStop => sick_stop(cluster, begun)?,
        Fault::LinkCut if seed.coin() => cluster.nodes[0].port.set_up(false)?,
        _ => guard = Some(cluster.nodes[0].port.cut(Direction::Both, Filter::All)?),
    }
    let successor = first_successor(cluster, begun, fault != Fault::Stall)?;
    // A stopped owner comes back at any moment after its successor has taken over.
    match fault {
        Fault::Stop | Fault::StopUnfenced | Fault::SickStop => {
            sleep_until(Stamp::now() + seed.between(0, 2000));
            cluster.nodes[0].daemon.process.cont();
        }
        Fault::Freeze => {
            sleep_until(Stamp::now() + seed.between(0, 2000));
            cluster.nodes[0].daemon.process.freeze(false)?;
        }
        _ => {}
    }
    sleep_until(Stamp::now() + WATCH);
    if let Some(guard) = &guard {
        ensure!(guard.dropped()? > 0, "the cut dropped nothing");
    }
    let Some((at, mac)) = successor else { return Ok(Outcome::default()) };
    Ok(counted(cluster, mac, at, at))
}

/// The owner says that it is sick, and stands still from then on: at a healthy Backup's take-over, which waits for its skew only.
fn sick_stop(cluster: &mut Trio, begun: Stamp) -> Result<()> {
    cluster.sicken(0)?;
    let sick = || {
        let low =
            |f: &Frame| matches!(f.kind, bascule_lab::Kind::Vrrp { priority, .. } if (1..100).contains(&priority));
        cluster.sniffer.frames(begun, low).into_iter().next()
    };
    wait_for(TAKE_OVER, "an advert of the sick band", sick)?;
    let stopped = cluster.nodes[0].daemon.process.stop();
    let (first, _) = first_successor(cluster, begun, true)?.context("a successor")?;
    ensure!(stopped < first, "the sick owner was stopped {:?} after its successor had announced", stopped.since(first));
    Ok(())
}

/// The owner's adverts are lost on their way out; it still hears the others, and must yield.
fn one_way(cluster: &mut Trio, begun: Stamp) -> Result<Outcome> {
    let guard = cluster.nodes[0].port.cut(Direction::FromNode, Filter::Vrrp)?;
    let successor = first_successor(cluster, begun, true)?;
    let (at, mac) = successor.context("a successor")?;
    sleep_until(at + WATCH * 2);
    ensure!(guard.dropped()? > 0, "no advert was lost");
    cluster.nodes[0].daemon.wait_role(TAKE_OVER, GROUP, "backup").context("the owner that nobody hears")?;
    Ok(counted(cluster, mac, at, at))
}

/// Adverts are lost at random on every port, then no longer.
fn loss(cluster: &Trio, seed: &mut Seed) -> Result<Outcome> {
    let chance = f64::from(seed.below(40) + 50) / 100.0;
    let begun = Stamp::now();
    let guards: Vec<Dropper> = (cluster.nodes.iter())
        .map(|node| node.port.lose(Direction::ToNode, Filter::Vrrp, chance))
        .collect::<Result<_, _>>()?;
    sleep_until(Stamp::now() + seed.between(1000, 3000));
    let dropped = guards.into_iter().map(Dropper::heal).sum::<Result<u64, _>>()?;
    ensure!(dropped > 0, "no advert was lost");
    let healed = Stamp::now();
    sleep_until(healed + WATCH * 2);
    let mut outcome = after_heal(cluster, healed)?;
    outcome.moved = cluster.vips.iter().any(|vip| cluster.sniffer.announcers(*vip, begun).len() > 1);
    Ok(outcome)
}

/// The cable between the LANs is cut: one Active on each. It is plugged again: one Active, and both saw the other.
fn rejoin(cluster: &mut Trio, seed: &mut Seed) -> Result<Outcome> {
    let cut = cluster.trunk.near.cut(Direction::Both, Filter::All)?;
    let begun = Stamp::now();
    cluster.nodes[1].daemon.wait_role(TAKE_OVER, GROUP, "active").context("the far LAN alone")?;
    sleep_until(Stamp::now() + seed.between(200, 1200));
    let roles: Vec<_> = cluster.nodes.iter().filter_map(|node| node.daemon.role(GROUP)).collect();
    ensure!(roles == ["active", "active", "backup"], "not one Active on each LAN: {roles:?}");
    ensure!(cut.heal()? > 0, "the cut dropped nothing");
    let healed = Stamp::now();
    sleep_until(healed + WATCH * 2);
    for node in &cluster.nodes[..2] {
        ensure!(node.rivals() > 0.0, "{} does not report the other owner", node.name);
    }
    let mut outcome = after_heal(cluster, healed)?;
    outcome.moved = cluster.vips.iter().all(|vip| cluster.sniffer.announcers(*vip, begun).len() > 1);
    Ok(outcome)
}

/// Counted from the first advert that is delivered after the fault has ended, against who owns in the end.
fn after_heal(cluster: &Trio, healed: Stamp) -> Result<Outcome> {
    let active = |node: &&Node| node.daemon.role(GROUP).as_deref() == Some("active");
    let owners: Vec<&Node> = cluster.nodes.iter().filter(active).collect();
    let [owner] = owners.as_slice() else { bail!("{} owners after the fault", owners.len()) };
    let vrrp = |frame: &Frame| matches!(frame.kind, bascule_lab::Kind::Vrrp { .. });
    let first = cluster.sniffer.carried(healed, vrrp).first().context("no advert after the fault")?.at;
    let mut outcome = counted(cluster, owner.mac(), first, first);
    if outcome.frames > 0 {
        // Two owners met: the winner says at once that it is the one.
        for vip in cluster.vips {
            let again = cluster.sniffer.first_announcement(vip, first, |mac| mac == owner.mac());
            let at = again.with_context(|| format!("the winner did not announce {vip} again"))?.at;
            outcome.last_ms = outcome.last_ms.max(at.since(first).as_secs_f64() * 1000.0);
        }
    }
    Ok(outcome)
}

/// The first announcement by anybody but n1 (of the address that came first), or nothing when `must` is false.
fn first_successor(cluster: &Trio, since: Stamp, must: bool) -> Result<Option<(Stamp, Mac)>> {
    let old = cluster.nodes[0].mac();
    let first = || {
        let of = |vip| cluster.sniffer.first_announcement(vip, since, |mac| mac != old);
        cluster.vips.iter().filter_map(|vip| of(*vip)).min_by_key(|frame| frame.at)
    };
    let patience = if must { TAKE_OVER } else { WATCH };
    match wait_for(patience, "a successor's announcement", first) {
        Ok(frame) => Ok(Some((frame.at, frame.src))),
        Err(error) if must => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Claims of both addresses by anybody but `owner` from `at` on; their last is timed from `zero`.
fn counted(cluster: &Trio, owner: Mac, at: Stamp, zero: Stamp) -> Outcome {
    let until = Stamp::now();
    let of = |vip| cluster.sniffer.dual_frames(vip, owner, at, until, None).claims;
    let claims: Vec<Frame> = cluster.vips.iter().flat_map(|vip| of(*vip)).collect();
    for claim in claims.iter().take(5) {
        eprintln!(
            "  claim by {:?} {:.1} ms after: {:?}",
            claim.src,
            claim.at.since(zero).as_secs_f64() * 1000.0,
            claim.kind
        );
    }
    // Frames to a group reach the owner too, and are counted there. A unicast answer goes to the asker's port alone: no switch shows
    // it to anybody else. A superior advert makes the owner a Backup, which has no ownership that could be rivalled: it counts as one
    // claim, what follows it does not.
    let deposed = superior_advert(cluster, owner, at);
    let while_owner = |claim: &&Frame| claim.dst.is_group() && deposed.is_none_or(|advert| claim.at < advert);
    let told = claims.iter().filter(while_owner).count() + usize::from(deposed.is_some() && !claims.is_empty());
    let reported = cluster.nodes.iter().find(|node| node.mac() == owner).map_or(0.0, Node::rivals);
    let last = claims.iter().map(|claim| claim.at).max().unwrap_or(zero);
    Outcome {
        frames: claims.len(),
        last_ms: last.since(zero).as_secs_f64() * 1000.0,
        moved: true,
        told,
        uncounted: (f64::from(u32::try_from(told).unwrap_or(u32::MAX)) - reported).max(0.0),
        ..Outcome::default()
    }
}

/// When an advert that outranks those of `owner` was first carried after `at`.
fn superior_advert(cluster: &Trio, owner: Mac, at: Stamp) -> Option<Stamp> {
    let priority = |frame: &Frame| match frame.kind {
        bascule_lab::Kind::Vrrp { priority, .. } => priority,
        _ => 0,
    };
    let adverts = cluster.sniffer.carried(at, |frame| priority(frame) > 0);
    let own = adverts.iter().filter(|frame| frame.src == owner).map(priority).max()?;
    adverts.iter().find(|frame| frame.src != owner && priority(frame) > own).map(|frame| frame.at)
}
