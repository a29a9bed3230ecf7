//! The files under deploy/ against what will read them: the schemas of Kubernetes (strict, offline) and systemd's own parser.
//! That they are what `bascule render` prints is tested beside the code (`daemon/src/cli/render/tests.rs`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

/// Carries the schemas of Kubernetes 1.25 to 1.37 inside; pinned, so that a new schema is a decision.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// The oldest and the newest release that the package knows.
const RELEASES: [&str; 2] = ["1.25", "1.37"];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot start {command:?}"))
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// The validator, from a virtual environment in the tool cache: made once per machine.
fn validator() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("bascule");
    fs::create_dir_all(&cache)?;
    let turn = File::create(cache.join("kubernetes-validate.lock"))?;
    turn.lock()?;
    let venv = cache.join(VALIDATOR.replace("==", "-"));
    let program = venv.join("bin/kubernetes-validate");
    if run(Command::new(&program).arg("--version")).is_ok_and(|out| out.status.success()) {
        return Ok(program);
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
    Ok(program)
}

fn validated(program: &Path, release: &str, files: &[PathBuf]) -> Result<Output> {
    run(Command::new(program).args(["--strict", "-k", release]).args(files))
}

#[test]
fn static_pods_are_valid_for_the_oldest_and_the_newest_release() -> Result<()> {
    let program = validator()?;
    let files = ["static-pod.yaml", "static-pod-hostpath.yaml"].map(deploy);
    for release in RELEASES {
        let out = validated(&program, release, &files)?;
        ensure!(out.status.success(), "{release}: {}", said(&out));
        ensure!(
            said(&out).matches(" passed ").count() == files.len(),
            "{release}: not every file was read: {}",
            said(&out)
        );
    }
    // The judge is judged: a misspelt field and a wrong type are found.
    let dir = tempfile::tempdir()?;
    for (good, planted) in [("imagePullPolicy:", "imagePullPolic:"), ("port: 9750", "port: [9750]")] {
        let text = fs::read_to_string(&files[0])?;
        ensure!(text.contains(good), "nothing to plant at {good}");
        let bad = dir.path().join("bad.yaml");
        fs::write(&bad, text.replace(good, planted))?;
        let out = validated(&program, RELEASES[1], &[bad])?;
        ensure!(!out.status.success(), "{planted} was not found: {}", said(&out));
    }
    Ok(())
}

/// What the kubelet and the API server demand of a static pod beyond the schema, and what the daemon needs of it.
#[test]
fn static_pods_name_no_api_object_and_ask_for_exact_rights() -> Result<()> {
    for (file, capabilities) in [
        ("static-pod.yaml", "add: [NET_ADMIN, NET_RAW, BPF, PERFMON]"),
        ("static-pod-hostpath.yaml", "add: [NET_ADMIN, NET_RAW, BPF, PERFMON, SYS_NICE]"),
    ] {
        let text = fs::read_to_string(deploy(file))?;
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        for wanted in [
            capabilities,
            "drop: [ALL]",
            "hostNetwork: true",
            "imagePullPolicy: IfNotPresent",
            "privileged: false",
            "mountPath: /sys/fs/bpf, mountPropagation: HostToContainer",
            "path: /live",
            "path: /ready",
            "priorityClassName: system-node-critical",
        ] {
            ensure!(code.contains(wanted), "{file}: {wanted}");
        }
        for forbidden in ["configMap", "secret", "serviceAccountName", "kubeconfig", "persistentVolumeClaim", "hostPID"]
        {
            ensure!(!code.contains(forbidden), "{file}: {forbidden}");
        }
    }
    Ok(())
}

#[test]
fn systemd_reads_the_unit_without_a_word() -> Result<()> {
    let Ok(_there) = run(Command::new("systemd-analyze").arg("--version")) else {
        println!("systemd-analyze is not on this machine: the unit was not read by systemd");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let unit = dir.path().join("bascule.service");
    // `verify` looks for the program, and what it does not find is not about the unit.
    let text = fs::read_to_string(deploy("bascule.service"))?.replace("/usr/local/bin/bascule", "/bin/true");
    fs::write(&unit, &text)?;
    let verify = || run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit));
    let out = verify()?;
    ensure!(out.status.success() && said(&out).is_empty(), "{}", said(&out));
    fs::write(&unit, text.replace("WatchdogSec=", "WatchdogSecs="))?;
    ensure!(said(&verify()?).contains("WatchdogSecs"), "a misspelt key was not found");
    Ok(())
}
