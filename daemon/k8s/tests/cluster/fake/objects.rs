//! The objects of the server, and what became of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Something that happened to one of them.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    /// How many requests had come.
    request: u64,
    pub(crate) path: String,
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

/// 410.
pub(crate) struct Expired;

/// By path of the object: `/api/v1/namespaces/NAMESPACE/services/NAME`, `/api/v1/nodes/NAME`.
#[derive(Default)]
pub(crate) struct Objects {
    all: BTreeMap<String, Value>,
    history: Vec<Change>,
    /// Everything that ever happened, for audits.
    pub(crate) log: Vec<Change>,
    /// Nobody can watch from a version before this one.
    oldest: u64,
    pub(crate) version: u64,
    /// Requests that the server has had.
    pub(crate) requests: u64,
}

/// `/api/v1/services` of `/api/v1/namespaces/NAMESPACE/services/NAME`.
pub(crate) fn collection(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let Some(at) = parts.iter().position(|part| *part == "namespaces").filter(|at| parts.len() > at + 2) else {
        return parts[..parts.len() - 1].join("/");
    };
    let mut all: Vec<&str> = parts[..at].to_vec();
    all.push(parts[at + 2]);
    all.join("/")
}

impl Change {
    /// Is it of this collection, of all namespaces or of one?
    pub(crate) fn is_of(&self, wanted: &str) -> bool {
        collection(&self.path) == wanted || self.path.rsplit_once('/').is_some_and(|(parent, _)| parent == wanted)
    }
}

impl Objects {
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        self.all.get(path)
    }

    /// All of a collection of all namespaces, by path.
    pub(crate) fn of(&self, wanted: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.all.iter().filter(move |(path, _)| collection(path) == wanted)
    }

    pub(crate) fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = self.version.to_string().into();
        let parts: Vec<&str> = path.split('/').collect();
        metadata["name"] = (*parts.last().expect("a path")).into();
        if let Some(at) = parts.iter().position(|part| *part == "namespaces").filter(|at| parts.len() > at + 2) {
            metadata["namespace"] = parts[at + 1].into();
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = format!("uid-{}", self.version).into();
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let kind = if self.all.contains_key(path) { "MODIFIED" } else { "ADDED" };
        let _before = self.all.insert(path.to_owned(), object.clone());
        self.note(Change {
            version: self.version,
            request: self.requests,
            path: path.to_owned(),
            kind,
            object: object.clone(),
        });
        object
    }

    pub(crate) fn remove(&mut self, path: &str) {
        let Some(mut object) = self.all.remove(path) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.note(Change {
            version: self.version,
            request: self.requests,
            path: path.to_owned(),
            kind: "DELETED",
            object,
        });
    }

    fn note(&mut self, change: Change) {
        self.history.push(change.clone());
        self.log.push(change);
    }

    pub(crate) fn compact(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    /// The first change of this collection after `version` since which `behind` requests have come; an error when that is not known any more. It costs no more the longer the
    /// history is: a watch that copies all of it at each look costs a test that lasts its whole time.
    pub(crate) fn next(&self, version: u64, wanted: &str, behind: u64) -> Result<Option<Change>, Expired> {
        if version < self.oldest {
            return Err(Expired);
        }
        let later = self.history.partition_point(|change| change.version <= version);
        let first = self.history[later..].iter().find(|change| change.is_of(wanted));
        Ok(first.filter(|change| change.request + behind <= self.requests).cloned())
    }
}
