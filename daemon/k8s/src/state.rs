//! How the API server stands, as those see it who follow it.

use std::sync::{Mutex, PoisonError};

use bascule_core::election::lease::Condition;
use tokio::sync::watch;

use crate::follow::Note;

/// For status and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiState {
    /// The worst of what the kinds see. [`Condition::Unknown`] before the first answer.
    pub condition: Condition,
    /// The server's own words, or those of the connection, when it does not do what it should.
    pub detail: Option<String>,
    /// Complete lists so far.
    pub lists: u64,
    /// Watches opened so far.
    pub watches: u64,
    /// Attempts that failed so far.
    pub failures: u64,
}

/// One condition for each kind, and the worst of them for all.
pub(crate) struct Standing<'a> {
    kinds: Mutex<Vec<(Condition, Option<String>)>>,
    state: &'a watch::Sender<ApiState>,
}

impl<'a> Standing<'a> {
    pub(crate) fn new(kinds: usize, state: &'a watch::Sender<ApiState>) -> Self {
        Self { kinds: Mutex::new(vec![(Condition::Unknown, None); kinds]), state }
    }

    pub(crate) fn note(&self, kind: usize, note: Note) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (lists, watches, failures, condition, detail) = match note {
            Note::Listed => (1, 0, 0, Condition::Reachable, None),
            Note::Watching => (0, 1, 0, Condition::Reachable, None),
            Note::Failed(condition, detail) => (0, 0, 1, condition, Some(detail)),
        };
        if let Some(kind) = kinds.get_mut(kind) {
            *kind = (condition, detail);
        }
        let worst = kinds.iter().max_by_key(|(condition, _)| badness(*condition)).cloned().unwrap_or_default();
        self.state.send_modify(|state| {
            (state.condition, state.detail) = worst;
            state.lists += lists;
            state.watches += watches;
            state.failures += failures;
        });
    }
}

/// What an operator must see first. A kind that was not asked for yet says less than one that answered.
const fn badness(condition: Condition) -> u8 {
    match condition {
        Condition::Unknown => 0,
        Condition::Reachable => 1,
        Condition::Throttled => 2,
        Condition::Unreachable => 3,
        Condition::Denied => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_the_kinds_is_said_until_it_is_well() {
        let state = watch::Sender::default();
        let standing = Standing::new(2, &state);
        let failed = |condition, words: &str| Note::Failed(condition, words.to_owned());
        standing.note(0, Note::Listed);
        assert_eq!(state.borrow().condition, Condition::Reachable);
        standing.note(1, failed(Condition::Denied, "403"));
        standing.note(0, failed(Condition::Unreachable, "cut"));
        let now = state.borrow().clone();
        assert_eq!((now.condition, now.detail.as_deref(), now.failures), (Condition::Denied, Some("403"), 2));
        standing.note(1, Note::Listed);
        assert_eq!(state.borrow().detail.as_deref(), Some("cut"));
        standing.note(0, Note::Watching);
        let now = state.borrow().clone();
        assert_eq!((now.condition, now.detail, now.lists, now.watches), (Condition::Reachable, None, 2, 1));
    }
}
