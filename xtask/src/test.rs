//! `cargo xtask test`: setup, one build, then stage after stage. A stage that fails does not stop the next one, and
//! everything that failed is named again at the end, above the one closing line `N passed, N failed`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;

use crate::sh::{self, End};
use crate::tally::{Reader, Tally};
use crate::why::Why;
use crate::{apiserver, chart_tools, check, setup};

/// A single test binary that runs longer than this is stuck: the whole budget is 25 minutes.
const BINARY_LIMIT: Duration = Duration::from_secs(600);
/// Documentation tests are compiled as they run.
const DOC_LIMIT: Duration = Duration::from_secs(900);
/// Suite tests wait for timers of daemons far more than they compute: more of them than cores may run at once.
const FUNCTIONAL_THREADS: &str = "4";

/// Lines of one failure in the list at the end: its name and a reason (`Why`).
const BRIEF: usize = 13;

/// The stages, in the order they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Stage {
    /// Unit and property tests of every crate but the three below.
    Unit,
    /// The simulator's short run and its own tests.
    Sim,
    /// Documentation tests.
    Doc,
    /// The lab's own tests and the suite, in parallel.
    Functional,
    /// `timing_*` of any crate, one test at a time.
    Timing,
    /// Format, lints, rules, licences, docs.
    Check,
}

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these stages.
    #[arg(long, value_enum)]
    only: Vec<Stage>,
    /// Only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
}

/// One test executable that cargo built.
#[derive(Debug, Clone)]
struct Binary {
    package: String,
    target: String,
    path: PathBuf,
    dir: PathBuf,
}

impl Binary {
    fn stage(&self) -> Stage {
        match self.package.as_str() {
            _ if self.target.starts_with("timing_") => Stage::Timing,
            "bascule-sim" => Stage::Sim,
            "bascule-suite" | "bascule-lab" => Stage::Functional,
            _ => Stage::Unit,
        }
    }

    fn name(&self) -> String {
        if self.package == self.target { self.package.clone() } else { format!("{} {}", self.package, self.target) }
    }
}

struct Run {
    started: Instant,
    sum: Tally,
    failures: Vec<String>,
    filter: Option<String>,
    logs: PathBuf,
}

/// Run the stages; true when nothing failed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let logs = sh::target_dir().join("xtask/log");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut run =
        Run { started: Instant::now(), sum: Tally::default(), failures: Vec::new(), filter: args.filter.clone(), logs };
    let wanted = |stage: Stage| args.only.is_empty() || args.only.contains(&stage);

    run.say("setup");
    if let Err(error) = setup::all() {
        run.fail(format!("setup: {error:#}"));
    }
    let api_server = wanted(Stage::Functional) || wanted(Stage::Timing);
    if api_server && let Err(error) = setup::for_tests() {
        run.fail(format!("setup: {error:#}"));
    }
    run.say("build");
    let binaries = run.build()?;
    for stage in [Stage::Unit, Stage::Sim, Stage::Doc, Stage::Functional, Stage::Timing, Stage::Check] {
        if wanted(stage) {
            run.stage(stage, &binaries);
        }
    }
    if api_server {
        println!("\nAPI server of the tests: {}", apiserver::describe());
        println!("chart tools of the tests: {}", chart_tools::describe());
    }
    run.close();
    Ok(run.sum.failed == 0)
}

impl Run {
    fn say(&self, what: &str) {
        println!("[{:7.1} s] {what}", self.started.elapsed().as_secs_f32());
    }

    fn fail(&mut self, what: String) {
        println!("  FAILED {what}");
        self.failures.push(what);
        self.sum.failed += 1;
    }

    /// One build of every target, tests included; a target that does not compile is a failure, the others still run.
    fn build(&mut self) -> Result<Vec<Binary>> {
        let mut cargo = sh::cargo();
        cargo.args(["build", "--workspace", "--all-targets", "--keep-going"]);
        cargo.arg("--message-format=json-render-diagnostics");
        let out = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        let binaries = executables(&String::from_utf8_lossy(&out.stdout));
        if !out.status.success() {
            self.fail("build: not every target compiled (see above)".to_owned());
        } else if binaries.is_empty() {
            self.fail("build: cargo named no test binary".to_owned());
        }
        Ok(binaries)
    }

