use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use bascule_core::types::{Mac, Role, Term};
use bascule_core::wire::bfd::{Diag, State};
use serde_json::Value;

use super::*;

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the events print.
fn logged(format: LogFormat, level: &str, events: &[Event]) -> Vec<String> {
    let page = Page::default();
    let writer = page.clone();
    let subscriber = subscriber(format, level, false, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || events.iter().for_each(log_event));
    let bytes = page.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn ip() -> IpAddr {
    "10.9.0.100".parse().unwrap()
}

fn group() -> String {
    "api".into()
}

fn role(reason: Reason) -> Event {
    Event::Role { group: group(), from: Role::Backup, to: Role::Active, reason, term: Term(4), owner: None }
}

fn bfd(from: State, to: State, remote_state: State) -> Event {
    Event::Bfd(BfdEvent {
        peer: "tor".into(),
        remote: ip(),
        from,
        to,
        diag: Diag::DETECTION_EXPIRED,
        remote_state,
        remote_diag: Diag::NONE,
        detection: Some(0.15),
        lateness: Some(0.001),
    })
}

/// Every kind of event in every variant that matters, with the level of its line; `None` = no line.
fn table() -> Vec<(Event, Option<&'static str>)> {
    let rival =
        |first| Event::Rival { group: group(), address: Some(ip()), mac: Some(Mac([2; 6])), source: None, first };
    let refused = |first| Event::Refused { channel: "vrrp", source: ip(), error: "checksum".into(), first };
    let gate = |up| Event::Gate { gate: "api-local".into(), up, detail: "connect: refused".into() };
    let health = |healthy| Event::Health { group: group(), healthy, priority: 99 };
    let vrid = |active| Event::VridInUse { group: group(), vrid: 51, source: Some(ip()), active };
    let some = |text: &str| Some(text.to_owned());
    let store = |condition| Event::LeaseStore { group: group(), condition, detail: some("403: forbidden") };
    vec![
        (role(Reason::ActiveDown), Some("INFO")),
        (role(Reason::FenceExpired), Some("WARN")),
        (
            Event::Takeover {
                group: group(),
                term: Term(4),
                reason: Reason::ActiveDown,
                detect: Some(0.3),
                claim: None,
                announce: 0.001,
            },
            Some("INFO"),
        ),
        (rival(true), Some("WARN")),
        (rival(false), None),
        (Event::OneWay { group: group(), source: Some(ip()) }, Some("WARN")),
        (Event::FenceClosed { group: group(), term: Term(4) }, Some("WARN")),
        (Event::LeaseHolder { group: group(), holder: some("cp2_bascule") }, Some("INFO")),
        (store(Condition::Reachable), Some("INFO")),
        (store(Condition::Unreachable), Some("WARN")),
        (store(Condition::Throttled), Some("WARN")),
        (store(Condition::Denied), Some("ERROR")),
        (Event::LeaseStalled { group: group(), seconds: 0.2 }, Some("WARN")),
        (Event::AddressInUse { group: group(), address: ip(), mac: Mac([2; 6]) }, Some("ERROR")),
        (vrid(true), Some("ERROR")),
        (vrid(false), Some("INFO")),
        (gate(true), Some("INFO")),
        (gate(false), Some("WARN")),
        (health(true), Some("INFO")),
        (health(false), Some("WARN")),
        (Event::AddressRestored { group: group(), address: ip() }, Some("WARN")),
        (Event::InstallFailed { group: group(), error: "EPERM".into() }, Some("ERROR")),
        (Event::Handover { group: group(), to: Some(ip()), error: None }, Some("INFO")),
        (Event::Handover { group: group(), to: None, error: some("no offer") }, Some("WARN")),
        (Event::Blocked { group: group(), condition: some("no link") }, Some("ERROR")),
        (Event::Blocked { group: group(), condition: None }, Some("INFO")),
        (Event::ConfigApplied { added: vec![group()], changed: vec![], removed: vec![], unchanged: 2 }, Some("INFO")),
        (Event::Fence { ready: true, error: None }, Some("INFO")),
        (Event::Fence { ready: false, error: some("no bpffs") }, Some("ERROR")),
        (Event::Drain { on: true }, Some("INFO")),
        (refused(true), Some("WARN")),
        (refused(false), None),
        (bfd(State::Up, State::Down, State::Down), Some("WARN")),
        (bfd(State::Up, State::Down, State::AdminDown), Some("INFO")),
        (bfd(State::Up, State::AdminDown, State::Up), Some("INFO")),
        (bfd(State::Init, State::Up, State::Up), Some("INFO")),
        (Event::AdvertLateness { group: group(), seconds: 1.0 }, None),
    ]
}

#[test]
fn one_line_per_change_at_its_level_with_every_value_as_a_field() {
    for (event, level) in table() {
        let lines = logged(LogFormat::Json, "trace", std::slice::from_ref(&event));
        assert_eq!(lines.len(), usize::from(level.is_some()), "{event:?}: {lines:?}");
        let (Some(line), Some(level)) = (lines.first(), level) else { continue };
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["level"], level, "{line}");
        for (key, value) in serde_json::to_value(&event).unwrap().as_object().unwrap() {
            // `first` chose the line; an absent value has no field; empty lists print as nothing.
            if key == "event" || key == "first" || value.is_null() || (key == "active" && line["vrid"] == 51) {
                continue;
            }
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let wanted =
                value.as_array().map_or_else(|| text(value), |a| a.iter().map(text).collect::<Vec<_>>().join(","));
            assert_eq!(text(&line[key]), wanted, "{key} of {line}");
        }
    }
}

#[test]
fn text_lines_carry_the_same_and_the_filter_holds() {
    let lines = logged(LogFormat::Text, "warn", &[role(Reason::ActiveDown), role(Reason::OneWay)]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in
        ["WARN", "role changed", "group=api", "from=\"backup\"", "to=\"active\"", "reason=\"one_way\"", "term=4"]
    {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
}

#[test]
fn a_level_that_is_no_filter_is_refused_with_what_would_be_right() {
    let error = subscriber(LogFormat::Text, "info,bascule=louder", false, std::io::sink).err().unwrap().to_string();
    assert!(error.contains("info,bascule=louder") && error.contains("debug"), "{error}");
}
