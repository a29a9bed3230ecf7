//! What came of a packet, beside what had to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use bascule_ebpf_common::forward::{EndpointStats, Flow, FlowKey, Half, PacketDrop, ServiceStats, Tally};

use super::bytes::{pseudo, sum, u16_at, u32_at};
use super::model::{Verdict, read_ip};
use super::text::{Change, Expect};

/// A verdict as far as a subject shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// To the stack.
    Pass,
    /// Dropped.
    Drop,
    /// `XDP_TX`.
    Transmit,
    /// `XDP_REDIRECT`; the kernel does not say whereto.
    Redirect,
    /// `TC_ACT_REDIRECT`: out of some device.
    Sent,
}

impl Shown {
    fn is(self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Pass => self == Self::Pass,
            Verdict::Drop(_) => self == Self::Drop,
            Verdict::Transmit => matches!(self, Self::Transmit | Self::Sent),
            Verdict::Redirect(_) => matches!(self, Self::Redirect | Self::Sent),
        }
    }
}

/// What one packet did.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Verdict.
    pub verdict: Shown,
    /// Frame afterwards.
    pub frame: Vec<u8>,
    /// Tallies that moved, by slot.
    pub tallies: BTreeMap<u32, u64>,
    /// Flows just before and after.
    pub flows: [HashMap<FlowKey, Flow>; 2],
    /// Half-open flows just before and after.
    pub half: [HashMap<FlowKey, Half>; 2],
    /// Pinned flows just before and after.
    pub pins: [HashMap<FlowKey, u16>; 2],
    /// Statistics that moved.
    pub services: BTreeMap<u16, ServiceStats>,
    /// The same of endpoints.
    pub endpoints: BTreeMap<u16, EndpointStats>,
}

/// Everything in which they differ, one line each; empty: they agree.
#[must_use]
pub fn judge(expect: &Expect, seen: &Seen, input: &[u8]) -> Vec<String> {
    let mut faults = Vec::new();
    if !seen.verdict.is(expect.verdict) {
        faults.push(format!("verdict: expected {:?}, got {:?}", expect.verdict, seen.verdict));
    }
    if !matches!(expect.verdict, Verdict::Drop(_)) && seen.verdict.is(expect.verdict) {
        if expect.tallies.iter().any(|(slot, _)| *slot == Tally::TooBigSent as u32) {
            faults.extend(too_big(&expect.frame, &seen.frame, input));
        }
        faults.extend(frames(expect, &seen.frame, input));
    }
    let wanted: BTreeMap<u32, u64> = expect.tallies.iter().copied().collect();
    for slot in wanted.keys().chain(seen.tallies.keys()).collect::<HashSet<_>>() {
        let (want, got) = (wanted.get(slot).unwrap_or(&0), seen.tallies.get(slot).unwrap_or(&0));
        if want != got && !expect.any.contains(slot) {
            faults.push(format!("{}: expected {want}, got {got}", slot_name(*slot)));
        }
    }
    tables(expect, seen, &mut faults);
    for (slot, want) in &expect.services {
        let got = seen.services.get(slot).copied().unwrap_or_default();
        if got != *want {
            faults.push(format!("statistics of service {slot}: expected {want:?}, got {got:?}"));
        }
    }
    for (slot, want) in &expect.endpoints {
        let got = seen.endpoints.get(slot).copied().unwrap_or_default();
        if got != *want {
            faults.push(format!("statistics of endpoint {slot}: expected {want:?}, got {got:?}"));
        }
    }
    faults
}

/// Name of a slot of the tallies.
#[must_use]
pub fn slot_name(slot: u32) -> String {
    let reason = PacketDrop::ALL.into_iter().find(|r| *r as u32 == slot).map(PacketDrop::name);
    let tally = Tally::ALL.into_iter().find(|t| *t as u32 == slot).map(Tally::name);
    reason.or(tally).map_or_else(|| format!("hops{}", slot.wrapping_sub(Tally::Hops as u32)), str::to_owned)
}

fn frames(expect: &Expect, got: &[u8], input: &[u8]) -> Option<String> {
    let mut want = expect.frame.clone();
    let mut got = got.to_vec();
    if let Some(prefix) = expect.prefix {
        want.truncate(prefix);
        got.truncate(prefix);
    }
    // Padding of a short frame may go on behind the packet.
    if got.len() > want.len() && want != input && padded(input) && input.ends_with(&got[want.len()..]) {
        got.truncate(want.len());
    }
    for range in &expect.loose {
        for frame in [&mut want, &mut got] {
            if let Some(bytes) = frame.get_mut(range.clone()) {
                bytes.fill(0);
            }
        }
    }
    let first = want.iter().zip(&got).position(|(a, b)| a != b);
    if first.is_none() && want.len() == got.len() {
        return None;
    }
    let at = first.unwrap_or(want.len().min(got.len()));
    Some(format!("frame differs from byte {at}:\n    expected {}\n    got      {}", hex(&want), hex(&got)))
}

