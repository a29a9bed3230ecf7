use super::*;
use proptest::prelude::*;

const WEB: ServiceId = ServiceId(7);
const READS: u64 = 2;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn count(rate: u64) -> Count {
    Count { service: WEB, rate: Rate(rate) }
}

/// Rates of a meter whose counter is read every half second from `begin` on, while so many come in each of them.
fn rates(meter: &mut Meter, total: &mut u64, begin: u64, comes: &[u64]) -> Vec<f64> {
    let read = |(n, more): (u64, &u64)| {
        *total += more;
        let now = at(begin + 500 * n);
        meter.handle_total(*total, now);
        meter.rate(now).per_second()
    };
    (1u64..).zip(comes).map(read).collect()
}

/// A draw of a Poisson distribution (Knuth), of numbers between 0 and 1.
fn poisson(mean: f64, mut draw: impl FnMut() -> f64) -> u64 {
    let (end, mut product, mut count) = ((-mean).exp(), draw(), 0);
    while product > end {
        product *= draw();
        count += 1;
    }
    count
}

/// Numbers between 0 and 1 (xorshift64).
fn dice(seed: u64) -> impl FnMut() -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn a_load_that_begins_is_known_after_a_second_and_one_that_ends_as_well() {
    let (mut meter, mut total) = (Meter::default(), 1_000_000);
    assert_eq!(rates(&mut meter, &mut total, 0, &[0; 20]), [0.0; 20], "a counter begins anywhere");
    let begun = rates(&mut meter, &mut total, 10_000, &[30, 50, 50, 50, 50]);
    assert!(begun[1] >= 79.0, "more than half of it while the second is not over: {begun:?}");
    assert!(begun[3..].iter().all(|rate| (85.0..=101.0).contains(rate)), "{begun:?}");
    let steady = rates(&mut meter, &mut total, 12_500, &[50; 40]);
    assert!(steady[20..].iter().all(|rate| (rate - 100.0).abs() < 1.0), "{steady:?}");
    let ended = rates(&mut meter, &mut total, 32_500, &[20, 0, 0, 0]);
    assert_eq!(ended[2..], [0.0; 2], "{ended:?}");
}

#[test]
fn a_counter_that_begins_anew_is_no_negative_rate_and_one_that_is_not_read_is_none() {
    let (mut meter, mut total) = (Meter::default(), 5_000);
    let _steady = rates(&mut meter, &mut total, 0, &[50; 20]);
    let mut anew = 0;
    let after = rates(&mut meter, &mut anew, 10_000, &[50; 4]);
    assert!(
        after.iter().all(|rate| (rate - 100.0).abs() < 1.0),
        "the rate holds until there is another one: {after:?}"
    );
    assert_eq!(meter.rate(at(12_000) + HOLD), Rate(0), "nobody has read it for 3 s");
    // And what came in a gap is no rate of now.
    meter.handle_total(1_000_000, at(60_000));
    meter.handle_total(1_000_025, at(60_500));
    meter.handle_total(1_000_050, at(61_000));
    assert_eq!(meter.rate(at(61_000)), Rate(50_000));
}

proptest! {
    #[test]
    fn noise_of_a_steady_load_is_averaged_away(seed: u64, mean in 5.0f64..500.0) {
        let mut draw = dice(seed);
        let comes: Vec<u64> = (0..240).map(|_| poisson(mean / READS as f64, &mut draw)).collect();
        let (mut meter, mut total) = (Meter::default(), 0);
        let rates = rates(&mut meter, &mut total, 0, &comes);
        let settled = &rates[20..];
        // Deviations of eight seconds; of one second after each that is taken for sudden, which is rare.
        let within = |sigmas: f64, seconds: f64| {
            settled.iter().filter(|rate| (*rate - mean).abs() <= sigmas * (mean / seconds).sqrt()).count()
        };
        prop_assert_eq!(within(7.0, 1.0), settled.len(), "{} {:?}", mean, settled);
        prop_assert!(within(4.0, 8.0) * 5 >= settled.len() * 4, "{} {:?}", mean, settled);
    }

    #[test]
    fn a_steady_load_is_seldom_said_anew(seed: u64, mean in 20.0f64..500.0) {
        let mut draw = dice(seed);
        let (mut demand, mut total, mut words) = (Demand::default(), 0, 0);
        for n in 0..600u64 {
            total += poisson(mean / READS as f64, &mut draw);
            demand.handle_total(WEB, total, at(500 * n));
            words += demand.reckon(false, at(500 * n)).len();
        }
        // 300 s: some three records a minute, of 250 bytes.
        prop_assert!(words <= 45, "{words} at {mean}");
    }
}

