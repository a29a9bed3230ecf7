//! File sizes: a report, not a bound. Near 120 lines is the aim; past 400 a file must be able to answer for itself.

use std::path::Path;

use anyhow::{Context, Result};

use super::rust_files;

/// Past this many lines a file is named.
const QUESTIONED: usize = 400;

pub(super) fn report(root: &Path) -> Result<()> {
    let mut sizes = Vec::new();
    for file in rust_files(root)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        sizes.push((text.lines().count(), name));
    }
    print!("{}", table(sizes));
    Ok(())
}

fn table(mut sizes: Vec<(usize, String)>) -> String {
    sizes.sort_by(|a, b| b.cmp(a));
    let lines: usize = sizes.iter().map(|(lines, _)| lines).sum();
    let median = sizes.get(sizes.len() / 2).map_or(0, |(lines, _)| *lines);
    let mut out = format!("      {} Rust files, {lines} lines, median {median}\n", sizes.len());
    for (lines, name) in sizes.iter().filter(|(lines, _)| *lines > QUESTIONED) {
        out += &format!("      {lines:5} {name}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_files_are_named_longest_first() {
        let text = table(vec![(10, "a".into()), (500, "b".into()), (401, "c".into()), (400, "d".into())]);
        assert_eq!(text, "      4 Rust files, 1311 lines, median 400\n        500 b\n        401 c\n");
    }
}
