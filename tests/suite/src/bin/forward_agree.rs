//! The reference model of the forwarding plane beside the programs, at length: `--tuples N` random packets, `--frames N` frames of
//! no VIP, `--forged N` forged packets, `--seed N`; with `--json FILE` the result as rows.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bascule_lab::Report;
use bascule_suite::fence::Ground;
use bascule_suite::forward::random::{agree, forged, neutral, neutral_kinds};
use bascule_suite::forward::run::{Arena, Hook, Programs};
use bascule_suite::forward::subject;
use bascule_suite::forward::text::read_all;

#[derive(Clone, Default)]
struct Args {
    tuples: u64,
    frames: u64,
    forged: u64,
    seed: u64,
    json: Option<String>,
}

fn args() -> Result<Args> {
    let mut args = Args { seed: 1, ..Args::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--tuples" => args.tuples = value.parse()?,
            "--frames" => args.frames = value.parse()?,
            "--forged" => args.forged = value.parse()?,
            "--seed" => args.seed = value.parse()?,
            "--json" => args.json = Some(value),
            other => bail!("no option {other}: there are --tuples, --frames, --forged, --seed, --json"),
        }
    }
    Ok(args)
}

fn main() -> Result<ExitCode> {
    let args = args()?;
    let wanted = args.clone();
    let (differ, passed, dropped) = Ground::run(move |ground| {
        let arena = Arena::new(ground)?;
        let mut subjects = [Programs::load(ground, &arena, Hook::Xdp)?, Programs::load(ground, &arena, Hook::Tc)?];
        let (base, fixtures) = read_all(&subject::folder())?;
        let differ = agree(&mut subjects, &base, wanted.seed, wanted.tuples)?;
        let (world, kinds) = neutral_kinds(&mut subjects, &base, &fixtures)?;
        let passed = neutral(&mut subjects, &world, &kinds, wanted.seed, wanted.frames)?;
        let dropped = forged(&mut subjects, &world, wanted.seed, wanted.forged)?;
        Ok((differ, passed, dropped))
    })?;
    for example in differ.examples.iter().take(20) {
        println!("{example}");
    }
    println!("what the model said: {:?}", differ.moved);
    println!("forged: {dropped:?}");
    let mut report = Report::new();
    let runs = usize::try_from(differ.packets)?;
    let [model, neutral, forged] = ["model", "neutral", "forged"].map(|scene| format!("{scene}, seed {}", args.seed));
    if args.tuples > 0 {
        report.note(&model, "random packets, each through XDP and tc", number(differ.packets), "packets", runs);
        report.at_most(&model, "disagreements of model and programs", number(differ.wrong), "packets", 0.0, runs);
        report.at_most(&model, "worlds whose tables differ", number(differ.tables), "worlds", 0.0, runs);
    }
    // A frame that did not pass, or a forged packet that did, ended the run above.
    if args.frames > 0 {
        report.at_least(&neutral, "frames passed byte for byte", number(passed), "frames", number(args.frames), 1);
    }
    if args.forged > 0 {
        let all = number(dropped.values().sum());
        report.at_least(&forged, "dropped and counted by reason", all, "packets", number(args.forged), 1);
    }
    print!("{}", report.table());
    if let Some(file) = &args.json {
        report.write(std::path::Path::new(file))?;
    }
    Ok(report.exit_code())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn number(n: u64) -> f64 {
    n as f64
}
