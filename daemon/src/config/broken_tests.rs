//! Broken files, each with one mistake, and the exact line that `bascule check` prints for it.
//!
//! Each file in `broken/` names the kind of its mistake in its first line and the expected error in its second.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::tests::{folder, key_file};
use super::{check, parse};

struct Broken {
    file: String,
    kind: String,
    expected: String,
    text: String,
}

fn broken() -> Vec<Broken> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/broken");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("text");
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut head = text.lines();
        let mut line = |what: &str| {
            let line = head.next().and_then(|l| l.strip_prefix(what));
            line.unwrap_or_else(|| panic!("{file} lacks the line {what}")).to_owned()
        };
        let (kind, expected) = (line("# kind: "), line("# expect: "));
        Broken { file, kind, expected, text }
    };
    paths.iter().map(read).collect()
}

#[test]
fn every_broken_file_gives_its_exact_line() {
    let dir = folder();
    for (name, text, mode) in [
        ("open.key", "ab".repeat(32), 0o644),
        ("short.key", "ab".repeat(15), 0o600),
        ("long.key", "ab".repeat(65), 0o600),
        ("odd.key", "abc".repeat(11), 0o600),
        ("nothex.key", format!("{}\n{}xyz\n", "ab".repeat(16), "ab".repeat(15)), 0o600),
        ("three.key", format!("{}\n", "ab".repeat(16)).repeat(3), 0o600),
        ("empty.key", "\n\n".to_owned(), 0o600),
        ("nothing.key", "\n".to_owned(), 0o600),
        ("noflow.key", format!("1:{}\n", "ab".repeat(16)), 0o600),
        ("twice.key", format!("0:{}\n0:{}\n", "ab".repeat(16), "cd".repeat(16)), 0o600),
    ] {
        key_file(&dir.path().join(name), &text, mode);
    }
    std::fs::create_dir(dir.path().join("folder")).expect("made");
    let files = broken();
    let mut wrong = Vec::new();
    for case in &files {
        let path = dir.path().join(&case.file);
        std::fs::write(&path, &case.text).expect("written");
        let (status, out) = check(&path);
        let out = out.replace(&format!("{}/", dir.path().display()), "");
        if (status, out.as_str()) != (1, format!("{}\n", case.expected).as_str()) {
            wrong.push(format!("{}\n  expected {}\n  got      {out}", case.file, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    let kinds: BTreeSet<&str> = files.iter().map(|f| f.kind.as_str()).collect();
    println!("{} broken files of {} kinds", files.len(), kinds.len());
    assert!(files.len() >= 110 && kinds.len() >= 80, "{} files of {} kinds", files.len(), kinds.len());
}

/// The error without what belongs to the file: place, field and quoted values.
fn shape(line: &str) -> String {
    let message = line.splitn(5, ':').nth(4).unwrap_or(line).split(';').next().unwrap_or(line);
    message
        .split_whitespace()
        .filter(|w| w.chars().all(|c| c.is_ascii_lowercase() || c == ','))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Kinds are not just labels: the words of the errors differ, too.
#[test]
fn kinds_differ_in_what_they_say() {
    let mut by_shape: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in broken() {
        by_shape.entry(shape(&case.expected)).or_default().insert(case.kind);
    }
    assert!(by_shape.len() >= 25, "{by_shape:#?}");
}

#[test]
fn one_run_reports_them_all_in_the_order_of_the_file() {
    let text = "node: n1\nfense: off\nvips:\n  - name: API\n    addresses: [10.9.0.256, 127.0.0.1]\n    vrid: 0\n    priority: 300\n    advertInterval: 5ms\n  - name: web\n    addresses: []\n";
    let errors = parse(text, "bascule.yaml", Path::new("/"), "n1").expect_err("broken");
    let expected = "
bascule.yaml:2:1: fense: unknown field; did you mean fence?
bascule.yaml:4:11: vips[0].name: API contains A; use 1 to 63 of a-z, 0-9 and -, no - at an end
bascule.yaml:5:17: vips[0].addresses[0]: 10.9.0.256 is not an IP address; use a unicast address without prefix length, such as 10.9.0.100
bascule.yaml:5:29: vips[0].addresses[1]: 127.0.0.1 is a loopback address; use a unicast address without prefix length, such as 10.9.0.100
bascule.yaml:6:11: vips[0].vrid: 0 is below 1; use 1 to 255
bascule.yaml:7:15: vips[0].priority: 300 is above 254; use 100 to 254
bascule.yaml:8:21: vips[0].advertInterval: 5ms is below 10ms; use 10ms to 40950ms
bascule.yaml:9:5: vips[1].vrid: missing; use 1 to 255
bascule.yaml:9:5: vips[1]: neither priority nor nodes is given; use priority: 100 to 254, or nodes: the names by rank
bascule.yaml:10:16: vips[1].addresses: the list is empty; give 1 to 20 addresses of a family
";
    assert_eq!(errors.to_string(), expected.trim());
}
