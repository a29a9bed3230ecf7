//! Typed fields out of the tree, by the table. Every mistake is noted and reading goes on.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::error::{ConfigError, Pos, shown};
use super::nearest::nearest;
use super::schema::{Absent, Field, Kind, Section};
use super::tree::{self, Tree, Value};
use super::values::{self, Wrong, wrong};

/// Longest list of texts; none needs more, and rules compare each entry with each.
const ITEMS_MAX: usize = 256;

/// The errors found so far.
#[derive(Default)]
pub(super) struct Errors(RefCell<Vec<ConfigError>>);

impl Errors {
    pub(super) fn add(&self, at: Pos, field: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.0.borrow_mut().push(ConfigError::new(at, field, wrong, right));
    }

    pub(super) fn into_inner(self) -> Vec<ConfigError> {
        self.0.into_inner()
    }
}

/// A value, where it stands and what it is called.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Pos,
    pub(super) path: String,
}

/// Mappings by their names.
pub(super) type Named<'t> = Vec<(At<String>, Map<'t>)>;

/// The values of a list that are right by themselves.
#[derive(Clone, Debug)]
pub(super) struct Items<T> {
    pub(super) items: Vec<At<T>>,
    /// No value was left out because of an error.
    pub(super) complete: bool,
    pub(super) at: Pos,
    pub(super) path: String,
}

/// An open mapping.
pub(super) struct Map<'t> {
    section: &'static Section,
    pub(super) at: Pos,
    pub(super) path: String,
    entries: Vec<(&'static Field, &'t Tree)>,
    errors: &'t Errors,
}

impl<'t> Map<'t> {
    /// Opens a mapping of `section`; unknown and repeated fields are noted.
    pub(super) fn open(tree: &'t Tree, section: &'static Section, path: String, errors: &'t Errors) -> Option<Self> {
        let Value::Map(nodes) = &tree.value else {
            let called = if path.is_empty() { "(file)" } else { &path };
            let wrong = match tree.value {
                Value::Null => "nothing is given".to_owned(),
                _ => format!("{} is not a mapping", tree.shown()),
            };
            errors.add(tree.at, called, wrong, fields_of(section));
            return None;
        };
        let mut map = Self { section, at: tree.at, path, entries: Vec::new(), errors };
        for (key, value) in nodes {
            let Some(field) = section.field(key.key()) else {
                let right = match nearest(key.key(), section.fields.iter().map(|f| f.key)) {
                    Some(known) => format!("did you mean {known}?"),
                    None => fields_of(section),
                };
                errors.add(key.at, &map.path_of(&key.shown()), "unknown field", right);
                continue;
            };
            if map.entries.iter().any(|(f, _)| f.key == field.key) {
                errors.add(key.at, &map.path_of(field.key), "given twice", "remove one");
                continue;
            }
            map.entries.push((field, value));
        }
        Some(map)
    }

