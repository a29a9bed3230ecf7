//! Copies of replies that do not arrive in the other site.

use bascule_ebpf_common::forward::{DEFAULT_TUNNEL_PORT, SHIM_ACCEPT, SHIM_FINAL};

use crate::command::nft;
use crate::{LabError, Netns, Result, tool};

/// The table in the router's namespace.
const TABLE: &str = "copies";

/// The router loses every copy of a reply (and nothing else) until this is dropped.
#[derive(Debug)]
pub struct LostCopies {
    router: Netns,
}

impl LostCopies {
    pub(super) fn new(router: &Netns) -> Result<Self> {
        // Behind the 8 bytes of the UDP header: the shim's first byte with its flags, and the second, which says that it is a copy.
        let script = format!(
            "table ip {TABLE} {{\n counter dropped {{ }}\n chain forward {{\n  type filter hook forward priority 0;\n  udp dport \
             {DEFAULT_TUNNEL_PORT} @th,64,8 & {SHIM_FINAL} == {SHIM_FINAL} @th,72,8 & {SHIM_ACCEPT} == {SHIM_ACCEPT} counter name \
             dropped drop;\n }}\n}}\n"
        );
        nft(router, &script)?;
        Ok(Self { router: router.clone() })
    }

    /// Copies lost so far.
    ///
    /// # Errors
    /// When nft does not answer as expected.
    pub fn dropped(&self) -> Result<u64> {
        let text = tool(Some(&self.router), "nft", &["-j", "list", "counters", "table", "ip", TABLE], None)?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| LabError::answer("nft -j", e.to_string()))?;
        let mut items = json["nftables"].as_array().into_iter().flatten();
        let packets = items.find_map(|item| item["counter"]["packets"].as_u64());
        packets.ok_or_else(|| LabError::answer("nft -j", format!("no counter in {text}")))
    }
}

impl Drop for LostCopies {
    fn drop(&mut self) {
        if let Err(error) = nft(&self.router, &format!("delete table ip {TABLE}\n")) {
            eprintln!("lab: {error}");
        }
    }
}
