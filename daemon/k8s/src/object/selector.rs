//! `LabelSelector` of apimachinery, as it stands in our objects.

use std::collections::BTreeSet;

use bascule_core::ipam::{Expression, Labels, Operator, Selector};
use serde::Deserialize;

/// `LabelSelector` of apimachinery.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawSelector {
    match_labels: Labels,
    match_expressions: Vec<RawExpression>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawExpression {
    key: String,
    operator: String,
    values: BTreeSet<String>,
}

impl RawSelector {
    /// As the core has it.
    ///
    /// # Errors
    /// In words: an operator that is none.
    pub(super) fn selector(&self) -> Result<Selector, String> {
        let expression = |raw: &RawExpression| {
            let operator = match raw.operator.as_str() {
                "In" => Operator::In(raw.values.clone()),
                "NotIn" => Operator::NotIn(raw.values.clone()),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is no operator of a selector")),
            };
            Ok(Expression { key: raw.key.clone(), operator })
        };
        let expressions = self.match_expressions.iter().map(expression).collect::<Result<_, _>>()?;
        Ok(Selector { labels: self.match_labels.clone(), expressions })
    }
}
