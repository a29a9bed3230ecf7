//! What keeps this node silent for services whose lease this site does not have, whatever becomes of the daemon.
//!
//! A living daemon holds such a service: its balancer gives no packet an endpoint here. For one that stands still there is a second fence, which
//! guards the addresses of the endpoints as the first one guards VIPs: while the site has the lease each has an entry that closes at the
//! deadline. What is closed is all that such an address says and hears over the devices of forwarding, for the programs cannot tell replies from
//! other packets of the endpoint before they are rewritten. So entries are there only as long as they are needed: a site that is passive has
//! none, and its endpoints (a database that replicates) are reached as ever.
//!
//! A lease ends so: the entry closes, the balancer holds the service, flows that the programs know are forgotten, the entry goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::balance::Balancer;
use bascule_core::service::ServiceKey;
use bascule_core::time::Instant;
use bascule_ebpf_common::{DropReason, HEED_NOBODY, ROLE_ACTIVE, ShardCtl};
use tracing::{info, warn};

use super::Said;
use crate::dataplane::forward::Forward;
use crate::dataplane::{self, Attach, Fence, FenceError, FenceOptions};

/// Slots of the fence, one for each service. As many as the configuration allows.
const SLOTS: u32 = 64;

/// What the site has of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Right {
    /// Nothing, and no endpoint here has an entry.
    None,
    /// The lease, in a slot, by a term.
    Granted(u32, u64),
    /// Nothing any more; the entries are closed, and flows are still to be forgotten.
    Ending(u32),
}

/// Where the endpoints of services are and over which devices they speak.
pub(super) struct Ground<'a> {
    /// Addresses of endpoints on this node.
    pub(super) endpoints: &'a dyn Fn(&ServiceKey) -> Vec<IpAddr>,
    /// Devices of forwarding.
    pub(super) devices: &'a BTreeSet<u32>,
}

#[derive(Default)]
pub(super) struct Terms {
    instance: u8,
    fence: Option<Fence>,
    services: BTreeMap<ServiceKey, Right>,
    /// Devices that the fence stands on.
    stands: BTreeSet<u32>,
    /// The fence has entries of a former run, which are closed.
    former: bool,
    said: Said,
    pub(super) problem: Option<String>,
}

impl Terms {
    pub(super) fn of(instance: u8) -> Self {
        // Until it was looked for.
        Self { instance, former: true, ..Self::default() }
    }

    /// These services are those of one site at a time. What is new is held until the lease is here.
    pub(super) fn configure(&mut self, passive: &BTreeSet<ServiceKey>, balancer: &mut Balancer, now: Instant) {
        for (key, right) in self.services.extract_if(.., |key, _| !passive.contains(key)).collect::<Vec<_>>() {
            if let (Some(fence), Right::Granted(slot, _) | Right::Ending(slot)) = (&mut self.fence, right) {
                self.said.result("entries of a service are not removed", fence.unregister(slot));
            }
            balancer.handle_hold(key, false, now);
        }
        for key in passive {
            let _known = self.services.entry(*key).or_insert(Right::None);
        }
        self.hold(balancer, now);
        if passive.is_empty() { self.remove() } else { self.open() }
    }

    /// No service needs it: what a former run left goes as well.
    fn remove(&mut self) {
        let (former, fence) = (std::mem::take(&mut self.former), self.fence.take());
        let root = dataplane::term_root(self.instance);
        if (former || fence.is_some()) && root.exists() {
            drop(fence);
            let removed = dataplane::clean_fence(&root, &mut dataplane::CleanReport::default());
            self.said.result("the fence of terms is not removed", removed);
        }
        self.stands.clear();
        self.problem = None;
    }

    /// Says it all to a balancer, which may be a new one.
    pub(super) fn hold(&self, balancer: &mut Balancer, now: Instant) {
        for (key, right) in &self.services {
            balancer.handle_hold(*key, !matches!(right, Right::Granted(..)), now);
        }
    }

