//! The JSON object that every bench, drill and fuzz run writes, as far as xtask itself writes or completes one:
//! `{machine, commit, started, rows: [{scene, metric, value, unit, bound, ok, runs}]}`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::sh;

/// Every field a row has; a result without one of them is refused before it is committed.
const ROW_FIELDS: &[&str] = &["scene", "metric", "value", "unit", "bound", "ok", "runs"];

/// Kernel, cores and memory: what a figure depends on, and no name of a host.
pub(crate) fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024 / 1024);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    // What follows the dash is the builder's name of the kernel, not its version.
    let version = kernel.trim().split('-').next().unwrap_or_default();
    format!("Linux {version}, {cores} cores, {memory} GiB")
}

/// The commit, with `-dirty` when tracked files differ from it.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| sh::output(Command::new("git").current_dir(sh::root()).args(args));
    let Ok(head) = git(&["rev-parse", "HEAD"]) else { return "unknown".to_owned() };
    // Results themselves are tracked: a drill that has just written one has not changed what it measures.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"]);
    let dirty = changed.is_ok_and(|text| !text.trim().is_empty());
    format!("{}{}", head.trim(), if dirty { "-dirty" } else { "" })
}

/// The time now in UTC, RFC 3339. coreutils has a calendar; std has none.
pub(crate) fn now() -> String {
    let stamp = sh::output(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
    stamp.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// A complete object from rows.
pub(crate) fn object(started: &str, rows: Vec<Value>) -> Value {
    json!({ "machine": machine(), "commit": commit(), "started": started, "rows": rows })
}

/// Write pretty JSON with a closing newline, making the folder.
pub(crate) fn write(file: &Path, value: &Value) -> Result<()> {
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(value).context("JSON")? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Check a result's shape and fill in machine and commit when the program that wrote it left them out.
pub(crate) fn complete(text: &str, started: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).context("the result is not JSON")?;
    let Value::Object(mut object) = value else { bail!("the result is not one JSON object") };
    let rows = object.get("rows").and_then(Value::as_array).context("the result has no `rows`")?;
    if rows.is_empty() {
        bail!("the result has no row");
    }
    for (index, row) in rows.iter().enumerate() {
        let row = row.as_object().with_context(|| format!("row {index} is not an object"))?;
        if let Some(field) = ROW_FIELDS.iter().find(|field| !row.contains_key(**field)) {
            bail!("row {index} has no `{field}`");
        }
    }
    fill(&mut object, "machine", machine);
    fill(&mut object, "commit", commit);
    fill(&mut object, "started", || started.to_owned());
    Ok(Value::Object(object))
}

fn fill(object: &mut Map<String, Value>, field: &str, with: impl FnOnce() -> String) {
    let empty = object.get(field).is_none_or(|value| value.is_null() || value == "" || value == "unknown");
    if empty {
        object.insert(field.to_owned(), Value::String(with()));
    }
}

/// Whether every row of a result is within its bound.
pub(crate) fn all_ok(result: &Value) -> bool {
    let rows = result.get("rows").and_then(Value::as_array);
    rows.is_some_and(|rows| !rows.is_empty() && rows.iter().all(|row| row["ok"] == Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ok: bool) -> Value {
        json!({"scene": "s", "metric": "m", "value": 1, "unit": "ms", "bound": null, "ok": ok, "runs": 1})
    }

    #[test]
    fn a_complete_result_passes_and_keeps_its_own_machine() {
        let text = json!({"machine": "theirs", "rows": [row(true)]}).to_string();
        let value = complete(&text, "then").unwrap();
        assert_eq!(value["machine"], "theirs");
        assert_eq!(value["started"], "then");
        assert!(value["commit"].as_str().is_some_and(|commit| !commit.is_empty()));
        assert!(all_ok(&value));
    }

    #[test]
    fn a_row_without_a_field_is_refused_by_name() {
        let mut broken = row(true);
        broken.as_object_mut().unwrap().remove("runs");
        let error = complete(&json!({"rows": [broken]}).to_string(), "").unwrap_err().to_string();
        assert_eq!(error, "row 0 has no `runs`");
    }

    #[test]
    fn no_rows_is_not_a_success() {
        assert!(complete(r#"{"rows": []}"#, "").is_err());
        assert!(!all_ok(&json!({"rows": []})));
        assert!(!all_ok(&json!({"rows": [row(true), row(false)]})));
    }
}
