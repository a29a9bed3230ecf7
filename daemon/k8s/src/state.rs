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
    /// Why nothing is told of kinds that need not be told of, in the server's words; `None`: they are, or it does not know them.
    pub untold: Option<String>,
}

#[derive(Clone, Default)]
struct Kind {
    condition: Condition,
    detail: Option<String>,
    /// The role does not allow it, and need not.
    untold: Option<String>,
}

/// One condition for each kind, and the worst of them for all.
pub(crate) struct Standing<'a> {
    kinds: Mutex<Vec<Kind>>,
    state: &'a watch::Sender<ApiState>,
}

impl<'a> Standing<'a> {
    pub(crate) fn new(kinds: usize, state: &'a watch::Sender<ApiState>) -> Self {
        Self { kinds: Mutex::new(vec![Kind::default(); kinds]), state }
    }

    pub(crate) fn note(&self, kind: usize, note: Note) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (lists, watches, failures, condition, detail) = match note {
            Note::Listed => (1, 0, 0, Condition::Reachable, None),
            Note::Watching => (0, 1, 0, Condition::Reachable, None),
            Note::Failed(condition, detail) => (0, 0, 1, condition, Some(detail)),
            Note::Unknown => (0, 0, 0, Condition::Unknown, None),
        };
        if let Some(kind) = kinds.get_mut(kind) {
            *kind = Kind { condition, detail, untold: None };
        }
        self.tell(&kinds, |state| {
            state.lists += lists;
            state.watches += watches;
            state.failures += failures;
        });
    }

    /// The role does not allow a kind that it need not: nothing else depends on it.
    pub(crate) fn forgo(&self, kind: usize, words: String) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = kinds.get_mut(kind) {
            *kind = Kind { untold: Some(words), ..Kind::default() };
        }
        self.tell(&kinds, |_| {});
    }

    fn tell(&self, kinds: &[Kind], count: impl FnOnce(&mut ApiState)) {
        let worst = kinds.iter().max_by_key(|kind| badness(kind.condition)).cloned().unwrap_or_default();
        self.state.send_modify(|state| {
            (state.condition, state.detail) = (worst.condition, worst.detail);
            state.untold = kinds.iter().find_map(|kind| kind.untold.clone());
            count(state);
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
        standing.forgo(1, "403 of a kind".to_owned());
        assert_eq!(state.borrow().untold.as_deref(), Some("403 of a kind"));
        assert_eq!((state.borrow().detail.as_deref(), state.borrow().failures), (Some("cut"), 2), "and nothing else");
        standing.note(1, Note::Unknown);
        assert_eq!(state.borrow().untold, None);
        standing.note(0, Note::Watching);
        let now = state.borrow().clone();
        assert_eq!((now.condition, now.detail, now.lists, now.watches), (Condition::Reachable, None, 2, 1));
    }
}
