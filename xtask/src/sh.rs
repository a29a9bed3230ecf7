//! Starting programs: where the repository is, one cargo, and output read line by line with a time limit.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a silent program is reported, and how finely its exit is watched for.
const HEARTBEAT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(200);

/// The repository's root: cargo says where xtask lives at run time, so a moved checkout works.
pub(crate) fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Path::to_path_buf)
}

/// Where cargo builds to.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `${XDG_CACHE_HOME:-~/.cache}/bascule`: tools that outlive a checkout.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for the tool cache")?;
    Ok(base.join("bascule"))
}

/// The cargo that runs us, in the repository's root, without what that one says of this package to us: a build script that looks at it
/// (ring's) would run again, and with it all that stands on ring be built again, whenever `cargo xtask` and plain `cargo build` take turns.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_package)) {
        command.env_remove(name);
    }
    command
}

/// Does cargo say this of the package that it runs?
fn is_of_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Run to the end with our own stdout and stderr; a non-zero exit is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Standard output of a program that must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !out.status.success() {
        bail!("`{}` failed: {}\n{}", shown(command), out.status, String::from_utf8_lossy(&out.stderr).trim_end());
    }
    String::from_utf8(out.stdout).with_context(|| format!("`{}` printed something that is not UTF-8", shown(command)))
}

/// How a streamed program ended.
pub(crate) enum End {
    /// It exited by itself.
    Exit(ExitStatus),
    /// It was killed after the limit.
    TimedOut(Duration),
}

/// Run a program and hand on each line of its stdout and stderr, in the order written. A silent program is reported
/// every half a minute; one that passes `limit` is killed.
pub(crate) fn stream(command: &mut Command, limit: Duration, mut on_line: impl FnMut(&str)) -> Result<End> {
    let (reader, writer) = std::io::pipe().context("pipe")?;
    let second = writer.try_clone().context("pipe")?;
    let name = shown(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    // The command keeps its copies of the pipe's write end; without closing them the reader never sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (lines, received) = sync_channel::<String>(256);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut raw = Vec::new();
        while matches!(reader.read_until(b'\n', &mut raw), Ok(1..)) {
            let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
            raw.clear();
            if lines.send(line).is_err() {
                return;
            }
        }
    });

    let (mut last_line, mut last_beat) = (Instant::now(), Instant::now());
    let end = loop {
        match received.recv_timeout(TICK) {
            Ok(line) => {
                (last_line, last_beat) = (Instant::now(), Instant::now());
                on_line(&line);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break End::Exit(child.wait().context("wait")?),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // The program may be gone while a grandchild still holds the pipe: its exit counts, not the pipe's end.
        if let Some(status) = child.try_wait().context("wait")? {
            while let Ok(line) = received.recv_timeout(TICK) {
                on_line(&line);
            }
            break End::Exit(status);
        }
        if started.elapsed() > limit {
            child.kill().context("kill")?;
            child.wait().context("wait")?;
            break End::TimedOut(limit);
        }
        if last_beat.elapsed() > HEARTBEAT {
            last_beat = Instant::now();
            println!("      ... `{}` runs, silent for {} s", brief(&name), last_line.elapsed().as_secs());
        }
    };
    Ok(end)
}

/// The last path component of the program and its arguments: enough to recognise a command in a progress line.
fn brief(command: &str) -> String {
    let program = command.split(' ').next().unwrap_or(command);
    let short = program.rsplit('/').next().unwrap_or(program);
    format!("{short}{}", &command[program.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_is_said_of_a_package_is_told_from_what_is_set_for_cargo() {
        assert!(["CARGO_PKG_NAME", "CARGO_PKG_VERSION_PRE", "CARGO_MANIFEST_DIR"].into_iter().all(is_of_package));
        assert!(!["CARGO", "CARGO_HOME", "CARGO_INCREMENTAL", "RUSTUP_TOOLCHAIN"].into_iter().any(is_of_package));
    }

    #[test]
    fn lines_of_both_streams_arrive_in_order() {
        let mut seen = Vec::new();
        let end = stream(&mut shell("echo a; echo b >&2; printf c; exit 3"), Duration::from_secs(20), |line| {
            seen.push(line.to_owned());
        });
        assert_eq!(seen, ["a", "b", "c"]);
        assert!(matches!(end.unwrap(), End::Exit(status) if status.code() == Some(3)));
    }

    #[test]
    fn a_program_past_its_limit_is_killed() {
        let end = stream(&mut shell("exec sleep 60"), Duration::from_millis(300), |_| {}).unwrap();
        assert!(matches!(end, End::TimedOut(_)));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipe_does_not_hold_us() {
        let before = Instant::now();
        let end = stream(&mut shell("sleep 8 & echo done"), Duration::from_secs(30), |_| {}).unwrap();
        assert!(matches!(end, End::Exit(status) if status.success()));
        assert!(before.elapsed() < Duration::from_secs(6));
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = run(&mut shell("exit 7")).unwrap_err().to_string();
        assert!(error.contains("exit 7"), "{error}");
    }
}
