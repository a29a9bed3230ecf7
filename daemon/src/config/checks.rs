//! What gates and checks of endpoints share: their schedule, and whose certificates they accept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_core::health::Trust;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::shown;
use super::read::{Errors, Map};
use super::{schema, values};

/// Largest file of authorities: a few hundred certificates.
const CA_FILE_MAX: u64 = 1 << 20;

/// When to ask, and what answers mean.
pub(super) struct Schedule {
    pub(super) interval: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
}

pub(super) fn schedule(map: &Map<'_>, errors: &Errors) -> Schedule {
    let interval = map.time("interval");
    let timeout = map.time("timeout");
    let (rise, fall) = (map.whole("rise"), map.whole("fall"));
    let mut timeout_used = timeout.as_ref().map(|t| t.value);
    if let (Some(interval), Some(timeout)) = (&interval, &timeout)
        && timeout.value > interval.value
    {
        if map.has("timeout") {
            let wrong = format!("{} is longer than the interval of {}", ms(timeout.value), ms(interval.value));
            errors.add(timeout.at, &timeout.path, wrong, format!("use 10ms to {}", ms(interval.value)));
        }
        timeout_used = Some(interval.value);
    }
    Schedule {
        interval: interval.map(|i| i.value),
        timeout: timeout_used,
        rise: rise.map(|r| r.value),
        fall: fall.map(|f| f.value),
    }
}

/// The probe that is given, of the four there are.
pub(super) fn kind(map: &Map<'_>) -> Option<&'static str> {
    let given: Vec<&str> = ["tcp", "http", "https", "grpc"].into_iter().filter(|key| map.has(key)).collect();
    match given[..] {
        [one] => Some(one),
        [] => {
            map.wrong("", "none of tcp, http, https and grpc is given", "use one of them");
            None
        }
        [first, second, ..] => {
            map.wrong("", format!("both {first} and {second} are given"), "use one of them");
            None
        }
    }
}

/// `caFile`, `serverName` and `insecureSkipVerify` of a probe over TLS, and the file to be watched.
pub(super) fn trust(map: &Map<'_>, base_dir: &Path, errors: &Errors) -> Option<(Trust, Option<PathBuf>)> {
    let file = map.text("caFile", values::path);
    let name = map.text("serverName", values::server_name);
    let skip = map.flag("insecureSkipVerify")?;
    if let (Some(name), true) = (&name, skip) {
        errors.add(name.at, &name.path, "no name is looked at with insecureSkipVerify", "remove one of them");
    }
    match (map.has("caFile"), skip) {
        (false, true) => Some((Trust::Anybody, None)),
        (true, true) => {
            map.wrong("", "both caFile and insecureSkipVerify are given", "use one of them");
            None
        }
        (false, false) => {
            map.wrong("", "neither caFile nor insecureSkipVerify is given", "use one of them");
            None
        }
        (true, false) => {
            let file = file?;
            let path = base_dir.join(&file.value);
            match authorities(&path) {
                Ok(pem) => Some((Trust::Authorities { pem: pem.into(), name: name.map(|n| n.value) }, Some(path))),
                Err(wrong) => {
                    let shown = shown(&file.value.display().to_string());
                    let right = "use a file with certificates in PEM";
                    errors.add(file.at, &file.path, format!("{shown} {wrong}"), right);
                    None
                }
            }
        }
    }
}

/// The text of a file that holds at least one certificate.
fn authorities(path: &Path) -> Result<String, String> {
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        kind => format!("cannot be read: {kind}"),
    };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err("is not a regular file".into());
    }
    if meta.len() > CA_FILE_MAX {
        return Err(format!("has {} bytes", meta.len()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut count = 0;
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|_| "is not PEM".to_owned())?;
        count += 1;
        store.add(certificate).map_err(|_| format!("holds no X.509 certificate at place {count}"))?;
    }
    if count == 0 { Err("holds no certificate".into()) } else { Ok(text) }
}

fn ms(time: Duration) -> String {
    schema::time(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
