//! The reference model beside the programs on random packets, neutrality on random frames, and forged encapsulation. The drill
//! `forward-model` runs more of each; BASCULE_TUPLES, BASCULE_FRAMES and BASCULE_PACKETS change how many, BASCULE_SEED what they are.

use anyhow::ensure;
use bascule_suite::fence::Ground;
use bascule_suite::forward::random::{agree, captured, forged, neutral, neutral_kinds};
use bascule_suite::forward::run::{Arena, Hook, Programs};
use bascule_suite::forward::subject;
use bascule_suite::forward::text::read_all;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn model_and_programs_agree_on_random_packets() {
    let report = Ground::run(|ground| {
        let arena = Arena::new(ground)?;
        let mut subjects = [Programs::load(ground, &arena, Hook::Xdp)?, Programs::load(ground, &arena, Hook::Tc)?];
        let (base, _) = read_all(&subject::folder())?;
        agree(&mut subjects, &base, number("BASCULE_SEED", 1), number("BASCULE_TUPLES", 20_000))
    })
    .unwrap();
    println!("{} packets in {} worlds; what the model said: {:?}", report.packets, report.scenes, report.moved);
    for example in report.examples.iter().take(10) {
        println!("{example}");
    }
    assert!(report.wrong == 0 && report.tables == 0, "{} packets, {} tables differ", report.wrong, report.tables);
}

#[test]
fn captured_frames_are_of_every_kind_that_must_pass() {
    let all = captured().unwrap();
    for kind in [
        "arp",
        "lldp",
        "802.3",
        "ipv4 icmp-8",
        "ipv4 icmp-3",
        "ipv4 icmp-8 options",
        "ipv4 icmp-8 fragment",
        "ipv4 igmp options",
        "ipv4 tcp-02",
        "ipv4 udp-67",
        "ipv4 udp fragment",
        "ipv6 icmpv6-128",
        "ipv6 icmpv6-135",
        "ipv6 icmpv6-143 hop-by-hop",
        "ipv6 fragment later",
        "ipv6 udp-9 destination",
        "ipv6 tcp-12",
    ] {
        assert!(all.iter().any(|(name, _)| name == kind), "no captured {kind}");
    }
    for tag in ["vlan ", "qinq "] {
        assert!(all.iter().any(|(name, _)| name.starts_with(tag)), "no captured {tag}");
    }
}

#[test]
fn frames_of_no_vip_pass_as_they_came() {
    let run = Ground::run(|ground| {
        let arena = Arena::new(ground)?;
        let mut subjects = [Programs::load(ground, &arena, Hook::Xdp)?, Programs::load(ground, &arena, Hook::Tc)?];
        let (base, fixtures) = read_all(&subject::folder())?;
        let (world, kinds) = neutral_kinds(&mut subjects, &base, &fixtures)?;
        let run = neutral(&mut subjects, &world, &kinds, 1, number("BASCULE_FRAMES", 50_000))?;
        for subject in &mut subjects {
            ensure!(subject.flows()?.is_empty() && subject.half()?.is_empty(), "frames of nobody made entries");
        }
        Ok(run)
    })
    .unwrap();
    println!("{run} frames passed byte for byte through both hooks");
}

#[test]
fn forged_encapsulation_is_dropped_and_counted_by_reason() {
    let counts = Ground::run(|ground| {
        let arena = Arena::new(ground)?;
        let mut subjects = [Programs::load(ground, &arena, Hook::Xdp)?, Programs::load(ground, &arena, Hook::Tc)?];
        let (base, fixtures) = read_all(&subject::folder())?;
        let (world, _) = neutral_kinds(&mut subjects, &base, &fixtures)?;
        forged(&mut subjects, &world, 1, number("BASCULE_PACKETS", 20_000))
    })
    .unwrap();
    println!("{counts:?}");
    for reason in ["encap_peer", "encap_tag", "encap_format", "encap_nested", "encap_service"] {
        assert!(counts.get(reason).copied().unwrap_or(0) > 20, "{reason} hardly occurred");
    }
}
