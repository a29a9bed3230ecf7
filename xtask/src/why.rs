//! Why tests failed, picked from what libtest prints: a log may be gone with its machine, the closing lines of a run are kept.

use std::collections::BTreeMap;

/// Lines of one reason that are kept: an error, its causes and a little of what it carries.
const LINES: usize = 12;
/// Characters of a line that are kept.
const WIDTH: usize = 400;

/// Reads the output of one test binary.
#[derive(Debug, Default)]
pub(crate) struct Why {
    /// The test whose output this is.
    test: Option<String>,
    reasons: BTreeMap<String, Vec<String>>,
}

impl Why {
    /// Take one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.test = Some(test.to_owned());
            return;
        }
        // Frames say where; the words before them say why.
        let over = matches!(line, "successes:" | "failures:" | "stack backtrace:") || line.starts_with("test result: ");
        if over {
            self.test = None;
        }
        let Some(test) = &self.test else { return };
        let begins = line.starts_with("Error: ") || (line.starts_with("thread '") && line.contains("panicked at"));
        match self.reasons.get_mut(test) {
            Some(reason) if reason.len() < LINES && !line.is_empty() => reason.push(cut(line)),
            None if begins => drop(self.reasons.insert(test.clone(), vec![cut(line)])),
            _ => {}
        }
    }

    /// Why a test failed, a line each; nothing when it said nothing.
    pub(crate) fn of(&self, test: &str) -> &[String] {
        self.reasons.get(test).map_or(&[], Vec::as_slice)
    }
}

fn cut(line: &str) -> String {
    line.chars().take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_follows_the_error_or_the_panic_of_its_own_test() {
        let output = "running 3 tests\n\nsuccesses:\n\n---- a stdout ----\nError: of one that passed\n\nfailures:\n\n---- b stdout ----\n\
                      waited\nError: no answer\n\nCaused by:\n    0: late\n\n---- c stdout ----\nthread 'c' panicked at x.rs:1:1:\nleft\nstack backtrace:\n   0: frame\n\n\
                      failures:\n    b\n    c\n\ntest result: FAILED. 1 passed; 2 failed";
        let mut why = Why::default();
        output.lines().for_each(|line| why.line(line));
        assert_eq!(why.of("b"), ["Error: no answer", "Caused by:", "    0: late"]);
        assert_eq!(why.of("c"), ["thread 'c' panicked at x.rs:1:1:", "left"]);
        assert!(why.of("d").is_empty());
    }

    #[test]
    fn a_reason_is_short() {
        let mut why = Why::default();
        why.line("---- a stdout ----");
        why.line(&format!("Error: {}", "x".repeat(1000)));
        (0..100).for_each(|_| why.line("more"));
        assert_eq!((why.of("a").len(), why.of("a")[0].len()), (LINES, WIDTH));
    }
}
