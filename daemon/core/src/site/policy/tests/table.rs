//! The table of sites.md 4.5, line by line.

use core::time::Duration;

use super::{DOWN, summary};
use crate::site::path::io::Carriage;
use crate::site::policy::facts::{Facts, Observed, Verdict};

const fn facts(session: bool, carriage: Carriage, others: Option<bool>, ready: u16, age: u64) -> Facts {
    let summary = Some((summary(ready, 100, 50), Duration::from_secs(age)));
    let observed = Observed { handshakes: 0, failed: 0, usual: 0, compared: false };
    Facts { here: false, session, carriage, others_reach: others, summary, observed }
}

#[test]
fn each_line_of_the_table() {
    use Carriage::{Unknown as New, Up};
    let lines = [
        (facts(true, Up, None, 10, 0), Verdict::Normal),
        (facts(true, New, None, 10, 0), Verdict::Normal),
        (facts(true, Up, None, 0, 0), Verdict::NotReady),
        (facts(false, Up, None, 10, 299), Verdict::Blind),
        (facts(false, Up, None, 10, 300), Verdict::Fallback),
        (facts(false, Up, None, 0, 299), Verdict::NotReady),
        (facts(true, Up, None, 10, 300), Verdict::Fallback),
        (facts(true, DOWN, None, 10, 0), Verdict::PathDown),
        (facts(true, DOWN, Some(false), 10, 0), Verdict::PathDown),
        (facts(false, DOWN, Some(true), 10, 0), Verdict::PathDown),
        (facts(false, DOWN, None, 10, 0), Verdict::PathDown),
        (facts(false, DOWN, Some(false), 10, 0), Verdict::SiteDead),
        (facts(true, Up, None, 10, 24 * 3600), Verdict::Unknown),
    ];
    for (facts, verdict) in lines {
        assert_eq!(facts.verdict(), verdict, "{facts:?}");
    }
    let mut drained = facts(true, Up, None, 10, 0);
    drained.summary = drained.summary.map(|(s, age)| (crate::site::summary::Summary { draining: true, ..s }, age));
    assert_eq!(drained.verdict(), Verdict::Draining);
    assert_eq!(Facts { summary: None, ..drained }.verdict(), Verdict::Unknown);
}

#[test]
fn the_data_path_is_believed_from_64_handshakes_and_20_per_cent_on() {
    for (handshakes, failed, usual, verdict) in [
        (64, 13, 0, Verdict::Mismatch),
        (64, 12, 0, Verdict::Normal),
        (63, 63, 0, Verdict::Normal),
        (1000, 200, 0, Verdict::Mismatch),
        (1000, 800, 601, Verdict::Normal),
        (1000, 800, 600, Verdict::Mismatch),
        (64, 64, 65, Verdict::Normal),
    ] {
        let observed = Observed { handshakes, failed, usual, compared: true };
        let facts = Facts { observed, ..facts(true, Carriage::Up, None, 10, 0) };
        assert_eq!(facts.verdict(), verdict, "{failed} of {handshakes}, {usual} of them are usual");
    }
}

#[test]
fn this_site_needs_no_path_and_no_session() {
    let here = Facts { here: true, ..facts(false, DOWN, Some(false), 10, 10_000) };
    assert_eq!(here.verdict(), Verdict::Normal);
    assert!(here.freshness() == 1.0);
}

#[test]
fn an_old_word_loses_half_its_weight() {
    let at = |age| (facts(true, Carriage::Up, None, 10, age).freshness() * 1000.0).round() / 1000.0;
    assert_eq!([at(0), at(90), at(195), at(300), at(9000)], [1.0, 1.0, 0.75, 0.5, 0.5]);
}
