//! The data plane: what a packet costs by the shim method, one balancing node beside nftables and haproxy, live flows under a SYN flood and
//! under every event. Issue 4, "Shows" 3, 4 and 5.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bascule_bench::dataplane::{cost, flood, survive, versus};
use bascule_lab::Report;
use bascule_lab::forward::Hook;
use clap::{Parser, ValueEnum};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Scene {
    /// Nanoseconds per packet over the floor.
    Cost,
    /// Packets per second beside nftables.
    Udp,
    /// Connections, requests and throughput beside nftables and haproxy.
    Tcp,
    /// A SYN flood beside live flows.
    Flood,
    /// Live flows through every event.
    Survive,
    /// The same with a real daemon on every node.
    SurviveDaemons,
}

#[derive(Parser)]
#[command(name = "dataplane", about = "Cost, comparison, flood and survival of the forwarding plane")]
struct Args {
    /// Scenes; all when absent.
    #[arg(long, value_enum, value_delimiter = ',')]
    scene: Vec<Scene>,
    /// Runs of a cost, and rounds of a comparison.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// SYNs of the flood.
    #[arg(long, default_value_t = flood::SYNS)]
    syns: u32,
    /// SYNs a second, on both sides.
    #[arg(long, default_value_t = flood::RATE)]
    rate: u32,
    /// Flows with a packet every 2 s.
    #[arg(long, default_value_t = survive::PACED)]
    flows: usize,
    /// Judge ingress by tc instead of XDP in the scenes `flood`, `survive` and `survive-daemons`.
    #[arg(long)]
    tc: bool,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let hook = if args.tc { Hook::Tc } else { Hook::Xdp };
    let wanted = |scene| args.scene.is_empty() || args.scene.contains(&scene);
    let mut report = Report::new();
    for scene in Scene::value_variants().iter().copied().filter(|scene| wanted(*scene)) {
        let done = match scene {
            Scene::Cost => cost::measure(&mut report, args.runs),
            Scene::Udp => versus::udp(&mut report, args.runs),
            Scene::Tcp => versus::tcp(&mut report, args.runs),
            Scene::Flood => flood::measure(&mut report, hook, args.syns, args.rate),
            Scene::Survive => survive::measure(&mut report, hook, args.flows),
            Scene::SurviveDaemons => survive::measure_daemons(&mut report, hook, args.flows),
        };
        done.with_context(|| format!("scene {scene:?}"))?;
    }
    print!("{}", report.table());
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    Ok(report.exit_code())
}
