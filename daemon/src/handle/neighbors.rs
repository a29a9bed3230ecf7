//! How the neighbours stand that this node depends on.

use std::sync::{Arc, Mutex, PoisonError};

use bascule_core::neighbor::Standing;
use serde::Serialize;

/// What `/state` says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighborsView {
    /// With an entry of the neighbour table that nothing drops, and a MAC.
    pub resolved: usize,
    /// With such an entry, and without an answer.
    pub unresolved: usize,
    /// Without one.
    pub missing: usize,
    /// The last refusal of the kernel, while it refuses.
    pub error: Option<String>,
}

impl NeighborsView {
    /// As they stand now.
    pub fn new(standing: Standing, error: Option<String>) -> Self {
        let Standing { resolved, unresolved, missing } = standing;
        Self { resolved, unresolved, missing, error }
    }
}

/// The asking side, and that of whoever keeps the entries.
#[derive(Clone, Default)]
pub struct NeighborsHandle {
    view: Arc<Mutex<Option<NeighborsView>>>,
}

impl NeighborsHandle {
    /// As they stood at the last look; `None`: nobody looks.
    pub fn get(&self) -> Option<NeighborsView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a look.
    pub fn set(&self, view: NeighborsView) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }
}
