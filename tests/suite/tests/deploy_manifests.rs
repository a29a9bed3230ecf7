//! The files under deploy/ against what will read them: the schemas of Kubernetes (strict, offline) and systemd's own parser.
//! That they are what `bascule render` prints is tested beside the code (`daemon/src/cli/render/tests.rs`).

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use bascule_suite::manifests::{RELEASES, Schemas, deploy};

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot start {command:?}"))
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn static_pods_are_valid_for_the_oldest_and_the_newest_release() -> Result<()> {
    let schemas = Schemas::new()?;
    let files = ["static-pod.yaml", "static-pod-hostpath.yaml"].map(deploy);
    schemas.accept(&files, files.len())?;
    // The judge is judged: a misspelt field and a wrong type are found.
    let dir = tempfile::tempdir()?;
    for (good, planted) in [("imagePullPolicy:", "imagePullPolic:"), ("port: 9750", "port: [9750]")] {
        let text = fs::read_to_string(&files[0])?;
        ensure!(text.contains(good), "nothing to plant at {good}");
        let bad = dir.path().join("bad.yaml");
        fs::write(&bad, text.replace(good, planted))?;
        let (valid, text) = schemas.judge(RELEASES[1], &[bad])?;
        ensure!(!valid, "{planted} was not found: {text}");
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
