//! The words of the command line. Their help is the reference (docs/reference/cli.md).

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use super::drain::Drain;
use super::forward::Filter;
use super::pki::Pki;
use super::render::{Masquerade, StaticPod, Unit};

/// Owns a cluster's virtual IPs and moves their traffic between sites.
#[derive(Parser, Debug)]
#[command(name = "bascule", version, max_term_width = 100, after_help = super::reference::EXIT_STATUSES)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Where the daemon listens.
#[derive(clap::Args, Debug)]
pub(super) struct Socket {
    /// The daemon's admin socket (admin.socket of its configuration)
    #[arg(long, value_name = "PATH", default_value = "/run/bascule/admin.sock")]
    pub(super) socket: PathBuf,
}

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Run the daemon in the foreground
    ///
    /// SIGHUP, or a change of the file, reloads the configuration: a bad file is refused and the last good one stays in force. SIGTERM
    /// hands every address over and ends.
    Run {
        /// The configuration of this node
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Read a configuration and say everything that is wrong with it
    ///
    /// One line per error: FILE:LINE:COLUMN: FIELD: what is wrong; what would be right. Exits with 0 only if a daemon would take the file.
    Check {
        /// The configuration
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show addresses, owner, role, term, fence margin and health
    Status {
        /// Print /state as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show the BFD sessions: state, since when, intervals in force, why they are down
    Bfd {
        /// Print /bfd as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show the BGP sessions: state, since when, what was agreed, the last error in words, prefixes
    Bgp {
        #[command(subcommand)]
        what: Option<Bgp>,
        /// Print the answer as it is
        #[arg(long, global = true)]
        json: bool,
        /// The daemon's admin socket (admin.socket of its configuration)
        #[arg(long, value_name = "PATH", default_value = "/run/bascule/admin.sock", global = true)]
        socket: PathBuf,
    },
    /// Show the services of the data plane: endpoints, nodes, devices, traffic, and what is wrong
    Services {
        /// Print /services as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show flows that this node remembers
    Flows {
        #[command(flatten)]
        filter: Filter,
        /// Print /flows as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show where a packet would go that arrived on this node now, and why
    ///
    /// Chosen from the tables of the programs by their own formulas; no packet is made.
    Trace {
        /// Its destination
        #[arg(value_name = "VIP:PORT")]
        to: SocketAddr,
        /// Its source
        #[arg(long, value_name = "IP:PORT")]
        from: SocketAddr,
        /// Its protocol
        #[arg(long, value_parser = ["tcp", "udp", "sctp"], default_value = "tcp")]
        protocol: String,
        /// Print /trace as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show other sites: state, path in each direction, and how each service is spread
    Sites {
        /// Print /sites as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show why new connections of a service go to the sites where they go, the latest change first
    ///
    /// Each change with the rule that moved most, the shares before and after, and the times from its cause to the tables in force. Of
    /// this node; the last 64 are kept.
    Why {
        /// The service, by its name
        #[arg(value_name = "SERVICE")]
        service: String,
        /// Print /why as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Keep the certificates of sites: an authority in a directory, for a machine that needs no network
    Pki {
        #[command(subcommand)]
        what: Pki,
    },
    /// Show what happened, one line per change of state
    Events {
        /// Go on with what is yet to come
        #[arg(short, long)]
        follow: bool,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Move a group to another node without a gap
    ///
    /// May be asked on any node that has keys for the peer channel; the owner carries it out. Refused for a group that a lease elects:
    /// whoever asks first is given the lease, so no node can be promised; `drain` on the owner gives it away.
    Move {
        /// The group, by its name or by one of its addresses
        #[arg(value_name = "VIP")]
        vip: String,
        /// The name of the node that shall have it
        #[arg(long, value_name = "NODE")]
        to: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Bring every shard of the cluster's Services to its best node, one planned move after the other
    ///
    /// Nobody takes a shard back by itself after a death. May be asked on any node that has keys for the peer channel.
    Rebalance {
        /// Print the moves and make none
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Take something out of use: the addresses of this node, or a part of a site of several
    ///
    /// Without a word: give every address away and stay out of the election, until `bascule drain --off` or a restart. With one: new
    /// connections go elsewhere from the first moment, those that exist stay. Asked on the relay that leads the site (`bascule sites` names
    /// it), told to its nodes and to other sites, in force until the same words with `--off`. Refused when what is left would not suffice:
    /// less than 110 % of the demand, or, where that or a capacity is not known, less than half of all that there shall be.
    Drain {
        #[command(subcommand)]
        what: Option<Drain>,
        /// Take part again
        #[arg(long, global = true)]
        off: bool,
        /// The daemon's admin socket (admin.socket of its configuration)
        #[arg(long, value_name = "PATH", default_value = "/run/bascule/admin.sock", global = true)]
        socket: PathBuf,
    },
    /// End the daemon for a planned restart
    ///
    /// Owned addresses are given away as on a stop. Anycast addresses stay, and sessions that agreed on graceful restart close without a
    /// NOTIFICATION: their routers keep our routes until the next run is there, or their restart time is over. Whoever supervises the
    /// process must start it again.
    Restart {
        #[command(flatten)]
        socket: Socket,
    },
    /// Remove what a daemon left in this network namespace
    ///
    /// Addresses with our marker, pinned links and maps, filters, and empty qdiscs of ours; nothing foreign. Refused while a daemon answers.
    Clean {
        /// Of this instance (`instance` of the configuration); what other daemons of the node have stays
        #[arg(long, value_name = "0-7", value_parser = clap::value_parser!(u8).range(..=7), default_value_t = 0)]
        instance: u8,
        /// The daemon's admin socket [default: that of the instance]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Print a manifest to run the daemon with, or rules that a node needs beside it
    Render {
        #[command(subcommand)]
        what: Render,
    },
    /// Print the version
    Version,
    /// Print a reference of the documentation
    #[command(hide = true)]
    Docs {
        /// Which one
        #[arg(value_enum)]
        what: Docs,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum Bgp {
    /// Show the routes that a neighbor holds of ours, as they were sent
    Routes {
        /// The neighbor, by its name
        #[arg(value_name = "NEIGHBOR")]
        neighbor: String,
    },
    /// Close the session of a neighbor (Cease, Administrative Reset) and start anew
    Reset {
        /// The neighbor, by its name
        #[arg(value_name = "NEIGHBOR")]
        neighbor: String,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum Render {
    /// A static pod for the kubelet: a control-plane address that needs no API server
    ///
    /// Without --config the configuration is part of the manifest; with it, a file on the host, which can be changed without a restart.
    /// Save the output as a file of the kubelet's staticPodPath, the same on every node.
    StaticPod(Box<StaticPod>),
    /// A hardened unit for systemd
    Systemd(Unit),
    /// Rules for nft(8) that bring back the answers of endpoints without a node
    Masquerade(Masquerade),
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(super) enum Docs {
    /// docs/reference/config.md
    Config,
    /// docs/reference/metrics.md
    Metrics,
    /// docs/reference/cli.md
    Cli,
}
