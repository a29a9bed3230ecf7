//! Docs that name a test must not outlive it: every `path/file.rs::test_name` in backticks exists, as a function with
//! a test attribute. In docs/rfc a row that claims no gap must name a test.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Pages whose claims are checked: these, and every page of the folder.
const PAGES: [&str; 3] = ["docs/testing.md", "docs/service-vips.md", super::faults::PAGE];
const FOLDER: &str = "docs/rfc";

/// Relative to the root, sorted.
fn pages(root: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(root.join(FOLDER)).with_context(|| format!("cannot read {FOLDER}"))?;
    let mut pages: Vec<String> = PAGES.map(str::to_owned).into();
    for entry in entries {
        let name = entry.context("directory entry")?.file_name();
        pages.push(format!("{FOLDER}/{}", name.to_string_lossy()));
    }
    pages.sort();
    Ok(pages)
}

pub(super) fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    for page in pages(root)? {
        let text = std::fs::read_to_string(root.join(&page)).with_context(|| format!("cannot read {page}"))?;
        let read = |file: &str| std::fs::read_to_string(root.join(file)).ok();
        let (count, wrong) = violations(&text, read);
        if count == 0 {
            found.push(format!("{page} names no test at all"));
        }
        found.extend(wrong.into_iter().map(|(line, why)| format!("{page}:{line}: {why}")));
    }
    if !found.is_empty() {
        bail!("{} wrong references:\n    {}", found.len(), found.join("\n    "));
    }
    Ok(())
}

/// How many tests the page names, and what is wrong with which line.
fn violations(page: &str, read: impl Fn(&str) -> Option<String>) -> (usize, Vec<(usize, String)>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for (index, line) in page.lines().enumerate() {
        for reference in line.split('`').skip(1).step_by(2) {
            let Some((file, test)) = reference.split_once(".rs::") else {
                if reference.ends_with(".rs") && reference.contains('/') && read(reference).is_none() {
                    wrong.push((index + 1, format!("there is no file {reference}")));
                }
                continue;
            };
            count += 1;
            let file = format!("{file}.rs");
            match read(&file) {
                None => wrong.push((index + 1, format!("there is no file {file}"))),
                Some(source) if !has_test(&source, test) => {
                    wrong.push((index + 1, format!("{file} has no test `{test}`")))
                }
                Some(_) => {}
            }
        }
    }
    wrong.dedup();
    (count, wrong)
}

/// A function of that name with `#[test]` among the attributes right above it.
fn has_test(source: &str, name: &str) -> bool {
    let name = name.rsplit("::").next().unwrap_or(name);
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_it = |line: &str| {
        let rest = line.strip_prefix("pub ").unwrap_or(line);
        let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ").unwrap_or("");
        rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    lines.iter().enumerate().filter(|(_, line)| is_it(line)).any(|(at, _)| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "#[test]\n#[should_panic]\nfn one() {}\n\nfn helper() {}\n\n#[tokio::test]\nasync fn three() {}\n";

    fn wrong(page: &str) -> Vec<(usize, String)> {
        violations(page, |file| (file == "a/b.rs").then(|| SOURCE.to_owned())).1
    }

    #[test]
    fn a_named_test_that_exists_is_accepted() {
        assert_eq!(wrong("| 5.1 | `a/b.rs` | `a/b.rs::one` |"), []);
        assert_eq!(wrong("`a/b.rs::tests::one`"), []);
        assert_eq!(wrong("`a/b.rs::three`"), []);
    }

    #[test]
    fn a_missing_test_a_helper_and_a_missing_file_are_found() {
        assert_eq!(wrong("\n`a/b.rs::two`"), [(2, "a/b.rs has no test `two`".to_owned())]);
        assert_eq!(wrong("`a/b.rs::helper`").len(), 1);
        assert_eq!(wrong("`a/b.rs::on`").len(), 1);
        assert_eq!(wrong("`a/c.rs::one`"), [(1, "there is no file a/c.rs".to_owned())]);
        assert_eq!(wrong("`a/c.rs`").len(), 1);
    }

    #[test]
    fn prose_in_backticks_is_not_a_reference() {
        let (count, wrong) = violations("`cargo xtask test` and `foo.rs`", |_| None);
        assert_eq!((count, wrong.len()), (0, 0));
    }
}
