//! Several sites of real daemons: certificates and secrets as an operator makes them, what daemons show of sites, and a lab of two.

mod file;
mod ground;
mod node;
mod store;
mod timeline;
mod world;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bascule::{Bascule, binary};
use crate::{LabError, Result, tool};

pub use file::{BASE, DESK, FLOWS, SHOP, Shared, VIP};
pub use ground::ROUND_TRIP;
pub use node::SiteNode;
pub use store::TTL;
pub use timeline::{Change, changes};
pub use world::SiteLab;

/// `bascule pki`, as an operator calls it.
fn pki(words: &[&str]) -> Result<String> {
    let all: Vec<&str> = ["pki"].iter().chain(words).copied().collect();
    tool(None, &binary()?.display().to_string(), &all, None)
}

/// Makes an authority of the domain `sites.test` in `dir`.
///
/// # Errors
/// When `bascule pki` refuses.
pub fn init(dir: &Path) -> Result<PathBuf> {
    pki(&["init", "--authority", &dir.display().to_string(), "--domain", "sites.test"])?;
    Ok(dir.to_owned())
}

/// Certificate and key of a node, in the directory that its configuration names.
///
/// # Errors
/// When `bascule pki` refuses.
pub fn issue(authority: &Path, site: &str, name: &str, into: &Path) -> Result<()> {
    let (authority, into) = (authority.display().to_string(), into.display().to_string());
    pki(&["issue", "--authority", &authority, "--site", site, "--relay", name, "--into", &into]).map(drop)
}

/// A file that only its owner reads.
///
/// # Errors
/// When it cannot be written.
pub fn secret_file(path: &Path, text: &str) -> Result<()> {
    let only_owner = || std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600));
    std::fs::write(path, text).and_then(|()| only_owner()).map_err(LabError::io(path.display().to_string()))
}

/// What a daemon shows of sites; None while it shows nothing.
pub fn page(daemon: &Bascule) -> Option<Value> {
    let (status, body) = daemon.get("/sites").ok()?;
    (status == 200).then(|| serde_json::from_str(&body).ok())?
}

/// Share of a site in a service of a page, 0 to 1.
pub fn share(page: &Value, service: &str, site: &str) -> f64 {
    let named = |list: &Value, name: &str| list.as_array()?.iter().find(|one| one["name"] == name).cloned();
    let found = named(&page["services"], service).and_then(|service| named(&service["sites"], site));
    found.and_then(|site| site["share"].as_f64()).unwrap_or_default()
}
