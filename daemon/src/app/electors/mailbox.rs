//! Words of one elector that wait for the loop.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bascule_core::election::lease::{CloseReason, Word};
use tokio::sync::Notify;

/// Takes a word at once, always. It is bounded because nothing waits that a later word has made void: an extension, a holder and a condition
/// each replace the one that waits, and a claim that ended before anybody heard of it is never told.
#[derive(Debug, Default)]
pub(in super::super) struct Mailbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    words: VecDeque<Word>,
    closed: bool,
}

impl Mailbox {
    pub(in super::super) fn put(&self, word: Word) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = state.words.iter().any(|waiting| is_claim_of(waiting, &word));
        state.words.retain(|waiting| !makes_void(&word, waiting));
        if !untold {
            state.words.push_back(word);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// No more words come.
    pub(in super::super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.filled.notify_one();
    }

    /// The next word, when there is one; `None` after the last.
    pub(in super::super) async fn next(&self) -> Option<Word> {
        loop {
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                match state.words.pop_front() {
                    Some(word) => return Some(word),
                    None if state.closed => return None,
                    None => {}
                }
            }
            self.filled.notified().await;
        }
    }
}

/// Is `waiting` a claim that, as `word` says, ended by itself? What is given up by choice waits for the word that all is closed.
fn is_claim_of(waiting: &Word, word: &Word) -> bool {
    let (Word::Claim { term, .. }, Word::Close { term: ended, reason }) = (waiting, word) else { return false };
    term == ended && matches!(reason, CloseReason::Expired | CloseReason::Lost | CloseReason::Gone)
}

fn makes_void(word: &Word, waiting: &Word) -> bool {
    match (word, waiting) {
        (Word::Extend { term, .. } | Word::Close { term, .. }, Word::Extend { term: other, .. }) => term == other,
        (Word::Close { .. }, Word::Claim { .. }) => is_claim_of(waiting, word),
        (Word::Holder(_), Word::Holder(_))
        | (Word::Condition { .. }, Word::Condition { .. })
        | (Word::Stalled(_), Word::Stalled(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bascule_core::election::lease::Condition;
    use bascule_core::time::Instant;
    use bascule_core::types::Term;

    use super::*;

    fn extend(term: u64, deadline: u64) -> Word {
        Word::Extend { term: Term(term), deadline: Instant::from_nanos(deadline) }
    }

    async fn told(words: impl IntoIterator<Item = Word>) -> Vec<Word> {
        let mailbox = Mailbox::default();
        words.into_iter().for_each(|word| mailbox.put(word));
        mailbox.close();
        let mut told = Vec::new();
        while let Some(word) = mailbox.next().await {
            told.push(word);
        }
        told
    }

    #[tokio::test]
    async fn nothing_waits_that_a_later_word_has_made_void() {
        let claim = |term| Word::Claim { term: Term(term), epoch: 4, deadline: Instant::from_nanos(5) };
        let condition = |condition| Word::Condition { condition, detail: None };
        let close = |term, reason| Word::Close { term: Term(term), reason };
        let stalled = |seconds| Word::Stalled(Duration::from_secs(seconds));
        let given_up = close(1, CloseReason::Barred);
        let words = [
            condition(Condition::Reachable),
            claim(1),
            extend(1, 6),
            Word::Holder(Some("a".into())),
            stalled(1),
            extend(1, 7),
            stalled(2),
            condition(Condition::Unreachable),
            Word::Holder(None),
            given_up.clone(),
        ];
        let last = [claim(1), stalled(2), condition(Condition::Unreachable), Word::Holder(None), given_up.clone()];
        assert_eq!(told(words).await, last);
        let ended = [given_up.clone(), claim(2), extend(2, 8), close(2, CloseReason::Expired), claim(3), extend(3, 9)];
        assert_eq!(told(ended).await, [given_up, claim(3), extend(3, 9)], "nobody waits for an answer to what ran out");
    }
}
