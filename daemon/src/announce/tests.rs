//! What several tests of the room need.

use std::net::IpAddr;
use std::time::Duration;

use bascule_bgp::config::{ExportPolicy, MaxPrefixAction, Mode, NeighborConfig, RemoteAs, Transport};
use bascule_bgp::wire::{Family, FamilySet};

/// A neighbor with the defaults of the configuration.
pub(super) fn neighbor(name: &str, address: IpAddr) -> NeighborConfig {
    NeighborConfig {
        name: name.to_owned(),
        address,
        port: 179,
        remote_as: RemoteAs::External,
        local_as: None,
        mode: Mode::Active,
        families: FamilySet::EMPTY.with(Family::Ipv4),
        hold_time: 90,
        connect_retry: Duration::from_secs(5),
        send_hold: None,
        graceful_restart: None,
        max_prefix: None,
        max_prefix_action: MaxPrefixAction::Warn,
        bfd: false,
        export: ExportPolicy::default(),
        transport: Transport::default(),
    }
}
