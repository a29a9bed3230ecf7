//! `bascule-sim`: run seeds, replay one, prove the checker by planted bugs.

mod bgp_cli;
mod lan_cli;
mod sites_cli;
mod sites_tables;
mod verbs;

use std::process::ExitCode;

use anyhow::Result;
use bascule_sim::mutant::Mutant;
use bascule_sim::scenario::Class;
use clap::{Parser, Subcommand};

use crate::verbs::{Hunt, Rows, Seeds};

#[derive(Parser)]
#[command(about = "Dozens of Bascule nodes on a virtual LAN, from a seed", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run seeds and check every invariant after every event.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        /// Only this class of fault.
        #[arg(long, value_parser = lan_cli::class)]
        class: Option<Class>,
        /// With a planted bug.
        #[arg(long)]
        mutant: Option<Mutant>,
        #[command(flatten)]
        rows: Rows,
    },
    /// Run one seed and print everything that happens.
    Replay {
        /// The seed.
        seed: u64,
        /// The class it was run with, if one was given.
        #[arg(long, value_parser = lan_cli::class)]
        class: Option<Class>,
        /// The planted bug it was run with.
        #[arg(long)]
        mutant: Option<Mutant>,
    },
    /// Two BGP speakers on a virtual TCP.
    Bgp {
        #[command(subcommand)]
        verb: bgp_cli::Verb,
    },
    /// The machines between sites: paths, policies, records.
    Sites {
        #[command(subcommand)]
        verb: sites_cli::Verb,
    },
    /// Look for each planted bug; every one must be found.
    Mutations(Hunt),
}

fn main() -> ExitCode {
    match work(&Cli::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bascule-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn work(verb: &Verb) -> Result<bool> {
    match verb {
        Verb::Run { seeds, class, mutant, rows } => lan_cli::run(seeds.range()?, *class, *mutant, rows),
        Verb::Replay { seed, class, mutant } => Ok(lan_cli::replay(*seed, *class, *mutant)),
        Verb::Bgp { verb } => bgp_cli::work(verb),
        Verb::Sites { verb } => sites_cli::work(verb),
        Verb::Mutations(hunt) => lan_cli::mutations(hunt),
    }
}
