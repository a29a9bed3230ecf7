//! Counting what libtest printed. A binary that did not close with a result line counts as one failure: a crash, a
//! hang or a linker that never made it must not look like nothing to report.

/// Sums over test binaries and checks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests and checks that passed.
    pub(crate) passed: u64,
    /// Tests and checks that failed, and binaries that could not run.
    pub(crate) failed: u64,
    /// Tests marked `#[ignore]`.
    pub(crate) ignored: u64,
}

impl Tally {
    /// Add another sum to this one.
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// One check with a verdict.
    pub(crate) fn one(ok: bool) -> Tally {
        Tally { passed: u64::from(ok), failed: u64::from(!ok), ignored: 0 }
    }
}

/// Reads the output of one test binary.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    sum: Tally,
    results: u64,
}

impl Reader {
    /// Take one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(sum) = result_line(line) {
            self.sum.add(sum);
            self.results += 1;
        }
    }

    /// The sum, given how the binary ended (`ok`: exit status 0) and how many result lines it owed.
    #[must_use]
    pub(crate) fn finish(self, ok: bool, owed: u64) -> Tally {
        let mut sum = self.sum;
        sum.failed += owed.saturating_sub(self.results);
        if !ok && sum.failed == 0 {
            sum.failed = 1;
        }
        sum
    }
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn result_line(line: &str) -> Option<Tally> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let counts = rest.split_once(". ")?.1;
    let mut sum = Tally::default();
    for part in counts.split("; ") {
        let Some((number, what)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => sum.passed = number,
            "failed" => sum.failed = number,
            "ignored" => sum.ignored = number,
            _ => {}
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str], ok: bool) -> Tally {
        let mut reader = Reader::default();
        lines.iter().for_each(|line| reader.line(line));
        reader.finish(ok, 1)
    }

    #[test]
    fn result_lines_are_summed() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s";
        assert_eq!(read(&["running 14 tests", line], false), Tally { passed: 12, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_binary_without_a_result_line_failed() {
        assert_eq!(read(&["running 14 tests", "test a ... ok"], false), Tally { passed: 0, failed: 1, ignored: 0 });
        assert_eq!(read(&[], true), Tally { passed: 0, failed: 1, ignored: 0 });
    }

    #[test]
    fn a_bad_exit_after_good_results_is_a_failure() {
        let line = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(read(&[line], false), Tally { passed: 3, failed: 1, ignored: 0 });
        assert_eq!(read(&[line], true), Tally { passed: 3, failed: 0, ignored: 0 });
    }
}
