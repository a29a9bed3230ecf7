//! `drill`: matrices too long for CI. Each part of a drill is a command that writes one result; a part done at this
//! commit is not run again, so an interrupted drill goes on where it stopped. A finished drill is merged into
//! bench/results/NAME.json, which is committed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::sh;
use crate::{bench, fuzz, report};

/// Options of `drill`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the table of drills and what is done.
    #[arg(long)]
    list: bool,
    /// Run only this drill (may be given several times).
    #[arg(long)]
    only: Vec<String>,
    /// Go on where an earlier run at this commit stopped (the default; this flag only says so).
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Run parts again that are done.
    #[arg(long)]
    fresh: bool,
}

/// One drill: what it shows, how long it takes, and its parts.
struct Drill {
    name: &'static str,
    shows: &'static str,
    minutes: u32,
    parts: Vec<Part>,
}

/// One command; `--json FILE` is appended.
struct Part {
    name: String,
    program: Program,
    args: Vec<String>,
}

#[derive(Clone, Copy)]
enum Program {
    /// A binary that cargo builds into target/debug.
    Built(&'static str),
    /// This program with another verb.
    Xtask,
    /// A test of the suite, `BINARY::NAME`, that is told by an environment variable of this name to run long and where its result goes.
    Tested(&'static str, &'static str),
}

fn part(name: &str, program: Program, args: &str) -> Part {
    Part { name: name.to_owned(), program, args: args.split_whitespace().map(str::to_owned).collect() }
}

/// Foreign routers of the matrix, as `bgp_matrix --peer` takes them.
const ROUTERS: [&str; 5] = ["frr", "bird", "gobgp", "openbgpd", "exabgp"];

/// The table. Minutes are estimates for two cores.
fn drills() -> Result<Vec<Drill>> {
    use Program::{Built, Xtask};
    let fuzzed = fuzz::targets()?.into_iter().map(|name| part(&name, Xtask, &format!("fuzz {name} --seconds 300")));
    // Seeds in ten parts: an interrupted run loses at most a tenth.
    let seeds = (0..10).map(|tenth| {
        part(
            &format!("{tenth}"),
            Built("bascule-sim"),
            &format!("run --seeds {}..{}", tenth * 1000, (tenth + 1) * 1000),
        )
    });
    let bgp_seeds = (0..10).map(|tenth| {
        let (first, last) = (tenth * 1000, (tenth + 1) * 1000);
        part(&format!("{tenth}"), Built("bascule-sim"), &format!("bgp run --seeds {first}..{last}"))
    });
    let site_seeds = (0..10).map(|tenth| {
        let (first, last) = (tenth * 1000, (tenth + 1) * 1000);
        part(&format!("{tenth}"), Built("bascule-sim"), &format!("sites run --seeds {first}..{last}"))
    });
    let site_days = (0..10)
        .map(|tenth| part(&format!("{tenth}"), Built("bascule-sim"), &format!("sites quiet --days 3 --seed {tenth}")));
    // A script of the session is hundreds of inputs to a speaker, and forty times as slow.
    let bgp_fuzz = [("bgp_decoder", 45_000_000), ("bgp_session", 5_000_000)]
        .map(|(name, inputs)| part(name, Xtask, &format!("fuzz {name} --inputs {inputs}")));
    // Parts of a seed each, so that an interrupted run loses little: 1 M packets, 10 M frames, 100,000 forged in all.
    let agree = (1..=5).map(|seed| {
        part(
            &format!("seed-{seed}"),
            Built("forward_agree"),
            &format!("--tuples 200000 --frames 2000000 --forged 20000 --seed {seed}"),
        )
    });
    let failover = ["1s", "100ms", "10ms"].map(|interval| {
        part(interval, Built("failover"), &format!("--peer keepalived --runs 30 --interval {interval}"))
    });
    Ok(vec![
        Drill {
            name: "sim-seeds",
            shows: "10,000 seeds without a broken invariant",
            minutes: 20,
            parts: seeds.collect(),
        },
        Drill {
            name: "sim-mutations",
            shows: "each planted bug is found within 1,000 seeds",
            minutes: 10,
            parts: vec![part("all", Built("bascule-sim"), "mutations --seeds 1000")],
        },
        Drill {
            name: "bgp-seeds",
            shows: "10,000 seeds of two BGP speakers without a broken invariant",
            minutes: 20,
            parts: bgp_seeds.collect(),
        },
        Drill {
            name: "bgp-mutations",
            shows: "each bug planted around a BGP speaker is found within 1,000 seeds",
            minutes: 5,
            parts: vec![part("all", Built("bascule-sim"), "bgp mutations --seeds 1000")],
        },
        Drill {
            name: "site-paths",
            shows: "loss between sites seen within the bounds, 1,000 runs a scene; false alarms of 30 days",
            minutes: 15,
            parts: vec![part("all", Built("bascule-sim"), "sites brownout --runs 1000")],
        },
        Drill {
            name: "site-quiet",
            shows: "30 days of a quiet path, packet by packet, at most 10 false alarms",
            minutes: 40,
            parts: site_days.collect(),
        },
        Drill {
            name: "site-overload",
            shows: "four of eight sites overloaded, 200 seeds, with the policy and without",
            minutes: 5,
            parts: vec![part("all", Built("bascule-sim"), "sites overload --seeds 200")],
        },
        Drill {
            name: "site-churn",
            shows: "100,000 endpoint changes a minute cost a peer 2 kB/s at most",
            minutes: 5,
            parts: vec![part("all", Built("bascule-sim"), "sites churn --seconds 600")],
        },
        Drill {
            name: "site-seeds",
            shows: "10,000 seeds of the fault matrix between sites without a broken invariant",
            minutes: 30,
            parts: site_seeds.collect(),
        },
        Drill {
            name: "site-witness",
            shows: "24 hours without the witness: no table, no move, never without an owner; four seeds",
            minutes: 15,
            parts: (0..4)
                .map(|seed| {
                    let args = format!("sites run --class F9 --hours 24 --seeds {seed}..{}", seed + 1);
                    part(&format!("{seed}"), Built("bascule-sim"), &args)
                })
                .collect(),
        },
        Drill {
            name: "site-off",
            shows: "the same 10,000 seeds with the policy off miss their bounds",
            minutes: 5,
            parts: vec![part("all", Built("bascule-sim"), "sites off --seeds 10000")],
        },
        Drill {
            name: "sites",
            shows: "two sites of three real daemons each: every event of the demo, 30 runs; 10,000 established flows shift to the other site and back",
            minutes: 140,
            parts: vec![
                part("events", Built("sites"), "--runs 30"),
                part("flows", Built("sites"), "--flows 10000 --runs 3"),
            ],
        },
        Drill {
            name: "site-freezes",
            shows: "the site that has a service stands still for 0.2 to 60 s, 16 times: no frame of two owners, the other within 6.5 s",
            minutes: 10,
            parts: vec![part(
                "all",
                Program::Tested("daemon_sites_authority", "BASCULE_SITE_FREEZES"),
                "a_frozen_site_falls_silent_at_its_deadline_and_stays_so_when_it_goes_on",
            )],
        },
        Drill {
            name: "site-mutations",
            shows: "each bug planted around the machines between sites is found within 1,000 seeds",
            minutes: 10,
            parts: vec![part("all", Built("bascule-sim"), "sites mutations --seeds 1000")],
        },
        Drill {
            name: "bgp-fuzz",
            shows: "50 M inputs over decoder and session machine without a crash",
            minutes: 60,
            parts: bgp_fuzz.into(),
        },
        Drill {
            name: "forward-model",
            shows: "1 M random packets as the reference model says; 10 M frames of no VIP unchanged; 100,000 forged dropped",
            minutes: 30,
            parts: agree.collect(),
        },
        Drill {
            name: "dataplane",
            shows: "cost of a packet, UDP beside nftables, SYN floods at both hooks, tables of 1,000 services",
            minutes: 50,
            parts: vec![
                part("cost", Built("dataplane"), "--scene cost --runs 10"),
                part("udp", Built("dataplane"), "--scene udp --runs 10"),
                part("flood", Built("dataplane"), "--scene flood"),
                part("flood-tc", Built("dataplane"), "--scene flood --tc"),
                part("tables", Built("tables"), ""),
            ],
        },
        Drill {
            name: "dataplane-tcp",
            shows: "connections, requests and throughput beside nftables and haproxy; needs a quiet machine",
            minutes: 25,
            parts: vec![part("all", Built("dataplane"), "--scene tcp --runs 30")],
        },
        Drill {
            name: "failover",
            shows: "client gaps beside keepalived, 30 runs",
            minutes: 60,
            parts: failover.into(),
        },
        Drill {
            name: "default-cut",
            shows: "default configuration, cut: 200 runs within 400 ms",
            minutes: 20,
            parts: vec![part("all", Built("failover"), "--scene default-cut --runs 200")],
        },
        Drill {
            name: "dual-ownership",
            shows: "220 seeded lab runs, 20 a fault, frames of a second owner",
            minutes: 60,
            parts: vec![part("all", Built("dual"), "--runs 220")],
        },
        Drill {
            name: "lease",
            shows: "200 faults of the owner of a VIP on a lease (Kubernetes, etcd): no frame of a second owner, take-over beside its bound",
            minutes: 35,
            parts: vec![part("all", Built("lease"), "--runs 200")],
        },
        Drill {
            name: "kills",
            shows: "100 SIGKILLs and restarts leak nothing",
            minutes: 10,
            parts: vec![part("all", Built("kills"), "--runs 100")],
        },
        Drill {
            name: "forward-kills",
            shows: "200 SIGKILLs during upgrades of the data plane and 10 rotations of its keys lose no packet",
            minutes: 10,
            parts: ["auto", "tc"]
                .map(|hook| {
                    part(hook, Built("forward_kills"), &format!("--runs 200 --rotations 10 --seed 1 --hook {hook}"))
                })
                .into(),
        },
        Drill {
            name: "bgp-matrix",
            shows: "every feature with five foreign BGP routers",
            minutes: 12,
            parts: ROUTERS.map(|peer| part(peer, Built("bgp_matrix"), &format!("--peer {peer}"))).into(),
        },
        Drill {
            name: "bfd-matrix",
            shows: "BFD with FRR and BIRD, both families, one and two hops, four sets of intervals",
            minutes: 4,
            parts: ["frr", "bird"].map(|peer| part(peer, Built("bfd_matrix"), &format!("--peer {peer}"))).into(),
        },
        Drill {
            name: "bgp",
            shows: "client gaps, latencies and CPU of BGP beside BIRD and FRR",
            minutes: 15,
            parts: ["table", "cut", "gate", "live", "drain"]
                .map(|scene| part(scene, Built("bgp"), &format!("--scene {scene} --runs 10")))
                .into(),
        },
        Drill {
            name: "forward-survive",
            shows: "10,000 live TCP flows through every event, maps by the lab and real daemons, XDP and tc: none broken",
            minutes: 20,
            parts: [
                ("xdp", "survive"),
                ("tc", "survive --tc"),
                ("daemons-xdp", "survive-daemons"),
                ("daemons-tc", "survive-daemons --tc"),
            ]
            .map(|(name, scene)| part(name, Built("dataplane"), &format!("--scene {scene}")))
            .into(),
        },
        Drill {
            name: "control-plane",
            shows: "VIP before the first API server, away from a dead one, unmoved by 60 s without etcd",
            minutes: 12,
            parts: vec![part("all", Built("control_plane"), "--runs 5")],
        },
        Drill {
            name: "api-faults",
            shows: "5xx for 5 min, frozen for 60 s, 410, 409, cuts, wall clocks an hour off, two allocators: no double address, no lost flow, no move",
            minutes: 9,
            parts: vec![part(
                "all",
                Program::Tested("daemon_delivery", "BASCULE_API_FAULTS"),
                "kube_faults::a_sick_api_server_costs_no_address_no_flow_and_no_move",
            )],
        },
        Drill {
            name: "fuzz",
            shows: "5 minutes for each target without a crash",
            minutes: 30,
            parts: fuzzed.collect(),
        },
    ])
}

/// Names of all drills.
pub(crate) fn names() -> Result<Vec<&'static str>> {
    Ok(drills()?.iter().map(|drill| drill.name).collect())
}

