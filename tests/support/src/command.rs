//! Runs the machine's tools (ip, nft), in a namespace or outside.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::{LabError, Netns, Result};

/// Runs `program` with `args`, in `netns` when given, with `stdin` as its input. Gives what it wrote to stdout.
///
/// # Errors
/// When it cannot be started or exits other than with 0.
pub fn tool(netns: Option<&Netns>, program: &str, args: &[&str], stdin: Option<&str>) -> Result<String> {
    let shown = || format!("{program} {}{}", args.join(" "), stdin.map(|i| format!(" <<< {i}")).unwrap_or_default());
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    if let Some(netns) = netns {
        enter_before_exec(&mut command, netns);
    }
    let mut child = command.spawn().map_err(LabError::io(shown()))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), stdin) {
        pipe.write_all(text.as_bytes()).map_err(LabError::io(shown()))?;
    }
    let output = child.wait_with_output().map_err(LabError::io(shown()))?;
    if !output.status.success() {
        return Err(LabError::Tool {
            command: shown(),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `ip ARGS` in `netns`; arguments separated by blanks.
pub(crate) fn ip(netns: &Netns, args: &str) -> Result<String> {
    tool(Some(netns), "ip", &args.split_whitespace().collect::<Vec<_>>(), None)
}

/// Several `ip` commands, one a line, in one process.
pub(crate) fn ip_batch(netns: &Netns, lines: &[String]) -> Result<()> {
    tool(Some(netns), "ip", &["-batch", "-"], Some(&(lines.join("\n") + "\n"))).map(drop)
}

/// One nft transaction in `netns`.
pub(crate) fn nft(netns: &Netns, script: &str) -> Result<()> {
    tool(Some(netns), "nft", &["-f", "-"], Some(script)).map(drop)
}

/// Makes `command` start inside `netns`.
pub(crate) fn enter_before_exec(command: &mut Command, netns: &Netns) {
    let netns = netns.clone();
    // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe; the handle is kept alive by the closure.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(netns.fd().as_raw_fd(), libc::CLONE_NEWNET) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}
