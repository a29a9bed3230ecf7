//! Model and programs side by side over random packets.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use bascule_ebpf_common::forward::FlowKey;

use super::Dice;
use super::packet::packet;
use super::scene::{Scene, scene};
use crate::forward::judge::{Shown, hex, padded, same_flow, slot_name};
use crate::forward::model::{Output, State, Verdict};
use crate::forward::run::Programs;
use crate::forward::subject::Subject;
use crate::forward::text::{Side, World, frame};

/// Packets of one random world.
const PER_SCENE: u64 = 200;
/// Packets whose tallies are compared together.
const WINDOW: u64 = 16;
/// Seconds after which SYN cookies are asked for anew: the kernel takes them for one minute at least (`MAX_SYNCOOKIE_AGE`, net/tcp.h).
const COOKIES_S: u32 = 20;

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Packets given to every subject.
    pub packets: u64,
    /// Worlds.
    pub scenes: u64,
    /// Packets in which a subject and the model differ.
    pub wrong: u64,
    /// Worlds whose tables differ at the end though no packet did.
    pub tables: u64,
    /// What the model said, by tally or reason: a run in which one never occurs proves little about it.
    pub moved: BTreeMap<String, u64>,
    /// The first disagreements, readable.
    pub examples: Vec<String>,
}

