//! The reference model of the forwarding plane agrees with every fixture: text and model were written apart.

use bascule_ebpf_common::forward::PacketDrop;
use bascule_suite::forward::subject::{self, Model, Subject};
use bascule_suite::forward::text::read_all;

/// Reasons that no packet can be dropped for in this kernel and this state of the programs, each with why.
const NOT_REACHED: [(PacketDrop, &str); 1] = [(PacketDrop::FlowTable, "an LRU table makes room and does not refuse")];

#[test]
fn every_reason_of_a_drop_is_reached_by_a_fixture_that_counts_it() {
    let (base, fixtures) = read_all(&subject::folder()).unwrap();
    let reached: Vec<PacketDrop> = fixtures
        .iter()
        .filter_map(|fixture| {
            let world = subject::world(&mut Model, &base, fixture).unwrap();
            fixture.dropped(&world).unwrap()
        })
        .collect();
    for reason in PacketDrop::ALL {
        let excused = NOT_REACHED.iter().any(|(r, _)| *r == reason);
        assert!(excused != reached.contains(&reason), "{}: no fixture, or one that is said not to be", reason.name());
    }
}

#[test]
fn model_agrees_with_every_fixture() {
    let (base, fixtures) = read_all(&subject::folder()).unwrap();
    let mut wrong = 0;
    for fixture in fixtures.iter().filter(|fixture| Model.shows(fixture)) {
        match subject::run(&mut Model, &base, fixture) {
            Ok(faults) if faults.is_empty() => {}
            Ok(faults) => {
                wrong += 1;
                println!("{} ({}):\n  {}", fixture.name, fixture.why, faults.join("\n  "));
            }
            Err(e) => {
                wrong += 1;
                println!("{}: {e:#}", fixture.name);
            }
        }
    }
    println!("{} fixtures, {wrong} wrong", fixtures.len());
    assert!(fixtures.len() >= 150 && wrong == 0, "{wrong} of {}", fixtures.len());
}
