//! A machine and what it owes, in milliseconds.

use super::*;

pub(super) fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

pub(super) fn ns(ns: u64) -> Instant {
    Instant::from_nanos(ns)
}

pub(super) fn centis(v: u16) -> Centis {
    Centis::new(v).expect("in range")
}

pub(super) fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

pub(super) fn ip6(last: u16) -> IpAddr {
    IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, last])
}

/// Interval 100 ms, no preemption, fenced, IPv4 first.
pub(super) fn config(priority: u8) -> VrrpConfig {
    VrrpConfig { priority, interval: centis(10), preempt: false, strict_rfc: false, fenced: true, family: Family::V4 }
}

/// An advert heard by the node 10.9.0.5 / fe80::5 at an interval of 100 ms.
pub(super) fn heard(source: IpAddr, priority: u8) -> Heard {
    let own = if source.is_ipv4() { ip(5) } else { ip6(5) };
    Heard { source, own, priority, interval: centis(10) }
}

pub(super) fn take(machine: &mut Vrrp) -> Vec<Output> {
    core::iter::from_fn(|| machine.poll_output()).collect()
}

/// In Backup since 0 ms, nothing owed.
pub(super) fn backup(config: VrrpConfig) -> Vrrp {
    let mut machine = Vrrp::new(config);
    machine.start(Instant::ZERO);
    let _ = take(&mut machine);
    machine
}

/// Active because nobody advertised, nothing owed; returns when it became so.
pub(super) fn active(config: VrrpConfig) -> (Vrrp, Instant) {
    let mut machine = backup(config);
    let now = machine.poll_timeout().expect("Active_Down_Timer");
    machine.handle_timeout(now);
    assert_eq!(machine.role(), Role::Active);
    let _ = take(&mut machine);
    (machine, now)
}

pub(super) fn advert(priority: u8) -> Output {
    Output::SendAdvert { priority, interval: centis(10) }
}

pub(super) fn role(from: Role, to: Role, reason: Reason) -> Output {
    Output::Role { from, to, reason }
}

/// Calls back at every deadline up to and including `until`; everything owed on the way.
pub(super) fn run(machine: &mut Vrrp, until: Instant) -> Vec<(Instant, Output)> {
    let mut out = Vec::new();
    while let Some(next) = machine.poll_timeout().filter(|next| *next <= until) {
        machine.handle_timeout(next);
        out.extend(take(machine).into_iter().map(|o| (next, o)));
    }
    out
}