    /// Closes whatever a former run left open, at once.
    fn open(&mut self) {
        if self.fence.is_some() || self.services.is_empty() {
            return;
        }
        let options = FenceOptions { pin_root: dataplane::term_root(self.instance) };
        match Fence::open(&options) {
            Ok(fence) => {
                (self.fence, self.former, self.problem) = (Some(fence), true, None);
                self.said.cleared("the fence of terms stands after all");
            }
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&mut self, error: &FenceError) {
        let text = format!("no service of one site at a time is served here: {error}");
        self.problem = Some(text.clone());
        self.said.error(text);
    }

    /// The site has the lease until then: its endpoints here answer. They do not where nothing could silence them.
    ///
    /// # Errors
    /// Why they do not.
    pub(super) fn grant(
        &mut self,
        key: ServiceKey,
        (term, deadline): (u64, Instant),
        ground: &Ground<'_>,
        balancer: &mut Balancer,
        now: Instant,
    ) -> Result<(), String> {
        self.open();
        if !self.services.contains_key(&key) {
            return Err("no service of one site at a time".to_owned());
        }
        if let Err(error) = self.guard(key, term, deadline, ground) {
            self.refuse(&error);
            return Err(error.to_string());
        }
        balancer.handle_hold(key, false, now);
        Ok(())
    }

    fn guard(&mut self, key: ServiceKey, term: u64, deadline: Instant, ground: &Ground<'_>) -> Result<(), FenceError> {
        let used: BTreeSet<u32> = self.services.values().filter_map(|right| right.slot()).collect();
        let free = (0..SLOTS).find(|slot| !used.contains(slot));
        let limit = FenceError::Slot { slot: SLOTS, limit: SLOTS };
        let slot = self.services.get(&key).and_then(|right| right.slot()).or(free).ok_or(limit)?;
        let Some(fence) = &mut self.fence else { return Err(FenceError::Incomplete { what: "an open fence" }) };
        stand(fence, &mut self.stands, ground.devices)?;
        let link = ground.devices.first().copied().unwrap_or_default();
        fence.register(slot, link, &(ground.endpoints)(&key), &[])?;
        fence.write(slot, &active(term, deadline))?;
        self.services.insert(key, Right::Granted(slot, term));
        Ok(())
    }

    /// The lease lasts longer.
    pub(super) fn extend(&mut self, key: &ServiceKey, deadline: Instant) {
        if let (Some(Right::Granted(slot, term)), Some(fence)) = (self.services.get(key), &mut self.fence) {
            let written = fence.write(*slot, &active(*term, deadline));
            self.said.result("a deadline is not written: it closes earlier", written);
        }
    }

    /// The site does not have it any more. True: the kernel is silent for it from now on. False: from the deadline on, for it could not be told.
    pub(super) fn revoke(&mut self, key: &ServiceKey, balancer: &mut Balancer, now: Instant) -> bool {
        let Some(right) = self.services.get_mut(key) else { return false };
        let silent = match (*right, &mut self.fence) {
            (Right::Granted(slot, _), Some(fence)) => {
                *right = Right::Ending(slot);
                let closed = fence.write(slot, &ShardCtl::default());
                let silent = closed.is_ok();
                self.said.result("an entry is not closed before its deadline", closed);
                silent
            }
            // A fence that stands has closed what a former run left; one that does not may be that run's, and open.
            (Right::None | Right::Ending(_), Some(_)) => true,
            (Right::None | Right::Granted(..) | Right::Ending(_), None) => false,
        };
        balancer.handle_hold(*key, true, now);
        silent
    }

    /// What the programs of this fence dropped, by reason, since its maps were made; `None`: it does not stand, or does not say.
    pub(super) fn drops(&self) -> Option<Vec<(&'static str, u64)>> {
        let counters = self.fence.as_ref()?.counters().ok()?;
        Some(DropReason::ALL.iter().map(|reason| (reason.name(), counters.drops(*reason))).collect())
    }

    /// Once a second: what ended is brought to its end. `settled`: the maps hold nothing of a former run any more.
    pub(super) fn tick(&mut self, forward: &mut Forward, balancer: &Balancer, settled: bool, ground: &Ground<'_>) {
        self.open();
        let Some(fence) = &mut self.fence else { return };
        if let Err(error) = stand(fence, &mut self.stands, ground.devices) {
            self.said.error(format!("the fence of terms does not stand on every device: {error}"));
        }
        let mut former = self.former && settled;
        for (key, right) in &mut self.services {
            let (slot, ending) = match *right {
                Right::Granted(..) => continue,
                Right::Ending(slot) => (Some(slot), true),
                Right::None => (None, false),
            };
            if !ending && !self.former {
                continue;
            }
            if !settled || !balancer.is_held(key) {
                former = false;
                continue;
            }
            // Twice: a packet that had found its endpoint before may have made a flow since.
            match forward.forget_flows(key) {
                Ok(0) => {}
                Ok(flows) => {
                    info!(service = %key, flows, "connections of a service that another site has are forgotten");
                    former = false;
                    continue;
                }
                Err(error) => {
                    self.said.error(format!("connections are not forgotten: {error}"));
                    former = false;
                    continue;
                }
            }
            if let Some(slot) = slot {
                self.said.result("entries of a service are not removed", fence.unregister(slot));
                *right = Right::None;
            }
        }
        if former {
            let used: BTreeSet<u32> = self.services.values().filter_map(|right| right.slot()).collect();
            for slot in (0..SLOTS).filter(|slot| !used.contains(slot)) {
                self.said.result("entries of a former run are not removed", fence.unregister(slot));
            }
            self.former = false;
        }
    }

    /// Endpoints may be others: entries of what is granted follow.
    pub(super) fn refit(&mut self, ground: &Ground<'_>) {
        let Some(fence) = &mut self.fence else { return };
        let link = ground.devices.first().copied().unwrap_or_default();
        for (key, right) in &self.services {
            if let Right::Granted(slot, _) = right {
                let written = fence.register(*slot, link, &(ground.endpoints)(key), &[]);
                self.said.result("an endpoint has no entry in the fence of terms", written);
            }
        }
    }
}

impl Right {
    const fn slot(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Granted(slot, _) | Self::Ending(slot) => Some(*slot),
        }
    }
}

const fn active(term: u64, deadline: Instant) -> ShardCtl {
    ShardCtl {
        role: ROLE_ACTIVE,
        flags: 0,
        term,
        deadline_ns: deadline.as_nanos(),
        deliver_until_ns: 0,
        interval_ns: 0,
        heed_ns: HEED_NOBODY,
    }
}

/// Stands on these devices, before the programs that rewrite replies.
fn stand(fence: &mut Fence, stands: &mut BTreeSet<u32>, devices: &BTreeSet<u32>) -> Result<(), FenceError> {
    for device in stands.difference(devices).copied().collect::<Vec<_>>() {
        fence.detach(device)?;
        stands.remove(&device);
    }
    for device in devices.difference(stands).copied().collect::<Vec<_>>() {
        fence.attach(device, Attach::Tcx)?;
        stands.insert(device);
    }
    Ok(())
}

impl Said {
    fn result<T>(&mut self, what: &str, result: Result<T, FenceError>) {
        if let Err(error) = result {
            warn!(%error, "{what}");
            self.error(format!("{what}: {error}"));
        }
    }
}
