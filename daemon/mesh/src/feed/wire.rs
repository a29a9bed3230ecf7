//! Words as they travel: a list of them in each frame, as JSON.
//!
//! Nodes of a site are upgraded one after the other: words and fields that only later versions have are left out and counted, the others of the
//! same frame hold (ADR 0035). What this version has must be whole.

use std::net::IpAddr;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::demand::{Count, Rate};
use bascule_core::site::join::io::Fact;
use bascule_core::site::lead::Beat;
use bascule_core::site::orders::Target;
use bascule_core::site::summary::{ServiceId, Summary};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Words in a frame: the longest takes some 120 bytes, a frame holds 64 KiB.
pub(super) const WORDS: usize = 256;

/// What a relay says to the nodes of its site.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Word {
    /// It lives, or says its last word.
    Beat(Beat),
    /// It knows something.
    Fact(Fact),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "word")]
enum Wire {
    Beat {
        leads: bool,
        // Earlier versions say neither, and hear a relay that does not lead.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        waits: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stops: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tells: bool,
    },
    Session {
        site: u8,
        up: bool,
    },
    Summary {
        site: u8,
        service: u32,
        ms: u64,
        summary: Option<Counts>,
    },
    Confirmed {
        site: u8,
        ms: u64,
    },
    Ask {
        site: u8,
        service: u32,
        amount: u32,
    },
    Loan {
        site: u8,
        service: u32,
        amount: u32,
    },
    Order {
        target: What,
        ms: Option<u64>,
    },
    Drained {
        site: u8,
        number: u32,
        order: Option<(Option<u32>, u32)>,
        ms: u64,
    },
    Demand {
        service: u32,
        rate: u64,
    },
    Reach {
        site: u8,
        of: u8,
        reached: bool,
    },
}

/// What a node says to a relay.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "word", deny_unknown_fields)]
enum Up {
    Count { service: u32, rate: u64 },
}

/// What an order takes out of use.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum What {
    Site,
    Service(u32),
    Vip(IpAddr),
    Node(u16),
    Endpoint(u32, IpAddr, u16),
}

impl From<Target> for What {
    fn from(target: Target) -> Self {
        match target {
            Target::Site => Self::Site,
            Target::Service(ServiceId(id)) => Self::Service(id),
            Target::Vip(vip) => Self::Vip(vip),
            Target::Node(id) => Self::Node(id),
            Target::Endpoint(ServiceId(id), address, port) => Self::Endpoint(id, address, port),
        }
    }
}

