use super::*;

const WEB: ServiceId = ServiceId(7);
const HERE: SiteId = SiteId(1);
const THERE: SiteId = SiteId(2);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

/// Numbers between 0 and 1 (xorshift64).
fn dice(seed: u64) -> impl FnMut() -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A node whose clients bring connections to two sites.
struct Node {
    places: Places,
    /// What is noted: whose it is, when it was sent, and whether it will be answered. The answer takes 50 ms.
    noted: Vec<Option<(SiteId, u64, bool)>>,
    totals: BTreeMap<SiteId, Totals>,
    evidence: Handshakes,
    sent: u64,
    now: u64,
}

impl Node {
    fn new() -> Self {
        let totals = BTreeMap::from([(HERE, Totals::default()), (THERE, Totals::default())]);
        Self {
            places: Places::new(2048),
            noted: vec![None; 2048],
            totals,
            evidence: Handshakes::default(),
            sent: 0,
            now: 0,
        }
    }

    fn send(&mut self, site: SiteId, answered: bool) {
        self.sent += 1;
        let place = usize::try_from(self.sent).expect("few") % self.noted.len();
        if self.noted[place].is_none() {
            self.noted[place] = Some((site, self.now, answered));
        }
    }

    fn look(&mut self) {
        for (place, noted) in self.noted.iter_mut().enumerate() {
            let seen = noted.map(|(_, sent, answered)| (sent, answered && self.now >= sent + 50));
            if let (Some(seen), Some((site, ..))) = (self.places.look(place, seen, at(self.now)), *noted) {
                self.totals.get_mut(&site).expect("known").count(seen);
                if seen.ends() {
                    *noted = None;
                }
            }
        }
        let totals: Vec<_> = self.totals.iter().map(|(site, totals)| (*site, *totals)).collect();
        self.evidence.handle_totals(WEB, &totals, at(self.now));
    }

    fn observed(&mut self, site: SiteId) -> Observed {
        let all = self.evidence.observe(at(self.now));
        all.into_iter().find(|(_, of, _)| *of == site).map(|(.., observed)| observed).unwrap_or_default()
    }

    /// So many seconds of 1 ms steps at `rates` a second; until a site is contradicted, and when that was.
    fn run(
        &mut self,
        ms: u64,
        rates: [(SiteId, u64); 2],
        mut answers: impl FnMut(SiteId) -> bool,
    ) -> Option<(SiteId, u64)> {
        for _ in 0..ms {
            self.now += 1;
            for (site, rate) in rates {
                for _ in 0..self.now * rate / 1000 - (self.now - 1) * rate / 1000 {
                    let answered = answers(site);
                    self.send(site, answered);
                }
            }
            if self.now.is_multiple_of(250) {
                self.look();
                let out = [HERE, THERE].into_iter().find(|site| self.observed(*site).contradicts());
                if let Some(site) = out {
                    return Some((site, self.now));
                }
            }
        }
        None
    }
}

#[test]
fn a_syn_is_answered_at_once_or_has_failed_after_a_second() {
    let mut places = Places::new(2);
    assert_eq!(places.look(0, Some((9, false)), at(0)), None);
    assert_eq!(places.look(0, Some((9, false)), at(299)), None);
    assert_eq!(places.look(0, Some((9, false)), at(300)), Some(Seen::Late));
    assert_eq!(places.look(0, Some((9, false)), at(999)), None, "once");
    assert_eq!(places.look(1, Some((9, true)), at(999)), Some(Seen::Prompt), "seen for the first time");
    assert_eq!(places.look(0, Some((9, false)), at(1000)), Some(Seen::Failed { late: false }));
    // The place was emptied, and the same SYN came again.
    assert_eq!(places.look(0, Some((9, false)), at(1250)), None);
    assert_eq!(places.look(0, Some((9, true)), at(1401)), Some(Seen::Answered), "not within 150 ms");
    assert_eq!(places.look(0, None, at(1750)), None);
    assert_eq!(places.look(0, Some((9, false)), at(2000)), None);
    // Another one has its place, and a second of its own.
    assert_eq!(places.look(0, Some((8, false)), at(3000)), None);
    assert_eq!(places.look(0, Some((8, false)), at(4000)), Some(Seen::Failed { late: true }), "nobody looked before");
    assert_eq!(places.look(2, Some((8, true)), at(4000)), None, "there is no such place");
    let mut totals = Totals::default();
    let all = [Seen::Prompt, Seen::Answered, Seen::Late, Seen::Failed { late: false }, Seen::Failed { late: true }];
    all.into_iter().for_each(|seen| totals.count(seen));
    assert_eq!(totals, Totals { answered: 2, failed: 2, prompt: 1, late: 2 });
}