#[test]
fn a_node_says_what_is_news_at_once_the_same_every_second_and_nothing_once() {
    let (mut demand, mut total, mut said) = (Demand::default(), 0, Vec::new());
    for n in 0..40u64 {
        total += if (10..30).contains(&n) { 50 } else { 0 };
        demand.handle_total(WEB, total, at(500 * n));
        said.extend(demand.say(at(500 * n)).into_iter().map(|count| (n, count.rate)));
    }
    assert_eq!(said.first().map(|(n, _)| *n), Some(10), "{said:?}");
    let steady = said.iter().filter(|(n, _)| (16..30).contains(n)).count();
    assert!((6..=8).contains(&steady), "once a second: {said:?}");
    let ended: Vec<_> = said.iter().filter(|(_, rate)| *rate == Rate(0)).collect();
    assert_eq!(ended.len(), 1, "{said:?}");
    assert_eq!(said.last(), Some(ended[0]), "{said:?}");
}

#[test]
fn the_sum_is_of_all_who_have_spoken_within_three_seconds() {
    let mut demand = Demand::default();
    demand.hear("n2", count(40_000), at(0));
    demand.hear("n3", count(60_400), at(1_000));
    assert_eq!(demand.reckon(false, at(1_000)), [(WEB, Rate(100_400))]);
    assert_eq!(demand.site(WEB).whole(), 101, "rounded up: what is there is never nothing");
    assert!(demand.reckon(false, at(2_000)).is_empty(), "no news");
    assert_eq!(demand.reckon(false, at(3_000)), [(WEB, Rate(60_400))], "n2 is silent for 3 s");
    // A relay that has just begun to lead does not know yet who is there.
    assert!(demand.reckon(true, at(4_000)).is_empty());
    assert_eq!(demand.reckon(false, at(4_500)), [(WEB, Rate(0))]);
    demand.hear("n2", count(3), at(5_000));
    assert_eq!(demand.reckon(true, at(5_000)), [(WEB, Rate(3))]);
    assert_eq!(demand.site(WEB).whole(), 1);
    demand.hear("n2", count(0), at(5_100));
    assert_eq!(demand.reckon(false, at(5_100)), [(WEB, Rate(0))], "it says so");
}

#[test]
fn a_sum_that_nobody_says_again_is_forgotten_after_ten_seconds() {
    let mut demand = Demand::default();
    demand.set(WEB, Rate(100_000), at(0));
    demand.set(WEB, Rate(100_000), at(1_000));
    assert_eq!(demand.poll_timeout(), Some(at(11_000)));
    assert!(demand.expire(at(10_999)).is_empty() && demand.site(WEB) == Rate(100_000));
    assert_eq!(demand.expire(at(11_000)), [WEB]);
    assert_eq!((demand.site(WEB), demand.poll_timeout()), (Rate(0), None));
}

#[test]
fn what_is_less_than_a_twentieth_or_noise_is_the_same_sum() {
    for (said, now, other) in [
        (1_000_000, 1_040_000, false),
        (1_000_000, 1_060_000, true),
        (1_000_000, 940_000, true),
        // Two deviations of eight seconds at 100 a second are seven.
        (100_000, 106_000, false),
        (100_000, 109_000, true),
        (2_000, 1_500, false),
        (0, 1, true),
        (1, 0, true),
        (0, 0, false),
        (5, 5, false),
    ] {
        assert_eq!(differs(Rate(said), Rate(now)), other, "{said} {now}");
    }
}

#[test]
fn services_that_are_spread_no_more_are_forgotten() {
    let mut demand = Demand::default();
    demand.handle_total(WEB, 0, at(0));
    demand.hear("n2", count(1_000), at(0));
    assert_eq!(demand.reckon(false, at(0)).len(), 1);
    assert!(!demand.is_empty());
    demand.retain(|_| false);
    assert!(demand.is_empty() && demand.say(at(0)).is_empty() && demand.all().next().is_none());
}