/// Run the chosen drills; true when every row of every result is within its bound.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let drills = drills()?;
    if let Some(unknown) = args.only.iter().find(|name| !drills.iter().any(|drill| drill.name == *name)) {
        bail!("there is no drill `{unknown}`; there are: {}", names()?.join(", "));
    }
    let commit = report::commit();
    let state = State { dir: sh::target_dir().join("drill"), commit, fresh: args.fresh };
    if args.list {
        drills.iter().for_each(|drill| println!("{}", state.line(drill)));
        return Ok(true);
    }
    let programs = bench::build()?;
    let mut ok = true;
    for drill in drills.iter().filter(|drill| args.only.is_empty() || args.only.iter().any(|name| name == drill.name)) {
        println!("drill {}: {} (about {} minutes)", drill.name, drill.shows, drill.minutes);
        match one(drill, &state, &programs) {
            Ok(good) => ok &= good,
            Err(error) => {
                println!("drill {}: FAILED: {error:#}", drill.name);
                ok = false;
            }
        }
    }
    Ok(ok)
}

fn one(drill: &Drill, state: &State, programs: &Path) -> Result<bool> {
    let mut rows = Vec::new();
    let mut first = None;
    for part in &drill.parts {
        let result = match state.done(drill, part) {
            Some(result) => {
                println!("  {}: done before", part.name);
                result
            }
            None => run_part(drill, part, state, programs)?,
        };
        rows.extend(result["rows"].as_array().cloned().unwrap_or_default());
        first = first.or(Some(result));
    }
    let mut merged = first.context("a drill without parts")?;
    merged["rows"] = Value::Array(rows);
    let file = sh::root().join("bench/results").join(format!("{}.json", drill.name));
    report::write(&file, &merged)?;
    let ok = report::all_ok(&merged);
    println!("drill {}: {}, bench/results/{0}.json", drill.name, if ok { "ok" } else { "NOT within bounds" });
    Ok(ok)
}

