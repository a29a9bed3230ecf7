//! The reference model of the forwarding plane agrees with every fixture: text and model were written apart.

use bascule_suite::forward::subject::{self, Model};
use bascule_suite::forward::text::read_all;

#[test]
fn model_agrees_with_every_fixture() {
    let (base, fixtures) = read_all(&subject::folder()).unwrap();
    let mut wrong = 0;
    for fixture in &fixtures {
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