/// F15: 3 s at 50 connections a second, less what the table takes.
#[test]
fn a_black_hole_is_known_within_three_seconds_at_fifty_a_second() {
    let fifty = [(HERE, 50), (THERE, 50)];
    // It served before.
    let mut node = Node::new();
    assert_eq!(node.run(30_000, fifty, |_| true), None);
    let (site, when) = node.run(30_000, fifty, |site| site == HERE).expect("it is seen");
    assert!(site == THERE && (31_000..=32_250).contains(&when), "{site} at {when} ms");
    // It never did: 64 connections are 1.3 s.
    let mut node = Node::new();
    let (site, when) = node.run(30_000, fifty, |site| site == HERE).expect("it is seen");
    assert!(site == THERE && (1_000..=2_900).contains(&when), "{site} at {when} ms");
    // Nobody to compare it with.
    let mut node = Node::new();
    let (site, when) = node.run(30_000, [(HERE, 0), (THERE, 50)], |_| false).expect("it is seen");
    assert!(site == THERE && (1_000..=2_900).contains(&when), "{site} at {when} ms");
    assert!(!node.observed(THERE).compared);
}

#[test]
fn a_third_that_fails_is_seen_in_time_and_a_tenth_never_is() {
    for (part, seen) in [(0.33, true), (0.1, false)] {
        let (mut node, mut draw) = (Node::new(), dice(4));
        let out = node.run(120_000, [(HERE, 50), (THERE, 50)], |site| site == HERE || draw() >= part);
        assert_eq!(out.map(|(site, _)| site), seen.then_some(THERE), "{part}: {out:?}");
    }
}

/// Tuples that nobody stands behind fall on all sites alike, for a keyed hash chooses: ten minutes of each, in which no site is blamed.
#[test]
fn a_flood_of_forged_syns_ejects_nobody() {
    for (seed, rate, forged) in [(1, 50, 0.2), (2, 50, 0.5), (3, 100, 0.8), (4, 400, 0.95), (5, 30, 0.05)] {
        let (mut node, mut draw) = (Node::new(), dice(seed));
        assert_eq!(node.run(10_000, [(HERE, rate), (THERE, rate)], |_| true), None);
        let out = node.run(600_000, [(HERE, rate), (THERE, rate)], |_| draw() >= forged);
        assert_eq!(out, None, "{forged} of {rate} a second are forged");
    }
}

/// Later than without one: what is no chance takes more of them.
#[test]
fn a_black_hole_is_seen_in_a_flood() {
    let (mut node, mut draw) = (Node::new(), dice(11));
    let rates = [(HERE, 100), (THERE, 100)];
    assert_eq!(node.run(30_000, rates, |_| draw() >= 0.5), None);
    let (site, when) = node.run(30_000, rates, |site| site == HERE && draw() >= 0.5).expect("it is seen");
    assert!(site == THERE && when <= 35_000, "{site} at {when} ms");
}

#[test]
fn what_is_old_says_nothing_and_a_counter_may_begin_anew() {
    let mut node = Node::new();
    let _out = node.run(2_500, [(HERE, 0), (THERE, 100)], |_| false);
    assert!(node.observed(THERE).contradicts());
    node.now += 10_000;
    assert_eq!(node.observed(THERE), Observed::default());
    let before = node.evidence.totals(WEB, THERE);
    assert!(before.failed > 64 && before.answered == 0, "{before:?}");
    let anew = Totals { answered: 60, failed: 4, ..Totals::default() };
    node.evidence.handle_totals(WEB, &[(THERE, anew)], at(node.now));
    assert_eq!(node.observed(THERE), Observed { handshakes: 64, failed: 4, usual: 0, compared: false });
    node.evidence.retain(|_| false);
    assert_eq!((node.observed(THERE), node.evidence.totals(WEB, THERE)), (Observed::default(), Totals::default()));
}
