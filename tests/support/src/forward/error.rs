//! Errors of aya, as the lab's.

use crate::LabError;

/// What went wrong with a program or map named `what`.
pub(super) fn bpf<E: std::error::Error>(what: &str) -> impl FnOnce(E) -> LabError {
    move |error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text += &format!(": {inner}");
            cause = inner.source();
        }
        // The end of a verifier's log says why, its length would hide all else.
        let tail: Vec<&str> = text.lines().rev().take(40).collect();
        LabError::answer(what, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

/// A map or program that the object does not have.
pub(super) fn missing(name: &str) -> LabError {
    LabError::answer(name, "the object does not have it")
}
