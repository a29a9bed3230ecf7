//! The fault matrix between sites must not say more than there is: every row that is asked for stands in the table once, names where its bound is
//! proven or says what is missing, what it names exists, and the count below the table is the table's. That named tests exist is
//! [`super::names`]' matter, which reads this page too.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::drill;

/// The page.
pub(super) const PAGE: &str = "docs/sites-faults.md";
/// Rows of the simulator of sites.
const SCENES: &str = "tests/sim/src/sites/scene.rs";
/// Scenes of the demo.
const DEMO: &str = "bench/src/sites/scene.rs";
/// Benches; one with scenes is a folder with a file for each.
const BENCHES: &str = "bench/src/bin";

/// Rows of show 2 of the sites issue.
const ROWS: [&str; 27] = [
    "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12", "F13", "F14", "F15", "F16", "F17",
    "F18", "F19", "F22", "F23", "F25", "F26", "F28", "F30", "F32", "F33",
];

/// What can be named beside tests.
struct Known {
    /// `sim F3`.
    simulated: Vec<String>,
    /// `drill site-seeds`.
    drills: Vec<&'static str>,
    /// `demo NAME`: the source that has the names as strings.
    demo: String,
    /// `bench scale: flip`: scenes that hold a bound, as `scale: flip`.
    benches: Vec<String>,
}

pub(super) fn check(root: &Path) -> Result<()> {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"));
    let known = Known {
        simulated: classes(&read(SCENES)?),
        drills: drill::names()?,
        demo: read(DEMO)?,
        benches: benches(&root.join(BENCHES))?,
    };
    let wrong = violations(&read(PAGE)?, &known);
    if !wrong.is_empty() {
        bail!("{PAGE}:\n    {}", wrong.join("\n    "));
    }
    Ok(())
}

/// Rows that the simulator has: `Self::F3` in its list of all.
fn classes(source: &str) -> Vec<String> {
    let list = source.split_once("pub const ALL").and_then(|(_, rest)| rest.split_once("];"));
    let words = list.map_or("", |(list, _)| list).split(|c: char| !c.is_alphanumeric());
    words.filter(|word| word.starts_with('F')).map(str::to_owned).collect()
}

/// Scenes of benches that hold a bound.
fn benches(dir: &Path) -> Result<Vec<String>> {
    let list = |dir: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        entries.map(|entry| Ok(entry.context("directory entry")?.path())).collect()
    };
    let read = |file: &Path| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    let stem = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for bench in list(dir)?.iter().filter(|path| path.join("main.rs").is_file()) {
        let main = read(&bench.join("main.rs"))?;
        for file in list(bench)?.iter().filter(|file| file.is_file()) {
            if bounded(&main, &stem(file), &read(file)?) {
                found.push(format!("{}: {}", stem(bench), stem(file)));
            }
        }
    }
    Ok(found)
}

/// A scene can be asked for by its name, and a row of it can fail.
fn bounded(main: &str, scene: &str, source: &str) -> bool {
    main.contains(&format!("\"{scene}\"")) && [".at_most(", ".at_least("].iter().any(|bound| source.contains(bound))
}

/// One row of the table.
struct Fault<'a> {
    line: usize,
    row: &'a str,
    proof: &'a str,
    missing: &'a str,
}

fn faults(page: &str) -> Vec<Fault<'_>> {
    let rows = page.lines().enumerate().filter(|(_, line)| line.starts_with("| F"));
    rows.map(|(index, line)| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
        Fault { line: index + 1, row: cell(0), proof: cell(3), missing: cell(4) }
    })
    .collect()
}

fn violations(page: &str, known: &Known) -> Vec<String> {
    let mut wrong = Vec::new();
    let faults = faults(page);
    for row in ROWS {
        let times = faults.iter().filter(|fault| fault.row == row).count();
        if times != 1 {
            wrong.push(format!("row {row} is there {times} times"));
        }
    }
    let (mut proven, mut part, mut open) = (0, 0, 0);
    for Fault { line, row, proof, missing } in &faults {
        if !ROWS.contains(row) {
            wrong.push(format!("line {line}: nobody asked for row {row}"));
        }
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        for name in &named {
            if let Some(why) = unknown(name, known) {
                wrong.push(format!("line {line}: {why}"));
            }
        }
        match (named.is_empty(), missing.is_empty()) {
            (false, true) => proven += 1,
            (false, false) => part += 1,
            (true, false) => open += 1,
            (true, true) => wrong.push(format!("line {line}: {row} names no proof and does not say what is missing")),
        }
    }
    let count = format!("Proven: {proven}. In part: {part}. Not yet: {open}.");
    if !page.lines().any(|line| line == count) {
        wrong.push(format!("below the table must stand: {count}"));
    }
    wrong
}

