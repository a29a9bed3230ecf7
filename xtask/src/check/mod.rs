//! `check`: everything that holds without running the product. Each check has a name, a verdict, and a test of its
//! own that plants a violation.

mod deps;
mod edges;
mod faults;
mod licences;
mod names;
mod scan;
mod sizes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{docs, setup, sh};

/// Options of `check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these checks, by name.
    names: Vec<String>,
}

type Check = (&'static str, fn() -> Result<()>);

/// In the order they run: cheap ones first.
const CHECKS: &[Check] = &[
    ("format", format),
    ("dependencies", || deps::check(&metadata()?)),
    ("edges", || edges::check(&sh::root())),
    ("licences", || licences::check(&metadata()?, &sh::root().join("licences.txt"))),
    ("named-tests", || names::check(&sh::root())),
    ("fault-rows", || faults::check(&sh::root())),
    ("sizes", || sizes::report(&sh::root())),
    ("clippy", clippy),
    ("generated-docs", docs::up_to_date),
];

/// Run them all, or the named ones; true when all held.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if let Some(unknown) = args.names.iter().find(|name| !CHECKS.iter().any(|(known, _)| known == name)) {
        let known: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
        bail!("there is no check `{unknown}`; there are: {}", known.join(", "));
    }
    setup::all()?;
    let chosen = CHECKS.iter().filter(|(name, _)| args.names.is_empty() || args.names.iter().any(|want| want == name));
    let failed: Vec<_> =
        verdicts(chosen).into_iter().filter_map(|(name, verdict)| Some((name, verdict.err()?))).collect();
    for (name, error) in &failed {
        println!("FAILED {name}: {error:#}");
    }
    Ok(failed.is_empty())
}

/// Every check with its verdict, for `test`.
pub(crate) fn all() -> Vec<(&'static str, Result<()>)> {
    verdicts(CHECKS.iter())
}

fn verdicts<'a>(checks: impl Iterator<Item = &'a Check>) -> Vec<(&'static str, Result<()>)> {
    checks
        .map(|(name, check)| {
            let started = Instant::now();
            let verdict = check();
            let word = if verdict.is_ok() { "ok" } else { "not ok" };
            println!("  check {name}: {word}, {:.1} s", started.elapsed().as_secs_f32());
            (*name, verdict)
        })
        .collect()
}

/// The main workspace and the two beside it.
fn format() -> Result<()> {
    let root = sh::root();
    for manifest in ["Cargo.toml", "ebpf/Cargo.toml", "tests/fuzz/Cargo.toml"] {
        if root.join(manifest).is_file() {
            let mut cargo = sh::cargo();
            cargo.args(["fmt", "--all", "--manifest-path", manifest, "--", "--check"]);
            sh::run(&mut cargo)
                .with_context(|| format!("{manifest}: run `cargo fmt --all --manifest-path {manifest}`"))?;
        }
    }
    Ok(())
}

fn clippy() -> Result<()> {
    sh::run(sh::cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// `cargo metadata` of the main workspace.
fn metadata() -> Result<Value> {
    let text = sh::output(sh::cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata printed something that is not JSON")
}

/// Rust files below a folder, sorted; build output is left out.
fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry.context("directory entry")?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
