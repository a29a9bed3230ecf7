//! `fuzz`: cargo-fuzz over tests/fuzz with the nightly compiler. What a run finds goes to a working corpus under
//! target/; the committed seeds are only read. The sanitizer is the prebuilt one: std itself stays uninstrumented,
//! because a nightly without rust-src cannot rebuild it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::sh::{self, End};
use crate::{report, setup};

/// Pinned: the flags below are this version's.
const CARGO_FUZZ: &str = "0.13.2";
/// A single input may not take longer than this (seconds): a parser that hangs is a finding. The fuzzer's clock is the wall's, and a process of
/// the idle class on a busy machine was seen to wait 9 s for its turn.
const INPUT_TIMEOUT: u32 = 60;
/// Compiling with the sanitizer comes on top of the fuzzing time.
const BUILD_ALLOWANCE: Duration = Duration::from_secs(1200);

/// Targets that need the daemon's crate (feature `daemon` of tests/fuzz); the others build in a fraction of the time.
const OF_DAEMON: [&str; 1] = ["config"];
/// Targets of crates that have no `unsafe`: what the address sanitizer looks for cannot happen there, and it costs nine tenths of the inputs.
const SAFE: [&str; 2] = ["bgp_decoder", "bgp_session"];
/// Longest input where the default of 4,096 octets only costs time: a script of a thousand is hundreds of inputs to a speaker.
const MAX_LEN: [(&str, u32); 1] = [("bgp_session", 1024)];
/// Most memory of a run (MB); libFuzzer ends it with an error beyond.
const MEMORY: u64 = 2048;
/// Slower than any target is with the sanitizer, so that a run of so many inputs ends: inputs per second.
const SLOWEST: u64 = 1000;

/// When a run of one target is over.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    Seconds(u32),
    Inputs(u64),
}

impl Bound {
    fn words(self) -> String {
        match self {
            Self::Seconds(seconds) => format!("{seconds} s"),
            Self::Inputs(inputs) => format!("{inputs} inputs"),
        }
    }

    fn argument(self) -> String {
        match self {
            Self::Seconds(seconds) => format!("-max_total_time={seconds}"),
            Self::Inputs(inputs) => format!("-runs={inputs}"),
        }
    }

    fn longest(self) -> Duration {
        Duration::from_secs(match self {
            Self::Seconds(seconds) => seconds.into(),
            Self::Inputs(inputs) => inputs / SLOWEST,
        })
    }
}

/// Fuzz one target or all; true when none crashed.
pub(crate) fn run(target: Option<&str>, bound: Bound, json: Option<&Path>) -> Result<bool> {
    let started = report::now();
    setup::all()?;
    let known = targets()?;
    let chosen: Vec<&String> = match target {
        None => known.iter().collect(),
        Some(name) => vec![
            known
                .iter()
                .find(|known| *known == name)
                .with_context(|| format!("there is no fuzz target `{name}`; there are: {}", known.join(", ")))?,
        ],
    };
    let tool = tool()?;
    let rows: Vec<Vec<Value>> = chosen.iter().map(|name| one(&tool, name, bound)).collect::<Result<_>>()?;
    let rows: Vec<Value> = rows.into_iter().flatten().collect();
    let object = report::object(&started, rows);
    if let Some(file) = json {
        report::write(file, &object)?;
    }
    Ok(report::all_ok(&object))
}

/// The targets: one file each under tests/fuzz/fuzz_targets.
pub(crate) fn targets() -> Result<Vec<String>> {
    let dir = sh::root().join("tests/fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// cargo-fuzz from PATH or from our cache; built there when it is in neither.
fn tool() -> Result<std::path::PathBuf> {
    let dir = sh::cache_dir()?.join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let program = dir.join("bin/cargo-fuzz");
    if !program.is_file() {
        println!("fuzz: building cargo-fuzz {CARGO_FUZZ} into the cache (once per machine)");
        let mut install = sh::cargo();
        install.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root"]).arg(&dir);
        sh::run(install.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS"))?;
    }
    Ok(program)
}

fn one(tool: &Path, name: &str, bound: Bound) -> Result<Vec<Value>> {
    let fuzz = sh::root().join("tests/fuzz");
    let work = sh::target_dir().join("fuzz-corpus").join(name);
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    println!("fuzz: {name} for {}", bound.words());
    let mut command = Command::new(tool);
    command
        .current_dir(&fuzz)
        .args(["run", name, "--fuzz-dir", "."])
        .args((!OF_DAEMON.contains(&name)).then_some("--no-default-features"))
        .args(if SAFE.contains(&name) { &["--sanitizer", "none"][..] } else { &[] })
        .arg(&work)
        .arg(fuzz.join("corpus").join(name))
        .args(["--", &bound.argument(), &format!("-timeout={INPUT_TIMEOUT}")])
        .args(MAX_LEN.iter().filter(|(target, _)| *target == name).map(|(_, octets)| format!("-max_len={octets}")))
        .args(["-print_final_stats=1", &format!("-rss_limit_mb={MEMORY}")])
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR");
    let (mut executions, mut memory, mut last) = (0, 0, Vec::new());
    let end = sh::stream(&mut command, BUILD_ALLOWANCE + bound.longest(), |line| {
        executions = statistic(line, "number_of_executed_units").unwrap_or(executions);
        memory = statistic(line, "peak_rss_mb").unwrap_or(memory);
        last.push(line.to_owned());
        if last.len() > 60 {
            last.remove(0);
        }
    })?;
    let ok = matches!(end, End::Exit(status) if status.success());
    if !ok {
        last.iter().for_each(|line| println!("      {line}"));
        println!("fuzz: {name} FAILED; the input is under tests/fuzz/artifacts/{name}");
    } else if executions == 0 {
        bail!("fuzz target `{name}` ended well and reported no execution");
    }
    println!("fuzz: {name}: {executions} executions, {memory} MB");
    let scene = format!("fuzz {name}, {}", bound.words());
    Ok(vec![
        json!({"scene": scene, "metric": "executions", "value": executions, "unit": "inputs",
            "bound": "no crash, hang or leak", "ok": ok, "runs": 1}),
        json!({"scene": scene, "metric": "peak memory", "value": memory, "unit": "MB",
            "bound": format!("<= {MEMORY}"), "ok": ok && memory <= MEMORY, "runs": 1}),
    ])
}

/// One of libFuzzer's last lines: `stat::NAME: 123456`.
fn statistic(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        let executed = |line| statistic(line, "number_of_executed_units");
        assert_eq!(executed("stat::number_of_executed_units: 123456"), Some(123_456));
        assert_eq!(executed("stat::average_exec_per_sec:     100"), None);
        assert_eq!(statistic("stat::peak_rss_mb:              173", "peak_rss_mb"), Some(173));
    }
}
