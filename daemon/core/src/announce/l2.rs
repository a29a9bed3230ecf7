//! Gratuitous ARP and unsolicited NA: the first at once, a burst, then a refresh; and what a rival's claim is answered with.
//!
//! Decides which frames are due. Leaves to the group whether it owns, to the driver the sending.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use crate::time::Instant;
use crate::types::Mac;
use crate::wire::arp::Arp;
use crate::wire::ndp;

/// Frames per second at most in the first pass of a mass move: one per millisecond (issue: up to 1,000 frames/s).
const FIRST_PASS_GAP: Duration = Duration::from_millis(1);
/// Later passes are not urgent: switches must not drop them (200 frames/s).
const LATER_PASS_GAP: Duration = Duration::from_millis(5);
/// A rival is answered at once, then at most this often: two nodes that both defend must not flood the segment.
const DEFEND_INTERVAL: Duration = Duration::from_secs(1);
/// A mass move is paced; this many addresses go out together.
const FIRST_BATCH: usize = 4;

/// Schedule of announcements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnnounceConfig {
    /// Passes after the first.
    pub burst: u32,
    /// Time between the passes of the burst.
    pub burst_interval: Duration,
    /// Time between passes after the burst; below the ageing time of switches (300 s by default).
    pub refresh: Duration,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self { burst: 3, burst_interval: Duration::from_millis(100), refresh: Duration::from_secs(60) }
    }
}

/// Why a frame was sent; the label of `garp_sent_total{kind}`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// First pass of a claim.
    First,
    /// Repetition shortly after.
    Burst,
    /// Repetition against ageing.
    Refresh,
    /// Answer to a rival's claim.
    Defend,
    /// Conflict probe before the first claim.
    Probe,
}

impl FrameKind {
    /// Every kind, for metrics that must exist before they move.
    pub const ALL: [Self; 5] = [Self::First, Self::Burst, Self::Refresh, Self::Defend, Self::Probe];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Burst => "burst",
            Self::Refresh => "refresh",
            Self::Defend => "defend",
            Self::Probe => "probe",
        }
    }
}

/// A frame that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Whole Ethernet frame.
    pub bytes: Vec<u8>,
    /// Address it announces.
    pub address: IpAddr,
    /// Why.
    pub kind: FrameKind,
}

/// The frames that announce one address: both ARP forms, or one NA.
pub fn announcement(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(a) => {
            vec![Arp::announcement(mac, a).encode(Mac::BROADCAST), Arp::gratuitous_reply(mac, a).encode(Mac::BROADCAST)]
        }
        IpAddr::V6(a) => vec![ndp::unsolicited_advertisement(mac, a)],
    }
}

/// The announcer of one group on one link.
#[derive(Clone, Debug)]
pub struct Announcer {
    config: AnnounceConfig,
    addresses: Vec<IpAddr>,
    /// Next address of the running pass, and when; `None` while silent.
    cursor: Option<(usize, Instant)>,
    pass: u32,
    pass_started: Instant,
    defended: Option<Instant>,
    /// A claim came too soon after the last answer: one pass is owed then.
    owed: Option<Instant>,
    /// Addresses that came under a running announcement: when each is due, and which pass it is in.
    added: VecDeque<(Instant, IpAddr, u32)>,
    frames: VecDeque<Frame>,
}

impl Announcer {
    /// A silent announcer.
    pub fn new(config: AnnounceConfig, addresses: Vec<IpAddr>) -> Self {
        Self {
            config,
            addresses,
            cursor: None,
            pass: 0,
            pass_started: Instant::ZERO,
            defended: None,
            owed: None,
            added: VecDeque::new(),
            frames: VecDeque::new(),
        }
    }

    /// A new schedule or list; a running pass goes on with it.
    pub fn reconfigure(&mut self, config: AnnounceConfig, addresses: Vec<IpAddr>) {
        self.config = config;
        if let Some((next, _)) = &mut self.cursor {
            *next = (*next).min(addresses.len());
        }
        self.added.retain(|(_, address, _)| addresses.contains(address));
        self.addresses = addresses;
    }

    /// Addresses of the list that were not there before: announced at once and with a burst of their own, paced like a mass move. What
    /// was there before is not announced again.
    pub fn add(&mut self, addresses: Vec<IpAddr>, now: Instant) {
        if !self.is_running() {
            return;
        }
        for (index, address) in (0u32..).zip(addresses) {
            let behind = index.saturating_sub(u32::try_from(FIRST_BATCH).unwrap_or(u32::MAX));
            self.schedule(now + FIRST_PASS_GAP * behind, address, 0);
        }
    }

