//! Packets on their way to the groups they concern, and those that are refused.

use core::net::IpAddr;
use core::time::Duration;

use super::Node;
use super::event::Event;
use super::io::Action;
use crate::time::Instant;
use crate::types::LinkId;
use crate::wire::arp::Arp;
use crate::wire::ndp::Ndp;
use crate::wire::peer::Message;
use crate::wire::vrrp::{Advert, HOP_LIMIT, VrrpError};

/// Refused packets of one channel are one series while they come at least this often.
const REFUSED_SERIES: Duration = Duration::from_secs(10);

impl Node {
    pub(super) fn handle_vrrp(
        &mut self,
        link: LinkId,
        src: IpAddr,
        dst: IpAddr,
        ttl: u8,
        payload: &[u8],
        now: Instant,
    ) {
        // Our own adverts come back where the network loops multicast.
        if self.links.iter().any(|l| l.addresses.iter().any(|n| n.addr() == src)) {
            return;
        }
        let parsed = if ttl == HOP_LIMIT { Advert::parse(payload, src, dst) } else { Err(VrrpError::HopLimit { ttl }) };
        match parsed {
            Ok(advert) => self.on_link(link, now, |g, env, now| {
                if g.lease.is_none() && g.config.vrid == advert.vrid {
                    g.handle_advert(src, &advert, env, now);
                }
            }),
            Err(error) => self.refuse(0, "vrrp", src, error.to_string(), now),
        }
    }

    pub(super) fn handle_neighbor(&mut self, link: LinkId, frame: &[u8], now: Instant) {
        let (address, mac, probe) = match (Arp::parse(frame), Ndp::parse(frame)) {
            (Some(arp), _) if arp.is_probe() => (IpAddr::V4(arp.target), arp.sender_mac, true),
            (Some(arp), _) => (IpAddr::V4(arp.sender), arp.sender_mac, false),
            (_, Some(Ndp::Advertisement { target, mac, .. })) => (IpAddr::V6(target), mac, false),
            (_, Some(Ndp::Solicitation { source, target, mac })) if source.is_unspecified() => {
                (IpAddr::V6(target), mac, true)
            }
            _ => return,
        };
        if self.links.iter().any(|l| l.mac == mac) {
            return;
        }
        self.on_link(link, now, |g, env, now| {
            if !g.config.owns(address) {
                return;
            }
            if probe {
                g.handle_probe_by(address, now);
                g.drain_outputs(env, now);
            } else {
                g.handle_claim_by(address, mac, env, now);
            }
        });
    }

    pub(super) fn handle_peer(&mut self, link: LinkId, src: IpAddr, payload: &[u8], now: Instant) {
        if self.config.keys.is_empty() || self.links.iter().any(|l| l.addresses.iter().any(|n| n.addr() == src)) {
            return;
        }
        match Message::parse(payload, &self.config.keys) {
            Ok(message) => self.on_link(link, now, |g, env, now| {
                if g.lease.is_none() && g.config.vrid == message.vrid {
                    g.handle_peer(src, &message, env, now);
                }
            }),
            Err(error) => self.refuse(1, "peer", src, error.to_string(), now),
        }
    }

    fn refuse(&mut self, series: usize, channel: &'static str, source: IpAddr, error: String, now: Instant) {
        let first = self.refused[series].is_none_or(|at| now.since(at) >= REFUSED_SERIES);
        self.refused[series] = Some(now);
        self.actions.push_back(Action::Report(Event::Refused { channel, source, error, first }));
    }
}
