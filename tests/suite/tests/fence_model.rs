//! Random sequences of claims, adverts and frames, against a model of the rules written from the words.
//!
//! The model keeps its own state and shares no formula with the programs. Time is real: deadlines lie around now, so
//! that they pass between two steps. A step whose deadline passed while it ran has no defined verdict and is void.

use std::net::Ipv4Addr;

use anyhow::Result;
use bascule::dataplane::{Attach, Direction, Family, Fence, Forwarded, Opening};
use bascule_ebpf_common::ShardCtl;
use bascule_suite::fence::frames::{RIVAL_MAC, advert, arp, ipv4, sent_by};
use bascule_suite::fence::{Ground, Outcome, boot_ns, test_run};

const MS: u64 = 1_000_000;
const SEEDS: u64 = 24;
const STEPS: u32 = 1_500;
/// Share of void steps beyond which a run proves nothing.
const MAX_VOID: f64 = 0.05;
const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 100), Ipv4Addr::new(10, 9, 0, 101)];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// A TCP header of 20 bytes with SYN and ACK set.
const SYN_ACK: [u8; 20] = [0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0];

/// SplitMix64 (Steele, Lea, Flood 2014): a seed is a whole run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).expect("an index fits")]
    }
}

/// One shard as the issue describes it.
#[derive(Clone, Copy, Debug, Default)]
struct Model {
    ctl: ShardCtl,
    /// Deadline and interval that the last advert set, and in which term.
    proof: Option<(u64, u64, u64)>,
    mute_in: Option<u64>,
    /// Latest time at which another node's advert was heard, as the kernel noted it.
    heard: u64,
    deposed_in: Option<u64>,
    /// Priority of the last own advert that left as an owner's.
    said: u8,
    /// The frames of `probe` are served by forwarding, whoever owns.
    forwarded: bool,
}

impl Model {
    fn deadline(&self) -> u64 {
        match self.proof {
            Some((term, deadline, _)) if term == self.ctl.term => deadline.max(self.ctl.deadline_ns),
            _ => self.ctl.deadline_ns,
        }
    }

    /// Every instant at which a verdict of this shard may change.
    fn edges(&self) -> [u64; 2] {
        [self.deadline(), self.ctl.deliver_until_ns]
    }

    fn spoke(&self) -> bool {
        self.proof.is_some_and(|(term, ..)| term == self.ctl.term)
    }

    fn deposed(&self) -> bool {
        self.deposed_in == Some(self.ctl.term) || !self.spoke() && self.heard > self.ctl.heed_ns
    }

    fn owner(&self, now: u64) -> bool {
        self.ctl.role == 1 && now < self.deadline() && !self.deposed()
    }

    fn answers(&self, now: u64) -> bool {
        self.owner(now) && self.mute_in != Some(self.ctl.term)
    }

    /// Granted away, or on the way out: another node that speaks is the successor.
    fn awaits(&self) -> bool {
        self.ctl.role == 1 && self.ctl.flags & 1 != 0 || self.ctl.role == 2
    }

    fn accepts(&self, now: u64) -> bool {
        self.forwarded || self.serves(now) && self.mute_in != Some(self.ctl.term)
    }

    fn delivers(&self, now: u64) -> bool {
        self.forwarded || self.serves(now)
    }

    fn serves(&self, now: u64) -> bool {
        let accepts = self.ctl.flags & 2 == 0;
        self.owner(now) && accepts || self.ctl.role == 2 && now < self.ctl.deliver_until_ns
    }

    fn advertises(&self, now: u64, priority: u8) -> bool {
        let in_time = now < self.deadline();
        let again = self.deposed() && self.ctl.role == 1 && self.spoke() && (1..=self.said).contains(&priority);
        self.owner(now) || in_time && (again || priority == 0 && self.ctl.role == 2 && !self.deposed())
    }

    /// An advert with this interval left; what it must have set, from when it left at the earliest and the latest.
    fn extended(&self, interval: u64, earliest: u64, latest: u64) -> (u64, u64) {
        let held = match self.proof {
            Some((term, _, last)) if term == self.ctl.term => last,
            _ => self.ctl.interval_ns,
        };
        let a = if held == 0 { interval } else { held.min(interval) };
        let length = 3 * a - (a / 4).max(2 * MS);
        (earliest + length, latest + length)
    }
}

#[derive(Default, Debug)]
struct Tally {
    passes: u64,
    drops: u64,
    void: u64,
    extensions: u64,
    mutes: u64,
    depositions: u64,
    forwards: u64,
}

struct Run {
    fence: Fence,
    va: u32,
    models: [Model; 2],
    term: u64,
    tally: Tally,
}

