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
/// A single input may not take longer than this (seconds): a parser that hangs is a finding.
const INPUT_TIMEOUT: u32 = 5;
/// Compiling with the sanitizer comes on top of the fuzzing time.
const BUILD_ALLOWANCE: Duration = Duration::from_secs(1200);

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
    let rows: Vec<Value> = chosen.iter().map(|name| one(&tool, name, bound)).collect::<Result<_>>()?;
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

fn one(tool: &Path, name: &str, bound: Bound) -> Result<Value> {
    let fuzz = sh::root().join("tests/fuzz");
    let work = sh::target_dir().join("fuzz-corpus").join(name);
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    println!("fuzz: {name} for {}", bound.words());
    let mut command = Command::new(tool);
    command
        .current_dir(&fuzz)
        .args(["run", name, "--fuzz-dir", "."])
        .arg(&work)
        .arg(fuzz.join("corpus").join(name))
        .args(["--", &bound.argument(), &format!("-timeout={INPUT_TIMEOUT}")])
        .args(["-print_final_stats=1", "-rss_limit_mb=2048"])
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR");
    let (mut executions, mut last) = (0, Vec::new());
    let end = sh::stream(&mut command, BUILD_ALLOWANCE + bound.longest(), |line| {
        executions = executed(line).unwrap_or(executions);
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
    println!("fuzz: {name}: {executions} executions");
    Ok(json!({"scene": format!("fuzz {name}, {}", bound.words()), "metric": "executions", "value": executions,
        "unit": "inputs", "bound": "no crash, hang or leak", "ok": ok, "runs": 1}))
}

/// `stat::number_of_executed_units: 123456`
fn executed(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        assert_eq!(executed("stat::number_of_executed_units: 123456"), Some(123_456));
        assert_eq!(executed("stat::average_exec_per_sec:     100"), None);
    }
}