pub(crate) fn padded(input: &[u8]) -> bool {
    let (at, kind) = super::model::ethernet(input).unwrap_or((0, 0));
    read_ip(input, at, kind).is_some_and(|ip| ip.1 < input.len())
}

/// A frame in hex, a dot every eight bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, b) in bytes.iter().take(160).enumerate() {
        let _ = write!(text, "{}{b:02x}", if i > 0 && i % 8 == 0 { "." } else { "" });
    }
    if bytes.len() > 160 {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

/// "Too big" messages may quote more or less: addresses, type, MTU, checksums and that the quotation is one.
fn too_big(want: &[u8], got: &[u8], input: &[u8]) -> Vec<String> {
    let mut faults = Vec::new();
    let (at, kind) = super::model::ethernet(want).unwrap_or_default();
    let header = if kind == 0x86dd { 40 } else { 20 };
    let (Some(w), Some(g)) = (want.get(at..), got.get(at..)) else { return vec!["no ICMP message".to_owned()] };
    if g.len() < header + 8 {
        return vec![format!("a message of {} bytes", g.len())];
    }
    let addresses = if header == 20 { 12..20 } else { 8..40 };
    if w[addresses.clone()] != g[addresses] {
        faults.push(format!("addresses of the message: {}", hex(g)));
    }
    if w[header..header + 2] != g[header..header + 2] || u32_at(w, header + 4) != u32_at(g, header + 4) {
        faults.push(format!(
            "type, code or MTU: expected {}, got {}",
            hex(&w[header..header + 8]),
            hex(&g[header..header + 8])
        ));
    }
    let length = if header == 20 { u16_at(g, 2).map(usize::from) } else { u16_at(g, 4).map(|n| usize::from(n) + 40) };
    let Some(message) = length.and_then(|n| g.get(header..n)) else { return vec!["length of the message".to_owned()] };
    let total = if header == 20 {
        if sum(&[&g[..20]]) != 0xffff {
            faults.push("checksum of the IP header".to_owned());
        }
        sum(&[message])
    } else {
        let key = |at: usize| bascule_ebpf_common::VipKey::v6(g[at..at + 16].try_into().unwrap_or_default());
        sum(&[&pseudo(&key(8), &key(24), 58, message.len()), message])
    };
    if total != 0xffff {
        faults.push("checksum of the ICMP message".to_owned());
    }
    let original = &input[at.min(input.len())..];
    let (quote, most) = (&message[8..], if header == 20 { 576 } else { 1280 });
    if quote.len() < header + 8 || !original.starts_with(quote) {
        faults.push(format!("the quotation: {}", hex(quote)));
    }
    if header + message.len() > most {
        faults.push(format!("a message of {} bytes", header + message.len()));
    }
    if g[if header == 20 { 8 } else { 7 }] < 32 {
        faults.push("a message whose TTL will not take it far".to_owned());
    }
    faults
}

fn tables(expect: &Expect, seen: &Seen, faults: &mut Vec<String>) {
    let mut flows = seen.flows[0].clone();
    let mut half = seen.half[0].clone();
    let mut pins = seen.pins[0].clone();
    let mut free = HashSet::new();
    for change in &expect.changes {
        match change {
            Change::Flow(key, value) => {
                flows.insert(*key, *value);
            }
            Change::Half(key, value) => {
                half.insert(*key, *value);
            }
            Change::Pin(key, node) => {
                pins.insert(*key, *node);
            }
            Change::NoPin(key) => {
                pins.remove(key);
            }
            Change::NoFlow(key) => {
                flows.remove(key);
            }
            Change::AnyHalf(key) => {
                free.insert(*key);
            }
        }
    }
    for key in flows.keys().chain(seen.flows[1].keys()).collect::<HashSet<_>>() {
        let (want, got) = (flows.get(key), seen.flows[1].get(key));
        if !same_flow(want, got) {
            faults.push(format!("flow {key:x?}:\n    expected {want:x?}\n    got      {got:x?}"));
        }
    }
    for key in half.keys().chain(seen.half[1].keys()).collect::<HashSet<_>>() {
        let (want, got) = (half.get(key), seen.half[1].get(key));
        if want != got && !free.contains(key) {
            faults.push(format!("half-open {key:x?}:\n    expected {want:x?}\n    got      {got:x?}"));
        }
    }
    for key in pins.keys().chain(seen.pins[1].keys()).collect::<HashSet<_>>() {
        let (want, got) = (pins.get(key), seen.pins[1].get(key));
        if want != got {
            faults.push(format!("pin {key:x?}: expected {want:?}, got {got:?}"));
        }
    }
}

/// Seconds that may pass between the making of a world and its packet: the machine is shared.
const LATE_S: u32 = 30;

/// Equal but for the time, which may be a little later.
#[must_use]
pub fn same_flow(want: Option<&Flow>, got: Option<&Flow>) -> bool {
    match (want, got) {
        (None, None) => true,
        (Some(w), Some(g)) => {
            Flow { seen_s: 0, ..*w } == Flow { seen_s: 0, ..*g } && w.seen_s.abs_diff(g.seen_s) <= LATE_S
        }
        _ => false,
    }
}
