//! "Fragmentation needed" and "packet too big" reach the endpoint that has the flow, at whichever node they arrive: home, previous and
//! older rows of both tables, nodes that have not seen the last change, IPv4 and IPv6, TCP and UDP.

use bascule_suite::fence::Ground;
use bascule_suite::forward::run::{Arena, Hook, Programs};
use bascule_suite::forward::subject::{self, Model, Subject};
use bascule_suite::forward::text::{Side, read_all};
use bascule_suite::forward::walk::{Case, NODES, by_model, cases, walk};

/// Every case at every node.
fn all() -> impl Iterator<Item = (Case, u16)> {
    cases().into_iter().flat_map(|case| (1..=NODES).map(move |at| (case, at))).filter(|(case, at)| case.reaches(*at))
}

#[test]
fn too_big_reaches_the_owning_endpoint_from_any_node() {
    let (base, _) = read_all(&subject::folder()).unwrap();
    let model = Model;
    let (now, ground) = (model.now(), model.ground());
    let (mut run, mut longest) = (0, 0);
    for (case, at) in all() {
        let steps = walk(case, at, &base, now, &ground, by_model).unwrap_or_else(|e| panic!("{case:?} at {at}: {e:#}"));
        run += 1;
        longest = longest.max(steps);
    }
    println!("{run} errors through the model, the longest way saw {longest} nodes");
    assert!(run > 500 && longest >= 4);
}

#[test]
fn too_big_reaches_the_owning_endpoint_through_the_programs() {
    let (run, longest) = Ground::run(|ground| {
        let arena = Arena::new(ground)?;
        let mut subjects = [Programs::load(ground, &arena, Hook::Xdp)?, Programs::load(ground, &arena, Hook::Tc)?];
        let (base, _) = read_all(&subject::folder())?;
        let (mut run, mut longest) = (0, 0);
        // The local table's changes are the same at every place of the row over nodes: as many as those.
        for (case, at) in all().filter(|(case, _)| case.local_changes == case.opened) {
            for subject in &mut subjects {
                let (now, ground) = (subject.now(), subject.ground());
                let steps = walk(case, at, &base, now, &ground, |world, device, packet| {
                    subject.fill_maps(&world.state)?;
                    subject.one(Side::In, device, packet)
                })
                .map_err(|e| e.context(format!("{} {case:?} at {at}", subject.name())))?;
                run += 1;
                longest = longest.max(steps);
            }
        }
        Ok((run, longest))
    })
    .unwrap();
    println!("{run} errors through the programs, the longest way saw {longest} nodes");
    assert!(run > 300 && longest >= 4);
}
