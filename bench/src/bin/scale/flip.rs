//! An endpoint that is not ready any more, while a client opens connections as fast as it can.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::scale::{ATTEMPT, Made, PATIENCE, PORT, Scale, endpoint, knock};
use bascule_lab::{Report, Samples, Stamp, sleep_until, wait_for};
use serde_json::Value;

use super::{count, ms};

const RUNS: usize = 40;
const BOUND_MS: f64 = 100.0;
/// How long connections are watched after the event: several times the bound.
const WATCHED: Duration = Duration::from_millis(400);
/// From one connection of a thread to the next.
const PACE: Duration = Duration::from_millis(2);
/// Threads of the client.
const THREADS: usize = 2;

/// A connection: when it was begun, and who took it.
type Taken = (Stamp, Ipv4Addr);

pub(super) fn measure(scale: &mut Scale, report: &mut Report) -> Result<()> {
    scale.refresh()?;
    // On two nodes, and two on one of them: both levels of tables have to follow.
    let places = [(1, endpoint(1, 1)), (2, endpoint(2, 1)), (2, endpoint(2, 2))];
    let all = |ready: [bool; 3]| Made {
        name: "flip".to_owned(),
        endpoints: places.iter().zip(ready).map(|((n, address), ready)| (*n, *address, ready)).collect(),
    };
    let began = scale.make(&[all([true; 3])])?;
    let (_, (_, vip)) = scale.given.wait(PATIENCE, "an address", began, |one| one.0 == "flip")?;
    let (_first, _) = scale.knock_all(&[vip])?;
    let slices = scale.api.watch("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", unready)?;
    let (stop, taken) = (AtomicBool::new(false), Mutex::new(Vec::<Taken>::new()));
    let to = SocketAddr::new(vip.into(), PORT);
    let client = || {
        while !stop.load(Ordering::Relaxed) {
            let begun = Stamp::now();
            if let Ok(endpoint) = knock(to, ATTEMPT) {
                taken.lock().expect("nobody panics with it").push((begun, endpoint));
            }
            sleep_until(begun + PACE);
        }
    };
    let takes = |address: Ipv4Addr, since: Stamp| {
        let taken = taken.lock().expect("nobody panics with it");
        taken.iter().rev().take_while(|(at, _)| *at >= since).any(|(_, by)| *by == address)
    };
    let mut late = Samples::default();
    let mut connections = 0;
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..THREADS {
            let _thread = scope.spawn(|| scale.client.run(client));
        }
        let mut work = || -> Result<()> {
            for run in 0..RUNS {
                let which = run % places.len();
                let (_, gone) = places[which];
                let since = Stamp::now();
                wait_for(PATIENCE, "the endpoint to take connections", || takes(gone, since).then_some(()))?;
                let mut ready = [true; 3];
                ready[which] = false;
                scale.api.many(1, &[all(ready).again()])?;
                let (event, _) = slices.wait(PATIENCE, "the event", since, |unready| unready == &[gone])?;
                sleep_until(event + WATCHED);
                let (last, after) = {
                    let taken = taken.lock().expect("nobody panics with it");
                    let by = taken.iter().filter(|(at, by)| *by == gone && *at > event);
                    let after = taken.iter().filter(|(at, _)| *at > event).count();
                    (by.map(|(at, _)| at.since(event)).max().unwrap_or_default(), after)
                };
                ensure!(after > 0, "the client opened no connection");
                connections += after;
                late.0.push(ms(last));
                scale.api.many(1, &[all([true; 3]).again()])?;
            }
            Ok(())
        };
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    let scene = "endpoint not ready";
    let worst = late.max().unwrap_or(f64::MAX);
    report.note(scene, "event to the last new connection, median", late.median().unwrap_or(f64::MAX), "ms", RUNS);
    report.at_most(scene, "event to the last new connection, maximum", worst, "ms", BOUND_MS, RUNS);
    report.note(scene, "connections opened after the events", count(connections), "connections", RUNS);
    drop(slices);
    scale.api.many(1, &all([true; 3]).gone())?;
    Ok(())
}

/// The endpoints of a slice that are not ready.
fn unready(slice: &Value) -> Option<Vec<Ipv4Addr>> {
    let unready = slice["endpoints"].as_array()?.iter().filter(|one| one["conditions"]["ready"] == false);
    Some(unready.filter_map(|one| one["addresses"][0].as_str()?.parse().ok()).collect())
}