fn run_part(drill: &Drill, part: &Part, state: &State, programs: &Path) -> Result<Value> {
    let (started, clock) = (report::now(), Instant::now());
    let raw = state.dir.join(format!("{}-{}.raw.json", drill.name, part.name));
    std::fs::create_dir_all(&state.dir).with_context(|| format!("cannot create {}", state.dir.display()))?;
    if raw.exists() {
        std::fs::remove_file(&raw).with_context(|| format!("cannot remove {}", raw.display()))?;
    }
    let mut command = match part.program {
        Program::Built(name) => Command::new(programs.join(name)),
        Program::Xtask => Command::new(std::env::current_exe().context("own path")?),
        Program::Tested(suite, told) => {
            let mut command = sh::cargo();
            command
                .args(["test", "--quiet", "--workspace", "--test", suite, "--", "--exact", "--nocapture"])
                .env(told, &raw);
            command
        }
    };
    command.current_dir(sh::root()).args(&part.args).stdin(Stdio::null());
    if !matches!(part.program, Program::Tested(..)) {
        command.arg("--json").arg(&raw);
    }
    command.env("BASCULE_BIN", programs.join("bascule"));
    println!("  {}: {}", part.name, part.args.join(" "));
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    let text =
        std::fs::read_to_string(&raw).with_context(|| format!("part {} wrote no result ({status})", part.name))?;
    let result = report::complete(&text, &started)?;
    if status.success() != report::all_ok(&result) {
        bail!("part {}: exit status ({status}) and the rows' `ok` disagree", part.name);
    }
    // Only what held is kept as done: a part that failed runs again.
    if report::all_ok(&result) {
        let seconds = clock.elapsed().as_secs();
        let entry = json!({"commit": state.commit, "seconds": seconds, "result": result});
        report::write(&state.file(drill, part), &entry)?;
    }
    Ok(result)
}