    /// In order of time.
    fn schedule(&mut self, at: Instant, address: IpAddr, pass: u32) {
        let place = self.added.partition_point(|(due, _, _)| *due <= at);
        self.added.insert(place, (at, address, pass));
    }

    /// Begins: the first pass is due now.
    pub fn start(&mut self, now: Instant) {
        // The pass has them all.
        self.added.clear();
        self.pass = 0;
        self.pass_started = now;
        self.cursor = Some((0, now));
        self.defended = None;
        self.owed = None;
    }

    /// Falls silent at once; frames that were not taken yet are dropped.
    pub fn stop(&mut self) {
        self.cursor = None;
        self.owed = None;
        self.added.clear();
        self.frames.clear();
    }

    /// True between `start` and `stop`.
    pub fn is_running(&self) -> bool {
        self.cursor.is_some()
    }

    /// When [`Self::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, pass) = self.cursor?;
        [Some(pass), self.owed, self.added.front().map(|(at, _, _)| *at)].into_iter().flatten().min()
    }

    /// Next frame to send.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// Queues what is due.
    pub fn handle_timeout(&mut self, mac: Mac, now: Instant) {
        if self.owed.is_some_and(|at| at <= now) {
            self.owed = None;
            self.defended = Some(now);
            self.repeat(now);
        }
        while let Some((_, address, pass)) = self.added.pop_front_if(|(at, _, _)| *at <= now) {
            self.queue(mac, address, if pass == 0 { FrameKind::First } else { FrameKind::Burst }, usize::MAX);
            if pass < self.config.burst {
                self.schedule(now + self.config.burst_interval, address, pass + 1);
            }
        }
        while let Some((next, at)) = self.cursor.filter(|(_, at)| *at <= now) {
            let kind = match self.pass {
                0 => FrameKind::First,
                p if p <= self.config.burst => FrameKind::Burst,
                _ => FrameKind::Refresh,
            };
            let Some(address) = self.addresses.get(next).copied() else {
                self.cursor = Some((0, self.next_pass(now)));
                continue;
            };
            // A mass move: one frame per VIP in the first pass, the second ARP form follows with the burst.
            let forms = if kind == FrameKind::First && next >= FIRST_BATCH { 1 } else { usize::MAX };
            self.queue(mac, address, kind, forms);
            let gap = match kind {
                FrameKind::First if next + 1 < FIRST_BATCH => Duration::ZERO,
                FrameKind::First => FIRST_PASS_GAP,
                FrameKind::Burst | FrameKind::Refresh | FrameKind::Defend | FrameKind::Probe => LATER_PASS_GAP,
            };
            // From the time it was due, not from now: a late wake-up must not slow the pass down, nor may it burst.
            let due = at.max(Instant::from_nanos(now.as_nanos().saturating_sub(1_000_000))) + gap;
            self.cursor = Some((next + 1, if next + 1 < self.addresses.len() { due } else { at }));
        }
    }

    /// Somebody else claims `address`: true when it is answered now (frames are queued). A claim within the interval is answered at
    /// its end, for it may have been the last word that a neighbour heard.
    pub fn defend(&mut self, mac: Mac, address: IpAddr, now: Instant) -> bool {
        if !self.is_running() {
            return false;
        }
        if let Some(at) = self.defended.filter(|at| now.since(*at) < DEFEND_INTERVAL) {
            self.owed = Some(at + DEFEND_INTERVAL);
            return false;
        }
        self.defended = Some(now);
        self.queue(mac, address, FrameKind::Defend, usize::MAX);
        true
    }

    /// One pass at once. A burst that has begun goes on from here; none begins.
    pub fn repeat(&mut self, now: Instant) {
        if self.is_running() {
            self.pass = self.pass.min(self.config.burst);
            self.pass_started = now;
            self.cursor = Some((0, now));
        }
    }

    /// The winner of two Actives says so at once, whatever was defended before (issue: the winner re-announces at once).
    pub fn restart(&mut self, now: Instant) {
        if self.is_running() {
            self.start(now);
        }
    }

    fn next_pass(&mut self, now: Instant) -> Instant {
        self.pass += 1;
        let gap = if self.pass <= self.config.burst { self.config.burst_interval } else { self.config.refresh };
        let planned = self.pass_started + gap;
        self.pass_started = if planned > now { planned } else { now + gap.min(LATER_PASS_GAP) };
        self.pass_started
    }

    fn queue(&mut self, mac: Mac, address: IpAddr, kind: FrameKind, forms: usize) {
        for bytes in announcement(mac, address).into_iter().take(forms) {
            self.frames.push_back(Frame { bytes, address, kind });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn run(announcer: &mut Announcer, until: Instant) -> Vec<(u64, FrameKind)> {
        let mut out = Vec::new();
        while let Some(next) = announcer.poll_timeout().filter(|next| *next <= until) {
            announcer.handle_timeout(MAC, next);
            while let Some(frame) = announcer.poll_frame() {
                out.push((next.as_nanos() / 1_000_000, frame.kind));
            }
        }
        out
    }

    #[test]
    fn first_at_once_then_burst_then_refresh() {
        let mut a = Announcer::new(AnnounceConfig::default(), vec!["2001:db8::1".parse().expect("address")]);
        a.start(at(0));
        let times: Vec<(u64, FrameKind)> = run(&mut a, at(130_000));
        let expected = [
            (0, FrameKind::First),
            (100, FrameKind::Burst),
            (200, FrameKind::Burst),
            (300, FrameKind::Burst),
            (60_300, FrameKind::Refresh),
            (120_300, FrameKind::Refresh),
        ];
        assert_eq!(times, expected);
    }

    #[test]
    fn both_arp_forms_in_the_first_step() {
        let mut a = Announcer::new(AnnounceConfig::default(), vec![[10, 9, 0, 100].into()]);
        a.start(at(5));
        a.handle_timeout(MAC, at(5));
        let ops: Vec<_> =
            core::iter::from_fn(|| a.poll_frame()).filter_map(|f| Arp::parse(&f.bytes)).map(|p| p.operation).collect();
        assert_eq!(ops, [crate::wire::arp::Operation::Request, crate::wire::arp::Operation::Reply]);
    }

    #[test]
    fn a_mass_move_is_paced_and_complete() {
        let addresses: Vec<IpAddr> = (0..500u32).map(|i| IpAddr::from((0x0a09_0000 + i).to_be_bytes())).collect();
        let mut a = Announcer::new(AnnounceConfig { burst: 0, ..AnnounceConfig::default() }, addresses.clone());
        a.start(at(0));
        let mut per_ms = std::collections::BTreeMap::<u64, usize>::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(next) = a.poll_timeout().filter(|next| *next < at(2000)) {
            a.handle_timeout(MAC, next);
            while let Some(frame) = a.poll_frame() {
                if frame.kind == FrameKind::First {
                    seen.insert(frame.address);
                    *per_ms.entry(next.as_nanos() / 1_000_000).or_default() += 1;
                }
            }
        }
        assert_eq!(seen.len(), addresses.len());
        assert!(per_ms.iter().all(|(ms, n)| *n <= if *ms == 0 { 8 } else { 1 }), "{per_ms:?}");
    }

    #[test]
    fn a_repeated_pass_begins_no_burst_and_ends_none() {
        let vip: IpAddr = "2001:db8::1".parse().expect("address");
        let mut a = Announcer::new(AnnounceConfig::default(), vec![vip]);
        a.repeat(at(0));
        assert!(!a.is_running(), "a Backup announces nothing");
        a.start(at(0));
        let _first_two = run(&mut a, at(150));
        a.repeat(at(150));
        let times: Vec<u64> = run(&mut a, at(10_000)).into_iter().map(|(t, _)| t).collect();
        assert_eq!(times, [150, 250], "the burst goes on from here: this pass was its second");
        a.repeat(at(10_000));
        let times: Vec<u64> = run(&mut a, at(60_000)).into_iter().map(|(t, _)| t).collect();
        assert_eq!(times, [10_000], "one pass");
    }

    #[test]
    fn rivals_are_answered_at_once_and_then_rarely() {
        let vip: IpAddr = [10, 9, 0, 100].into();
        let mut a = Announcer::new(AnnounceConfig::default(), vec![vip]);
        assert!(!a.defend(MAC, vip, at(0)), "a Backup defends nothing");
        a.start(at(0));
        assert!(a.defend(MAC, vip, at(1)));
        assert!(!a.defend(MAC, vip, at(900)));
        let _passes = run(&mut a, at(1000));
        assert_eq!(a.poll_timeout(), Some(at(1001)), "the claim at 900 ms is answered then");
        assert_eq!(run(&mut a, at(1002)).len(), 2);
        assert!(!a.defend(MAC, vip, at(1900)), "that was an answer too");
        a.stop();
        assert_eq!(a.poll_timeout(), None);
    }
}