/// Why something in backticks is no proof.
fn unknown(name: &str, known: &Known) -> Option<String> {
    let there = match name.split_once(' ') {
        Some(("sim", row)) => known.simulated.iter().any(|class| class == row),
        Some(("drill", drill)) => known.drills.contains(&drill),
        Some(("bench", scene)) => known.benches.iter().any(|known| known == scene),
        Some(("demo", scene)) => known.demo.contains(&format!("\"{scene}\"")),
        _ => {
            return (!name.contains(".rs::"))
                .then(|| format!("`{name}` is neither a test, a drill, a bench nor a scene"));
        }
    };
    (!there).then(|| format!("there is no `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            simulated: classes("pub const ALL: [Self; 2] = [\n Self::F3,\n Self::F14,\n ];\n Self::F9"),
            drills: vec!["site-seeds"],
            demo: "Self::Death => \"sites: site death\",".to_owned(),
            benches: vec!["scale: flip".to_owned()],
        }
    }

    /// The table with everything proven by the same; `with` changes it.
    fn page(proof: &str, with: impl Fn(&str) -> Option<String>) -> String {
        let row = |row: &&str| with(row).unwrap_or_else(|| format!("| {row} | fault | bound | {proof} | |\n"));
        ROWS.iter().map(row).collect::<String>() + "\nProven: 27. In part: 0. Not yet: 0.\n"
    }

    #[test]
    fn a_table_that_is_whole_and_names_what_exists_is_accepted() {
        for proof in [
            "`sim F14`",
            "`drill site-seeds`",
            "`demo sites: site death`",
            "`bench scale: flip`",
            "the test `a/b.rs::one`",
        ] {
            assert_eq!(violations(&page(proof, |_| None), &known()), Vec::<String>::new());
        }
    }

    #[test]
    fn what_does_not_exist_is_found() {
        for proof in
            ["`sim F9`", "`drill none`", "`demo sites: death`", "`bench scale: one`", "`bench scale`", "`a scene`"]
        {
            let wrong = violations(
                &page("`sim F3`", |row| (row == "F7").then(|| format!("| F7 | | | {proof} | |\n"))),
                &known(),
            );
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong[0].starts_with("line 7: "), "{wrong:?}");
        }
    }

    #[test]
    fn a_scene_of_a_bench_counts_when_it_can_be_asked_for_and_can_fail() {
        let (main, bound) =
            ("const SCENES: [&str; 1] = [\"flip\"];", "report.at_most(scene, metric, worst, \"ms\", BOUND, RUNS);");
        assert!(bounded(main, "flip", bound));
        assert!(!bounded(main, "flip", "report.note(scene, metric, worst, \"ms\", RUNS);"), "nothing of it can fail");
        assert!(!bounded(main, "flap", bound), "nobody can ask for it");
        let known = benches(&crate::sh::root().join(BENCHES)).unwrap();
        assert!(known.iter().any(|name| name == "scale: flip"), "{known:?}");
    }

    #[test]
    fn a_lost_row_a_row_without_a_word_and_a_wrong_count_are_found() {
        let lost = violations(&page("`sim F3`", |row| (row == "F7").then(String::new)), &known());
        assert_eq!(lost[0], "row F7 is there 0 times");
        assert_eq!(lost[1], "below the table must stand: Proven: 26. In part: 0. Not yet: 0.");
        let silent =
            violations(&page("`sim F3`", |row| (row == "F7").then(|| "| F7 | | | | |\n".to_owned())), &known());
        assert!(silent[0].contains("F7 names no proof"), "{silent:?}");
        let stranger = violations(
            &page("`sim F3`", |row| {
                (row == "F7").then(|| "| F7 | | | `sim F3` | |\n| F99 | | | `sim F3` | |\n".to_owned())
            }),
            &known(),
        );
        assert!(stranger[0].contains("nobody asked for row F99"), "{stranger:?}");
        let part = violations(
            &page("`sim F3`", |row| (row == "F7").then(|| "| F7 | | | `sim F3` | the rest |\n".to_owned())),
            &known(),
        );
        assert_eq!(part, ["below the table must stand: Proven: 26. In part: 1. Not yet: 0."]);
    }
}