impl Run {
    fn start(ground: &Ground) -> Result<Self> {
        ground.ip("link add va type veth peer name vb")?;
        let va = ground.ifindex("va")?;
        let mut fence = ground.fence()?;
        fence.attach(va, Attach::Auto)?;
        for (slot, vip) in (0..).zip(VIPS) {
            fence.register(slot, va, &[vip.into()], &[(Family::V4, 51 + u8::try_from(slot)?)])?;
        }
        Ok(Self { fence, va, models: [Model::default(); 2], term: 0, tally: Tally::default() })
    }

    fn step(&mut self, dice: &mut Dice) -> Result<()> {
        let slot = usize::try_from(dice.roll(2))?;
        match dice.roll(13) {
            12 => self.forward(slot),
            0 | 1 => self.write(slot, dice),
            2..=4 => self.advert(slot, dice),
            5 => self.rival(slot),
            6 => self.rival_advert(slot, dice),
            _ => self.probe(slot, dice),
        }
    }

    fn write(&mut self, slot: usize, dice: &mut Dice) -> Result<()> {
        // Sometimes the current term again: a daemon also rewrites role and flags within one term.
        if dice.roll(3) > 0 {
            self.term += 1;
        }
        let now = boot_ns();
        let around = |dice: &mut Dice| match dice.roll(4) {
            0 => now - dice.roll(5 * MS),
            1 => now + 3_600_000 * MS,
            _ => now + dice.roll(5 * MS),
        };
        let ctl = ShardCtl {
            role: dice.pick(&[0, 1, 1, 1, 1, 2]),
            flags: dice.pick(&[0, 0, 1, 1, 2, 3, 4, 6]),
            term: self.term.max(1),
            deadline_ns: around(dice),
            deliver_until_ns: around(dice),
            interval_ns: dice.pick(&[0, 10, 20, 100]) * MS,
            heed_ns: if dice.roll(3) > 0 { u64::MAX } else { now - dice.roll(2 * MS) },
        };
        self.fence.write(u32::try_from(slot)?, &ctl)?;
        self.models[slot].ctl = ctl;
        Ok(())
    }

    /// Turns forwarding of one VIP on, or off again before long: most probes shall meet the shard's own rules.
    fn forward(&mut self, slot: usize) -> Result<()> {
        for (n, model) in self.models.iter_mut().enumerate() {
            model.forwarded = n == slot && !model.forwarded;
        }
        let frames: Vec<Forwarded> = VIPS
            .iter()
            .zip(&self.models)
            .filter(|(_, model)| model.forwarded)
            .map(|(vip, _)| Forwarded { vip: (*vip).into(), port: 0, protocol: 6 })
            .collect();
        self.tally.forwards += u64::from(!frames.is_empty());
        self.fence.forward(&Opening::Whole(frames))?;
        Ok(())
    }

    fn advert(&mut self, slot: usize, dice: &mut Dice) -> Result<()> {
        let priority = dice.pick(&[0, 1, 100, 254]);
        let centiseconds = dice.pick(&[0u16, 1, 1, 2, 10]);
        let frame = ipv4(HOST, GROUP, 112, &advert(51 + u8::try_from(slot)?, priority, centiseconds));
        let (before, outcome, after) = self.run(Direction::Egress, &frame)?;
        let kernel = self.fence.read(u32::try_from(slot)?)?.1;
        let model = &mut self.models[slot];
        let straddles = model.edges().iter().any(|edge| (before..=after).contains(edge));
        let left = if straddles { outcome == Outcome::Pass } else { model.advertises(before, priority) };
        self.tally.count(outcome, left, straddles, || format!("advert {priority} {centiseconds} {model:?}"));
        if left && !model.deposed() && priority > 0 && centiseconds > 0 {
            let interval = u64::from(centiseconds) * 10 * MS;
            let (low, high) = model.extended(interval, before, after);
            assert!((low..=high).contains(&kernel.deadline_ns), "{low}..={high}: {kernel:?} {model:?}");
            assert_eq!((kernel.term, kernel.interval_ns), (model.ctl.term, interval), "{model:?}");
            model.proof = Some((kernel.term, kernel.deadline_ns, kernel.interval_ns));
            model.said = priority;
            self.tally.extensions += 1;
        } else {
            let proof = model.proof.unwrap_or_default();
            assert_eq!((kernel.term, kernel.deadline_ns, kernel.interval_ns), proof, "nothing else extends: {model:?}");
        }
        Ok(())
    }

    fn rival(&mut self, slot: usize) -> Result<()> {
        let (_, outcome, _) = self.run(Direction::Ingress, &arp(RIVAL_MAC, 1, VIPS[slot], VIPS[slot]))?;
        assert_eq!(outcome, Outcome::Pass, "an announcement is heard in every state");
        let model = &mut self.models[slot];
        if model.awaits() {
            model.mute_in = Some(model.ctl.term);
            self.tally.mutes += 1;
        }
        Ok(())
    }

