//! The etcd that holds leases: how it is reached, and their TTL.

use std::path::Path;

use bascule_core::election::lease::timing::Timing;
use bascule_etcd::{Access, Endpoint, TlsFiles};

use super::read::Map;
use super::values::{self, wrong};

/// The section `etcd`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Etcd {
    /// Members and files. The files need not be there yet.
    pub access: Access,
    /// Times of every lease.
    pub timing: Timing,
}

/// Reads the section: `Some(None)` when there is none, `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(super) fn read(file: &Map<'_>, base_dir: &Path) -> Option<Option<Etcd>> {
    if !file.has("etcd") {
        return Some(None);
    }
    let map = file.section("etcd")?;
    let endpoints = map.texts("endpoints", |text| match text.parse::<Endpoint>() {
        Ok(endpoint) => Ok(endpoint),
        Err(error) => wrong(error.to_string()),
    });
    let ttl = map.time("ttl");
    let tls = files(&map, base_dir);
    let (endpoints, ttl, tls) = (endpoints?, ttl?, tls?);
    if !endpoints.complete {
        return None;
    }
    let timing = match Timing::etcd(ttl.value) {
        Ok(timing) => timing,
        Err(error) => {
            map.refuse(&ttl, error.to_string(), "use whole seconds");
            return None;
        }
    };
    match Access::new(endpoints.items.into_iter().map(|e| e.value).collect(), tls) {
        Ok(access) => Some(Some(Etcd { access, timing })),
        Err(error) => {
            map.wrong(
                "endpoints",
                error.to_string(),
                "use https with caFile, certFile and keyFile, or http with none of them",
            );
            None
        }
    }
}

/// All three files, or none.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
fn files(map: &Map<'_>, base_dir: &Path) -> Option<Option<TlsFiles>> {
    const KEYS: [&str; 3] = ["caFile", "certFile", "keyFile"];
    let given = KEYS.iter().filter(|key| map.has(key)).count();
    let mut paths = KEYS.iter().filter(|key| map.has(key)).map(|key| map.text(key, values::path)).collect::<Vec<_>>();
    if given == 0 {
        return Some(None);
    }
    if given < KEYS.len() {
        map.wrong("", "some of caFile, certFile and keyFile are missing", "give all three, or none");
        return None;
    }
    let mut next = || paths.remove(0).map(|path| base_dir.join(path.value));
    let (ca, certificate, key) = (next(), next(), next());
    Some(Some(TlsFiles { ca: ca?, certificate: certificate?, key: key? }))
}
