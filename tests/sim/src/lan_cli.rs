//! The verbs of the LAN: nodes of one site.

use anyhow::Result;
use bascule_sim::campaign::{find, run_seed, run_seeds};
use bascule_sim::mutant::Mutant;
use bascule_sim::scenario::Class;

use crate::verbs::{Hunt, Rows, broken_row, judge, report, row};

const SIM: &str = "";

pub(crate) fn class(name: &str) -> Result<Class, String> {
    Class::parse(name).ok_or_else(|| format!("classes: {}", Class::ALL.map(Class::as_str).join(", ")))
}

fn name(seed: u64, class: Class) -> String {
    format!("seed {seed} ({})", class.as_str())
}

pub(crate) fn replay(seed: u64, class: Option<Class>, mutant: Option<Mutant>) -> bool {
    let (class, outcome) = run_seed(seed, class, mutant, true);
    judge(&name(seed, class), outcome.violation.as_ref(), outcome.events)
}

pub(crate) fn run(
    seeds: std::ops::Range<u64>,
    class: Option<Class>,
    mutant: Option<Mutant>,
    file: &Rows,
) -> Result<bool> {
    let campaign = run_seeds(seeds.clone(), class, mutant, |failure| {
        let run = name(failure.seed, failure.class);
        report(SIM, &run, failure.seed, &failure.violation, class.map(Class::as_str), mutant);
        false
    });
    println!(
        "{:10} {:>7} {:>7} {:>12} {:>14} {:>12}",
        "class", "seeds", "broken", "events", "two owners ms", "no owner ms"
    );
    let mut rows = Vec::new();
    for (class, sum) in &campaign.classes {
        let (class, dual, gap) = (class.as_str(), sum.dual as f64 / 1e6, sum.gap as f64 / 1e6);
        println!("{class:10} {:>7} {:>7} {:>12} {dual:>14.3} {gap:>12.1}", sum.seeds, sum.broken, sum.events);
        let scene = format!("{class} {}..{}", seeds.start, seeds.end);
        rows.push(broken_row(&scene, sum.broken, sum.seeds));
        rows.push(row(&scene, "longest time with two owners", dual, "ms", None, true, sum.seeds));
    }
    file.write(rows)?;
    let total = campaign.total();
    println!("{} seeds, {} events, {} broken", total.seeds, total.events, total.broken);
    Ok(total.broken == 0)
}

pub(crate) fn mutations(hunt: &Hunt) -> Result<bool> {
    hunt.all(SIM, &Mutant::ALL, &format!("{:10} broken invariant", "class"), |mutant, seeds| {
        let (took, failure) = find(mutant, None, 0, seeds);
        (took, failure.map(|f| format!("{:10} {}", f.class.as_str(), f.violation)))
    })
}
