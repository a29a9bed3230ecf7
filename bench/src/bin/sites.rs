//! `sites`: every event between two sites of real daemons, again and again on sites that are built anew: median and maximum of each row. A site that has been
//! dead is held back for longer the next time, so that no run may inherit another one's past. With `--flows` only the shift of that many established flows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use bascule_bench::sites::{Measure, Scene, Seen, Stage, shift_many, table};
use bascule_lab::{Report, Samples};
use clap::Parser;

/// Two sites share services: anycast shift, endpoint killed, drain, site death, return, node dies, brownout.
#[derive(Parser)]
struct Args {
    /// Runs of all events.
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// Nodes of each site.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    nodes: u8,
    /// Only events whose name holds this text.
    #[arg(long)]
    scene: Option<String>,
    /// Instead of the events: so many established flows come in at the other site, and back.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "scene")]
    flows: Option<u32>,
    /// Writes the result object here.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// All values of one row.
struct Row {
    scene: Scene,
    measure: Measure,
    samples: Samples,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let begun = Report::new();
    let (mut rows, mut voids) = (Vec::new(), 0_u32);
    let whole = |rows: &[Row], voids: u32, runs: usize| {
        let mut report = begun.clone();
        rows.iter().for_each(|row| write(&mut report, row));
        report.note("sites", "events whose times are void", f64::from(voids), "events", runs);
        report
    };
    for run in 1..=args.runs {
        let shown = one(&args).with_context(|| format!("run {run}"))?;
        shown.iter().for_each(|seen| println!("{}", seen.story()));
        println!("run {run} of {}:\n{}", args.runs, table(&shown));
        voids += shown.iter().map(|seen| u32::from(seen.void())).sum::<u32>();
        shown.iter().for_each(|seen| add(&mut rows, seen));
        // An hour's work: what there is is kept if it is stopped. The rows say of how many runs they are.
        if let Some(file) = &args.json {
            whole(&rows, voids, run).write(file)?;
        }
    }
    whole(&rows, voids, args.runs).finish(args.json.as_deref()).map_err(Into::into)
}

fn one(args: &Args) -> Result<Vec<Seen>> {
    if let Some(flows) = args.flows {
        return Ok(vec![shift_many("bench-sites", args.nodes, usize::try_from(flows)?)?]);
    }
    let wanted = |scene: &Scene| args.scene.as_ref().is_none_or(|name| scene.name().contains(name.as_str()));
    let scenes: Vec<Scene> = Scene::ALL.into_iter().filter(wanted).collect();
    ensure!(!scenes.is_empty(), "no such scene; there are: {}", Scene::ALL.map(Scene::name).join(", "));
    let mut stage = Stage::start("bench-sites", args.nodes)?;
    scenes.into_iter().map(|scene| stage.play(scene).with_context(|| scene.name())).collect()
}

/// Takes what says something; a void event's times do not, its counts do.
fn add(rows: &mut Vec<Row>, seen: &Seen) {
    for measure in seen.measures.iter().filter(|measure| seen.counts(measure)) {
        match rows.iter_mut().find(|row| row.scene == seen.scene && row.measure.metric == measure.metric) {
            Some(row) => row.samples.0.push(measure.value),
            None => rows.push(Row { scene: seen.scene, measure: *measure, samples: Samples(vec![measure.value]) }),
        }
    }
}

fn write(report: &mut Report, row: &Row) {
    let (scene, Measure { metric, unit, limit, .. }) = (row.scene.name(), row.measure);
    let runs = row.samples.0.len();
    report.note(scene, &format!("{metric}, median"), row.samples.median().unwrap_or_default(), unit, runs);
    let (most, metric) = (row.samples.max().unwrap_or_default(), format!("{metric}, maximum"));
    match limit {
        Some(limit) => report.at_most(scene, &metric, most, unit, limit, runs),
        None => report.note(scene, &metric, most, unit, runs),
    }
}
