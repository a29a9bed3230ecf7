//! docs/reference/config.md, from the table that the reader obeys.

use std::fmt::Write as _;

use super::schema::{Absent, Field, Kind, ROOT, Section, time};

const HEAD: &str = "# Configuration reference

Written by `bascule docs config`; do not edit. A guide with examples is in [configuration.md](../configuration.md).

One YAML file per node. Unknown fields are refused, times carry their unit (`100ms`, `1s`, `2m`, `1h`), booleans are `true` and `false`,
and a field that is named must have a value. `bascule check FILE` reports every mistake with its place. The file is read again on SIGHUP
and when it changes; a file with a mistake is refused as a whole and the last good one stays in force.
";

/// The reference as markdown.
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    section(&mut out, &ROOT);
    out
}

fn section(out: &mut String, section: &Section) {
    let title = if section.path.is_empty() { "The file".to_owned() } else { format!("`{}`", section.path) };
    put(
        out,
        &format!(
            "\n## {title}\n\n{}\n\n| field | type | default | allowed | meaning |\n|---|---|---|---|---|\n",
            section.about
        ),
    );
    for field in section.fields {
        let (kind, default, allowed) = (type_of(&field.kind), default_of(field), allowed(&field.kind));
        put(out, &format!("| `{}` | {kind} | {default} | {allowed} | {} |\n", field.key, field.meaning));
    }
    for field in section.fields {
        if let Some(inner) = field.kind.inner() {
            self::section(out, inner);
        }
    }
}

fn put(out: &mut String, text: &str) {
    let _infallible = out.write_str(text);
}

fn type_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Flag => "boolean",
        Kind::Whole { .. } => "whole number",
        Kind::Time { .. } => "time",
        Kind::Word(_) => "word",
        Kind::Text { .. } => "text",
        Kind::Texts { .. } => "list of texts",
        Kind::Section(_) => "mapping",
        Kind::Sections(_) => "list of mappings",
        Kind::Named(_) => "mapping by name",
    }
}

fn default_of(field: &Field) -> String {
    match field.default {
        Absent::Required => "required".into(),
        Absent::Value(yaml) => format!("`{yaml}`"),
        Absent::Words(words) => words.into(),
    }
}

fn allowed(kind: &Kind) -> String {
    match kind {
        Kind::Section(section) | Kind::Sections(section) | Kind::Named(section) => format!("see `{}`", section.path),
        Kind::Word(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Kind::Flag => "`true`, `false`".into(),
        Kind::Time { step, .. } if *step > 1 => format!("{} in steps of {}", kind.right(), time(*step)),
        Kind::Whole { .. } | Kind::Time { .. } | Kind::Text { .. } | Kind::Texts { .. } => kind.item_right(),
    }
}
