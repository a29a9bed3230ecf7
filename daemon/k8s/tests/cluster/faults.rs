//! The allocator while its server misbehaves, dies and comes back, and while others want to be it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::allocator::{Giver, SERVICES, addresses, cluster, ips, path, service};
use crate::fake::{Fake, Mood};

/// Everything that ever stood in a status: moments at which two Services had one address, and addresses that were changed for another.
fn audit(fake: &Fake) -> (Vec<String>, Vec<String>) {
    let inner = fake.lock();
    let (mut held, mut twice, mut changed) = (BTreeMap::<String, Vec<String>>::new(), Vec::new(), Vec::new());
    for change in inner.objects.log.iter().filter(|change| change.is_of(SERVICES)) {
        let before = held.remove(&change.path).unwrap_or_default();
        if change.kind == "DELETED" {
            continue;
        }
        let now = ips(&change.object);
        for (other, theirs) in &held {
            twice.extend(
                theirs.iter().filter(|ip| now.contains(ip)).map(|ip| format!("{ip}: {other}, {}", change.path)),
            );
        }
        if !before.is_empty() && before != now {
            changed.push(format!("{}: {before:?}, then {now:?}", change.path));
        }
        let _none = held.insert(change.path.clone(), now);
    }
    (twice, changed)
}

