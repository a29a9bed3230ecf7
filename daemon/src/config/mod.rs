//! The configuration of a node: one YAML file in, the core's types out, or every mistake with its place.
//!
//! Decides what a file means and whether it is accepted. When to read it again is the app's; what a change does is the core's.

mod bfd;
mod bgp;
mod check;
mod checks;
mod error;
mod etcd;
mod forwarding;
mod gates;
mod keys;
mod kubernetes;
mod model;
mod nearest;
mod read;
mod reference;
mod rules;
mod schema;
mod services;
mod sites;
mod tree;
mod values;
mod vips;
mod watch;

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bascule_core::bfd::config::PeerConfig;
use bascule_core::node::config::NodeConfig;

pub use bgp::Bgp;
pub use check::check;
pub use error::{ConfigError, ConfigErrors, Pos};
pub use etcd::Etcd;
pub use forwarding::{Forwarding, Hook};
pub use kubernetes::{ClusterBfd, ClusterServices, Kubernetes, Source};
pub use reference::reference;
pub use sites::{Joined, Relay, Site, SiteFile, Sites, Spread};
pub use watch::watch;

/// Largest file: a thousand services of 20 endpoints take half of it.
const FILE_MAX: u64 = 4 << 20;

/// Highest number of an instance: as many daemons may share a node (their markers of addresses are consecutive numbers).
pub const INSTANCE_MAX: u8 = 7;

/// An accepted file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What the core is told.
    pub node: NodeConfig,
    /// Which of several daemons on this node, at most [`INSTANCE_MAX`].
    pub instance: u8,
    /// How to look at the node.
    pub admin: Admin,
    /// What to log.
    pub log: Log,
    /// UDP port of the peer channel, host byte order.
    pub peer_port: u16,
    /// The key file, when the peer channel is on; to be watched like the file itself.
    pub key_file: Option<PathBuf>,
    /// The BGP room, when there is one.
    pub bgp: Option<Bgp>,
    /// BFD sessions, those of BGP neighbors included; a BGP neighbor's has its name.
    pub bfd: Vec<PeerConfig>,
    /// The data plane, when there is one, with its services.
    pub forwarding: Option<Forwarding>,
    /// This site among others, with its services that several of them share.
    pub sites: Option<Sites>,
    /// The sections that say so as they stand in the file, where Sites of a cluster may add to them.
    pub site_file: Option<SiteFile>,
    /// How the Kubernetes API is reached, when the file says so.
    pub kubernetes: Option<Kubernetes>,
    /// The etcd that holds leases, when the file names one.
    pub etcd: Option<Etcd>,
    /// Files of authorities of gates, to be watched like the file itself.
    pub ca_files: Vec<PathBuf>,
    /// What is allowed but probably not meant, one line each.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// The files beside the configuration whose change is a change of it.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let passwords = self.bgp.iter().flat_map(|b| &b.password_files);
        let forwarding = self.forwarding.iter().flat_map(|f| f.ca_files.iter().chain([&f.key_file]));
        let pairs = self.sites.iter().flat_map(|s| s.all.values().filter_map(|site| site.secret_file.as_ref()));
        self.key_file.iter().chain(passwords).chain(forwarding).chain(&self.ca_files).chain(pairs).cloned().collect()
    }
}

/// Admin socket and HTTP listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// Unix socket, absolute.
    pub socket: PathBuf,
    /// TCP listener, if any.
    pub http: Option<SocketAddr>,
}

impl Admin {
    /// Where an instance listens when nothing else is configured.
    pub fn of(instance: u8) -> Self {
        let socket = match instance {
            0 => "/run/bascule/admin.sock".into(),
            further => format!("/run/bascule/admin-{further}.sock").into(),
        };
        Self { socket, http: None }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self::of(0)
    }
}

/// What to log, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// A `tracing_subscriber::EnvFilter`, known to parse.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Text.
    Text,
    /// One JSON object.
    Json,
}

/// Reads the file at `path`. Relative paths in it start at its folder; the host name is the default of `node`.
///
/// # Errors
/// Everything that is wrong with the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let file = path.display().to_string();
    let whole = |wrong: String, right: &str| {
        ConfigErrors::new(&file, vec![ConfigError::new(model::FILE.0, model::FILE.1, wrong, right)])
    };
    let unreadable = |e: std::io::Error| whole(format!("cannot be read: {}", e.kind()), "name a readable file");
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if u64::try_from(read).is_ok_and(|n| n > FILE_MAX) {
        return Err(whole("is larger than 4 MiB".into(), "use at most 4 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|e| not_utf8(&file, &e))?;
    let host_name = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, &file, path.parent().unwrap_or(Path::new(".")), &host_name)
}

/// Judges the words of an object of the cluster that are those of this file: its kind, its name, and the words as one JSON object.
///
/// # Errors
/// The field, and what is wrong with it.
pub fn check_words(kind: &str, name: &str, words: &str) -> Result<(), String> {
    if kind == "Site" { sites::check_words(name, words) } else { bgp::check_words(kind, name, words) }
}

/// Reads `text`; `file_name` stands in errors, relative paths start at `base_dir`, `host_name` is the default of `node`.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse(text: &str, file_name: &str, base_dir: &Path, host_name: &str) -> Result<Loaded, ConfigErrors> {
    model::build(text, &model::Around { file: file_name, base_dir, host_name })
}

fn not_utf8(file: &str, error: &std::string::FromUtf8Error) -> ConfigErrors {
    let good = error.utf8_error().valid_up_to();
    let bytes = error.as_bytes();
    let before = String::from_utf8_lossy(&bytes[..good]);
    let line = u64::try_from(before.matches('\n').count()).unwrap_or(u64::MAX) + 1;
    let column = u64::try_from(before.rsplit('\n').next().map_or(0, |l| l.chars().count())).unwrap_or(u64::MAX) + 1;
    let at = Pos { line, column, ..Pos::START };
    let byte = bytes.get(good).copied().unwrap_or_default();
    let wrong = format!("byte {byte:#04x} is not UTF-8");
    ConfigErrors::new(file, vec![ConfigError::new(at, model::FILE.1, wrong, "save the file as UTF-8")])
}
