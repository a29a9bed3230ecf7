//! Who runs fixtures: the model here, the programs in `run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bascule_ebpf_common::forward::{EndpointStats, FlowKey, ServiceStats};

use super::judge::{Seen, Shown, judge};
use super::model::{Clock, State, Verdict};
use super::text::{Fixture, Side, World};

/// Runs frames against a world.
pub trait Subject {
    /// Name for reports.
    fn name(&self) -> &'static str;
    /// Now, as the subject's programs will read it.
    fn now(&self) -> Clock;
    /// Devices by name, and the id of the namespace called `a`.
    fn ground(&self) -> (Vec<(String, u32)>, i32);
    /// The acknowledgement number of a SYN cookie for this tuple and sequence number.
    ///
    /// # Errors
    /// What the kernel says.
    fn cookie(&mut self, key: &FlowKey, sequence: u32) -> Result<u32>;
    /// Fills the maps, runs the frames in order and tells what the last one did.
    ///
    /// # Errors
    /// What the kernel says.
    fn run(&mut self, world: &World, side: Side, device: u32, frames: &[Vec<u8>]) -> Result<Seen>;
    /// Can it show this fixture at all?
    fn shows(&self, fixture: &Fixture) -> bool;
}

/// Where the fixtures lie.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/forward")
}

/// The world of a fixture on this subject's ground.
///
/// # Errors
/// What in the text is not understood.
pub fn world(subject: &mut dyn Subject, base: &Path, fixture: &Fixture) -> Result<World> {
    let (devices, netns) = subject.ground();
    let mut world = World::new(subject.now(), devices, netns);
    world.read(base)?;
    for line in &fixture.set {
        world.line(line).with_context(|| format!("{}: set {line}", fixture.name))?;
    }
    if let Some((key, sequence)) = world.cookie_for {
        world.cookie = subject.cookie(&key, sequence)?;
        world.state.sockets.cookies.insert((key, sequence, world.cookie));
    }
    Ok(world)
}

/// Runs one fixture; every disagreement as a line.
///
/// # Errors
/// What in the text is not understood, what the kernel says.
pub fn run(subject: &mut dyn Subject, base: &Path, fixture: &Fixture) -> Result<Vec<String>> {
    let world = world(subject, base, fixture)?;
    let frames = fixture.frames(&world)?;
    let expect = fixture.expected(&world)?;
    let device = world.device(&fixture.device)?;
    let seen = subject.run(&world, fixture.side, device, &frames).with_context(|| fixture.name.clone())?;
    Ok(judge(&expect, &seen, frames.last().context("a frame")?))
}

/// The model as a subject.
#[derive(Debug, Default)]
pub struct Model;

impl Subject for Model {
    fn name(&self) -> &'static str {
        "model"
    }
    fn now(&self) -> Clock {
        Clock { seconds: 1_000_000 }
    }
    fn ground(&self) -> (Vec<(String, u32)>, i32) {
        (vec![("up".to_owned(), 11), ("back".to_owned(), 12)], 3)
    }
    fn cookie(&mut self, _: &FlowKey, _: u32) -> Result<u32> {
        Ok(0x5eed_c00d)
    }
    fn run(&mut self, world: &World, side: Side, device: u32, frames: &[Vec<u8>]) -> Result<Seen> {
        let mut state = world.state.clone();
        let handle = |state: &mut State, frame: &[u8]| match side {
            Side::In => state.ingress(frame, device, world.now),
            Side::Out => state.egress(frame, device, world.now),
        };
        let (last, earlier) = frames.split_last().context("a frame")?;
        for frame in earlier {
            let _ = handle(&mut state, frame);
        }
        let before = state.clone();
        let out = handle(&mut state, last);
        Ok(Seen {
            verdict: match out.verdict {
                Verdict::Pass => Shown::Pass,
                Verdict::Drop(_) => Shown::Drop,
                Verdict::Transmit => Shown::Transmit,
                Verdict::Redirect(_) => Shown::Redirect,
            },
            frame: out.frame,
            tallies: moved(&before.tallies, &state.tallies, |a, b| b - a),
            flows: [before.flows, state.flows],
            half: [before.half, state.half],
            pins: [before.exceptions, state.exceptions],
            services: moved(&before.service_stats, &state.service_stats, |a, b| ServiceStats {
                packets: b.packets - a.packets,
                bytes: b.bytes - a.bytes,
                new_flows: b.new_flows - a.new_flows,
                orphans: b.orphans - a.orphans,
                asked: b.asked - a.asked,
            }),
            endpoints: moved(&before.endpoint_stats, &state.endpoint_stats, endpoint_moved),
        })
    }
    fn shows(&self, fixture: &Fixture) -> bool {
        fixture.tc_only.is_none() && fixture.programs_only.is_none()
    }
}

/// The difference of two endpoints' statistics.
pub(crate) fn endpoint_moved(a: EndpointStats, b: EndpointStats) -> EndpointStats {
    EndpointStats {
        packets: b.packets - a.packets,
        bytes: b.bytes - a.bytes,
        syns: b.syns - a.syns,
        syn_acks: b.syn_acks - a.syn_acks,
        resets: b.resets - a.resets,
        replies: b.replies - a.replies,
        reply_bytes: b.reply_bytes - a.reply_bytes,
        new_flows: b.new_flows - a.new_flows,
    }
}

fn moved<K: Ord + Copy, V: Copy + Default + PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    minus: impl Fn(V, V) -> V,
) -> BTreeMap<K, V> {
    let deltas = after.iter().map(|(k, v)| (*k, minus(before.get(k).copied().unwrap_or_default(), *v)));
    deltas.filter(|(_, v)| *v != V::default()).collect()
}
