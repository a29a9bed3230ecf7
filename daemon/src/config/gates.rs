//! Health gates.

use std::time::Duration;

use bascule_core::health::{GateConfig, ProbeKind};

use super::read::{At, Errors, Map};
use super::values;

/// Most gates: each runs a probe of its own.
const GATES_MAX: usize = 256;

/// A gate as far as it could be read.
pub(super) struct Gate {
    pub(super) name: Option<At<String>>,
    probe: Option<ProbeKind>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
}

impl Gate {
    /// The core's type; `None` when an error was noted.
    pub(super) fn into_config(self) -> Option<GateConfig> {
        Some(GateConfig {
            name: self.name?.value,
            probe: self.probe?,
            interval: self.interval?,
            timeout: self.timeout?,
            rise: self.rise?,
            fall: self.fall?,
        })
    }
}

/// Reads the gates and checks that their names differ.
pub(super) fn read(file: &Map<'_>, errors: &Errors) -> Vec<Gate> {
    let Some(list) = file.has("gates").then(|| file.sections("gates", GATES_MAX)).flatten() else { return Vec::new() };
    let gates: Vec<Gate> = list.value.iter().flatten().map(|m| gate(m, errors)).collect();
    for (i, name) in gates.iter().enumerate().filter_map(|(i, g)| g.name.as_ref().map(|n| (i, n))) {
        let earlier = gates[..i].iter().filter_map(|g| g.name.as_ref()).find(|n| n.value == name.value);
        if let Some(earlier) = earlier {
            let wrong = format!("{} is also the name at line {}", name.value, earlier.at.line);
            errors.add(name.at, &name.path, wrong, "give each gate its own");
        }
    }
    gates
}

fn gate(map: &Map<'_>, errors: &Errors) -> Gate {
    let name = map.text("name", values::name);
    let probe = probe(map);
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
    Gate {
        name,
        probe,
        interval: interval.map(|i| i.value),
        timeout: timeout_used,
        rise: rise.map(|r| r.value),
        fall: fall.map(|f| f.value),
    }
}

fn probe(map: &Map<'_>) -> Option<ProbeKind> {
    match (map.has("tcp"), map.has("http")) {
        (true, false) => {
            let tcp = map.section("tcp")?;
            tcp.text("address", values::socket_address).map(|a| ProbeKind::Tcp(a.value))
        }
        (false, true) => {
            let http = map.section("http")?;
            let expect = http.text_or_number("expect", values::status_range);
            let url = http.text("url", values::http_url)?.value;
            Some(ProbeKind::Http { url, expect: expect?.value })
        }
        (true, true) => {
            map.wrong("", "both tcp and http are given", "use one of them");
            None
        }
        (false, false) => {
            map.wrong("", "neither tcp nor http is given", "use one of them");
            None
        }
    }
}

fn ms(time: Duration) -> String {
    super::schema::time(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