    /// Path of a field of this mapping.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// True when the field stands in the file.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(f, _)| f.key == key)
    }

    /// True when the field holds a mapping with this key, right or wrong.
    pub(super) fn holds(&self, key: &str, inner: &str) -> bool {
        let tree = self.entries.iter().find(|(f, _)| f.key == key).map(|(_, tree)| &tree.value);
        matches!(tree, Some(Value::Map(entries)) if entries.iter().any(|(key, _)| key.key() == inner))
    }

    /// The value of a field as it stands in the file.
    pub(super) fn tree(&self, key: &str) -> Option<&'t Tree> {
        self.entries.iter().find(|(f, _)| f.key == key).map(|(_, tree)| *tree)
    }

    /// Where the value of a field stands in the file.
    pub(super) fn place_of(&self, key: &str) -> Option<Pos> {
        self.entries.iter().find(|(f, _)| f.key == key).map(|(_, tree)| tree.at)
    }

    /// Notes an error of the mapping as a whole.
    pub(super) fn wrong(&self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        let path = if key.is_empty() { self.path.clone() } else { self.path_of(key) };
        self.errors.add(self.at, &path, wrong, right);
    }

    /// Notes what is wrong with a field that was given, at its value.
    pub(super) fn refuse<T>(&self, given: &At<T>, wrong: impl Into<String>, right: impl Into<String>) {
        self.errors.add(given.at, &given.path, wrong, right);
    }

    /// The field's node: from the file, or its default; a missing or empty one is noted.
    fn node(&self, key: &str) -> Option<(&'static Field, Cow<'t, Tree>)> {
        let field = self.section.field(key).expect("the reader asks for fields of the table only");
        if let Some((_, tree)) = self.entries.iter().find(|(f, _)| f.key == key) {
            if tree.value == Value::Null {
                let or = if matches!(field.default, Absent::Required) { "" } else { ", or remove the line" };
                self.errors.add(
                    tree.at,
                    &self.path_of(key),
                    "nothing is given",
                    format!("use {}{or}", field.kind.right()),
                );
                return None;
            }
            return Some((field, Cow::Borrowed(tree)));
        }
        match field.default {
            Absent::Required => {
                self.wrong(key, "missing", format!("use {}", field.kind.right()));
                None
            }
            Absent::Value(yaml) => Some((field, Cow::Owned(default(yaml).moved_to(self.at)))),
            Absent::Words(_) => None,
        }
    }

    fn parsed<T>(&self, key: &str, parse: impl FnOnce(&Field, &Tree) -> Result<T, Wrong>) -> Option<At<T>> {
        let (field, tree) = self.node(key)?;
        let path = self.path_of(key);
        match parse(field, &tree) {
            Ok(value) => Some(At { value, at: tree.at, path }),
            Err(wrong) => {
                let right = wrong.right.unwrap_or_else(|| format!("use {}", field.kind.right()));
                self.errors.add(tree.at, &path, wrong.what, right);
                None
            }
        }
    }

    /// A yes or no.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let found = self.parsed(key, |_, tree| match tree.value {
            Value::Flag(flag) => Ok(flag),
            _ => wrong(format!("{} is not true or false", tree.shown())),
        });
        found.map(|f| f.value)
    }

    /// A whole number in the field's range.
    pub(super) fn whole<T: TryFrom<i128>>(&self, key: &str) -> Option<At<T>> {
        self.parsed(key, |field, tree| {
            let Kind::Whole { min, max } = field.kind else { unreachable!("{key} is a whole number in the table") };
            match &tree.value {
                Value::Int(n) if *n < min.into() => wrong(format!("{} is below {min}", tree.shown())),
                Value::Int(n) if *n > max.into() => wrong(format!("{} is above {max}", tree.shown())),
                Value::Int(n) => T::try_from(*n).map_err(|_| format!("{n} is out of range").into()),
                Value::Float if tree.key().bytes().all(|b| b.is_ascii_digit()) => {
                    wrong(format!("{} is above {max}", tree.shown()))
                }
                Value::Text(text) if text.parse::<i128>().is_ok() => wrong(format!("\"{}\" is in quotes", shown(text))),
                _ => wrong(format!("{} is not a whole number", tree.shown())),
            }
        })
    }

    /// A time in the field's range.
    pub(super) fn time(&self, key: &str) -> Option<At<Duration>> {
        self.parsed(key, |field, tree| {
            let Kind::Time { min, max, step } = field.kind else { unreachable!("{key} is a time in the table") };
            match &tree.value {
                Value::List(_) | Value::Map(_) => wrong(format!("{} is not a time", tree.shown())),
                _ => values::time_in(tree.key(), min, max, step).map(Duration::from_millis),
            }
        })
    }

    /// One of the field's words.
    pub(super) fn word(&self, key: &str) -> Option<&'static str> {
        self.word_at(key).map(|f| f.value)
    }

    /// One of the field's words, and its place.
    pub(super) fn word_at(&self, key: &str) -> Option<At<&'static str>> {
        self.parsed(key, |field, tree| {
            let Kind::Word(words) = &field.kind else { unreachable!("{key} is a word in the table") };
            // `off` stays text: booleans are strict.
            words
                .iter()
                .find(|w| **w == tree.key())
                .copied()
                .ok_or_else(|| format!("{} is unknown", tree.shown()).into())
        })
    }

    /// Text.
    pub(super) fn text<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<At<T>> {
        self.parsed(key, |field, tree| text(field, tree).and_then(parse))
    }

    /// Text that may look like a number.
    pub(super) fn text_or_number<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<At<T>> {
        self.parsed(key, |field, tree| match tree.value {
            // Not as it was written: behind an alias that is the alias.
            Value::Int(n) => parse(&n.to_string()),
            _ => text(field, tree).and_then(parse),
        })
    }

    /// A list of texts; what is wrong in it is noted and left out.
    pub(super) fn texts<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<Items<T>> {
        let list = self.parsed(key, |_, tree| match &tree.value {
            Value::List(nodes) => Ok(nodes.clone()),
            Value::Text(_) => {
                let right = Some(format!("use [{}]", tree.shown()));
                Err(Wrong { what: format!("{} is not a list", tree.shown()), right })
            }
            _ => wrong(format!("{} is not a list", tree.shown())),
        });
        let list = list?;
        let field = self.section.field(key)?;
        if list.value.len() > ITEMS_MAX {
            let wrong = format!("{} entries", list.value.len());
            self.errors.add(list.at, &list.path, wrong, format!("use at most {ITEMS_MAX}"));
            return None;
        }
        let mut items = Vec::new();
        for (i, tree) in list.value.iter().enumerate() {
            let path = format!("{}[{i}]", list.path);
            match text(field, tree).and_then(&parse) {
                Ok(value) => items.push(At { value, at: tree.at, path }),
                Err(wrong) => {
                    let right = wrong.right.unwrap_or_else(|| format!("use {}", field.kind.item_right()));
                    self.errors.add(tree.at, &path, wrong.what, right);
                }
            }
        }
        Some(Items { complete: items.len() == list.value.len(), items, at: list.at, path: list.path })
    }

    /// The mapping in a field.
    pub(super) fn section(&self, key: &str) -> Option<Map<'t>> {
        let (field, tree) = self.node(key)?;
        let (Kind::Section(section), Cow::Borrowed(tree)) = (&field.kind, tree) else {
            unreachable!("{key} is a mapping without default in the table")
        };
        Map::open(tree, section, self.path_of(key), self.errors)
    }

    /// The mappings of names, each with its name's place; what is wrong in it is noted and left out. At most `max`.
    pub(super) fn named(&self, key: &str, max: usize) -> Option<At<Named<'t>>> {
        let (field, tree) = self.node(key)?;
        let (Kind::Named(section), Cow::Borrowed(tree)) = (&field.kind, tree) else {
            unreachable!("{key} is a mapping of names without default in the table")
        };
        let path = self.path_of(key);
        let Value::Map(entries) = &tree.value else {
            let wrong = format!("{} is not a mapping", tree.shown());
            self.errors.add(tree.at, &path, wrong, format!("use {}", field.kind.right()));
            return None;
        };
        if entries.len() > max {
            self.errors.add(tree.at, &path, format!("{} entries", entries.len()), format!("use at most {max}"));
        }
        let mut found: Named<'t> = Vec::new();
        for (name, inner) in entries.iter().take(max) {
            let path = format!("{path}.{}", name.shown());
            match values::name(name.key()) {
                Err(wrong) => self.errors.add(name.at, &path, wrong.what, "use a name of a-z, 0-9 and -"),
                Ok(value) if found.iter().any(|(earlier, _)| earlier.value == value) => {
                    self.errors.add(name.at, &path, "given twice", "remove one");
                }
                Ok(value) => {
                    let inner = Map::open(inner, section, path.clone(), self.errors);
                    found.extend(inner.map(|inner| (At { value, at: name.at, path }, inner)));
                }
            }
        }
        Some(At { value: found, at: tree.at, path })
    }

    /// The mappings in a list, and the list's place; `None` in it for what is not a mapping. At most `max`.
    pub(super) fn sections(&self, key: &str, max: usize) -> Option<At<Vec<Option<Map<'t>>>>> {
        let (_, tree) = self.entries.iter().find(|(f, _)| f.key == key).copied().or_else(|| {
            let _noted = self.node(key);
            None
        })?;
        let field = self.node(key)?.0;
        let Kind::Sections(section) = &field.kind else { unreachable!("{key} is a list of mappings in the table") };
        let path = self.path_of(key);
        let Value::List(nodes) = &tree.value else {
            self.errors.add(
                tree.at,
                &path,
                format!("{} is not a list", tree.shown()),
                format!("use {}", field.kind.right()),
            );
            return None;
        };
        if nodes.len() > max {
            self.errors.add(tree.at, &path, format!("{} entries", nodes.len()), format!("use at most {max}"));
        }
        let open = |(i, node)| Map::open(node, section, format!("{path}[{i}]"), self.errors);
        Some(At { value: nodes.iter().take(max).enumerate().map(open).collect(), at: tree.at, path: path.clone() })
    }
}

fn text<'a>(field: &Field, tree: &'a Tree) -> Result<&'a str, Wrong> {
    let (Kind::Text { what, .. } | Kind::Texts { what, .. }) = field.kind else {
        unreachable!("{} is text in the table", field.key)
    };
    match &tree.value {
        Value::Text(text) => Ok(text),
        Value::Int(_) | Value::Float | Value::Flag(_) => wrong(format!("{} is {what} only in quotes", tree.shown())),
        Value::Null => wrong("nothing is given"),
        Value::List(_) | Value::Map(_) => wrong(format!("{} is not {what}", tree.shown())),
    }
}

/// A default of the table, parsed once for all the mappings that lack the field.
fn default(yaml: &'static str) -> Tree {
    static PARSED: Mutex<BTreeMap<&str, Tree>> = Mutex::new(BTreeMap::new());
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    let read = || tree::read(yaml).expect("defaults of the table are YAML (tested)");
    parsed.entry(yaml).or_insert_with(read).clone()
}

fn fields_of(section: &Section) -> String {
    let keys: Vec<&str> = section.fields.iter().map(|f| f.key).collect();
    format!("use {}", keys.join(", "))
}
