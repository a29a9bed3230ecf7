//! Carrying out what the node owes, in its order.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bascule_core::fence::{Basis, FenceCtl, FenceRole, FenceWrite};
use bascule_core::node::event::Event;
use bascule_core::node::io::{Action, FenceState, Input, LinkInfo};
use bascule_core::types::{Family, LinkId, Mac, Slot};
use bascule_ebpf_common::{
    DropReason, FLAG_CONTINUED, FLAG_HANDOVER, FLAG_MAIN_V6, FLAG_NO_ACCEPT, HEED_NOBODY, ROLE_ACTIVE, ROLE_BACKUP,
    ROLE_LEAVING, ShardCtl, active, deposed,
};
use tokio::sync::mpsc::error::TrySendError;
use tracing::{error, warn};

use super::Driver;
use super::world::{Told, Work};
use crate::dataplane::{Attach, Family as FenceFamily, Fence, FenceError};
use crate::net::rt::boot_now;

impl Driver {
    /// Carries out every pending action. Failures go back into the node as inputs, and what follows from them is carried out too.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Fence(write) => self.write_fence(write),
                Action::SendVrrp { slot, link, src, dst, payload } => {
                    let deadline = self.node.advert_deadline(slot);
                    let sent = self.send_advert(link, src, dst, &payload).map_err(|error| error.to_string());
                    // IPv4 sockets do not tell what the fence drops: the clock and the fence itself do.
                    let late = deadline.is_some_and(|at| boot_now() >= at);
                    let kept = self.kept(slot);
                    if kept == Some(Kept::Deposed) {
                        self.node.handle_input(Input::Deposed(slot), boot_now());
                        continue;
                    }
                    let late = late || kept == Some(Kept::Late);
                    let sent = if late { sent.and(Err("it left when the fence had closed".to_owned())) } else { sent };
                    if let Err(error) = sent {
                        self.node.handle_input(Input::SendFailed { slot, error }, boot_now());
                    }
                }
                Action::SendFrame { link, kind, bytes, .. } => self.send_frame(link, kind, &bytes),
                Action::SendPeer { link, src, dst, payload } => {
                    if let Err(error) = self.send_peer(link, src, dst, &payload) {
                        warn!(%error, %dst, "peer message not sent");
                    }
                }
                Action::Install { slot, link, addresses, lifetime } => {
                    if let Some(error) = self.ask(Work::Install { slot, link, addresses, lifetime }) {
                        self.node.handle_input(Input::InstallFailed { slot, error }, boot_now());
                    }
                }
                Action::Hold { id, link, addresses } => {
                    if let Some(error) = self.ask(Work::Hold { id, link, addresses }) {
                        self.node.handle_input(Input::Held { id, result: Err(error) }, boot_now());
                    }
                }
                Action::Release { id, link, addresses } => {
                    if let Some(error) = self.ask(Work::Release { id, link, addresses }) {
                        self.node.handle_input(Input::Released { id, result: Err(error) }, boot_now());
                    }
                }
                Action::Routes(wishes) => self.routes.add(wishes),
                Action::Elect { elector, order } => self.electors.add(elector, *order),
                Action::Remove { slot, link, addresses } => self.ask_or_log(Work::Remove { slot, link, addresses }),
                Action::Renew { addresses, lifetime } => self.ask_or_log(Work::Renew { addresses, lifetime }),
                Action::Probe { gate, kind, timeout } => {
                    if let Some(detail) = self.ask(Work::Probe { gate: gate.clone(), kind, timeout }) {
                        self.node.handle_input(Input::Probed { gate, ok: false, detail }, boot_now());
                    }
                }
                // With every advert: a metric, and no news that would wake another thread.
                Action::Report(event @ Event::AdvertLateness { .. }) => self.ports.metrics.observe(&event),
                Action::Report(event) => self.tell(event),
                Action::CommandDone { id, result } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        // An operator who hung up is no error.
                        let _gone = reply.send(result);
                    }
                }
                Action::Stopped => {
                    self.stopped = true;
                    // Last: until here the routers must not take the node for gone.
                    self.feed_bfd(bascule_core::bfd::io::Input::Stop);
                }
            }
        }
    }

    /// Why the fence keeps the adverts of an Active slot, if it does. The programs have judged an advert when its system call is back.
    fn kept(&self, slot: Slot) -> Option<Kept> {
        let (ctl, kernel) = self.fence.as_ref()?.read(slot.0).ok()?;
        if ctl.role != ROLE_ACTIVE || active(&ctl, &kernel, boot_now().as_nanos()) {
            return None;
        }
        Some(if deposed(&ctl, &kernel) { Kept::Deposed } else { Kept::Late })
    }

    /// `None` when the work was queued, else why not.
    pub(super) fn ask(&mut self, work: Work) -> Option<String> {
        match self.ports.work.try_send(work) {
            Ok(()) => None,
            Err(TrySendError::Full(_)) => Some("the work queue is full: netlink does not answer".to_owned()),
            Err(TrySendError::Closed(_)) => Some("the work queue is closed".to_owned()),
        }
    }

    fn ask_or_log(&mut self, work: Work) {
        if let Some(error) = self.ask(work) {
            // Unrenewed and unremoved addresses leave by their own lifetime; the fence is what guards meanwhile.
            error!(error, "address work dropped");
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        let unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        if self.ports.events.try_send(Told { unix_ms, event }).is_err() {
            self.events_dropped += 1;
        }
    }

    /// A link with an own address gets the fence, whether a group stands on it or not: a second NIC must never answer.
    pub(super) fn note_link(&mut self, link: &LinkInfo) {
        if link.mac == Mac::ZERO {
            self.macs.remove(&link.id);
        } else {
            self.macs.insert(link.id, link.mac);
        }
        let addressed = link.mac != Mac::ZERO && link.addresses.iter().any(|n| !is_link_local(n.addr()));
        let Some(fence) = self.fence.as_mut() else { return };
        if (addressed || self.fenced.contains_key(&link.id))
            && let Err(error) = stand(fence, &mut self.fenced, &self.macs, link.id)
        {
            self.fence_failed(&format!("cannot attach to {}: {error}", link.name));
        }
    }

    fn write_fence(&mut self, write: FenceWrite) {
        let Some(fence) = self.fence.as_mut() else { return };
        let done = match write {
            FenceWrite::Ctl(slot, ctl) => fence.write(slot.0, &to_abi(&ctl)),
            FenceWrite::Unregister(slot) => fence.unregister(slot.0),
            FenceWrite::Register { slot, link, addresses, routers } => {
                let adverts: Vec<(FenceFamily, u8)> =
                    routers.iter().map(|(f, vrid)| (family_to_abi(*f), *vrid)).collect();
                stand(fence, &mut self.fenced, &self.macs, link)
                    .and_then(|()| fence.register(slot.0, link.0, &addresses, &adverts))
            }
        };
        if let Err(error) = done {
            self.fence_failed(&error.to_string());
        }
    }

    /// A fence that cannot be written is no fence: the node decides by its policy.
    fn fence_failed(&mut self, why: &str) {
        self.fence_broken = true;
        self.node.handle_input(Input::Fence(FenceState::Unavailable(why.to_owned())), boot_now());
    }

    /// What the fence's guard says. Where the fence is missing the node decides as if there were none, until it stands again.
    pub(super) fn fence_gap(&mut self, gap: Option<String>) {
        if self.fence.is_none() || self.fence_broken {
            return;
        }
        self.feed(Input::Fence(gap.map_or(FenceState::Ready, FenceState::Unavailable)));
    }

    pub(super) fn publish_drops(&mut self) {
        let Some(Ok(counters)) = self.fence.as_ref().map(Fence::counters) else { return };
        let drops: Vec<(&str, u64)> = DropReason::ALL.iter().map(|r| (r.name(), counters.drops(*r))).collect();
        self.ports.metrics.fence_drops(&drops);
    }
}