fn assert_clean(fake: &Fake) {
    assert_eq!(audit(fake), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_planted_second_holder_and_a_planted_change_are_found() {
    let fake = Fake::start().await;
    let with = |ip: &str| {
        let mut service = service();
        service["status"]["loadBalancer"]["ingress"] = serde_json::json!([{"ip": ip}]);
        service
    };
    fake.put(&path("a"), with("192.0.2.1"));
    fake.put(&path("b"), with("192.0.2.2"));
    assert_clean(&fake);
    fake.put(&path("a"), with("192.0.2.2"));
    let (twice, changed) = audit(&fake);
    assert_eq!((twice.len(), changed.len()), (1, 1));
}

/// How long the server is in its mood.
enum Long {
    /// So many requests.
    Requests(usize),
    /// Until the claim is over.
    Claim,
    /// Until somebody asks after so long.
    Time(Duration),
    /// Until all is done, after so many conflicts.
    Conflicts(u64),
}

/// Fifteen Services from number `from` on.
fn fifteen(fake: &Fake, from: u32) {
    (from..from + 15).for_each(|n| fake.put(&path(&format!("s{n:02}")), service()));
}

/// Services come before, while and after the server is in this mood.
async fn survives(mood: Mood, long: Long) {
    let fake = cluster().await;
    fifteen(&fake, 0);
    let mut giver = Giver::start(&fake, "n1");
    fake.until("the first have one", || addresses(&fake).len() == 15).await;
    let before = fake.lock().seen.len();
    fake.set_mood(mood);
    fifteen(&fake, 15);
    let well = match long {
        Long::Requests(count) => {
            fake.until("it asks", || fake.lock().seen.len() >= before + count).await;
            true
        }
        Long::Time(long) => {
            let began = Instant::now();
            fake.until("it asks late", || began.elapsed() >= long).await;
            true
        }
        Long::Claim => giver.until("the claim is over", |state| !state.leads).await.holder.is_some(),
        Long::Conflicts(count) => giver.until("conflicts", |state| state.conflicts >= count).await.conflicts < count,
    };
    fifteen(&fake, 30);
    if well {
        fake.set_mood(Mood::Well);
    }
    fake.until("all have one", || addresses(&fake).len() == 45).await;
    assert_clean(&fake);
    giver.stop().await;
}

#[tokio::test]
async fn errors_of_the_server() {
    survives(Mood::Status(500), Long::Requests(8)).await;
}

#[tokio::test]
async fn errors_until_the_lease_is_over() {
    survives(Mood::Status(503), Long::Claim).await;
}

#[tokio::test]
async fn a_frozen_server() {
    survives(Mood::Freeze, Long::Claim).await;
}

#[tokio::test]
async fn patience_that_is_asked_for() {
    survives(Mood::Throttle(1), Long::Requests(4)).await;
}

#[tokio::test]
async fn connections_that_break() {
    survives(Mood::Break, Long::Requests(8)).await;
}

#[tokio::test]
async fn answers_that_are_lost() {
    // Longer than the lease. Not until the claim is over: the holder finds its renewals in the record, and keeps it.
    survives(Mood::Swallow, Long::Time(Duration::from_secs(4))).await;
}

#[tokio::test]
async fn a_storm_of_conflicts() {
    survives(Mood::Conflict(0), Long::Conflicts(5)).await;
}

#[tokio::test]
async fn a_storm_of_conflicts_and_watches_that_come_after_the_refusals() {
    survives(Mood::Conflict(3), Long::Conflicts(5)).await;
}

#[tokio::test]
async fn a_slow_server() {
    let fake = cluster().await;
    fifteen(&fake, 0);
    let giver = Giver::start(&fake, "n1");
    fake.until("the first have one", || addresses(&fake).len() == 15).await;
    fake.set_mood(Mood::Slow);
    fifteen(&fake, 15);
    for _ in 0..6 {
        let waiting = fake.lock().waiting;
        fake.until("it asks", || fake.lock().waiting > waiting).await;
        fake.release();
    }
    fifteen(&fake, 30);
    fake.set_mood(Mood::Well);
    fake.until("all have one", || addresses(&fake).len() == 45).await;
    assert_clean(&fake);
    giver.stop().await;
}

#[tokio::test]
async fn watches_that_are_cut_and_histories_that_end() {
    let fake = cluster().await;
    let giver = Giver::start(&fake, "n1");
    for round in 1..=10 {
        (0..3).for_each(|n| fake.put(&path(&format!("s{round:02}-{n}")), service()));
        if round % 3 == 0 {
            fake.compact();
        }
        fake.cut_watches();
        fake.until("this round's have one", || addresses(&fake).len() == round * 3).await;
    }
    assert_clean(&fake);
    giver.stop().await;
}

#[tokio::test]
async fn a_killed_allocator_changes_nothing_fifty_times() {
    let fake = cluster().await;
    (0..30).for_each(|n| fake.put(&path(&format!("s{n:02}")), service()));
    for round in 0..50 {
        let mut giver = Giver::start(&fake, "n1");
        giver.until("it has read all", |state| state.leads && state.api.lists == 4).await;
        if round == 0 {
            fake.until("all have one", || addresses(&fake).len() == 30).await;
        }
        // As a process that is killed: nothing is released.
        giver.task.abort();
        assert!(giver.task.await.is_err_and(|error| error.is_cancelled()));
    }
    assert_clean(&fake);
    assert_eq!(fake.asked("PATCH", "/services/"), 30, "one write each, in the first round");
}

#[tokio::test]
async fn of_several_allocators_one_gives_and_the_next_goes_on() {
    let fake = cluster().await;
    let mut givers: BTreeMap<&str, Giver> = BTreeMap::new();
    let mut count = 0;
    for round in 0..4 {
        for name in ["n1", "n2", "n3"] {
            givers.entry(name).or_insert_with(|| Giver::start(&fake, name));
        }
        let put = |n: usize| fake.put(&path(&format!("s{n:02}")), service());
        (count..count + 10).for_each(put);
        count += 10;
        fake.until("all have one", || addresses(&fake).len() == count).await;
        let leads: Vec<&str> = givers.iter().filter(|(_, g)| g.state.borrow().leads).map(|(name, _)| *name).collect();
        assert_eq!(leads.len(), 1, "{leads:?}");
        let leader = givers.remove(leads[0]).expect("it is one of them");
        // In the middle of giving, and without a word or with one.
        (count..count + 5).for_each(put);
        count += 5;
        if round % 2 == 0 {
            leader.task.abort();
        } else {
            leader.stop().await;
        }
    }
    fake.until("all have one", || addresses(&fake).len() == count).await;
    assert_clean(&fake);
    for giver in givers.into_values() {
        giver.stop().await;
    }
}
