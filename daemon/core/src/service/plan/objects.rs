//! How the cluster's objects about announcements and sites stand on this node.

use serde::Serialize;

use crate::intent::rules::Wrong;

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStanding {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// VIPs that are announced as it says, or are of several sites by it; of a BgpPeer and a Site: 0.
    pub vips: usize,
    /// The field that cannot be had as it is, and why; what it said before, if anything, holds.
    pub refused: Option<String>,
}

impl ObjectStanding {
    pub(super) fn well(kind: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), name: name.to_owned(), vips: 0, refused: None }
    }

    pub(super) fn refused(kind: &str, name: &str, why: &str) -> Self {
        Self { refused: Some(why.to_owned()), ..Self::well(kind, name) }
    }
}

/// Adds what is wrong with the words of objects themselves.
pub(super) fn with_wrong(mut all: Vec<ObjectStanding>, wrong: &[Wrong]) -> Vec<ObjectStanding> {
    for Wrong { kind, name, why, kept } in wrong {
        let why = if *kept { format!("{why}; what it said before holds") } else { why.clone() };
        match all.iter_mut().find(|standing| standing.kind == *kind && standing.name == *name) {
            Some(standing) => standing.refused = Some(why),
            None => all.push(ObjectStanding::refused(kind, name, &why)),
        }
    }
    sort(&mut all);
    all
}

/// By kind and name.
pub(super) fn sort(all: &mut [ObjectStanding]) {
    all.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
}
