//! The checker is worth what it finds: each planted bug in a class that shows it. All classes, 1,000 seeds: `mutations`, a drill.

use bascule_sim::campaign::find;
use bascule_sim::mutant::Mutant;
use bascule_sim::scenario::Class;

/// In which class a planted bug shows soonest.
const fn stage(mutant: Mutant) -> Option<Class> {
    Some(match mutant {
        // Its storms of adverts make every other seed of a partition slow to run: wherever it shows first. Rarely, since the kernel
        // settles ties too.
        Mutant::TieBothWin => return None,
        Mutant::WindowLong => Class::Quiet,
        Mutant::ExtendsWhenClosed => Class::Pause,
        Mutant::TermIgnored | Mutant::HandoverUnmuted | Mutant::OpensLate => Class::Move,
        Mutant::ExpiresBeforeDrain | Mutant::StaleNow | Mutant::LateUnnoticed => Class::Stall,
        Mutant::NotDeposed => Class::Gates,
        Mutant::ClosesLate => Class::Stop,
        Mutant::NoSkew | Mutant::NoLifetime => Class::Kill,
        Mutant::NoYield => Class::OneWay,
    })
}

#[test]
fn every_planted_bug_is_found() {
    for mutant in Mutant::ALL {
        let stage = stage(mutant);
        let (took, failure) = find(mutant, stage, 0, if stage.is_some() { 400 } else { 1000 });
        let failure = failure.unwrap_or_else(|| panic!("{mutant}: not found in {took} seeds"));
        println!("{mutant}: {took} seeds, {}", failure.violation);
    }
}