impl From<What> for Target {
    fn from(what: What) -> Self {
        match what {
            What::Site => Self::Site,
            What::Service(id) => Self::Service(ServiceId(id)),
            What::Vip(vip) => Self::Vip(vip),
            What::Node(id) => Self::Node(id),
            What::Endpoint(id, address, port) => Self::Endpoint(ServiceId(id), address, port),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    ready: u16,
    expected: u16,
    draining: bool,
    capacity: u32,
    demand: u32,
}

impl From<&Word> for Wire {
    fn from(word: &Word) -> Self {
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        match *word {
            Word::Beat(Beat { leads, waits, stops, tells }) => Self::Beat { leads, waits, stops, tells },
            Word::Fact(Fact::Session { site, up }) => Self::Session { site: site.0, up },
            Word::Fact(Fact::Summary { site, service, summary, age }) => {
                let counts = |Summary { ready, expected, draining, capacity, demand }| Counts {
                    ready,
                    expected,
                    draining,
                    capacity,
                    demand,
                };
                Self::Summary { site: site.0, service: service.0, ms: ms(age), summary: summary.map(counts) }
            }
            Word::Fact(Fact::Confirmed { site, age }) => Self::Confirmed { site: site.0, ms: ms(age) },
            Word::Fact(Fact::Ask { site, service, amount }) => Self::Ask { site: site.0, service: service.0, amount },
            Word::Fact(Fact::Loan { site, service, amount }) => Self::Loan { site: site.0, service: service.0, amount },
            Word::Fact(Fact::Order { target, left }) => Self::Order { target: target.into(), ms: left.map(ms) },
            Word::Fact(Fact::Drained { site, number, order, age }) => {
                let order = order.map(|(service, seconds)| (service.map(|id| id.0), seconds));
                Self::Drained { site: site.0, number, order, ms: ms(age) }
            }
            Word::Fact(Fact::Demand { service, rate }) => Self::Demand { service: service.0, rate: rate.0 },
            Word::Fact(Fact::Reach { site, of, reached }) => Self::Reach { site: site.0, of: of.0, reached },
        }
    }
}

impl From<Wire> for Word {
    fn from(wire: Wire) -> Self {
        Self::Fact(match wire {
            Wire::Beat { leads, waits, stops, tells } => return Self::Beat(Beat { leads, waits, stops, tells }),
            Wire::Session { site, up } => Fact::Session { site: SiteId(site), up },
            Wire::Summary { site, service, ms, summary } => {
                let summary = summary.map(|Counts { ready, expected, draining, capacity, demand }| Summary {
                    ready,
                    expected,
                    draining,
                    capacity,
                    demand,
                });
                let (service, age) = (ServiceId(service), Duration::from_millis(ms));
                Fact::Summary { site: SiteId(site), service, summary, age }
            }
            Wire::Confirmed { site, ms } => Fact::Confirmed { site: SiteId(site), age: Duration::from_millis(ms) },
            Wire::Ask { site, service, amount } => {
                Fact::Ask { site: SiteId(site), service: ServiceId(service), amount }
            }
            Wire::Loan { site, service, amount } => {
                Fact::Loan { site: SiteId(site), service: ServiceId(service), amount }
            }
            Wire::Order { target, ms } => Fact::Order { target: target.into(), left: ms.map(Duration::from_millis) },
            Wire::Drained { site, number, order, ms } => {
                let order = order.map(|(service, seconds)| (service.map(ServiceId), seconds));
                Fact::Drained { site: SiteId(site), number, order, age: Duration::from_millis(ms) }
            }
            Wire::Demand { service, rate } => Fact::Demand { service: ServiceId(service), rate: Rate(rate) },
            Wire::Reach { site, of, reached } => Fact::Reach { site: SiteId(site), of: SiteId(of), reached },
        })
    }
}

/// The payload of a frame. At most [`WORDS`] words.
pub(super) fn encode(words: &[Word]) -> Vec<u8> {
    let wires: Vec<Wire> = words.iter().map(Wire::from).collect();
    serde_json::to_vec(&wires).expect("numbers and booleans are JSON")
}

/// Words of this version.
const KNOWN: [&str; 10] =
    ["beat", "session", "summary", "confirmed", "ask", "loan", "order", "drained", "demand", "reach"];
/// What orders of this version take out of use.
const TARGETS: [&str; 5] = ["site", "service", "vip", "node", "endpoint"];

/// The words of a payload, and how many of those in it were left out, whole or in part; `None` when it is none of ours.
pub(super) fn decode(payload: &[u8]) -> Option<(Vec<Word>, u64)> {
    let values: Vec<Value> = serde_json::from_slice(payload).ok()?;
    let (mut words, mut unknown) = (Vec::with_capacity(values.len()), 0);
    for value in values {
        if later(&value)? {
            unknown += 1;
            continue;
        }
        let wire = Wire::deserialize(&value).ok()?;
        // What we would not have said is what we did not understand.
        unknown += u64::from(serde_json::to_value(&wire).ok()? != value);
        words.push(Word::from(wire));
    }
    Some((words, unknown))
}

/// Is it a word that only later versions have? `None`: it is no word.
fn later(value: &Value) -> Option<bool> {
    let word = value.get("word")?.as_str()?;
    if word != "order" {
        return Some(!KNOWN.contains(&word));
    }
    let target = value.get("target")?;
    let name = target.as_str().or_else(|| target.as_object()?.keys().next().map(String::as_str))?;
    Some(!TARGETS.contains(&name))
}

/// The payload of a frame to a relay. At most [`WORDS`] counts.
pub(super) fn encode_counts(counts: &[Count]) -> Vec<u8> {
    let ups: Vec<Up> = counts.iter().map(|c| Up::Count { service: c.service.0, rate: c.rate.0 }).collect();
    serde_json::to_vec(&ups).expect("numbers are JSON")
}

/// What a node says; `None` when it is none of ours, when it is more than a frame has, and when it is more than a node can count.
pub(super) fn decode_counts(payload: &[u8]) -> Option<Vec<Count>> {
    let ups: Vec<Up> = serde_json::from_slice(payload).ok()?;
    let counts = ups.into_iter().map(|Up::Count { service, rate }| {
        let count = Count { service: ServiceId(service), rate: Rate(rate) };
        (count.rate <= Rate::MOST).then_some(count)
    });
    let counts: Vec<Count> = counts.collect::<Option<_>>()?;
    (counts.len() <= WORDS).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_went_and_a_full_frame_fits() {
        let (site, service) = (SiteId(254), ServiceId(u32::MAX));
        let full =
            Summary { ready: u16::MAX, expected: u16::MAX, draining: true, capacity: u32::MAX, demand: u32::MAX };
        let age = Duration::from_millis(86_400_000);
        let order = |target, left| Word::Fact(Fact::Order { target, left });
        let words = [
            Word::Beat(Beat { leads: true, ..Beat::default() }),
            Word::Fact(Fact::Session { site, up: true }),
            Word::Fact(Fact::Summary { site, service, summary: Some(full), age }),
            Word::Beat(Beat { waits: true, ..Beat::default() }),
            Word::Beat(Beat { stops: true, ..Beat::default() }),
            Word::Beat(Beat { tells: true, ..Beat::default() }),
            Word::Fact(Fact::Summary { site, service, summary: None, age }),
            Word::Fact(Fact::Confirmed { site, age }),
            Word::Fact(Fact::Ask { site, service, amount: u32::MAX }),
            Word::Fact(Fact::Loan { site, service, amount: 0 }),
            order(Target::Site, Some(age)),
            order(Target::Service(service), None),
            order(Target::Vip([10, 9, 7, 100].into()), Some(Duration::ZERO)),
            order(Target::Node(4095), None),
            order(Target::Endpoint(service, std::net::Ipv6Addr::LOCALHOST.into(), 80), Some(age)),
            Word::Fact(Fact::Drained { site, number: 7, order: Some((Some(service), 600)), age }),
            Word::Fact(Fact::Drained { site, number: u32::MAX, order: Some((None, 0)), age }),
            Word::Fact(Fact::Drained { site, number: 7, order: None, age }),
            Word::Fact(Fact::Demand { service, rate: Rate::MOST }),
            Word::Fact(Fact::Reach { site, of: SiteId(1), reached: true }),
            Word::Fact(Fact::Reach { site: SiteId(1), of: site, reached: false }),
        ];
        assert_eq!(decode(&encode(&words)), Some((words.to_vec(), 0)));
        let longest = encode(&[words[2]; WORDS]);
        assert!(longest.len() <= bascule_core::site::state::message::MAX, "{} bytes", longest.len());
    }

    #[test]
    fn counts_come_back_as_they_went_and_what_nobody_can_count_is_refused() {
        let count = |service, rate| Count { service: ServiceId(service), rate: Rate(rate) };
        let all = [count(u32::MAX, Rate::MOST.0); WORDS];
        let bytes = encode_counts(&all);
        assert!(bytes.len() <= bascule_core::site::state::message::MAX, "{} bytes", bytes.len());
        assert_eq!(decode_counts(&bytes).as_deref(), Some(&all[..]));
        assert_eq!(decode_counts(&encode_counts(&[count(7, 0)])), Some(vec![count(7, 0)]));
        assert_eq!(decode_counts(&encode_counts(&[count(7, Rate::MOST.0 + 1)])), None);
        assert_eq!(decode_counts(&encode_counts(&[count(7, 1); WORDS + 1])), None);
        for bad in [
            &b"{}"[..],
            b"[{\"word\":\"count\",\"service\":7,\"rate\":-1}]",
            b"[{\"word\":\"beat\",\"leads\":true}]",
            b"\xff",
        ] {
            assert_eq!(decode_counts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_word_is_refused() {
        for bad in [
            &b"{}"[..],
            b"[{\"word\":\"beat\"}]",
            b"[{\"word\":7}]",
            b"[{\"word\":\"order\",\"target\":{},\"ms\":1}]",
            b"[{\"word\":\"order\",\"target\":{\"service\":\"web\"},\"ms\":1}]",
            b"[{\"word\":\"session\",\"site\":300,\"up\":true}]",
            b"[{\"word\":\"reach\",\"site\":3,\"reached\":true}]",
            b"",
            b"\xff",
        ] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_later_versions_add_is_left_out_and_the_rest_holds() {
        let payload = br#"[
            {"word":"shout","site":1},
            {"word":"beat","leads":true,"mood":"good"},
            {"word":"order","target":{"rack":7},"ms":5},
            {"word":"summary","site":2,"service":9,"ms":4,
             "summary":{"ready":1,"expected":2,"draining":false,"capacity":3,"demand":4,"colour":"red"}},
            {"word":"session","site":2,"up":false}
        ]"#;
        let (words, unknown) = decode(payload).expect("words");
        assert_eq!(unknown, 4, "{words:?}");
        let summary = Summary { ready: 1, expected: 2, draining: false, capacity: 3, demand: 4 };
        let (site, service, age) = (SiteId(2), ServiceId(9), Duration::from_millis(4));
        let known = [
            Word::Beat(Beat { leads: true, ..Beat::default() }),
            Word::Fact(Fact::Summary { site, service, summary: Some(summary), age }),
            Word::Fact(Fact::Session { site, up: false }),
        ];
        assert_eq!(words, known);
    }

    #[test]
    fn a_beat_is_to_earlier_versions_what_it_always_was() {
        let bytes = |beat| String::from_utf8(encode(&[Word::Beat(beat)])).expect("JSON");
        let leads = Beat { leads: true, ..Beat::default() };
        assert_eq!(bytes(leads), r#"[{"word":"beat","leads":true}]"#);
        assert_eq!(bytes(Beat::default()), r#"[{"word":"beat","leads":false}]"#);
        // Fields that they leave out, beside the one that they have.
        assert_eq!(bytes(Beat { waits: true, ..Beat::default() }), r#"[{"word":"beat","leads":false,"waits":true}]"#);
        assert_eq!(bytes(Beat { stops: true, ..Beat::default() }), r#"[{"word":"beat","leads":false,"stops":true}]"#);
        assert_eq!(bytes(Beat { tells: true, ..Beat::default() }), r#"[{"word":"beat","leads":false,"tells":true}]"#);
    }

    #[test]
    fn every_word_and_target_of_this_version_is_known() {
        // What `encode` makes is never taken for a later one's.
        let targets = [
            Target::Site,
            Target::Service(ServiceId(1)),
            Target::Vip([10, 9, 7, 1].into()),
            Target::Node(1),
            Target::Endpoint(ServiceId(1), [10, 9, 7, 2].into(), 80),
        ];
        for target in targets {
            let word = Word::Fact(Fact::Order { target, left: None });
            assert_eq!(decode(&encode(&[word])), Some((vec![word], 0)));
        }
    }
}
