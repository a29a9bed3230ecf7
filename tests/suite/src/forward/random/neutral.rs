//! Frames that concern no VIP: captured kinds with random changes, and noise.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Dice;
use crate::forward::bytes::{address_bytes, low8};
use crate::forward::judge::{Shown, hex};
use crate::forward::run::Programs;
use crate::forward::subject::Subject;
use crate::forward::text::{Fixture, Side, World, words};

/// Frames as they were captured, each with what it is.
///
/// # Errors
/// What in the file cannot be read or understood.
pub fn captured() -> Result<Vec<(String, Vec<u8>)>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/frames/captured.txt");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (kind, bytes) = line.split_once(": ").with_context(|| format!("KIND: HEX, not {line}"))?;
            Ok((kind.to_owned(), words::hex(bytes)?))
        })
        .collect()
}

/// The base world, filled into every subject, and what frames of no VIP are made of: the frames of the fixtures of that name, and
/// captured ones.
///
/// # Errors
/// What in the text is not understood, what the kernel says.
pub fn neutral_kinds(
    subjects: &mut [Programs<'_>],
    base: &Path,
    fixtures: &[Fixture],
) -> Result<(World, Vec<Vec<u8>>)> {
    let first = subjects.first().context("a subject")?;
    let (devices, netns) = first.ground();
    let mut world = World::new(first.now(), devices, netns);
    world.read(base)?;
    let mut kinds = Vec::new();
    for fixture in fixtures.iter().filter(|f| f.name.starts_with("neutral/")) {
        kinds.extend(fixture.frames(&world)?);
    }
    kinds.extend(captured()?.into_iter().map(|(_, frame)| frame));
    for subject in subjects.iter_mut() {
        subject.fill(&world.state)?;
    }
    Ok((world, kinds))
}

/// Gives `frames` frames, made of `kinds` by random changes, to every subject: each must pass as it came. Gives how many ran.
///
/// # Errors
/// What the kernel says, or the first frame that did not pass or came out changed.
pub fn neutral(subjects: &mut [Programs<'_>], world: &World, kinds: &[Vec<u8>], seed: u64, frames: u64) -> Result<u64> {
    let mut dice = Dice(seed);
    let (state, device) = (&world.state, world.device("up")?);
    let own: Vec<Vec<u8>> = state
        .service_keys
        .keys()
        .map(|key| key.vip)
        .chain([state.config.address4, state.config.address6])
        .map(|a| address_bytes(&a))
        .collect();
    let heads: Vec<[u8; 4]> = own.iter().filter_map(|a| a.first_chunk().copied()).collect();
    let mut run = 0;
    while run < frames {
        let frame = changed(&mut dice, kinds);
        // What names an address of ours anywhere may concern it.
        let names = |(at, head): (usize, &[u8])| {
            heads.iter().any(|h| h == head) && own.iter().any(|a| frame[at..].starts_with(a))
        };
        if frame.windows(4).enumerate().any(names) {
            continue;
        }
        run += 1;
        for subject in subjects.iter_mut() {
            if let Ok((verdict, out)) = subject.one(Side::In, device, &frame) {
                ensure!(
                    verdict == Shown::Pass && out == frame,
                    "{subject:?} {verdict:?} frame {run}:\n  in  {}\n  out {}",
                    hex(&frame),
                    hex(&out)
                );
            } else {
                // An skb of half an IP header is refused by the kernel's test_run, not by the program.
                ensure!(frame.len() < 14 + 40, "test_run refused {}", hex(&frame));
            }
        }
    }
    Ok(run)
}

fn changed(dice: &mut Dice, kinds: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = kinds[usize::try_from(dice.roll(kinds.len() as u64)).unwrap_or(0)].clone();
    match dice.roll(8) {
        // Noise behind a true EtherType.
        0 => {
            let kind = dice.pick(&[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8], [0x08, 0x06], [0x88, 0xcc]]);
            frame[12..14].copy_from_slice(&kind);
            for b in &mut frame[14..] {
                *b = low8(dice.roll(256));
            }
            if dice.one_in(2) && frame.len() > 15 {
                frame[14] = dice.pick(&[0x45, 0x60, 0x46, 0x4f]);
            }
        }
        1 => frame.truncate(usize::try_from(14 + dice.roll(1 + frame.len() as u64 - 14)).unwrap_or(14)),
        2 => frame.extend((0..dice.roll(64)).map(|b| low8(b ^ 0x5a))),
        3 => {
            let tag = [dice.pick(&[0x81, 0x88]), dice.pick(&[0x00, 0xa8]), 0, low8(dice.roll(256))];
            frame.splice(12..12, tag);
        }
        _ => {
            for _ in 0..=dice.roll(4) {
                let at = usize::try_from(dice.roll(frame.len() as u64)).unwrap_or(0);
                frame[at] = low8(dice.roll(256));
            }
        }
    }
    frame
}