    fn stage(&mut self, stage: Stage, binaries: &[Binary]) {
        let (started, before) = (Instant::now(), self.sum);
        self.say(&format!("{stage:?}").to_lowercase());
        match stage {
            Stage::Check => self.check(),
            Stage::Doc => self.doc(),
            _ => binaries.iter().filter(|binary| binary.stage() == stage).for_each(|binary| self.binary(binary)),
        }
        self.say(&format!(
            "{stage:?}: {} ok, {} not ok, in {:.1} s",
            self.sum.passed - before.passed,
            self.sum.failed - before.failed,
            started.elapsed().as_secs_f32()
        ));
    }

    fn binary(&mut self, binary: &Binary) {
        let mut command = Command::new(&binary.path);
        command.current_dir(&binary.dir).env("CARGO_MANIFEST_DIR", &binary.dir);
        // An error's words say what went wrong; frames of the runtime around it would push them out of what CI keeps of the console.
        command.env("RUST_LIB_BACKTRACE", "0");
        match binary.stage() {
            Stage::Timing => drop(command.args(["--test-threads=1", "--show-output"])),
            // With what passing tests print: the console shows their measurements (`Console`).
            Stage::Functional => drop(command.args(["--test-threads", FUNCTIONAL_THREADS, "--show-output"])),
            _ => {}
        }
        command.args(self.filter.iter());
        let console = Console { measurements_only: binary.stage() == Stage::Functional, passed: false };
        self.counted(&binary.name(), &mut command, BINARY_LIMIT, 1, console);
    }

    fn doc(&mut self) {
        let mut command = sh::cargo();
        command.args(["test", "--workspace", "--doc", "--quiet"]).args(self.filter.iter());
        self.counted("documentation tests", &mut command, DOC_LIMIT, 0, Console::default());
    }

    fn check(&mut self) {
        for (name, verdict) in check::all() {
            match verdict {
                Ok(()) => self.sum.add(Tally::one(true)),
                Err(error) => self.fail(format!("check {name}: {error:#}")),
            }
        }
    }

    /// Run, keep the whole output in a log, show what matters, count.
    fn counted(&mut self, name: &str, command: &mut Command, limit: Duration, owed: u64, mut console: Console) {
        let started = Instant::now();
        let log = self.logs.join(format!("{}.log", name.replace([' ', '/'], "-")));
        let mut file = File::create(&log).map(BufWriter::new).ok();
        let (mut reader, mut why) = (Reader::default(), Why::default());
        let mut failed = Vec::new();
        let end = sh::stream(command, limit, |line| {
            if let Some(file) = &mut file {
                // The log is a convenience; a full disk must not fail a test that passed.
                let _unwritten = writeln!(file, "{line}");
            }
            reader.line(line);
            why.line(line);
            failed.extend(failed_test(line).map(str::to_owned));
            if console.shows(line) {
                println!("      {line}");
            }
        });
        drop(file);
        let (ok, how) = match end {
            Ok(End::Exit(status)) => (status.success(), status.to_string()),
            Ok(End::TimedOut(limit)) => (false, format!("killed after {} s", limit.as_secs())),
            Err(error) => (false, format!("{error:#}")),
        };
        let sum = reader.finish(ok, owed);
        self.sum.add(sum);
        if sum != Tally::default() {
            let ignored = if sum.ignored > 0 { format!(", {} ignored", sum.ignored) } else { String::new() };
            let took = started.elapsed().as_secs_f32();
            println!("  {name}: {} ok, {} not ok{ignored}, {took:.1} s", sum.passed, sum.failed);
        }
        if sum.failed > 0 {
            if failed.is_empty() {
                failed.push(format!("the binary did not finish ({how})"));
            }
            for test in &failed {
                let why: String = why.of(test).iter().map(|line| format!("\n      {line}")).collect();
                self.failures.push(format!("{name}: {test}   (log: {}){why}", relative(&log)));
            }
        }
    }

    fn close(&self) {
        if !self.failures.is_empty() {
            println!("\nfailed:");
            // The whole text stands above, where it happened.
            self.failures.iter().for_each(|failure| println!("  {}", brief(failure)));
        }
        let minutes = self.started.elapsed().as_secs_f32() / 60.0;
        println!("\ntook {minutes:.1} minutes, {} ignored", self.sum.ignored);
        println!("{} passed, {} failed", self.sum.passed, self.sum.failed);
    }
}

/// So much of a failure as may stand in a list.
fn brief(failure: &str) -> String {
    failure.lines().take(BRIEF).collect::<Vec<_>>().join("\n")
}

