//! The one object every bench, drill and the demo writes, and its table.

use std::path::Path;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::{LabError, Result};

/// Fewer samples than this do not carry a 99th percentile.
const P99_SAMPLES: usize = 200;

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was done.
    pub scene: String,
    /// What was measured.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it must meet, for example `<= 400`; None when it is only reported.
    pub bound: Option<String>,
    /// It meets its bound, or has none.
    pub ok: bool,
    /// Runs it was taken from.
    pub runs: usize,
}

/// All results of one run of a bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Processor, cores and kernel.
    pub machine: String,
    /// The commit that was measured.
    pub commit: String,
    /// UTC, RFC 3339.
    pub started: String,
    /// The results.
    pub rows: Vec<Row>,
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl Report {
    /// An empty report of a run that starts now.
    pub fn new() -> Self {
        Self { machine: machine(), commit: commit(), started: rfc3339(unix_seconds()), rows: Vec::new() }
    }

    /// Adds a value that is only reported.
    pub fn note(&mut self, scene: &str, metric: &str, value: f64, unit: &str, runs: usize) {
        self.push(scene, metric, value, unit, None, true, runs);
    }

    /// Adds a value that must be at most `limit`.
    pub fn at_most(&mut self, scene: &str, metric: &str, value: f64, unit: &str, limit: f64, runs: usize) {
        self.push(scene, metric, value, unit, Some(format!("<= {limit}")), value <= limit, runs);
    }

    /// Adds a value that must be at least `limit`.
    pub fn at_least(&mut self, scene: &str, metric: &str, value: f64, unit: &str, limit: f64, runs: usize) {
        self.push(scene, metric, value, unit, Some(format!(">= {limit}")), value >= limit, runs);
    }

    #[expect(clippy::too_many_arguments, reason = "one argument per column of the row")]
    fn push(
        &mut self,
        scene: &str,
        metric: &str,
        value: f64,
        unit: &str,
        bound: Option<String>,
        ok: bool,
        runs: usize,
    ) {
        let (scene, metric, unit) = (scene.to_owned(), metric.to_owned(), unit.to_owned());
        self.rows.push(Row { scene, metric, value, unit, bound, ok, runs });
    }

    /// True when every row is.
    pub fn ok(&self) -> bool {
        self.rows.iter().all(|r| r.ok)
    }

    /// 0 when every row meets its bound.
    pub fn exit_code(&self) -> ExitCode {
        if self.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Writes the object to `file`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("strings and finite numbers") + "\n";
        std::fs::write(file, text).map_err(LabError::io(file.display().to_string()))
    }

    /// What a bench ends with: the table to standard output, the object to `json` when that is wanted, and the exit status.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&self, json: Option<&Path>) -> Result<ExitCode> {
        print!("{}", self.table());
        if let Some(file) = json {
            self.write(file)?;
        }
        Ok(self.exit_code())
    }

    /// The rows as a table.
    pub fn table(&self) -> String {
        let head = ["scene", "metric", "value", "unit", "bound", "runs", "ok"].map(str::to_owned);
        let cells = |r: &Row| {
            let ok = if r.ok { "yes" } else { "NO" };
            let value = if r.value.fract() == 0.0 { format!("{:.0}", r.value) } else { format!("{:.2}", r.value) };
            let bound = r.bound.clone().unwrap_or_else(|| "-".to_owned());
            [r.scene.clone(), r.metric.clone(), value, r.unit.clone(), bound, r.runs.to_string(), ok.to_owned()]
        };
        let lines: Vec<[String; 7]> = std::iter::once(head).chain(self.rows.iter().map(cells)).collect();
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        let mut text = String::new();
        for line in &lines {
            let padded: Vec<String> = line.iter().zip(widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
            text += padded.join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

/// Values of one metric over several runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    fn sorted(&self) -> Vec<f64> {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The middle value; the mean of the two middle ones of an even number. None without samples.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }

    /// The largest value.
    pub fn max(&self) -> Option<f64> {
        self.sorted().last().copied()
    }

    /// The smallest value that 99 of 100 samples do not exceed; None from fewer than 200 samples.
    pub fn p99(&self) -> Option<f64> {
        let sorted = self.sorted();
        let rank = (sorted.len() * 99).div_ceil(100);
        if sorted.len() < P99_SAMPLES { None } else { sorted.get(rank - 1).copied() }
    }
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": ")).map(|(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} x {cores}, Linux {}", model.unwrap_or("unknown processor"), kernel.trim())
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| s.is_empty());
    if clean { head } else { format!("{head}-dirty") }
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs())
}

/// Civil date of a Unix time in UTC: the era method (400-year eras of 146,097 days, years that begin in March).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let year = era * 400 + year;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::{Report, Samples, rfc3339};

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_351_051), "2026-11-22T12:37:31Z");
    }

    #[test]
    fn percentiles_need_their_samples() {
        let samples = |n: u32| Samples((1..=n).rev().map(f64::from).collect());
        assert_eq!((samples(199).p99(), samples(200).p99()), (None, Some(198.0)));
        assert_eq!(
            (samples(3).median(), samples(4).median(), Samples::default().median()),
            (Some(2.0), Some(2.5), None)
        );
        assert_eq!(samples(7).max(), Some(7.0));
    }

    #[test]
    fn one_bad_row_is_a_failure() {
        let mut report = Report::new();
        report.at_most("cut", "gap", 399.0, "ms", 400.0, 200);
        report.note("cut", "lateness", 3.0, "ms", 200);
        assert!(report.ok());
        report.at_most("cut", "gap", 400.5, "ms", 400.0, 200);
        assert!(!report.ok() && report.table().lines().last().unwrap().ends_with("NO"));
    }
}
