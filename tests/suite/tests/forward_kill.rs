//! A daemon killed at any point of an upgrade leaves one link per hook, with a program that works.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bascule::dataplane::forward::{Forward, ForwardOptions, Wish};
use bascule_suite::devices::{device_links, flow, flows, options, put_flow, veth};
use bascule_suite::fence::Ground;

/// Tells the child where to work.
const ROOT: &str = "BASCULE_TEST_FORWARD_ROOT";
const KILLS: u32 = 10;
/// Two layouts: every round is an upgrade to the other one.
const SIZES: [u32; 2] = [16_384, 32_768];

/// The child: upgrades for ever.
fn child(root: &str) -> Result<()> {
    let device = nix::net::if_::if_nametoindex("va")?;
    for flows in SIZES.into_iter().cycle() {
        let mut forward = Forward::open(&ForwardOptions { pin_root: PathBuf::from(root), flows })?;
        forward.attach(device, Wish::Auto)?;
        forward.settle(&BTreeSet::from([device]))?;
        println!("round");
    }
    Ok(())
}

/// The test below, as which this binary is started again for the child.
const TEST: &str = "a_kill_at_any_point_of_an_upgrade_leaves_one_link_per_hook";

fn spawn(ground: &Ground) -> Result<(Child, impl Iterator<Item = std::io::Result<String>> + use<>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", TEST, "--nocapture"])
        .env(ROOT, ground.root())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("a pipe")?;
    Ok((child, BufReader::new(out).lines()))
}

/// A point within a round, from the machine's own noise: printed, so that a failure names it.
fn somewhere(in_round: Duration) -> Result<Duration> {
    let mut noise = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut noise)?;
    Ok(in_round.mul_f64(f64::from(u32::from_le_bytes(noise)) / f64::from(u32::MAX)))
}

#[test]
fn a_kill_at_any_point_of_an_upgrade_leaves_one_link_per_hook() {
    if let Ok(root) = std::env::var(ROOT) {
        return child(&root).unwrap();
    }
    Ground::run(|ground| {
        let device = veth(ground)?;
        let mut forward = Forward::open(&ForwardOptions { flows: SIZES[0], ..options(ground) })?;
        forward.attach(device, Wish::Auto)?;
        forward.settle(&BTreeSet::from([device]))?;
        for n in 0..1000 {
            put_flow(forward.map_dir(), &flow(n, 10))?;
        }
        drop(forward);
        let ids = || -> Result<Vec<u32>> { Ok(device_links(device)?.iter().map(|link| link.id).collect()) };
        let before = ids()?;
        ensure!(before.len() == 2, "one link per hook: {before:?}");
        for kill in 0..KILLS {
            let (mut child, mut lines) = spawn(ground)?;
            let mut rounds = lines.by_ref().filter(|line| line.as_ref().is_ok_and(|line| line.contains("round")));
            rounds.next().context("the child ended before its first round")??;
            let started = Instant::now();
            rounds.next().context("the child ended before its second round")??;
            let point = somewhere(started.elapsed())?;
            std::thread::sleep(point);
            child.kill()?;
            child.wait()?;
            let now = ids()?;
            assert_eq!(now, before, "kill {kill}, {point:?} into a round");
        }
        let mut forward = Forward::open(&ForwardOptions { flows: SIZES[0], ..options(ground) })?;
        forward.attach(device, Wish::Auto)?;
        forward.settle(&BTreeSet::from([device]))?;
        assert_eq!(ids()?, before);
        assert_eq!(flows(forward.map_dir())?.len(), 1000, "every flow came through every upgrade");
        let folders = std::fs::read_dir(forward.pin_dir())?.count();
        assert_eq!(folders, 2 + 2, "two links, one set, one load");
        Ok(())
    })
    .unwrap();
}
