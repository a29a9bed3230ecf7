//! Our addresses: put on links, renewed, removed, swept. Nothing foreign is touched.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bascule_core::types::LinkId;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::parse;
use super::{Netlink, lock};
use crate::net::NetError;

/// The kernel makes the loopback link first in every network namespace (`LOOPBACK_IFINDEX` of `net/flow.h`).
const LOOPBACK: LinkId = LinkId(1);

/// How long an address stays when nobody renews it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lifetime {
    /// So long.
    Short(Duration),
    /// Until it is removed.
    Endless,
}

/// `INFINITY_LIFE_TIME` of `net/addrconf.h`.
const ENDLESS: u32 = u32::MAX;

impl Netlink {
    /// Puts addresses on a link, or prolongs those that are there: /32 or /128, `lifetime` (whole seconds) valid, with our marker; IPv6 ones
    /// never chosen as a source (preferred lifetime 0) and without the kernel's duplicate address detection. One datagram for up to 64.
    ///
    /// # Errors
    /// The first refusal; the addresses that were not refused are on the link. [`NetError::Foreign`] when somebody else's is in the place
    /// of one: then nothing was done.
    pub async fn install(&self, link: LinkId, addresses: &[IpAddr], lifetime: Duration) -> Result<(), NetError> {
        self.claim(link, addresses, Lifetime::Short(lifetime)).await
    }

    /// Like [`Self::install`], for addresses that stay until they are removed: those of an anycast VIP on the loopback link, which outlive
    /// a planned restart and whose owner nobody is waiting to replace.
    ///
    /// # Errors
    /// As for [`Self::install`].
    pub async fn hold(&self, link: LinkId, addresses: &[IpAddr]) -> Result<(), NetError> {
        self.claim(link, addresses, Lifetime::Endless).await
    }

    async fn claim(&self, link: LinkId, addresses: &[IpAddr], lifetime: Lifetime) -> Result<(), NetError> {
        {
            let mut shared = lock(&self.shared);
            for address in addresses {
                let key = (link, *address);
                // A kernel without markers cannot tell what a former run left for good from what is foreign: the configuration does.
                let left = lifetime == Lifetime::Endless && !shared.markers;
                if shared.foreign.contains(&key) && !shared.installed.contains_key(&key) && !left {
                    return Err(NetError::Foreign { link, address: *address });
                }
            }
            for address in addresses {
                // Known before the request: its event must find it.
                shared.installed.entry((link, *address)).or_insert(false);
            }
        }
        let targets: Vec<_> = addresses.iter().map(|a| (link, *a)).collect();
        self.put("install", &targets, lifetime).await
    }

    /// Prolongs the lifetime of addresses on any links to `lifetime` (whole seconds) from now, in one batch. One that is gone meanwhile is put back.
    ///
    /// # Errors
    /// The first refusal; all others were renewed.
    pub async fn renew(&self, addresses: &[(LinkId, IpAddr)], lifetime: Duration) -> Result<(), NetError> {
        self.put("renew", addresses, Lifetime::Short(lifetime)).await
    }

    /// Takes addresses off a link. Gone already is success, and so is a link that is gone; an address without our marker stays.
    ///
    /// # Errors
    /// The first refusal; all others were removed.
    pub async fn remove(&self, link: LinkId, addresses: &[IpAddr]) -> Result<(), NetError> {
        let targets: Vec<_> = {
            let shared = lock(&self.shared);
            let ours = |key: &(LinkId, IpAddr)| shared.installed.contains_key(key) || !shared.foreign.contains(key);
            addresses.iter().map(|a| (link, *a)).filter(ours).collect()
        };
        let requests = targets.iter().map(|(link, address)| {
            (RouteNetlinkMessage::DelAddress(message(*link, *address, host_prefix(*address))), 0)
        });
        self.delete("remove", &targets, requests.collect()).await
    }

    /// Addresses with our marker on loopback links: what a former run announced by routes. Empty on kernels before 5.18.
    ///
    /// # Errors
    /// When the addresses cannot be listed.
    pub async fn standing(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let all = self.requests.lock().await.dump("list addresses", &request).await?;
        let ours = |a: &parse::Address| a.proto == Some(self.marker) && a.link == LOOPBACK;
        Ok(all.iter().filter_map(|payload| parse::address(payload)).filter(ours).map(|a| a.net.addr()).collect())
    }

