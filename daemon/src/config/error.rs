//! Errors a person can act on: place, field, value, and what would be right, each on one line.

use std::fmt;

use thiserror::Error;

/// Longest value shown in an error, in characters; the place says where to read the rest.
const SHOWN_MAX: usize = 80;

/// A place in the file; lines and columns (in characters) count from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pos {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
    /// Byte range of the source text, where known.
    pub(super) bytes: Option<(usize, usize)>,
}

impl Pos {
    /// The first character of the file.
    pub const START: Self = Self { line: 1, column: 1, bytes: None };
}

/// One thing that is wrong in a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{file}:{line}:{column}: {field}: {wrong}; {right}", line = at.line, column = at.column)]
pub struct ConfigError {
    /// File, as the caller named it.
    pub file: String,
    /// Where.
    pub at: Pos,
    /// Path of the field, such as `vips[0].vrid`; `(file)` for the whole.
    pub field: String,
    /// What is wrong, with the value.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl ConfigError {
    /// An error whose file is filled in when all errors are collected.
    pub(super) fn new(at: Pos, field: &str, wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { file: String::new(), at, field: field.to_owned(), wrong: wrong.into(), right: right.into() }
    }
}

/// Everything that is wrong in a configuration file, in the order of the file; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.iter_mut().for_each(|e| file.clone_into(&mut e.file));
        errors.sort_by_key(|e| (e.at.line, e.at.column));
        Self(errors)
    }

    /// The errors.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Text of a user on one line: what does not print escaped, the end cut off, an empty text made visible.
pub(super) fn shown(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".into();
    }
    let escape = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        // Also what turns the direction of the line round, or breaks it.
        c => c.escape_debug().to_string(),
    };
    let mut out: String = text.chars().take(SHOWN_MAX).map(escape).collect();
    if text.chars().count() > SHOWN_MAX {
        out.push_str("...");
    }
    out
}
