//! SIGKILL of the owner, over and over: its kernel is silent for the VIP before the successor speaks, its addresses go by
//! themselves, and a restart leaves nothing behind. Issue 2, "Shows" 5.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_bench::trio::{GROUP, Trio};
use bascule_lab::{Report, Stamp, sleep_until, wait_for};
use clap::Parser;

const INTERVAL: Duration = Duration::from_millis(100);
/// A successor announces itself within three intervals and a skew; this is far more.
const TAKE_OVER: Duration = Duration::from_secs(3);
/// A restarted daemon is a Backup by then: sweep, conflict probe, first advert heard.
const RESTART: Duration = Duration::from_secs(15);
/// valid_lft is 10 s and the kernel looks once a second.
const ADDRESS_GONE: Duration = Duration::from_secs(11);
/// Frames are counted this long after the successor's announcement.
const WATCH: Duration = Duration::from_millis(300);
/// The kernel frees programs and maps some time after their last reference is gone.
const FREED: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(name = "kills", about = "SIGKILLs the owner over and over and looks for what is left behind")]
struct Args {
    /// Kills.
    #[arg(long, default_value_t = 100)]
    runs: u32,
    /// In every so-manieth run the restart waits until the addresses have expired by themselves.
    #[arg(long, default_value_t = 10)]
    expire_every: u32,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one kill showed.
struct Kill {
    frames: usize,
    announced_ms: f64,
    expired_ms: Option<f64>,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let mut report = Report::new();
    let before = Objects::count()?;
    let mut kills = Vec::new();
    let mut leaked = 0_i64;
    {
        let mut trio = Trio::start(INTERVAL, "required")?;
        let running = Objects::count()?;
        for run in 0..args.runs {
            let kill = one(&mut trio, run % args.expire_every.max(1) == 0).with_context(|| format!("kill {run}"))?;
            println!("kill {run}: {} frames, successor after {:.0} ms", kill.frames, kill.announced_ms);
            kills.push(kill);
        }
        leaked += running.grown_to_at_most_now()?;
        for node in &trio.nodes {
            leaked += i64::try_from(addresses(&trio, &node.name).saturating_sub(2)).unwrap_or(i64::MAX);
        }
        for node in &mut trio.nodes {
            node.daemon.process.sigkill()?;
            // Pins outlive their namespace: only the tool that knows them can remove them.
            let program = bascule_lab::bascule::binary()?;
            node.netns.tool(&program.display().to_string(), &["clean"])?;
        }
    }
    leaked += before.grown_to_at_most_now()?;

    let runs = kills.len();
    let frames: usize = kills.iter().map(|kill| kill.frames).sum();
    let slowest = kills.iter().map(|kill| kill.announced_ms).fold(0.0, f64::max);
    let expired: Vec<f64> = kills.iter().filter_map(|kill| kill.expired_ms).collect();
    let limit = ADDRESS_GONE.as_secs_f64() * 1000.0;
    report.at_most("SIGKILL", "frames of the killed node after the successor", count(frames), "frames", 0.0, runs);
    report.note("SIGKILL", "successor's first announcement, maximum", slowest, "ms", runs);
    report.at_most(
        "SIGKILL",
        "addresses gone by themselves, maximum",
        expired.iter().copied().fold(0.0, f64::max),
        "ms",
        limit,
        expired.len(),
    );
    #[expect(clippy::cast_precision_loss, reason = "a handful of objects")]
    report.at_most("restarts", "leaked programs, maps, links and addresses", leaked as f64, "objects", 0.0, runs);
    Ok(report.finish(args.json.as_deref())?)
}

/// Kill the owner, watch the successor take over, restart the victim.
fn one(trio: &mut Trio, until_expired: bool) -> Result<Kill> {
    let active = |node: &bascule_bench::trio::Node| node.daemon.role(GROUP).as_deref() == Some("active");
    let owner = trio.nodes.iter().position(active).context("nobody owns the group")?;
    let (old, name) = (trio.nodes[owner].mac(), trio.nodes[owner].name.clone());
    // A hundred kills see more frames than the log keeps.
    trio.sniffer.forget(Stamp::now());
    let killed = trio.nodes[owner].daemon.process.sigkill()?;
    let announced = || {
        let of = |vip| trio.sniffer.first_announcement(vip, killed, |mac| mac != old);
        trio.vips.iter().filter_map(|vip| of(*vip)).min_by_key(|frame| frame.at)
    };
    let first = wait_for(TAKE_OVER, "the successor's announcement", announced)?;
    sleep_until(first.at + WATCH);
    let until = Stamp::now();
    let of = |vip| trio.sniffer.dual_frames(vip, first.src, first.at, until, None).claims.len();
    let frames = trio.vips.iter().map(|vip| of(*vip)).sum();
    ensure!(trio.sniffer.lost() == 0, "the sniffer lost frames");

    let expired_ms = if until_expired {
        // The limit is judged by the row: waiting a little longer tells late from never.
        wait_for(ADDRESS_GONE * 2, "the addresses to expire", || (addresses(trio, &name) == 0).then_some(()))?;
        Some(Stamp::now().since(killed).as_secs_f64() * 1000.0)
    } else {
        None
    };
    trio.restart(owner)?;
    trio.nodes[owner].daemon.wait_role(RESTART, GROUP, "backup")?;
    ensure!(addresses(trio, &name) == 0, "{name} is Backup and still carries a VIP");
    Ok(Kill { frames, announced_ms: first.at.since(killed).as_secs_f64() * 1000.0, expired_ms })
}

/// How many of the VIPs the node's link carries.
fn addresses(trio: &Trio, name: &str) -> usize {
    let node = trio.nodes.iter().find(|node| node.name == name);
    node.map_or(0, |node| trio.vips.iter().filter(|vip| node.netns.has_address("eth0", **vip)).count())
}

/// What the kernel holds for eBPF, on the whole machine: nobody else may load or free anything meanwhile.
struct Objects {
    programs: usize,
    maps: usize,
    links: usize,
}

impl Objects {
    fn count() -> Result<Self> {
        let programs = aya::programs::loaded_programs().count();
        let (maps, links) = (aya::maps::loaded_maps().count(), aya::programs::loaded_links().count());
        Ok(Self { programs, maps, links })
    }

    /// How many objects there are more than at the time of `self`, after the kernel had time to free what is not referenced.
    fn grown_to_at_most_now(&self) -> Result<i64> {
        let more = || -> Result<i64> {
            let now = Self::count()?;
            let total = |o: &Self| i64::try_from(o.programs + o.maps + o.links).context("few objects");
            Ok(total(&now)? - total(self)?)
        };
        let settled = wait_for(FREED, "objects to be freed", || more().ok().filter(|more| *more <= 0));
        Ok(match settled {
            Ok(_) => 0,
            Err(_) => more()?.max(0),
        })
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
