//! The check of a service, which becomes one of each endpoint.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_core::health::{GateConfig, ProbeKind, Trust};
use bascule_core::service::Protocol;

use super::super::checks::{self, Schedule};
use super::super::gates::optional;
use super::super::read::{Errors, Map};
use super::super::values;

/// A check without its endpoint.
pub(super) struct Check {
    port: Option<u16>,
    what: What,
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
    /// Its file of authorities, to be watched.
    pub(super) ca_file: Option<PathBuf>,
}

enum What {
    Tcp,
    Http { path: String, expect: (u16, u16) },
    Https { path: String, expect: (u16, u16), trust: Trust },
    Grpc { service: String },
}

impl Check {
    /// The check of the endpoint at `address`.
    pub(super) fn of(&self, name: &str, address: SocketAddr) -> GateConfig {
        let address = SocketAddr::new(address.ip(), self.port.unwrap_or(address.port()));
        let probe = match &self.what {
            What::Tcp => ProbeKind::Tcp(address),
            What::Http { path, expect } => ProbeKind::Http { url: format!("http://{address}{path}"), expect: *expect },
            What::Https { path, expect, trust } => {
                let url = format!("https://{address}{path}");
                ProbeKind::Https { url, expect: *expect, trust: trust.clone(), client: None }
            }
            What::Grpc { service } => ProbeKind::Grpc { address, service: service.clone() },
        };
        let Self { interval, timeout, rise, fall, .. } = *self;
        GateConfig { name: name.to_owned(), probe, interval, timeout, rise, fall }
    }
}

/// Reads a check; `None` when an error was noted.
pub(super) fn read(map: &Map<'_>, protocol: Option<Protocol>, base_dir: &Path, errors: &Errors) -> Option<Check> {
    let Schedule { interval, timeout, rise, fall } = checks::schedule(map, errors);
    let kind = checks::kind(map)?;
    let inner = map.section(kind)?;
    let port = inner.whole("port").map(|p| p.value);
    if !inner.has("port")
        && let Some(protocol @ (Protocol::Udp | Protocol::Sctp)) = protocol
    {
        let wrong = format!("the endpoint's port speaks {protocol}, which {kind} does not");
        inner.wrong("port", wrong, "give the port that is asked");
    }
    let path = || inner.text("path", values::url_path).map(|p| p.value);
    let expect = || inner.text_or_number("expect", values::status_range).map(|e| e.value);
    let (what, ca_file) = match kind {
        "tcp" => (What::Tcp, None),
        "http" => {
            let (path, expect) = (path(), expect());
            (What::Http { path: path?, expect: expect? }, None)
        }
        "https" => {
            let (path, expect) = (path(), expect());
            let (trust, file) = checks::trust(&inner, base_dir, errors)?;
            (What::Https { path: path?, expect: expect?, trust }, file)
        }
        _ => (What::Grpc { service: optional(&inner, "service")? }, None),
    };
    if inner.has("port") && port.is_none() {
        return None;
    }
    Some(Check { port, what, interval: interval?, timeout: timeout?, rise: rise?, fall: fall?, ca_file })
}
