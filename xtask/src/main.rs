//! `cargo xtask VERB`: the one way to build, show, test and measure this repository.
//!
//! This binary decides in which order things run and what counts as a failure. What is measured, and how, is left to
//! the crates it starts (bascule-suite, bascule-sim, bascule-bench).

mod apiserver;
mod apiserver_place;
mod bench;
mod chart_tools;
mod check;
mod docs;
mod drill;
#[expect(dead_code, reason = "the list of sources is for the build script of the daemon, which includes this file")]
mod ebpf_route;
mod fuzz;
mod image;
#[expect(dead_code, unreachable_pub, reason = "the tests include this file, show it to others and unpack by it")]
mod oci;
mod report;
mod setup;
mod sh;
mod tally;
mod test;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, show, test and measure Bascule", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing: Debian packages, bpf-linker, the tests' API server. Every other verb does it by itself.
    Setup,
    /// Real daemons lose an owner in every way, announce by BGP, steer services, share them between two sites; prints tables of what clients saw.
    Demo {
        /// Arguments of the demo (`--scene NAME`, `--json FILE`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything CI runs: unit tests, simulator, suite, timing tests, checks; ends with `N passed, N failed`.
    Test(test::Args),
    /// Long matrices, resumable; results go to bench/results.
    Drill(drill::Args),
    /// Format, lints, dependency rules, licences, generated docs, tests named in docs, file sizes.
    Check(check::Args),
    /// Build the eBPF object.
    Ebpf,
    /// Make the container image, without a container engine.
    Image(image::Args),
    /// Run one bench of bascule-bench (`failover`, ...).
    Bench {
        /// Name of the bench; without it the benches are listed.
        name: Option<String>,
        /// Arguments of the bench (`--runs N`, `--json FILE`, ...).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzz one target, or all of them one after another.
    Fuzz {
        /// Name of the target; all when absent.
        target: Option<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Inputs for each target, instead of a time.
        #[arg(long)]
        inputs: Option<u64>,
        /// Write the executions as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Regenerate the references under docs/reference from the daemon's own description of itself.
    Docs {
        /// Only compare; fail when a file differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let ok = match Args::parse().verb {
        Verb::Setup => setup::verb().map(|()| true),
        Verb::Demo { args } => bench::demo(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Drill(args) => drill::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Ebpf => setup::ebpf().map(|()| true),
        Verb::Image(args) => image::run(&args).map(|()| true),
        Verb::Bench { name, args } => bench::bench(name.as_deref(), &args),
        Verb::Fuzz { target, seconds, inputs, json } => {
            let bound = inputs.map_or(fuzz::Bound::Seconds(seconds), fuzz::Bound::Inputs);
            fuzz::run(target.as_deref(), bound, json.as_deref())
        }
        Verb::Docs { check } => docs::run(check),
    };
    match ok {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}
