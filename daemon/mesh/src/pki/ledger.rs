//! What an authority handed out: needed to revoke, and to say when something expires.

use serde::{Deserialize, Serialize};

/// One certificate that was handed out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issued {
    /// Its number, hexadecimal.
    pub serial: String,
    /// Subject of the authority that signed it.
    pub authority: String,
    /// Site that it is for.
    pub site: u8,
    /// Relay that it is for.
    pub relay: String,
    /// Not valid after, in seconds since 1970.
    pub not_after: u64,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ledger {
    /// The mesh.
    pub(super) domain: String,
    /// Number of the next revocation list.
    pub(super) lists: u64,
    pub(super) issued: Vec<Issued>,
}

impl Ledger {
    /// Certificates of an authority that a relay may still show: none newer is of another authority.
    pub(super) fn in_use(&self, authority: &str, now: u64) -> Vec<&Issued> {
        let lives = |one: &&Issued| one.authority == authority && one.revoked.is_none() && one.not_after > now;
        let replaced = |one: &Issued| {
            let later = self.issued.iter().skip_while(|other| other.serial != one.serial);
            later.clone().any(|o| (o.site, &o.relay) == (one.site, &one.relay) && o.authority != authority)
        };
        self.issued.iter().filter(lives).filter(|one| !replaced(one)).collect()
    }
}
