//! What is known of links and addresses, and which events a message or a full reading makes. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::node::io::LinkInfo;
use bascule_core::types::LinkId;
use ipnet::IpNet;

use super::parse::{self, Address, LAST_MARKER, MARKER};
use super::{NetEvent, Shared};
use crate::net::stack::{Table, stack_up};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    ours: bool,
    /// Of any instance on this node, ours included: no address of the node itself.
    vip: bool,
    usable: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    links: Table,
    addresses: BTreeMap<(LinkId, IpNet), Entry>,
    /// What the driver was told last.
    told: BTreeMap<LinkId, LinkInfo>,
    /// Links may be others than were told. VIPs come, go and are renewed by the thousand, and are no part of that.
    stale: bool,
}

impl State {
    /// One event message of the kernel. The driver is told by [`Self::publish`], but for lost addresses, which are returned at once.
    pub(super) fn apply(&mut self, kind: u16, payload: &[u8], shared: &mut Shared) -> Option<NetEvent> {
        match kind {
            libc::RTM_NEWLINK => {
                let (id, link) = parse::link(payload)?;
                self.links.insert(id, link);
                self.stale = true;
                None
            }
            libc::RTM_DELLINK => {
                let (id, _) = parse::link(payload)?;
                self.links.remove(&id);
                self.stale = true;
                shared.installed.retain(|(at, _), _| *at != id);
                shared.foreign.retain(|(at, _)| *at != id);
                None
            }
            libc::RTM_NEWADDR => self.add(&parse::address(payload)?, shared),
            libc::RTM_DELADDR => {
                let address = parse::address(payload)?;
                let known = self.addresses.remove(&(address.link, address.net));
                self.stale |= known.is_some_and(|entry| !entry.vip);
                shared.foreign.remove(&(address.link, address.net.addr()));
                let ours = address.proto == Some(shared.marker) || known.is_some_and(|e| e.ours);
                let key = (address.link, address.net.addr());
                (ours && !shared.removal_done(key)).then(|| lost(key, shared))
            }
            _ => None,
        }
    }

    /// A full reading. `confirmed` are the addresses that were ours for certain before it began.
    pub(super) fn replace(
        &mut self,
        links: &[Vec<u8>],
        addresses: &[Vec<u8>],
        confirmed: BTreeSet<(LinkId, IpAddr)>,
        shared: &mut Shared,
    ) -> Vec<NetEvent> {
        let mut before = confirmed;
        before.extend(self.ours());
        before.retain(|key| !shared.removing.contains_key(key));
        // Events that were lost never settle these.
        shared.removing.clear();
        self.stale = true;
        self.links = links.iter().filter_map(|payload| parse::link(payload)).collect();
        self.addresses.clear();
        shared.foreign.clear();
        for address in addresses.iter().filter_map(|payload| parse::address(payload)) {
            let _new = self.add(&address, shared);
        }
        let now: BTreeSet<_> = self.ours().collect();
        let events = before.difference(&now).map(|key| lost(*key, shared)).collect();
        // A removed link takes its addresses with it, and nobody will remove them one by one.
        shared.installed.retain(|(link, _), _| self.links.contains_key(link));
        events
    }

    fn add(&mut self, address: &Address, shared: &mut Shared) -> Option<NetEvent> {
        let key = (address.link, address.net.addr());
        shared.markers |= address.proto.is_some();
        let host = address.net.prefix_len() == address.net.max_prefix_len();
        let ours = match address.proto {
            Some(proto) => proto == shared.marker,
            // A kernel without markers: what we remember must do.
            None => !shared.markers && host && shared.installed.contains_key(&key),
        };
        // In IPv6 an address exists once a link, whatever its prefix; in IPv4 each prefix length is an address of its own.
        if ours {
            shared.foreign.remove(&key);
            if let Some(confirmed) = shared.installed.get_mut(&key) {
                *confirmed = true;
            }
        } else if host || key.1.is_ipv6() {
            shared.foreign.insert(key);
        }
        let of_another = address.proto.is_some_and(|proto| (MARKER..=LAST_MARKER).contains(&proto));
        let entry = Entry { ours, vip: ours || of_another, usable: address.usable };
        let old = self.addresses.insert((address.link, address.net), entry);
        self.stale |= old != Some(entry) && !(entry.vip && old.is_none_or(|old| old.vip));
        // Replaced by hand without the marker: it would never end by itself.
        (old.is_some_and(|e| e.ours) && !ours).then(|| lost(key, shared))
    }

    fn ours(&self) -> impl Iterator<Item = (LinkId, IpAddr)> + use<'_> {
        self.addresses.iter().filter(|(_, entry)| entry.ours).map(|((link, net), _)| (*link, net.addr()))
    }

    /// What the driver must be told to know the present state.
    pub(super) fn publish(&mut self) -> Vec<NetEvent> {
        let mut events = Vec::new();
        if !std::mem::take(&mut self.stale) {
            return events;
        }
        self.told.retain(|id, _| {
            let there = self.links.contains_key(id);
            if !there {
                events.push(NetEvent::LinkGone(*id));
            }
            there
        });
        for (id, link) in &self.links {
            let own = |((at, net), entry): (&(LinkId, IpNet), &Entry)| {
                (at == id && !entry.vip && entry.usable).then_some(*net)
            };
            let info = LinkInfo {
                id: *id,
                name: link.name.clone(),
                mac: link.mac,
                up: stack_up(&self.links, *id),
                addresses: self.addresses.iter().filter_map(own).collect(),
            };
            if self.told.get(id) != Some(&info) {
                self.told.insert(*id, info.clone());
                events.push(NetEvent::Link(info));
            }
        }
        events
    }
}

/// Says it once: until the address is seen or confirmed again, no reading reports it as missing.
fn lost(key: (LinkId, IpAddr), shared: &mut Shared) -> NetEvent {
    if let Some(confirmed) = shared.installed.get_mut(&key) {
        *confirmed = false;
    }
    NetEvent::AddressLost { link: key.0, address: key.1 }
}
