//! Every fixture of the forwarding plane, run through the kernel: the XDP program, and the same through the tc twin.
//!
//! `BASCULE_FIXTURE=PART` runs those whose name contains PART.

use std::path::Path;

use anyhow::{Context, Result};
use bascule_ebpf_common::forward::Tally;
use bascule_suite::fence::Ground;
use bascule_suite::forward::run::{Arena, Hook, Programs};
use bascule_suite::forward::subject::{self, Subject};
use bascule_suite::forward::text::{Side, World, frame, read_all};

fn all(hook: Hook) {
    let (run, wrong) = Ground::run(move |ground| {
        let arena = Arena::new(ground)?;
        let mut programs = Programs::load(ground, &arena, hook)?;
        let (base, fixtures) = read_all(&subject::folder())?;
        let part = std::env::var("BASCULE_FIXTURE").unwrap_or_default();
        let (mut run, mut wrong) = (0, 0);
        for fixture in fixtures.iter().filter(|f| f.name.contains(&part)) {
            if !programs.shows(fixture) {
                continue;
            }
            run += 1;
            let faults = subject::run(&mut programs, &base, fixture).unwrap_or_else(|e| vec![format!("{e:#}")]);
            if !faults.is_empty() {
                wrong += 1;
                println!("{} {} ({}):\n  {}", programs.name(), fixture.name, fixture.why, faults.join("\n  "));
            }
        }
        Ok((run, wrong))
    })
    .expect("the programs load and run");
    println!("{hook:?}: {run} fixtures, {wrong} wrong");
    assert!(run > 0 && wrong == 0, "{hook:?}: {wrong} of {run}");
}

#[test]
fn xdp_agrees_with_every_fixture() {
    all(Hook::Xdp);
}

#[test]
fn tc_agrees_with_every_fixture() {
    all(Hook::Tc);
}

/// Packets in their order.
type Story = &'static [(Side, &'static str)];

/// Another site asks for a flow, sends a segment of it here by its pin, and the endpoint answers.
const ASKS: (Side, &str) = (
    Side::In,
    "eth / encap 40 > 1 pair 2 svc 101 epoch 9 origin 2 remote hops 41,0 count 0 / ip 198.51.100.7 > 192.0.2.10 ttl 63 / tcp 40000 > 80 A",
);
const PINNED: (Side, &str) = (
    Side::In,
    "eth / encap 40 > 1 pair 2 svc 101 epoch 9 origin 2 hops 41,1 count 0 / ip 198.51.100.7 > 192.0.2.10 ttl 63 / tcp 40000 > 80 A",
);
const ANSWERS: (Side, &str) = (Side::Out, "eth / ip 10.1.0.1 > 198.51.100.7 / tcp 8080 > 40000 PA / text data");

/// How often a story begins anew because a second turned in it; one takes some milliseconds.
const ATTEMPTS: usize = 100;

/// Copies that programs and model have sent after each packet of a story, all within one second. `None`: it turned meanwhile.
fn copies(programs: &mut Programs<'_>, base: &Path, entry: &str, story: Story) -> Result<Option<Vec<[u64; 2]>>> {
    let (devices, netns) = programs.ground();
    let mut world = World::new(programs.now(), devices, netns);
    world.read(base)?;
    for line in ["config site 1 sites", "site 2 gateways 40", "site 0 gateways 2", "service 1 exceptions", entry] {
        world.line(line)?;
    }
    programs.fill_maps(&world.state)?;
    let (keys, device, told) = (world.keys(), world.device("up")?, Tally::Told as usize);
    let before = programs.tallies()?[told];
    let mut counts = Vec::new();
    for (side, text) in story {
        let input = frame(text, &keys)?;
        programs.one(*side, device, &input)?;
        let _out = match side {
            Side::In => world.state.ingress(&input, device, world.now),
            Side::Out => world.state.egress(&input, device, world.now),
        };
        let model = world.state.tallies.get(&(Tally::Told as u32)).copied().unwrap_or(0);
        counts.push([programs.tallies()?[told] - before, model]);
    }
    Ok((programs.now() == world.now).then_some(counts))
}

/// ADR 0036: one copy a flow and second, for as long as somebody asks.
#[test]
fn a_lost_copy_is_made_again_in_another_second() {
    let flow = "flow 198.51.100.7:40000 10.1.0.1:8080/tcp vip 192.0.2.10:80 site 2 ingress";
    let half = "half 198.51.100.7:40000 10.1.0.1:8080/tcp vip 192.0.2.10:80 ingress 41";
    let stories: [(String, Story, &[u64]); 7] = [
        // The copy of the second before was lost: another one, and no third in this second.
        (format!("{flow} 41 age 1 asked"), &[ASKS, ANSWERS, ASKS, ANSWERS], &[0, 1, 1, 1]),
        (format!("{flow} 41 asked"), &[ASKS, ANSWERS], &[0, 0]),
        // The endpoint speaks first.
        (format!("{flow} 41 age 1 asked"), &[ANSWERS, ASKS, ANSWERS], &[0, 0, 1]),
        // It learned where the flow lives, and has nothing to ask.
        (format!("{flow} 41 age 1 asked"), &[PINNED, ANSWERS, PINNED, ANSWERS], &[0; 4]),
        // Its pin was lost in the second in which it learned.
        (format!("{flow} 41"), &[PINNED, ASKS, ANSWERS, ASKS, ANSWERS], &[0, 0, 1, 1, 1]),
        // Another node asks.
        (format!("{flow} 40 asked"), &[ASKS, ANSWERS, ASKS, ANSWERS], &[0, 1, 1, 1]),
        // A flow begins with the packet that asks for it.
        (half.to_owned(), &[ASKS, ANSWERS, ASKS, ANSWERS], &[0, 1, 1, 1]),
    ];
    Ground::run(move |ground| {
        let arena = Arena::new(ground)?;
        let (base, _) = read_all(&subject::folder())?;
        for hook in [Hook::Xdp, Hook::Tc] {
            let mut programs = Programs::load(ground, &arena, hook)?;
            for (entry, story, wanted) in &stories {
                let mut told = None;
                for _ in 0..ATTEMPTS {
                    told = copies(&mut programs, &base, entry, story)?;
                    if told.is_some() {
                        break;
                    }
                }
                let told = told.with_context(|| format!("{entry}: no second was long enough"))?;
                let wanted: Vec<[u64; 2]> = wanted.iter().map(|n| [*n; 2]).collect();
                assert_eq!(told, wanted, "{hook:?}: {entry}");
            }
        }
        Ok(())
    })
    .expect("every story is told");
}
