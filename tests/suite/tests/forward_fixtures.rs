//! Every fixture of the forwarding plane, run through the kernel: the XDP program, and the same through the tc twin.
//!
//! `BASCULE_FIXTURE=PART` runs those whose name contains PART.

use bascule_suite::fence::Ground;
use bascule_suite::forward::run::{Arena, Hook, Programs};
use bascule_suite::forward::subject::{self, Subject};
use bascule_suite::forward::text::read_all;

fn all(hook: Hook) {
    let (run, wrong) = Ground::run(move |ground| {
        let arena = Arena::new(ground)?;
        let mut programs = Programs::load(ground, &arena, hook)?;
        let (base, fixtures) = read_all(&subject::folder())?;
        let part = std::env::var("BASCULE_FIXTURE").unwrap_or_default();
        let (mut run, mut wrong) = (0, 0);
        for fixture in fixtures.iter().filter(|f| f.name.contains(&part)) {
            if !programs.shows(fixture) {
                continue;
            }
            run += 1;
            let faults = subject::run(&mut programs, &base, fixture).unwrap_or_else(|e| vec![format!("{e:#}")]);
            if !faults.is_empty() {
                wrong += 1;
                println!("{} {} ({}):\n  {}", programs.name(), fixture.name, fixture.why, faults.join("\n  "));
            }
        }
        Ok((run, wrong))
    })
    .expect("the programs load and run");
    println!("{hook:?}: {run} fixtures, {wrong} wrong");
    assert!(run > 0 && wrong == 0, "{hook:?}: {wrong} of {run}");
}

#[test]
fn xdp_agrees_with_every_fixture() {
    all(Hook::Xdp);
}

#[test]
fn tc_agrees_with_every_fixture() {
    all(Hook::Tc);
}
