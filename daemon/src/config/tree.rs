//! YAML as a tree whose every node knows where it stands.
//!
//! The model is read from this tree and not by derived `Deserialize`: serde stops at the first error, and a person wants all of them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned};

use super::error::{ConfigError, Pos, shown};

/// Deepest nesting: the model needs 6; more is an attack on the stack.
const MAX_DEPTH: usize = 24;

/// A node and its place.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) at: Pos,
    pub(super) value: Value,
    /// The source text of a scalar that is not text, as written.
    raw: String,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `key:` with nothing, `~` or `null`.
    Null,
    Flag(bool),
    Int(i128),
    Float,
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Tree {}

impl Tree {
    /// The value for an error message: one line, never long.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Text(text) => shown(text),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
            Value::Flag(_) | Value::Int(_) | Value::Float => shown(&self.raw),
        }
    }

    /// A mapping key as text, as it was written.
    pub(super) fn key(&self) -> &str {
        match &self.value {
            Value::Text(text) => text,
            Value::Null | Value::Flag(_) | Value::Int(_) | Value::Float | Value::List(_) | Value::Map(_) => &self.raw,
        }
    }

    /// A mapping of these, in a place of no file.
    pub(super) fn of(entries: Vec<(Self, Self)>) -> Self {
        Self { at: Pos::START, value: Value::Map(entries), raw: String::new() }
    }

    /// A key, or another text, in a place of no file.
    pub(super) fn text(text: &str) -> Self {
        Self { at: Pos::START, value: Value::Text(text.to_owned()), raw: String::new() }
    }

    /// What is in a mapping; nothing where it is none.
    pub(super) fn entries(&self) -> &[(Self, Self)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The same scalar, standing elsewhere.
    pub(super) fn moved_to(mut self, at: Pos) -> Self {
        self.at = at;
        self
    }

    fn restore_raw(&mut self, text: &str) {
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|i| i.restore_raw(text)),
            Value::Map(entries) => entries.iter_mut().for_each(|(k, v)| {
                k.restore_raw(text);
                v.restore_raw(text);
            }),
            Value::Null | Value::Flag(_) | Value::Int(_) | Value::Float | Value::Text(_) => {
                self.raw =
                    self.at.bytes.and_then(|(from, to)| text.get(from..to)).unwrap_or_default().trim().to_owned();
            }
        }
    }
}

/// Reads one YAML document.
pub(super) fn read(text: &str) -> Result<Tree, Box<ConfigError>> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // Duplicates are reported like every other error, by the reader.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
    };
    let mut tree: Tree = serde_saphyr::from_str_with_options(text, options).map_err(|e| syntax(&e))?;
    tree.restore_raw(text);
    Ok(tree)
}

fn syntax(error: &serde_saphyr::Error) -> Box<ConfigError> {
    let error = error.without_snippet();
    let at = error.location().map_or(Pos::START, |l| Pos::from(&l));
    let rendered = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let first = rendered.lines().next().unwrap_or_default();
    // The formatter repeats the position in words; ours stands in front of the line.
    let message = first.split(" at line ").next().unwrap_or(first).trim_end_matches(['.', ' ']);
    let right = match error {
        serde_saphyr::Error::MultipleDocuments { .. } => "use one document",
        serde_saphyr::Error::UnknownAnchor { .. } => "define the anchor before it is used",
        serde_saphyr::Error::Budget { .. } => "write a smaller file",
        _ if message.starts_with("tabs") => "indent with spaces",
        _ => "use YAML as in docs/configuration.md",
    };
    Box::new(ConfigError::new(at, "(file)", format!("not valid YAML: {}", shown(message)), right))
}

impl From<&Location> for Pos {
    fn from(location: &Location) -> Self {
        let span = location.span();
        let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(from, len)| {
            let from = usize::try_from(from).ok()?;
            Some((from, from.checked_add(usize::try_from(len).ok()?)?))
        });
        Self { line: location.line().max(1), column: location.column().max(1), bytes }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: Pos::from(&spanned.referenced), value: spanned.value, raw: String::new() })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Int(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Value, E> {
        Ok(Value::Float)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