/// What is done, under target/drill.
struct State {
    dir: PathBuf,
    commit: String,
    fresh: bool,
}

impl State {
    fn file(&self, drill: &Drill, part: &Part) -> PathBuf {
        self.dir.join(format!("{}-{}.json", drill.name, part.name))
    }

    /// The result of a part that held at this very commit. A changed tree has no name, so nothing counts as done in it.
    fn done(&self, drill: &Drill, part: &Part) -> Option<Value> {
        if self.fresh || self.commit.ends_with("-dirty") {
            return None;
        }
        let text = std::fs::read_to_string(self.file(drill, part)).ok()?;
        let mut entry: Value = serde_json::from_str(&text).ok()?;
        (entry["commit"] == self.commit).then(|| entry["result"].take())
    }

    fn line(&self, drill: &Drill) -> String {
        let done = drill.parts.iter().filter(|part| self.done(drill, part).is_some()).count();
        format!("{:16} {:>3} min  {done}/{} done  {}", drill.name, drill.minutes, drill.parts.len(), drill.shows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drill() -> Drill {
        Drill { name: "d", shows: "s", minutes: 1, parts: vec![part("p", Program::Xtask, "a b")] }
    }

    #[test]
    fn a_part_counts_as_done_only_at_the_same_clean_commit() {
        let dir = std::env::temp_dir().join(format!("bascule-drill-{}", std::process::id()));
        let state = |commit: &str, fresh| State { dir: dir.clone(), commit: commit.to_owned(), fresh };
        let (drill, here) = (drill(), state("abc", false));
        report::write(&here.file(&drill, &drill.parts[0]), &json!({"commit": "abc", "result": {"rows": []}})).unwrap();
        assert!(here.done(&drill, &drill.parts[0]).is_some());
        assert!(state("abd", false).done(&drill, &drill.parts[0]).is_none());
        assert!(state("abc", true).done(&drill, &drill.parts[0]).is_none());
        assert!(state("abc-dirty", false).done(&drill, &drill.parts[0]).is_none());
        assert!(here.line(&drill).contains("1/1 done"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn drills_have_names_of_their_own() {
        let mut names: Vec<_> = drills().unwrap().iter().map(|drill| drill.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), drills().unwrap().len());
    }
}
