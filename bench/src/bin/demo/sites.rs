//! The sites scene: two sites of real daemons serve the same address, clients come in at one of them, and the other one fails in every way that a site does.

use anyhow::{Context as _, Result};
use bascule_bench::sites::{Scene, Stage, table};
use bascule_lab::{Report, Stamp};

/// Nodes of each site.
const NODES: u8 = 3;

/// Names of its scenes, for who asks for one that does not exist.
pub(crate) fn names() -> Vec<String> {
    Scene::ALL.iter().map(|scene| scene.name().to_owned()).collect()
}

/// Plays the scenes whose name is wanted; without one nothing is built.
pub(crate) fn play(report: &mut Report, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let scenes: Vec<Scene> = Scene::ALL.into_iter().filter(|scene| wanted(scene.name())).collect();
    if scenes.is_empty() {
        return Ok(());
    }
    let begun = Stamp::now();
    println!(
        "Two sites dc-a and dc-b, {NODES} nodes each behind a router that spreads flows over them by BGP, 20 ms apart, share the services of \
         10.9.7.100, half of the new connections to each; one more is at one site at a time, by an etcd with a witness. Clients come in at dc-a."
    );
    let mut stage = Stage::start("demo-sites", NODES)?;
    println!("Both sites answer ({:.1} s).\n", Stamp::now().since(begun).as_secs_f64());
    let mut shown = Vec::new();
    for scene in scenes {
        let seen = stage.play(scene).with_context(|| scene.name())?;
        seen.rows(report);
        println!("{}", seen.story());
        if seen.void() {
            println!("  its times are void: the probers were {:.1} ms late\n", seen.late.as_secs_f64() * 1e3);
        }
        shown.push(seen);
    }
    println!("{}", table(&shown));
    Ok(())
}
