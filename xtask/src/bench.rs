//! `bench` and `demo`: build the daemon, then start a binary of bascule-bench with the caller's arguments
//! in the caller's folder, so that `--json FILE` means the file the caller meant.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{image, setup, sh};

/// Not a bench: `cargo xtask demo` starts it.
const DEMO: &str = "demo";
/// Benches whose bounds are seconds of a core and MiB on an operator's machine: they measure the program that ships, not the test build.
const SHIPPED: [&str; 1] = ["scale"];

/// Run the demo; true when every scene held.
pub(crate) fn demo(args: &[String]) -> Result<bool> {
    start(DEMO, args)
}

/// Run one bench, or list them; true when every row is within its bound.
pub(crate) fn bench(name: Option<&str>, args: &[String]) -> Result<bool> {
    let names = names()?;
    let Some(name) = name else {
        println!("benches: {}", names.join(", "));
        return Ok(true);
    };
    if !names.iter().any(|known| known == name) {
        bail!("there is no bench `{name}`; there are: {}", names.join(", "));
    }
    start(name, args)
}

/// Binaries under bench/src/bin, without the demo.
fn names() -> Result<Vec<String>> {
    let dir = sh::root().join("bench/src/bin");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry.context("directory entry")?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if name != DEMO && !name.is_empty() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Build the daemon and every program that shows or measures it, and say where a program is.
pub(crate) fn build() -> Result<PathBuf> {
    setup::all()?;
    sh::run(
        sh::cargo()
            .args(["build", "--package", "bascule", "--package", "bascule-bench", "--package", "bascule-sim"])
            .args(["--package", "bascule-suite", "--package", "bascule-lab", "--bins", "--examples"]),
    )?;
    Ok(sh::target_dir().join("debug"))
}

fn start(name: &str, args: &[String]) -> Result<bool> {
    let dir = build()?;
    let mut command = Command::new(dir.join(name));
    command.args(args).stdin(Stdio::null());
    if std::env::var_os("BASCULE_BIN").is_none() {
        let daemon = if SHIPPED.contains(&name) { image::program()? } else { dir.join("bascule") };
        command.env("BASCULE_BIN", daemon);
    }
    let status = command.status().with_context(|| format!("cannot start {}", sh::shown(&command)))?;
    Ok(status.success())
}