/// Gives `packets` random packets to the model and to every subject. A world in which something differs is left at once.
///
/// # Errors
/// What the kernel says.
pub fn agree(subjects: &mut [Programs<'_>], base: &Path, seed: u64, packets: u64) -> Result<Report> {
    let mut report = Report::default();
    let mut dice = Dice(seed);
    let ground = subjects.first().context("a subject")?.ground();
    let asked = open_sockets(subjects, base)?;
    let mut cookies = Vec::new();
    let mut baked = None;
    while report.packets < packets {
        let now = subjects[0].now();
        if baked.is_none_or(|then| now.seconds - then >= COOKIES_S) {
            baked = Some(now.seconds);
            cookies = asked
                .iter()
                .map(|(key, sequence)| Ok((*key, *sequence, subjects[0].cookie(key, *sequence)?)))
                .collect::<Result<_>>()?;
        }
        let seed = dice.0;
        let scene = scene(&mut dice, base, now, ground.clone(), &cookies)?;
        report.scenes += 1;
        for subject in subjects.iter_mut() {
            subject.fill_maps(&scene.world.state)?;
        }
        one_scene(subjects, &scene, &mut dice, &mut report, seed)?;
    }
    Ok(report)
}

/// Opens the sockets once; gives the tuples and sequence numbers whose acknowledgements will carry SYN cookies.
fn open_sockets(subjects: &mut [Programs<'_>], base: &Path) -> Result<Vec<(FlowKey, u32)>> {
    let (devices, netns) = subjects[0].ground();
    let mut world = World::new(subjects[0].now(), devices, netns);
    world.read(base)?;
    for line in super::scene::sockets() {
        world.line(&line)?;
    }
    subjects[0].open(&world.state.sockets)?;
    let tuples = ["203.0.113.9:65535 10.1.0.3:8080/tcp", "[2001:db8:c::8]:1024 [fd01::3]:8080/tcp"];
    let asked = tuples.map(|tuple| {
        world.line(&format!("cookie {tuple} seq 9"))?;
        world.cookie_for.context("just set")
    });
    asked.into_iter().collect()
}

fn one_scene(
    subjects: &mut [Programs<'_>],
    scene: &Scene,
    dice: &mut Dice,
    report: &mut Report,
    seed: u64,
) -> Result<()> {
    let mut state = scene.world.state.clone();
    let keys = scene.world.keys();
    let device = scene.world.device("up")?;
    let mut window = Window::open(subjects)?;
    let mut free = HashSet::new();
    for number in 0..PER_SCENE {
        let (side, text) = packet(dice, scene);
        let input = frame(&text, &keys).with_context(|| text.clone())?;
        let now = subjects[0].now();
        let old = state.tallies.clone();
        let out = match side {
            Side::In => state.ingress(&input, device, now),
            Side::Out => state.egress(&input, device, now),
        };
        free.extend(out.loose.flow);
        let moved = moved(&old, &state);
        report.packets += 1;
        for slot in moved.keys() {
            *report.moved.entry(slot_name(*slot)).or_default() += 1;
        }
        // A packet whose tallies are not all settled is counted alone, so that it hides nothing of others.
        let settled = out.loose.tallies.is_empty();
        let mut faults = if settled { Vec::new() } else { window.close(subjects, &[])? };
        let mut strayed = !faults.is_empty();
        for subject in subjects.iter_mut() {
            let (shown, got) = subject.one(side, device, &input).with_context(|| text.clone())?;
            let seen = compare(&out, shown, &got, &input);
            faults.extend(seen.into_iter().map(|fault| format!("{}: {fault}", subject.name())));
        }
        // What is done once in each second the model may have done in this one, and the programs in the next.
        let turned = subjects[0].now() != now;
        window.add(&moved);
        if !settled || turned || !faults.is_empty() || window.packets == WINDOW || number + 1 == PER_SCENE {
            let counted = window.close(subjects, &out.loose.tallies)?;
            strayed |= !counted.is_empty();
            faults.extend(counted);
        }
        if !faults.is_empty() {
            report.wrong += 1;
            report.examples.push(format!("seed {seed:#x} packet {number}: {text}\n  {}", faults.join("\n  ")));
        }
        // After another frame out the tables are still the same; after another way they may not be, nor after two seconds of one packet.
        if strayed || turned {
            return Ok(());
        }
    }
    for subject in subjects.iter_mut() {
        let faults = tables(subject, &state, &free)?;
        if !faults.is_empty() {
            report.tables += 1;
            report.examples.push(format!("{} seed {seed:#x} tables:\n  {}", subject.name(), faults.join("\n  ")));
            return Ok(());
        }
    }
    Ok(())
}

/// Tallies of a few packets, compared at once: to read them costs more than to run a packet.
struct Window {
    packets: u64,
    moved: BTreeMap<u32, u64>,
    before: Vec<Vec<u64>>,
}

impl Window {
    fn open(subjects: &mut [Programs<'_>]) -> Result<Self> {
        let before = subjects.iter_mut().map(Programs::tallies).collect::<Result<_>>()?;
        Ok(Self { packets: 0, moved: BTreeMap::new(), before })
    }

    fn add(&mut self, moved: &BTreeMap<u32, u64>) {
        self.packets += 1;
        for (slot, n) in moved {
            *self.moved.entry(*slot).or_default() += n;
        }
    }

    /// What differs since the last time, but for the slots `any`.
    fn close(&mut self, subjects: &mut [Programs<'_>], any: &[u32]) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        if self.packets > 0 {
            for (subject, before) in subjects.iter_mut().zip(&mut self.before) {
                let after = subject.tallies()?;
                let of = format!("{}, the last {} packets: ", subject.name(), self.packets);
                faults.extend(counted(&self.moved, before, &after, any).into_iter().map(|fault| of.clone() + &fault));
                *before = after;
            }
        }
        self.packets = 0;
        self.moved.clear();
        Ok(faults)
    }
}

fn moved(old: &BTreeMap<u32, u64>, state: &State) -> BTreeMap<u32, u64> {
    let delta = state.tallies.iter().map(|(slot, n)| (*slot, n - old.get(slot).unwrap_or(&0)));
    delta.filter(|(_, n)| *n != 0).collect()
}

fn compare(out: &Output, shown: Shown, got: &[u8], input: &[u8]) -> Vec<String> {
    let same = match out.verdict {
        Verdict::Pass => shown == Shown::Pass,
        Verdict::Drop(_) => return if shown == Shown::Drop { Vec::new() } else { vec![differs(out, shown)] },
        Verdict::Transmit => matches!(shown, Shown::Transmit | Shown::Sent),
        Verdict::Redirect(_) => matches!(shown, Shown::Redirect | Shown::Sent),
    };
    if !same {
        return vec![differs(out, shown)];
    }
    let mut want = out.frame.clone();
    let mut got = got.to_vec();
    if let Some(from) = out.loose.from {
        want.truncate(from);
        got.truncate(from);
    }
    let changed = want != input;
    if changed && got.len() > want.len() && padded(input) && input.ends_with(&got[want.len()..]) {
        got.truncate(want.len());
    }
    for range in &out.loose.bytes {
        for frame in [&mut want, &mut got] {
            if let Some(bytes) = frame.get_mut(range.clone()) {
                bytes.fill(0);
            }
        }
    }
    if want == got {
        return Vec::new();
    }
    let at = want.iter().zip(&got).position(|(a, b)| a != b).unwrap_or(want.len().min(got.len()));
    vec![format!("frame differs from byte {at}:\n    expected {}\n    got      {}", hex(&want), hex(&got))]
}

fn differs(out: &Output, shown: Shown) -> String {
    format!("verdict: expected {:?}, got {shown:?}", out.verdict)
}

fn counted(moved: &BTreeMap<u32, u64>, before: &[u64], after: &[u64], any: &[u32]) -> Vec<String> {
    let mut faults = Vec::new();
    for (slot, (b, a)) in (0u32..).zip(before.iter().zip(after)) {
        let want = moved.get(&slot).copied().unwrap_or(0);
        if a - b != want && !any.contains(&slot) {
            faults.push(format!("{}: expected {want}, got {}", slot_name(slot), a - b));
        }
    }
    faults
}

/// Flow tables and statistics at the end of a world.
fn tables(subject: &mut Programs<'_>, state: &State, free: &HashSet<FlowKey>) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let flows = subject.flows()?;
    for key in flows.keys().chain(state.flows.keys()).collect::<HashSet<_>>() {
        let (want, got) = (state.flows.get(key), flows.get(key));
        if !same_flow(want, got) {
            faults.push(format!("flow {key:x?}:\n    expected {want:x?}\n    got      {got:x?}"));
        }
    }
    let half = subject.half()?;
    for key in half.keys().chain(state.half.keys()).collect::<HashSet<_>>() {
        let (want, got) = (state.half.get(key), half.get(key));
        if want != got && !free.contains(key) {
            faults.push(format!("half-open {key:x?}:\n    expected {want:x?}\n    got      {got:x?}"));
        }
    }
    let pins = subject.pins()?;
    for key in pins.keys().chain(state.exceptions.keys()).collect::<HashSet<_>>() {
        let (want, got) = (state.exceptions.get(key), pins.get(key));
        if want != got {
            faults.push(format!("pin {key:x?}: expected {want:?}, got {got:?}"));
        }
    }
    Ok(faults)
}