    fn rival_advert(&mut self, slot: usize, dice: &mut Dice) -> Result<()> {
        let priority = dice.pick(&[0, 1, 100, 150, 255]);
        // The model's own adverts come from 10.9.0.1.
        let last = dice.pick(&[0, 9]);
        let mut listed = advert(51 + u8::try_from(slot)?, priority, 10);
        let end = listed.len() - 4;
        listed[end..].copy_from_slice(&VIPS[slot].octets());
        let frame = sent_by(RIVAL_MAC, 255, ipv4(Ipv4Addr::new(10, 9, 0, last), GROUP, 112, &listed));
        let (_, outcome, _) = self.run(Direction::Ingress, &frame)?;
        assert_eq!(outcome, Outcome::Pass, "an advert is heard in every state");
        let kernel = self.fence.read(u32::try_from(slot)?)?.1;
        let model = &mut self.models[slot];
        if priority == 0 {
            return Ok(());
        }
        model.heard = kernel.heard_ns;
        if model.awaits() {
            model.mute_in = Some(model.ctl.term);
            self.tally.mutes += 1;
        }
        let speaks = model.spoke() || model.ctl.flags & 4 != 0;
        let better = priority > model.said || priority == model.said && last > 1;
        if model.ctl.role == 1 && model.ctl.flags & 1 == 0 && speaks && better {
            model.deposed_in = Some(model.ctl.term);
            self.tally.depositions += 1;
        }
        Ok(())
    }

    fn probe(&mut self, slot: usize, dice: &mut Dice) -> Result<()> {
        use Direction::{Egress, Ingress};
        let vip = VIPS[slot];
        let other = VIPS[1 - slot];
        let (name, direction, frame, asks): (_, _, _, fn(&Model, u64) -> bool) = match dice.roll(9) {
            0 => ("asked", Ingress, arp(RIVAL_MAC, 1, HOST, vip), Model::answers),
            1 => ("answer", Egress, arp(RIVAL_MAC, 2, vip, HOST), Model::answers),
            2 => ("arrives", Ingress, ipv4(HOST, vip, 6, &[0; 20]), Model::delivers),
            3 => ("reply", Egress, ipv4(vip, HOST, 6, &[0; 20]), Model::delivers),
            4 => ("between VIPs out", Egress, ipv4(vip, other, 6, &[0; 20]), Model::delivers),
            5 => ("between VIPs in", Ingress, ipv4(other, vip, 6, &[0; 20]), Model::delivers),
            6 => ("SYN-ACK", Egress, ipv4(vip, HOST, 6, &SYN_ACK), Model::accepts),
            7 => ("as a client out", Egress, ipv4(HOST, vip, 6, &[0; 20]), |_, _| true),
            _ => ("as a client in", Ingress, ipv4(vip, HOST, 6, &[0; 20]), |_, _| true),
        };
        let (before, outcome, after) = self.run(direction, &frame)?;
        let model = self.models[slot];
        let straddles = model.edges().iter().any(|edge| (before..=after).contains(edge));
        self.tally.count(outcome, asks(&model, before), straddles, || format!("{name} {model:?}"));
        Ok(())
    }

    fn run(&self, direction: Direction, frame: &[u8]) -> Result<(u64, Outcome, u64)> {
        let before = boot_ns();
        let outcome = test_run(self.fence.program_fd(direction)?, self.va, frame)?;
        Ok((before, outcome, boot_ns()))
    }
}

impl Tally {
    fn count(&mut self, outcome: Outcome, want_pass: bool, straddles: bool, what: impl FnOnce() -> String) {
        if straddles {
            self.void += 1;
            return;
        }
        let want = if want_pass { Outcome::Pass } else { Outcome::Drop };
        assert_eq!(outcome, want, "{}", what());
        match outcome {
            Outcome::Pass => self.passes += 1,
            Outcome::Drop => self.drops += 1,
            Outcome::HandOn(..) => unreachable!("compared above"),
        }
    }
}

#[test]
fn random_sequences_agree_with_the_model() {
    for seed in 0..SEEDS {
        let tally = Ground::run(move |ground| {
            println!("seed {seed}");
            let mut dice = Dice(seed);
            let mut run = Run::start(ground)?;
            for _ in 0..STEPS {
                run.step(&mut dice)?;
            }
            Ok(run.tally)
        })
        .unwrap();
        println!("{tally:?}");
        assert!(tally.void as f64 <= MAX_VOID * f64::from(STEPS), "too many void steps: {tally:?}");
        // A sequence in which one side hardly occurs would prove little.
        assert!(
            tally.passes > 200
                && tally.drops > 200
                && tally.extensions > 20
                && tally.mutes > 5
                && tally.depositions > 5
                && tally.forwards > 5,
            "{tally:?}"
        );
    }
}
