//! The kernel of one node: fence slots, addresses with a lifetime, and who is answered. It lives on when the daemon dies.
//!
//! The slots are [`KernelSlot`], the model that the suite compares with the eBPF programs. What is added here is what those programs
//! read besides: the map from address to slot, the map from virtual router to slot, and the addresses on the link.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bascule_core::fence::{FenceCtl, FenceRole, FenceWrite, KernelSlot, window};
use bascule_core::time::Instant;
use bascule_core::types::{Family, Slot, Term};
use bascule_core::wire::vrrp::Advert;

use crate::mutant::Mutant;

/// One slot, and the facts that the checker judges it by.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The programs' rules.
    pub model: KernelSlot,
    /// Control word as written last.
    pub ctl: Option<FenceCtl>,
    /// End of the right to own as the checker reckons it, from what was written and what left. Independent of `model`.
    pub allowed: Instant,
    /// Interval in the last advert that left under the present term.
    carried: Option<(Term, bascule_core::types::Centis)>,
}

/// The kernel of one node.
#[derive(Clone, Debug)]
pub struct Kernel {
    slots: BTreeMap<Slot, Guard>,
    vips: BTreeMap<IpAddr, Slot>,
    routers: BTreeMap<(Family, u8), Slot>,
    installed: BTreeMap<IpAddr, Instant>,
    mutant: Option<Mutant>,
    /// Adverts that the fence dropped.
    pub dropped: u64,
}

impl Kernel {
    /// A kernel after boot.
    pub const fn new(mutant: Option<Mutant>) -> Self {
        Self {
            slots: BTreeMap::new(),
            vips: BTreeMap::new(),
            routers: BTreeMap::new(),
            installed: BTreeMap::new(),
            mutant,
            dropped: 0,
        }
    }

