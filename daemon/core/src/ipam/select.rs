//! Label selectors, with the meaning of apimachinery's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What an expression asks of a label.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operator {
    /// It is there with one of these values.
    In(BTreeSet<String>),
    /// It is absent or has another value.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

/// One of `matchExpressions`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
}

/// All must hold; an empty selector takes everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    /// `matchLabels`.
    pub labels: Labels,
    /// `matchExpressions`.
    pub expressions: Vec<Expression>,
}

impl Selector {
    /// Does it take an object with these labels?
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                match &expression.operator {
                    Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                    Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Which namespaces a pool serves: those that are named and those that a selector takes; with neither, all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespaces {
    /// By name.
    pub names: BTreeSet<String>,
    /// By label.
    pub selector: Option<Selector>,
}

impl Namespaces {
    /// Is this one served?
    pub fn include(&self, name: &str, labels: &Labels) -> bool {
        if self.names.is_empty() && self.selector.is_none() {
            return true;
        }
        self.names.contains(name) || self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}
