//! What was seen of an event.

use std::fmt::Write as _;
use std::time::Duration;

use bascule_lab::{Report, Stamp};

use super::Scene;

/// A run in which a prober was later than this says nothing about times: platform noise is 12 ms, the tightest bound leaves 100 ms.
const ALLOWANCE: Duration = Duration::from_millis(50);

/// One measured value.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// What.
    pub metric: &'static str,
    /// How much.
    pub value: f64,
    /// Of what; times are in `ms` or `s`.
    pub unit: &'static str,
    /// What it must not exceed; None when it is only shown.
    pub limit: Option<f64>,
}

impl Measure {
    /// A time, which a machine that stood still spoils; counts are bound always.
    fn is_time(&self) -> bool {
        matches!(self.unit, "ms" | "s")
    }
}

/// One event.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which.
    pub scene: Scene,
    /// The table's rows.
    pub measures: Vec<Measure>,
    /// What happened when, in words.
    pub timeline: Vec<(Stamp, String)>,
    /// Where the timeline begins.
    pub begun: Stamp,
    /// How late the probers were.
    pub late: Duration,
}

impl Seen {
    /// An event that began at `begun`.
    pub fn new(scene: Scene, begun: Stamp) -> Self {
        Self { scene, measures: Vec::new(), timeline: Vec::new(), begun, late: Duration::ZERO }
    }

    /// Adds a value with its bound.
    pub fn at_most(&mut self, metric: &'static str, value: f64, unit: &'static str, limit: f64) {
        self.measures.push(Measure { metric, value, unit, limit: Some(limit) });
    }

    /// Adds a value that is only shown.
    pub fn note(&mut self, metric: &'static str, value: f64, unit: &'static str) {
        self.measures.push(Measure { metric, value, unit, limit: None });
    }

    /// Adds a line of the timeline.
    pub fn tell(&mut self, at: Stamp, what: String) {
        self.timeline.push((at, what));
    }

    /// The probers were too late for its times to say anything.
    pub fn void(&self) -> bool {
        self.late > ALLOWANCE
    }

    /// This value says something: a void run's times do not.
    pub fn counts(&self, measure: &Measure) -> bool {
        !(self.void() && measure.is_time())
    }

    /// What a value must meet in this run.
    pub fn bound(&self, measure: &Measure) -> Option<f64> {
        measure.limit.filter(|_| self.counts(measure))
    }

    /// Its rows.
    pub fn rows(&self, report: &mut Report) {
        for measure in &self.measures {
            let Measure { metric, value, unit, .. } = *measure;
            match self.bound(measure) {
                Some(limit) => report.at_most(self.scene.name(), metric, value, unit, limit, 1),
                None => report.note(self.scene.name(), metric, value, unit, 1),
            }
        }
        report.note(self.scene.name(), "lateness of the probers", self.late.as_secs_f64() * 1e3, "ms", 1);
    }

    /// Its timeline for people: seconds since it began.
    pub fn story(&self) -> String {
        let mut lines = self.timeline.clone();
        lines.sort_by_key(|(at, _)| *at);
        let mut text = format!("{}\n", self.scene.name());
        for (at, what) in lines {
            let ahead = self.begun.since(at).as_secs_f64();
            let seconds = at.since(self.begun).as_secs_f64() - ahead;
            let _infallible = writeln!(text, "  {seconds:>+8.3} s  {what}");
        }
        text
    }
}

/// All events as one table.
pub fn table(shown: &[Seen]) -> String {
    let mut text = format!("{:<22} {:<52} {:>10}  {:>10}\n", "event", "what", "measured", "bound");
    for seen in shown {
        for measure in &seen.measures {
            let digits = usize::from(measure.unit == "s") * 2;
            let bound = match seen.bound(measure) {
                Some(limit) => format!("{limit} {}", measure.unit),
                None if measure.limit.is_some() => "void".to_owned(),
                None => "-".to_owned(),
            };
            let value = format!("{:.digits$} {}", measure.value, measure.unit);
            let _infallible =
                writeln!(text, "{:<22} {:<52} {value:>10}  {bound:>10}", seen.scene.name(), measure.metric);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_prober_voids_times_and_never_counts() {
        let mut seen = Seen::new(Scene::Death, Stamp(5_000_000_000));
        seen.at_most("noticed", 700.0, "ms", 600.0);
        seen.at_most("flows broken", 1.0, "flows", 0.0);
        let mut report = Report::new();
        seen.rows(&mut report);
        assert_eq!(report.rows.iter().filter(|row| !row.ok).count(), 2);
        seen.late = Duration::from_millis(80);
        let mut report = Report::new();
        seen.rows(&mut report);
        assert_eq!(report.rows.iter().filter(|row| !row.ok).count(), 1, "{}", table(&[seen]));
    }

    #[test]
    fn a_timeline_is_in_order_and_may_begin_before_its_event() {
        let mut seen = Seen::new(Scene::Death, Stamp(5_000_000_000));
        seen.tell(Stamp(5_512_000_000), "noticed".to_owned());
        seen.tell(Stamp(4_990_000_000), "last heard".to_owned());
        assert_eq!(seen.story(), "sites: site death\n    -0.010 s  last heard\n    +0.512 s  noticed\n");
    }
}