    /// Carries out a write of user space.
    pub fn write(&mut self, write: FenceWrite) {
        match write {
            FenceWrite::Register { slot, addresses, routers, .. } => {
                self.forget(slot);
                self.slots.entry(slot).or_default();
                self.vips.extend(addresses.into_iter().map(|a| (a, slot)));
                self.routers.extend(routers.into_iter().map(|r| (r, slot)));
            }
            FenceWrite::Unregister(slot) => {
                self.forget(slot);
                self.slots.remove(&slot);
            }
            FenceWrite::Ctl(slot, mut ctl) => {
                let guard = self.slots.entry(slot).or_default();
                // The checker's reckoning knows nothing of the mutants.
                if guard.ctl.is_none_or(|old| old.term != ctl.term) {
                    guard.allowed = Instant::ZERO;
                }
                if ctl.role == FenceRole::Active {
                    guard.allowed = guard.allowed.max(ctl.deadline);
                }
                guard.ctl = Some(ctl);
                match self.mutant {
                    Some(Mutant::HandoverUnmuted) => ctl.handover = false,
                    Some(Mutant::WindowLong) if ctl.role == FenceRole::Active => {
                        ctl.deadline = ctl.deadline + ctl.interval.duration();
                    }
                    Some(Mutant::TermIgnored) if ctl.role == FenceRole::Active => ctl.term = Term(1),
                    _ => {}
                }
                guard.model.write(ctl);
            }
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.vips.retain(|_, s| *s != slot);
        self.routers.retain(|_, s| *s != slot);
    }

    /// An advert is about to leave: true when the fence lets it.
    pub fn egress_advert(&mut self, source: IpAddr, advert: &Advert, now: Instant) -> bool {
        let (priority, interval) = (advert.priority, advert.interval);
        let router = (Family::of(&source), advert.vrid);
        let Some(guard) = self.routers.get(&router).and_then(|slot| self.slots.get_mut(slot)) else {
            return true;
        };
        let shown = if self.mutant == Some(Mutant::WindowLong) {
            bascule_core::types::Centis::new(interval.get() + interval.get().div_ceil(2)).unwrap_or(interval)
        } else {
            interval
        };
        let mut passes = guard.model.egress_advert(priority, source, shown, now);
        let reopens = priority > 0 && self.mutant == Some(Mutant::ExtendsWhenClosed);
        if let Some(ctl) = guard.ctl.filter(|c| !passes && reopens && c.role == FenceRole::Active) {
            guard.model.write(FenceCtl { deadline: now + window(interval), ..ctl });
            passes = guard.model.egress_advert(priority, source, shown, now);
        }
        match guard.ctl {
            Some(ctl) if passes && priority > 0 && now < guard.allowed => {
                let previous = guard.carried.filter(|(term, _)| *term == ctl.term).map_or(ctl.interval, |(_, i)| i);
                guard.allowed = now + window(previous.min(interval));
                guard.carried = Some((ctl.term, interval));
            }
            _ => {}
        }
        self.dropped += u64::from(!passes);
        passes
    }

    /// A frame with `address` as sender (ARP) or target (NA) is about to leave: true when the fence lets it.
    pub fn egress_announcement(&self, address: IpAddr, now: Instant) -> bool {
        self.guard(address).is_none_or(|g| g.model.answer(now))
    }

    /// An advert of another node arrived.
    pub fn ingress_advert(&mut self, source: IpAddr, advert: &Advert, now: Instant) {
        let router = (Family::of(&source), advert.vrid);
        let Some(slot) = self.routers.get(&router).filter(|_| self.mutant != Some(Mutant::NotDeposed)) else { return };
        let ours = advert.addresses.first().is_some_and(|first| self.vips.get(first) == Some(slot));
        if let Some(guard) = self.slots.get_mut(slot).filter(|_| ours) {
            guard.model.ingress_advert(advert.priority, source, now);
        }
    }

    /// The slot gave way to another node.
    pub fn is_deposed(&self, slot: Slot) -> bool {
        self.slots.get(&slot).is_some_and(|g| g.model.is_deposed())
    }

    /// Somebody else announced `address`.
    pub fn ingress_announcement(&mut self, address: IpAddr) {
        if let Some(guard) = self.vips.get(&address).and_then(|slot| self.slots.get_mut(slot)) {
            guard.model.ingress_announcement();
        }
    }

    fn guard(&self, address: IpAddr) -> Option<&Guard> {
        self.vips.get(&address).and_then(|slot| self.slots.get(slot))
    }

    /// The slots, for the checker.
    pub fn guards(&self) -> impl Iterator<Item = (&Slot, &Guard)> {
        self.slots.iter()
    }

    /// The claim that an address stands under now.
    pub fn term(&self, address: IpAddr) -> Option<Term> {
        self.guard(address).and_then(|g| g.ctl).map(|c| c.term)
    }

    /// Does this kernel answer ARP or NS for the address?
    pub fn answers(&self, address: IpAddr, now: Instant) -> bool {
        self.has(address, now) && self.guard(address).is_none_or(|g| g.model.answer(now))
    }

    /// Does a frame for the address reach a local socket, and its reply the wire?
    pub fn delivers(&self, address: IpAddr, now: Instant) -> bool {
        self.has(address, now) && self.guard(address).is_none_or(|g| g.model.deliver(now))
    }

    /// Is the address on the link?
    pub fn has(&self, address: IpAddr, now: Instant) -> bool {
        self.installed.get(&address).is_some_and(|until| now < *until)
    }

    /// Puts an address on the link or prolongs it, until then.
    pub fn install(&mut self, address: IpAddr, until: Instant) {
        self.installed.insert(address, until);
    }

    /// Takes it off; true when it was there.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        self.installed.remove(&address).is_some()
    }

    /// Addresses whose lifetime has passed; they are gone after this.
    pub fn expire(&mut self, now: Instant) -> Vec<IpAddr> {
        let gone: Vec<IpAddr> = self.installed.iter().filter(|(_, until)| **until <= now).map(|(a, _)| *a).collect();
        self.installed.retain(|_, until| *until > now);
        gone
    }

    /// Every address of ours on the link.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.installed.keys().copied().collect()
    }
}
