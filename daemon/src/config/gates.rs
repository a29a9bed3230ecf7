//! Health gates.

use std::path::{Path, PathBuf};

use bascule_core::health::{ClientCertificate, GateConfig, ProbeKind};

use super::checks::{self, Schedule};
use super::read::{At, Errors, Map};
use super::values;

/// Most gates: each runs a probe of its own.
const GATES_MAX: usize = 256;

/// A gate as far as it could be read.
pub(super) struct Gate {
    pub(super) name: Option<At<String>>,
    probe: Option<ProbeKind>,
    schedule: Schedule,
    /// Its file of authorities, to be watched.
    pub(super) ca_file: Option<PathBuf>,
}

impl Gate {
    /// The core's type; `None` when an error was noted.
    pub(super) fn into_config(self) -> Option<GateConfig> {
        Some(GateConfig {
            name: self.name?.value,
            probe: self.probe?,
            interval: self.schedule.interval?,
            timeout: self.schedule.timeout?,
            rise: self.schedule.rise?,
            fall: self.schedule.fall?,
        })
    }
}

/// Reads the gates and checks that their names differ.
pub(super) fn read(file: &Map<'_>, base_dir: &Path, errors: &Errors) -> Vec<Gate> {
    let Some(list) = file.has("gates").then(|| file.sections("gates", GATES_MAX)).flatten() else { return Vec::new() };
    let gates: Vec<Gate> = list.value.iter().flatten().map(|m| gate(m, base_dir, errors)).collect();
    for (i, name) in gates.iter().enumerate().filter_map(|(i, g)| g.name.as_ref().map(|n| (i, n))) {
        let earlier = gates[..i].iter().filter_map(|g| g.name.as_ref()).find(|n| n.value == name.value);
        if let Some(earlier) = earlier {
            let wrong = format!("{} is also the name at line {}", name.value, earlier.at.line);
            errors.add(name.at, &name.path, wrong, "give each gate its own");
        }
    }
    gates
}

fn gate(map: &Map<'_>, base_dir: &Path, errors: &Errors) -> Gate {
    let name = map.text("name", values::name);
    let (probe, ca_file) = probe(map, base_dir, errors).unzip();
    Gate { name, probe, schedule: checks::schedule(map, errors), ca_file: ca_file.flatten() }
}

fn probe(map: &Map<'_>, base_dir: &Path, errors: &Errors) -> Option<(ProbeKind, Option<PathBuf>)> {
    let kind = checks::kind(map)?;
    let map = map.section(kind)?;
    match kind {
        "tcp" => map.text("address", values::socket_address).map(|a| (ProbeKind::Tcp(a.value), None)),
        "http" => {
            let expect = map.text_or_number("expect", values::status_range);
            let url = map.text("url", values::http_url)?.value;
            Some((ProbeKind::Http { url, expect: expect?.value }, None))
        }
        "https" => {
            let expect = map.text_or_number("expect", values::status_range);
            let url = map.text("url", values::https_url);
            let client = client(&map, base_dir);
            let (trust, file) = checks::trust(&map, base_dir, errors)?;
            Some((ProbeKind::Https { url: url?.value, expect: expect?.value, trust, client: client? }, file))
        }
        _ => {
            let service = optional(&map, "service");
            let address = map.text("address", values::socket_address)?.value;
            Some((ProbeKind::Grpc { address, service: service? }, None))
        }
    }
}

/// `certFile` and `keyFile`: both or none. Whether they are there is seen at each probe: an API server that makes them makes them at its start.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
fn client(map: &Map<'_>, base_dir: &Path) -> Option<Option<ClientCertificate>> {
    let path = |key: &str| map.has(key).then(|| map.text(key, values::path).map(|path| base_dir.join(path.value)));
    match (path("certFile"), path("keyFile")) {
        (None, None) => Some(None),
        (Some(certificate), Some(key)) => Some(Some(ClientCertificate { certificate: certificate?, key: key? })),
        (Some(_), None) | (None, Some(_)) => {
            map.wrong("", "one of certFile and keyFile is missing", "give both, or none");
            None
        }
    }
}

/// The name of a gRPC service; empty when none is given.
pub(super) fn optional(map: &Map<'_>, key: &str) -> Option<String> {
    if map.has(key) { map.text(key, values::grpc_service).map(|s| s.value) } else { Some(String::new()) }
}
