//! Forged encapsulation: each packet is good but for one thing, and must be dropped and counted by that thing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bascule_ebpf_common::forward::PacketDrop;

use super::Dice;
use crate::forward::judge::Shown;
use crate::forward::run::Programs;
use crate::forward::text::{Side, World, frame};

/// Gives `packets` forged packets to every subject. Gives how many there were of each reason; the tallies of every subject moved by
/// just that.
///
/// # Errors
/// What the kernel says, or the first packet that was not dropped, or a tally that moved otherwise.
pub fn forged(subjects: &mut [Programs<'_>], world: &World, seed: u64, packets: u64) -> Result<BTreeMap<String, u64>> {
    let mut dice = Dice(seed);
    let (keys, device) = (world.keys(), world.device("up")?);
    let before: Vec<Vec<u64>> = subjects.iter_mut().map(Programs::tallies).collect::<Result<_>>()?;
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    for _ in 0..packets {
        let (reason, text) = packet(&mut dice);
        let input = frame(&text, &keys).with_context(|| text.clone())?;
        *counts.entry(reason as u32).or_default() += 1;
        for subject in subjects.iter_mut() {
            let (verdict, _) = subject.one(Side::In, device, &input).with_context(|| text.clone())?;
            ensure!(verdict == Shown::Drop, "{subject:?} {verdict:?}, expected {}: {text}", reason.name());
        }
    }
    for (subject, before) in subjects.iter_mut().zip(&before) {
        let after = subject.tallies()?;
        for (slot, (b, a)) in (0u32..).zip(before.iter().zip(&after)) {
            let want = counts.get(&slot).copied().unwrap_or(0);
            ensure!(a - b == want, "{subject:?}: tally {slot} moved by {}, expected {want}", a - b);
        }
    }
    let named = PacketDrop::ALL.into_iter().filter_map(|r| Some((r.name().to_owned(), *counts.get(&(r as u32))?)));
    Ok(named.collect())
}

/// The reason and the packet. Senders are nodes 2, 3 and 4, and node 2 over IPv6 too.
fn packet(dice: &mut Dice) -> (PacketDrop, String) {
    let from = dice.pick(&[2, 3, 4]);
    let six = from == 2 && dice.one_in(2);
    let v6 = dice.one_in(2);
    let (client, vip, tcp, udp) =
        if v6 { ("2001:db8:c::7", "2001:db8:a::10", 103, 104) } else { ("198.51.100.7", "192.0.2.10", 101, 102) };
    let port = 1024 + dice.roll(60000);
    let is_tcp = dice.one_in(2);
    let number = if is_tcp { tcp } else { udp };
    let good = if is_tcp {
        format!(
            "ip {client} > {vip} ttl 63 / tcp {port} > 80 {} / count {}",
            dice.pick(&["S", "A", "PA", "R"]),
            dice.roll(90)
        )
    } else {
        format!("ip {client} > {vip} ttl 63 / udp {port} > 53 / count {}", dice.roll(90))
    };
    let mut head = format!("encap {from} > 1{}", if six { " six" } else { "" });
    let mut inner = good;
    let mut service = number;
    let stranger = if six { " src fd00::6666" } else { " src 10.9.9.9" };
    let reason = match dice.roll(9) {
        0 => {
            head.push_str(&format!(" tag {}", 1 + dice.roll((1 << 32) - 1)));
            PacketDrop::EncapTag
        }
        1 => {
            // Sealed by another sender or for another receiver.
            let (a, b) = if dice.one_in(2) { (from + 1, 1) } else { (from, 2 + dice.roll(4000)) };
            head.push_str(&format!(" sealed-from {a} sealed-to {b}"));
            PacketDrop::EncapTag
        }
        2 => {
            head.push_str(" key 1");
            PacketDrop::EncapTag
        }
        3 => {
            head.push_str(stranger);
            PacketDrop::EncapPeer
        }
        4 => {
            head.push_str(&format!(" shim-version {}", dice.pick(&[0, 2, 3, 7, 15])));
            PacketDrop::EncapFormat
        }
        5 => {
            head.push_str(&format!(" reserved {}", dice.pick(&[0x20, 0x40, 0x80, 0xe0])));
            PacketDrop::EncapFormat
        }
        6 => {
            head.push_str(&format!(" udplen {}", dice.pick(&[0, 8, 24, 30, 9000])));
            PacketDrop::EncapFormat
        }
        7 => {
            inner = format!("ip 10.0.0.3 > 10.0.0.1 / udp {port} > 7846 sum none / count {}", 16 + dice.roll(60));
            PacketDrop::EncapNested
        }
        _ => {
            service += 1 + u16::try_from(dice.roll(500)).unwrap_or(0);
            PacketDrop::EncapService
        }
    };
    (reason, format!("eth / {head} svc {service} epoch {} / {inner}", dice.roll(65536)))
}