    /// Removes every address that carries the marker of this instance, whoever of us put it there: the leftovers of a crashed run. Returns them. What
    /// stands on a loopback link and is in `keep` stays: routers may still send to it. On kernels before 5.18, which keep no marker,
    /// leftovers with an end to their lifetime end by it.
    ///
    /// # Errors
    /// When the addresses cannot be listed, or one cannot be removed.
    pub async fn sweep(&self, keep: &[IpAddr]) -> Result<Vec<(LinkId, IpAddr)>, NetError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let all = self.requests.lock().await.dump("list addresses", &request).await?;
        let marked = all.iter().filter_map(|payload| parse::address(payload)).filter(|a| a.proto == Some(self.marker));
        let kept = |a: &parse::Address| a.link == LOOPBACK && keep.contains(&a.net.addr());
        let found: Vec<_> = marked.filter(|a| !kept(a)).map(|a| (a.link, a.net)).collect();
        // The prefix length is that of the address: an older version may have used another one.
        let requests = found.iter().map(|(link, net)| (message(*link, net.addr(), net.prefix_len()), 0));
        let requests = requests.map(|(m, flags)| (RouteNetlinkMessage::DelAddress(m), flags)).collect();
        let targets: Vec<_> = found.iter().map(|(link, net)| (*link, net.addr())).collect();
        self.delete("sweep", &targets, requests).await?;
        Ok(targets)
    }

    async fn put(&self, what: &'static str, targets: &[(LinkId, IpAddr)], lifetime: Lifetime) -> Result<(), NetError> {
        let requests = targets.iter().map(|(link, address)| {
            (
                RouteNetlinkMessage::NewAddress(ours(*link, *address, lifetime, self.marker)),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
        });
        let answers = self.requests.lock().await.change("put addresses on a link", requests.collect()).await?;
        {
            let mut shared = lock(&self.shared);
            for (target, answer) in targets.iter().zip(&answers) {
                match answer {
                    Ok(()) => drop(shared.installed.insert(*target, true)),
                    Err(_) => drop(shared.installed.remove(target)),
                }
            }
        }
        first_refusal(what, targets, answers, |_| false)
    }

    async fn delete(
        &self,
        what: &'static str,
        targets: &[(LinkId, IpAddr)],
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<(), NetError> {
        {
            let mut shared = lock(&self.shared);
            targets.iter().for_each(|key| shared.removal_asked(*key));
        }
        let answers = self.requests.lock().await.change("take addresses off a link", requests).await?;
        {
            let mut shared = lock(&self.shared);
            for (key, _) in targets.iter().zip(&answers).filter(|(_, answer)| answer.is_err()) {
                shared.removal_done(*key);
            }
        }
        first_refusal(what, targets, answers, gone)
    }
}

/// No such address, no such link.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV))
}

fn first_refusal(
    what: &'static str,
    targets: &[(LinkId, IpAddr)],
    answers: Vec<io::Result<()>>,
    harmless: impl Fn(&io::Error) -> bool,
) -> Result<(), NetError> {
    for ((link, address), answer) in targets.iter().zip(answers) {
        match answer {
            Err(source) if !harmless(&source) => {
                return Err(NetError::Address { what, link: *link, address: *address, source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Names an address of a link.
fn message(link: LinkId, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link.0;
    message.header.prefix_len = prefix;
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// The whole of an address of ours.
fn ours(link: LinkId, address: IpAddr, lifetime: Lifetime, marker: u8) -> AddressMessage {
    let mut message = message(link, address, host_prefix(address));
    let mut times = CacheInfo::default();
    times.ifa_valid = match lifetime {
        Lifetime::Short(lifetime) => u32::try_from(lifetime.as_secs()).unwrap_or(ENDLESS),
        Lifetime::Endless => ENDLESS,
    };
    message.header.scope = AddressScope::Universe;
    match address {
        IpAddr::V4(_) => times.ifa_preferred = times.ifa_valid,
        IpAddr::V6(v6) => {
            times.ifa_preferred = 0;
            message.header.flags = AddressHeaderFlags::Nodad;
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
            if v6.is_unicast_link_local() {
                message.header.scope = AddressScope::Link;
            }
        }
    }
    message.attributes.push(AddressAttribute::CacheInfo(times));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(marker)));
    message
}
