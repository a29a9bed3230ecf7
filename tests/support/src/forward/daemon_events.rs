//! What happens to a site of daemons: Show 3 of issue 4 as the product does it.

use super::survive::{Event, Survival, run};
use super::{DaemonSite, Hook};
use crate::audit::Load;
use crate::{LabError, Result};

/// Nodes a router may know: whoever is not the home of a flow finds it.
const EVERY_NODE: [u16; 6] = [1, 2, 3, 11, 12, 13];

/// Runs `events` under `load` (its target is set here) on a site of real daemons.
///
/// # Errors
/// When the site cannot be built, not every flow can be opened at the start, or an event cannot be made to happen.
pub fn survive_daemons(hook: Hook, load: Load, events: &[Event<DaemonSite>]) -> Result<Survival> {
    run(&mut DaemonSite::new("daemons", hook)?, load, events)
}

type Outcome = Result<Vec<u32>>;

fn nobody(done: Result<()>) -> Outcome {
    done.map(|()| Vec::new())
}

/// Everything. The router sends by ARP at first; node 1 owns.
pub const ALL: &[Event<DaemonSite>] = &[
    ("the VIP moves to another owner", |site| nobody(site.hand_over(2))),
    ("its owner freezes", |site| {
        site.freeze(2, true);
        site.wait_owner(&[1, 3])?;
        nobody(site.wait_agreement())
    }),
    ("the frozen one goes on", |site| {
        site.freeze(2, false);
        nobody(site.wait_agreement())
    }),
    ("the owner dies", owner_dies),
    ("the router spreads all flows anew", |site| {
        let living: Vec<u16> = site.living();
        nobody(site.spread(&living))
    }),
    ("the dead balancer boots, all flows are spread anew", |site| {
        let dead = site.dead().first().copied().ok_or_else(|| LabError::answer("nodes", "none is dead"))?;
        site.boot(dead)?;
        nobody(site.spread(&[1, 2, 3]))
    }),
    ("a balancer dies, all flows are spread anew", |site| {
        site.kill(3)?;
        nobody(site.spread(&[1, 2]))
    }),
    ("it boots, all flows are spread anew", |site| {
        site.boot(3)?;
        nobody(site.spread(&[1, 2, 3]))
    }),
    ("a backend drains", |site| {
        site.drain(0)?;
        nobody(site.reload())
    }),
    ("a backend is added", |site| {
        site.add_pod(12)?;
        nobody(site.reload())
    }),
    ("a backend is replaced", |site| replace(site, 4)),
    ("its successor is replaced within the drain time", |site| {
        let newest = site.pods_of(13).last().copied().unwrap_or_default();
        replace(site, newest)
    }),
    ("all flows are spread over every node", |site| nobody(site.spread(&EVERY_NODE))),
    ("a balancer boots that missed every change", |site| {
        site.kill(2)?;
        site.spread(&[1, 3])?;
        site.boot(2)?;
        nobody(site.spread(&[2]))
    }),
    ("the daemon of a node with backends is killed and starts again", |site| nobody(site.restart(12))),
    ("the daemon of a node with backends freezes", |site| {
        site.freeze(11, true);
        nobody(site.wait_agreement())
    }),
    ("it goes on", |site| {
        site.freeze(11, false);
        nobody(site.wait_agreement())
    }),
    ("a node with backends dies", |site| {
        site.spread(&[1, 2, 3])?;
        home_dies(site)
    }),
    ("it boots, all flows are spread over every node", |site| {
        site.boot(13)?;
        nobody(site.spread(&EVERY_NODE))
    }),
];

/// A choice of them for a test of a minute.
pub const SHORT: &[Event<DaemonSite>] = &[
    ("the VIP moves to another owner", |site| nobody(site.hand_over(2))),
    ("its owner freezes", |site| {
        site.freeze(2, true);
        nobody(site.wait_owner(&[1, 3]).map(drop))
    }),
    ("the frozen one goes on, all flows are spread over every node", |site| {
        site.freeze(2, false);
        site.wait_agreement()?;
        nobody(site.spread(&EVERY_NODE))
    }),
    ("a backend drains, another one is replaced", |site| {
        site.drain(0)?;
        replace(site, 4)
    }),
    ("a balancer dies and boots, and all flows go to it", |site| {
        site.kill(3)?;
        site.spread(&[1, 2])?;
        site.boot(3)?;
        nobody(site.spread(&[3]))
    }),
    ("a node with backends dies", home_dies),
];

fn owner_dies(site: &mut DaemonSite) -> Outcome {
    let owner = site.wait_owner(&[1, 2, 3])?;
    site.kill(owner)?;
    let others: Vec<u16> = [1, 2, 3].into_iter().filter(|id| *id != owner).collect();
    site.wait_owner(&others)?;
    nobody(site.wait_agreement())
}

fn home_dies(site: &mut DaemonSite) -> Outcome {
    let lost = site.pods_of(13);
    site.kill(13)?;
    site.wait_agreement()?;
    Ok(lost)
}

fn replace(site: &mut DaemonSite, number: u32) -> Outcome {
    let home = site.home_of(number)?;
    site.add_pod(home)?;
    site.remove(number)?;
    nobody(site.reload())
}
