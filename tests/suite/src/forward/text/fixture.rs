//! A fixture: a world, a packet, and what must come of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bascule_ebpf_common::forward::{EndpointStats, Flow, FlowKey, Half, PacketDrop, ServiceStats, Tally};

use super::packet;
use super::place::{flow, flow_key, half};
use super::words::{Words, number};
use super::world::World;
use crate::forward::model::Verdict;

/// Where the packet meets the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Arriving.
    In,
    /// Leaving.
    Out,
}

/// A change of the flow tables.
#[derive(Clone, Debug)]
pub enum Change {
    /// This entry is there afterwards.
    Flow(FlowKey, Flow),
    /// This half-open entry is there afterwards.
    Half(FlowKey, Half),
    /// The flow is pinned to this node afterwards.
    Pin(FlowKey, u16),
    /// The flow is not pinned any more.
    NoPin(FlowKey),
    /// No flow entry of this tuple is left.
    NoFlow(FlowKey),
    /// No half-open entry of this tuple is left, or one may be.
    AnyHalf(FlowKey),
}

/// What must come of the packet.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Verdict.
    pub verdict: Verdict,
    /// Frame that leaves; for a "too big" message its fixed part.
    pub frame: Vec<u8>,
    /// Bytes that may differ.
    pub loose: Vec<std::ops::Range<usize>>,
    /// Only the first bytes are compared.
    pub prefix: Option<usize>,
    /// Tallies and drops that move, by slot; all others stand still but those in `any`.
    pub tallies: Vec<(u32, u64)>,
    /// Slots that may move.
    pub any: Vec<u32>,
    /// Entries that change; all others stay.
    pub changes: Vec<Change>,
    /// Statistics that move, where the fixture says so.
    pub services: Vec<(u16, ServiceStats)>,
    /// The same of endpoints.
    pub endpoints: Vec<(u16, EndpointStats)>,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// `file/name`.
    pub name: String,
    /// Why it must be so.
    pub why: String,
    /// Lines that make the world differ from the base.
    pub set: Vec<String>,
    /// Where the packet comes.
    pub side: Side,
    /// Device by name.
    pub device: String,
    /// What the tc twin cannot show, and why.
    pub xdp_only: Option<String>,
    /// What only the tc twin does, and why.
    pub tc_only: Option<String>,
    /// What the reference model does not say, and why.
    pub programs_only: Option<String>,
    packet: String,
    expect: Vec<String>,
    /// Lines that run before and must agree too: a first fragment, for one.
    pub first: Vec<String>,
}

impl Fixture {
    /// The frames, earlier ones first.
    ///
    /// # Errors
    /// What in the text is not understood.
    pub fn frames(&self, world: &World) -> Result<Vec<Vec<u8>>> {
        let keys = world.keys();
        let all = self.first.iter().chain([&self.packet]);
        all.map(|text| {
            packet::frame(&with_cookie(text, world), &keys).with_context(|| format!("{}: {text}", self.name))
        })
        .collect()
    }

    /// The reason for which the frame is dropped, if it is.
    ///
    /// # Errors
    /// As [`Fixture::expected`].
    pub fn dropped(&self, world: &World) -> Result<Option<PacketDrop>> {
        Ok(match self.expected(world)?.verdict {
            Verdict::Drop(reason) => Some(reason),
            _ => None,
        })
    }

    /// What must come of the last frame.
    ///
    /// # Errors
    /// What in the text is not understood.
    pub fn expected(&self, world: &World) -> Result<Expect> {
        let input = self.frames(world)?.pop().context("a packet")?;
        let mut e = Expect {
            verdict: Verdict::Pass,
            frame: input,
            loose: Vec::new(),
            prefix: None,
            tallies: Vec::new(),
            any: Vec::new(),
            changes: Vec::new(),
            services: Vec::new(),
            endpoints: Vec::new(),
        };
        for line in &self.expect {
            expectation(&mut e, line, world).with_context(|| format!("{}: {line}", self.name))?;
        }
        Ok(e)
    }
}