/// A path as seen from the repository's root.
fn relative(path: &Path) -> String {
    path.strip_prefix(sh::root()).unwrap_or(path).display().to_string()
}

/// Test executables in the JSON lines of `cargo build`.
fn executables(messages: &str) -> Vec<Binary> {
    let mut found: Vec<Binary> = messages.lines().filter_map(executable).collect();
    found.sort_by(|a, b| (&a.package, &a.target, &a.path).cmp(&(&b.package, &b.target, &b.path)));
    found.dedup_by(|a, b| a.path == b.path);
    found
}

fn executable(line: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).ok()?;
    let package = manifest.lines().find_map(|line| line.strip_prefix("name = "))?.trim_matches('"').to_owned();
    let target = message["target"]["name"].as_str()?.to_owned();
    Some(Binary { package, target, path: message["executable"].as_str()?.into(), dir })
}

/// `test a::b ... FAILED`
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Which lines of a test binary reach the console; the log has all of them.
#[derive(Default)]
struct Console {
    /// Of what passing tests print, only measurements.
    measurements_only: bool,
    /// The line stands in libtest's part about tests that passed.
    passed: bool,
}

impl Console {
    fn shows(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.passed = true,
            "failures:" => self.passed = false,
            _ if line.starts_with("test result: ") => self.passed = false,
            _ => {}
        }
        if self.passed && self.measurements_only { is_measurement(line) } else { !is_noise(line) }
    }
}

/// A number beside what it may be at most: `NAME: 12 instructions (budget 20)`.
fn is_measurement(line: &str) -> bool {
    line.contains("(budget ") || line.contains("(bound ")
}

/// What a reader of the console does not need: it is in the log.
fn is_noise(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("running ")
        || line.starts_with("test result: ok.")
        || (line.starts_with("test ") && (line.ends_with(" ... ok") || line.contains(" ... ignored")))
        || line.chars().all(|c| c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(package: &str, target: &str) -> Binary {
        Binary { package: package.into(), target: target.into(), path: "x".into(), dir: ".".into() }
    }

    #[test]
    fn every_binary_has_its_stage() {
        assert_eq!(binary("bascule-core", "bascule_core").stage(), Stage::Unit);
        assert_eq!(binary("bascule-sim", "planted").stage(), Stage::Sim);
        assert_eq!(binary("bascule-suite", "fence_rules").stage(), Stage::Functional);
        assert_eq!(binary("bascule-suite", "timing_failover").stage(), Stage::Timing);
        assert_eq!(binary("bascule", "timing_loop").stage(), Stage::Timing);
    }

    #[test]
    fn only_test_executables_are_taken_from_cargos_messages() {
        let manifest = sh::root().join("xtask/Cargo.toml");
        let message = |test: bool, exe: &str| {
            serde_json::json!({"reason": "compiler-artifact", "manifest_path": manifest, "executable": exe,
                "target": {"name": "xtask"}, "profile": {"test": test}})
            .to_string()
        };
        let lines = [message(false, "/a"), message(true, "/b"), "{\"reason\":\"build-finished\"}".into(), "x".into()];
        let found = executables(&lines.join("\n"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].package.as_str(), found[0].path.to_str()), ("xtask", Some("/b")));
    }

    #[test]
    fn of_passing_tests_the_console_shows_measurements() {
        let output = "test a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nhello\nx: 3 instructions (budget 4)\n\n\n\
                      successes:\n    a\n\nfailures:\n\n---- b stdout ----\nwhy\n\ntest result: FAILED. 1 passed; 1 failed";
        let shown = |measurements_only| {
            let mut console = Console { measurements_only, passed: false };
            output.lines().filter(|line| console.shows(line)).collect::<Vec<_>>()
        };
        let failed = ["failures:", "---- b stdout ----", "why", "test result: FAILED. 1 passed; 1 failed"];
        assert_eq!(shown(true), [&["test b ... FAILED", "x: 3 instructions (budget 4)"], &failed[..]].concat());
        assert!(shown(false).contains(&"hello"));
    }

    #[test]
    fn failures_are_shown_and_passes_are_not() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
        assert!(is_noise("test a::b ... ok") && is_noise("running 3 tests") && is_noise(""));
        assert!(!is_noise("test a::b ... FAILED"));
        assert!(!is_noise("thread 'a' panicked at x.rs:1:1:"));
    }
}