/// Puts the fence on a link, unless it stands there with the MAC that the link has: attaching asks for the kernel's rtnl lock, which anybody
/// on the machine may hold for long, and a Service more or less on the link is no reason to wait for it.
fn stand(
    fence: &mut Fence,
    fenced: &mut HashMap<LinkId, Mac>,
    macs: &HashMap<LinkId, Mac>,
    link: LinkId,
) -> Result<(), FenceError> {
    let mac = macs.get(&link);
    if mac.is_some() && fenced.get(&link) == mac {
        return Ok(());
    }
    let _kind = fence.attach(link.0, Attach::Auto)?;
    if let Some(mac) = mac {
        fenced.insert(link, *mac);
    }
    Ok(())
}

/// Why an advert did not leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Another node has the better right.
    Deposed,
    /// The deadline has passed.
    Late,
}

fn family_to_abi(family: Family) -> FenceFamily {
    match family {
        Family::V4 => FenceFamily::V4,
        Family::V6 => FenceFamily::V6,
    }
}

fn to_abi(ctl: &FenceCtl) -> ShardCtl {
    let role = match ctl.role {
        FenceRole::Backup => ROLE_BACKUP,
        FenceRole::Active => ROLE_ACTIVE,
        FenceRole::Leaving => ROLE_LEAVING,
    };
    let handover = if ctl.handover { FLAG_HANDOVER } else { 0 };
    let no_accept = if ctl.accept { 0 } else { FLAG_NO_ACCEPT };
    let main = if ctl.family == Family::V6 { FLAG_MAIN_V6 } else { 0 };
    let (continued, heed_ns) = match ctl.basis {
        Basis::Silence(until) => (0, until.as_nanos()),
        Basis::Given => (0, HEED_NOBODY),
        Basis::Continued => (FLAG_CONTINUED, HEED_NOBODY),
    };
    ShardCtl {
        role,
        flags: handover | no_accept | main | continued,
        term: ctl.term.0,
        deadline_ns: ctl.deadline.as_nanos(),
        deliver_until_ns: ctl.deliver_until.as_nanos(),
        interval_ns: u64::from(ctl.interval.get()) * 10_000_000,
        heed_ns,
    }
}

fn is_link_local(addr: std::net::IpAddr) -> bool {
    match addr {
        std::net::IpAddr::V4(a) => a.is_link_local(),
        std::net::IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}
