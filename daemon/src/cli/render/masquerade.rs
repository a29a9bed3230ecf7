//! Rules for endpoints behind routers: their answers come back through the node that asked, where the VIP becomes their source again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bascule_core::service::{Delivery, ServiceSpec};

/// What `bascule render masquerade` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Masquerade {
    /// The configuration of the node
    #[arg(long, value_name = "PATH", default_value = "/etc/bascule/bascule.yaml")]
    pub config: PathBuf,
}

/// A script for nft(8), to be loaded on every node, again after each change of such endpoints. Without any it removes what an
/// earlier one loaded.
pub fn masquerade(services: &[Arc<ServiceSpec>]) -> String {
    let direct = services.iter().filter(|service| service.delivery == Delivery::Direct);
    let remote: BTreeSet<(IpAddr, &str, u16)> = direct
        .flat_map(|service| {
            let without_node = service.endpoints.iter().filter(|endpoint| endpoint.node.is_none());
            without_node.map(|endpoint| (endpoint.address, service.protocol.as_str(), endpoint.port))
        })
        .collect();
    let mut text = String::from(
        "\
#!/usr/sbin/nft -f
# Made by `bascule render masquerade`: for endpoints without a node. A node sends them what clients sent to a VIP; with its own address as the
# source their answers come back to it, and leave it with the VIP as the source. Load it on every node of `forwarding.nodes`.
table inet bascule_remote
delete table inet bascule_remote
",
    );
    if remote.is_empty() {
        return text;
    }
    text.push_str("table inet bascule_remote {\n");
    let families = [(4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")];
    for (family, _, kind) in families {
        let of = |address: &IpAddr| address.is_ipv4() == (family == 4);
        let elements: Vec<String> = remote
            .iter()
            .filter(|(address, ..)| of(address))
            .map(|(address, protocol, port)| format!("{address} . {protocol} . {port}"))
            .collect();
        let list = if elements.is_empty() {
            String::new()
        } else {
            format!("        elements = {{ {} }}\n", elements.join(", "))
        };
        let _infallible = write!(
            text,
            "    set endpoints{family} {{\n        type {kind} . inet_proto . inet_service\n{list}    }}\n"
        );
    }
    text.push_str("    chain postrouting {\n        type nat hook postrouting priority srcnat; policy accept;\n");
    for (family, word, _) in families {
        let _infallible =
            writeln!(text, "        {word} daddr . meta l4proto . th dport @endpoints{family} masquerade");
    }
    text.push_str("    }\n}\n");
    text
}