fn expectation(e: &mut Expect, line: &str, world: &World) -> Result<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut w = Words::of(rest);
    match word {
        "pass" => e.verdict = Verdict::Pass,
        "transmit" => e.verdict = Verdict::Transmit,
        "redirect" => e.verdict = Verdict::Redirect(world.device(w.next()?)?),
        "drop" => {
            let name = w.next()?;
            let reason = PacketDrop::ALL.into_iter().find(|r| r.name() == name).context("no such reason")?;
            e.verdict = Verdict::Drop(reason);
            e.tallies.push((reason as u32, 1));
        }
        "frame" => {
            e.frame = packet::frame(&with_cookie(rest, world), &world.keys())?;
            return Ok(());
        }
        "loose" => {
            let (from, to) = w.next()?.split_once("..").context("FROM..TO")?;
            e.loose.push(number(from)?..number(to)?);
        }
        "prefix" => e.prefix = Some(w.number()?),
        "count" => {
            while !w.is_empty() {
                let slot = slot(w.next()?)?;
                e.tallies.push((slot, 1));
            }
        }
        "any" => {
            while !w.is_empty() {
                e.any.push(slot(w.next()?)?);
            }
        }
        "flow" => {
            let (key, value) = flow(&mut w, world.now)?;
            e.changes.push(Change::Flow(key, value));
        }
        "half" => {
            let (key, value) = half(&mut w)?;
            e.changes.push(Change::Half(key, value));
        }
        "pin" => e.changes.push(Change::Pin(flow_key(&mut w)?, w.number()?)),
        "nopin" => e.changes.push(Change::NoPin(flow_key(&mut w)?)),
        "noflow" => e.changes.push(Change::NoFlow(flow_key(&mut w)?)),
        "anyhalf" => e.changes.push(Change::AnyHalf(flow_key(&mut w)?)),
        "service" => {
            let slot = w.number()?;
            let mut take = |name| w.value_number(name).map(|v: Option<u64>| v.unwrap_or(0));
            let stats = ServiceStats {
                packets: take("packets")?,
                bytes: take("bytes")?,
                new_flows: take("new")?,
                orphans: take("orphans")?,
                asked: take("asked")?,
            };
            e.services.push((slot, stats));
        }
        "endpoint" => {
            let slot = w.number()?;
            let mut take = |name| w.value_number(name).map(|v: Option<u64>| v.unwrap_or(0));
            let stats = EndpointStats {
                packets: take("packets")?,
                bytes: take("bytes")?,
                syns: take("syns")?,
                syn_acks: take("syn-acks")?,
                resets: take("resets")?,
                replies: take("replies")?,
                reply_bytes: take("reply-bytes")?,
                new_flows: take("new")?,
            };
            e.endpoints.push((slot, stats));
        }
        other => bail!("no expectation is called {other}"),
    }
    w.done()
}

fn with_cookie(text: &str, world: &World) -> String {
    text.replace("ack cookie", &format!("ack {}", world.cookie))
}

fn slot(word: &str) -> Result<u32> {
    if let Some(bucket) = word.strip_prefix("hops") {
        return Ok(Tally::Hops as u32 + number::<u32>(bucket)?);
    }
    let tally = Tally::ALL.into_iter().find(|t| t.name() == word).map(|t| t as u32);
    let reason = PacketDrop::ALL.into_iter().find(|r| r.name() == word).map(|r| r as u32);
    tally.or(reason).with_context(|| format!("no tally is called {word}"))
}

/// Every fixture of a folder, by file name and order; and the base world's file.
///
/// # Errors
/// What cannot be read or understood.
pub fn read_all(folder: &Path) -> Result<(PathBuf, Vec<Fixture>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|f| f.ok().map(|f| f.path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    let mut all = Vec::new();
    for file in files.iter().filter(|f| f.file_stem().is_some_and(|s| s != "world")) {
        read(file, &mut all).with_context(|| file.display().to_string())?;
    }
    let mut names: Vec<&String> = all.iter().map(|f| &f.name).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("two fixtures are called {}", twice[0]);
    }
    Ok((folder.join("world.txt"), all))
}

fn read(file: &Path, all: &mut Vec<Fixture>) -> Result<()> {
    let stem = file.file_stem().and_then(|s| s.to_str()).context("a name")?.to_owned();
    let text = std::fs::read_to_string(file)?;
    // Lines before the first fixture hold for all of the file.
    let mut common: Vec<String> = Vec::new();
    let start = all.len();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        if word == "fixture" {
            all.push(Fixture {
                name: format!("{stem}/{rest}"),
                why: String::new(),
                set: common.clone(),
                side: Side::In,
                device: "up".to_owned(),
                xdp_only: None,
                tc_only: None,
                programs_only: None,
                packet: String::new(),
                expect: Vec::new(),
                first: Vec::new(),
            });
            continue;
        }
        let known = all.len() > start;
        let Some(f) = all.last_mut().filter(|_| known) else {
            ensure!(word == "set", "line {number}: only `set` may stand before the first fixture");
            common.push(rest.to_owned());
            continue;
        };
        match word {
            "why" => f.why = rest.to_owned(),
            "set" => f.set.push(rest.to_owned()),
            "first" => f.first.push(rest.to_owned()),
            "in" | "out" => {
                f.side = if word == "in" { Side::In } else { Side::Out };
                f.packet = rest.to_owned();
            }
            "device" => f.device = rest.to_owned(),
            "xdp-only" => f.xdp_only = Some(rest.to_owned()),
            "tc-only" => f.tc_only = Some(rest.to_owned()),
            "programs-only" => f.programs_only = Some(rest.to_owned()),
            _ => f.expect.push(line.to_owned()),
        }
    }
    for f in &all[start..] {
        ensure!(
            !f.why.is_empty() && !f.packet.is_empty() && !f.expect.is_empty(),
            "{}: why, packet, expectation",
            f.name
        );
    }
    Ok(())
}
