//! The judges of manifests: the schemas of Kubernetes, strict and offline; helm and kubectl.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

/// Carries the schemas of Kubernetes 1.25 to 1.37 inside; pinned, so that a new schema is a decision.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// The oldest and the newest release that the package knows.
pub const RELEASES: [&str; 2] = ["1.25", "1.37"];
/// Where `cargo xtask setup` puts helm and kubectl, in the tool cache.
const CHART_TOOLS: &str = include_str!("../../../xtask/src/chart_tools.txt");

/// A file under deploy/.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot start {command:?}"))
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("bascule"))
}

/// Standard output of a program that must succeed.
///
/// # Errors
/// When it does not; what it said is in the error.
pub fn must(command: &mut Command) -> Result<String> {
    let out = run(command)?;
    ensure!(out.status.success(), "{command:?}: {}", said(&out));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// helm or kubectl: from the tool cache, else from PATH. `None`: this machine has none.
pub fn chart_tool(name: &str) -> Option<PathBuf> {
    let cached = cache().ok().map(|cache| cache.join(CHART_TOOLS.trim()).join(name).join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>();
    cached.into_iter().chain(on_path).find(|program| program.is_file())
}

/// The validator.
pub struct Schemas(PathBuf);

impl Schemas {
    /// From a virtual environment in the tool cache: made once per machine.
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn new() -> Result<Self> {
        let cache = cache()?;
        fs::create_dir_all(&cache)?;
        let turn = File::create(cache.join("kubernetes-validate.lock"))?;
        turn.lock()?;
        let venv = cache.join(VALIDATOR.replace("==", "-"));
        let program = venv.join("bin/kubernetes-validate");
        if run(Command::new(&program).arg("--version")).is_ok_and(|out| out.status.success()) {
            return Ok(Self(program));
        }
        // Half a venv of an interrupted run.
        drop(fs::remove_dir_all(&venv));
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&venv);
        let mut install = Command::new(venv.join("bin/pip"));
        install.args(["install", "--quiet", "--disable-pip-version-check", VALIDATOR]);
        for step in [&mut make, &mut install] {
            let out = run(step)?;
            if !out.status.success() {
                bail!("{VALIDATOR} cannot be installed (python3 with venv and a PyPI are needed once): {}", said(&out));
            }
        }
        Ok(Self(program))
    }

    /// What it says of these files for a release, and whether all are valid.
    ///
    /// # Errors
    /// When it does not start.
    pub fn judge(&self, release: &str, files: &[PathBuf]) -> Result<(bool, String)> {
        let out = run(Command::new(&self.0).args(["--strict", "-k", release]).args(files))?;
        Ok((out.status.success(), said(&out)))
    }

    /// Every document of these files is valid for the oldest and the newest release.
    ///
    /// # Errors
    /// Names what is not, or that fewer than `documents` were read.
    pub fn accept(&self, files: &[PathBuf], documents: usize) -> Result<()> {
        for release in RELEASES {
            let (valid, text) = self.judge(release, files)?;
            ensure!(valid, "{release}: {text}");
            let passed = text.matches(" passed ").count();
            ensure!(passed == documents, "{release}: {passed} of {documents} documents were read: {text}");
        }
        Ok(())
    }
}
