//! Putting the programs on a device, replacing them there, and saying which way was left.
//!
//! Ingress: native XDP, else tcx, else clsact; never generic XDP, which costs more than it brings and whose users found out late.
//! Egress: tcx, else clsact. Whatever stood there of a former run gets the new program in one step; another kind goes only
//! when the wanted one stands.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::programs::{SchedClassifier, TcAttachType};

use super::super::attach::{link_pin as fence_pin, qdisc_mark};
use super::super::error::FenceError;
use super::super::link::{self, LinkFacts};
use super::super::sys::{self, Way};
use super::super::{clsact, pins, probe, rtnl};
use super::error::ForwardError;
use super::{Forward, TC_EGRESS, TC_INGRESS, XDP, audit, carry};
use crate::handle::forward::{Hook, Probe, ProbeKind, Standing};

/// How to stand on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The best there is.
    Auto,
    /// XDP or nothing for arriving frames.
    Xdp,
    /// As [`Self::Auto`], without XDP.
    Tc,
    /// The clsact qdisc or nothing.
    Clsact,
}

/// How a reason begins why a device does not take tcx links.
const TCX: &str = "tcx: ";
const INGRESS_PLACE: &str = "ingress";
const EGRESS_PLACE: &str = "egress";
const XDP_PLACE: &str = "xdp";

/// Pin of our link in one place of a device.
pub(super) fn link_pin(root: &Path, ifindex: u32, place: &str) -> PathBuf {
    root.join(format!("link-{ifindex}-{place}"))
}

impl Forward {
    /// Puts the programs on the device. Again on the same device: they are replaced without a gap. Nothing of others is touched.
    ///
    /// # Errors
    /// [`FenceError::NoLink`], [`FenceError::NotEthernet`]; [`ForwardError::NoHook`] when the device takes our programs in no way.
    pub fn attach(&mut self, ifindex: u32, wish: Wish) -> Result<Standing, ForwardError> {
        let link = link::ethernet(ifindex)?;
        // What the former programs opened since the start: their replies must be known to the programs that come now.
        self.carried += carry::carry(&self.others, &mut self.flows.map)?;
        let mut reasons = Vec::new();
        audit::remove_stale(&self.root, &link)?;
        let egress = self.attach_tc(&link, TcAttachType::Egress, wish, &mut reasons)?;
        let may_xdp = matches!(wish, Wish::Auto | Wish::Xdp);
        let mut probes = Vec::new();
        let xdp = may_xdp && {
            let trouble = self.attach_xdp(&link).err();
            reasons.extend(trouble.clone());
            let stands = trouble.is_none();
            probes.push(Probe { probe: ProbeKind::NativeXdp, trouble });
            if stands {
                // Only frames tell: see `Plane::check_headroom`.
                probes.push(Probe { probe: ProbeKind::Headroom, trouble: None });
            }
            stands
        };
        if wish == Wish::Xdp && !xdp {
            remove(&self.root, ifindex)?;
            return Err(ForwardError::NoHook { device: link.name, reason: reasons.join("; ") });
        }
        // Nothing slow between the programs of both directions: while only one of them is new, replies of flows that begin are sought in
        // the other one's map where the maps differ. So what stood there in another way goes last.
        let ingress = if xdp { Hook::Xdp } else { self.attach_tc(&link, TcAttachType::Ingress, wish, &mut reasons)? };
        if egress == Hook::Tcx {
            remove_filter(&self.root, &link, TcAttachType::Egress)?;
        }
        if ingress == Hook::Xdp {
            remove_tc(&self.root, &link, TcAttachType::Ingress)?;
        } else {
            if ingress == Hook::Tcx {
                remove_filter(&self.root, &link, TcAttachType::Ingress)?;
            }
            pins::remove_link(&link_pin(&self.root, ifindex, XDP_PLACE))?;
        }
        self.peers.add_device(ifindex)?;
        if wish != Wish::Clsact {
            let trouble = reasons.iter().find(|reason| reason.starts_with(TCX)).cloned();
            probes.push(Probe { probe: ProbeKind::Tcx, trouble });
        }
        Ok(Standing { ifindex, device: link.name, ingress, egress, reasons, probes })
    }

    /// Do our programs stand where they were put? A device that is gone misses nothing.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn stands(&self, standing: &Standing) -> Result<bool, ForwardError> {
        match link::ethernet(standing.ifindex) {
            Ok(_) => {}
            Err(FenceError::NoLink { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let ingress = self.hook_stands(standing.ifindex, TcAttachType::Ingress, standing.ingress)?;
        Ok(ingress && self.hook_stands(standing.ifindex, TcAttachType::Egress, standing.egress)?)
    }

    fn hook_stands(&self, ifindex: u32, direction: TcAttachType, hook: Hook) -> Result<bool, ForwardError> {
        let (name, pin) = match hook {
            Hook::Xdp => (XDP, XDP_PLACE),
            Hook::Tcx | Hook::Clsact => (tc_program(direction), place(direction)),
        };
        let loaded = self.ebpf.program(name).ok_or(FenceError::Incomplete { what: name })?;
        let info = loaded.info().map_err(|e| FenceError::Program { name, source: Box::new(e) })?;
        if hook == Hook::Clsact {
            let there = clsact::stands(ifindex, direction, clsact::FORWARD, info.id());
            return there.map_err(ForwardError::call("looking for a filter"));
        }
        let found = sys::pinned_link(&link_pin(&self.root, ifindex, pin)).ok().flatten();
        Ok(found.is_some_and(|link| link.ifindex == ifindex && link.program == info.id()))
    }

    /// Takes our programs off the device. A device that is gone is no error.
    ///
    /// # Errors
    /// [`FenceError::Io`], [`FenceError::Attach`].
    pub fn detach(&mut self, ifindex: u32) -> Result<(), ForwardError> {
        self.peers.remove_device(ifindex)?;
        remove(&self.root, ifindex).map(drop)
    }

    /// The error is in words.
    fn attach_xdp(&self, link: &LinkFacts) -> Result<(), String> {
        let pin = link_pin(&self.root, link.ifindex, XDP_PLACE);
        let made = self.program(XDP).map_err(io::Error::other).and_then(|program| {
            if renew(&pin, link.ifindex, program) {
                return Ok(());
            }
            pins::remove_link(&pin).map_err(io::Error::other)?;
            sys::pin(&sys::create_xdp_link(program, link.ifindex)?, &pin)
        });
        made.map_err(|error| no_xdp(link.ifindex, &error))
    }

    fn attach_tc(
        &mut self,
        link: &LinkFacts,
        direction: TcAttachType,
        wish: Wish,
        reasons: &mut Vec<String>,
    ) -> Result<Hook, ForwardError> {
        let mut refused = Vec::new();
        if wish != Wish::Clsact {
            if !probe::has_tcx() {
                refused.push(format!("{TCX}the kernel is older than 6.6"));
            } else {
                match self.attach_tcx(link, direction) {
                    Ok(()) => return Ok(Hook::Tcx),
                    Err(error) => refused.push(format!("{TCX}{error}")),
                }
            }
        }
        let name = tc_program(direction);
        match self.attach_clsact(link, direction) {
            Ok(()) => {
                pins::remove_link(&link_pin(&self.root, link.ifindex, place(direction)))?;
                reasons.append(&mut refused);
                Ok(Hook::Clsact)
            }
            Err(error) => {
                refused.push(format!("clsact: {error}"));
                Err(ForwardError::NoHook {
                    device: link.name.clone(),
                    reason: format!("{name}: {}", refused.join("; ")),
                })
            }
        }
    }

    fn attach_tcx(&self, link: &LinkFacts, direction: TcAttachType) -> Result<(), ForwardError> {
        let program = self.program(tc_program(direction))?;
        let pin = link_pin(&self.root, link.ifindex, place(direction));
        if renew(&pin, link.ifindex, program) {
            return Ok(());
        }
        pins::remove_link(&pin)?;
        // Behind the fence: what it drops must not be rewritten first. Before everybody else: a program before ours could end the
        // chain with a verdict of its own.
        let fence = self.root.parent().map(|dir| fence_pin(dir, link.ifindex, place(direction)));
        let fence = fence.filter(|pin| pin.exists());
        let way = if direction == TcAttachType::Egress { Way::Out } else { Way::In };
        let made = sys::create_tcx_link(program, link.ifindex, way, fence.as_deref())
            .or_else(|_| sys::create_tcx_link(program, link.ifindex, way, None));
        let made = made.map_err(ForwardError::call("creating the tcx link"))?;
        sys::pin(&made, &pin).map_err(ForwardError::call("pinning the tcx link"))
    }

    fn attach_clsact(&mut self, link: &LinkFacts, direction: TcAttachType) -> Result<(), ForwardError> {
        if self.root.parent().is_some_and(probe::is_further) {
            return Err(FenceError::OneInstance { link: link.name.clone() }.into());
        }
        let wrap = |what| FenceError::attach(&link.name, what);
        if clsact::ensure_qdisc(&link.name, link.ifindex).map_err(wrap("adding the clsact qdisc"))?
            && let Some(dir) = self.root.parent()
        {
            // The fence's mark: whoever of the two is last takes the qdisc away.
            super::sets::make(&qdisc_mark(dir, link.ifindex))?;
        }
        let program: &mut SchedClassifier = self.classifier(tc_program(direction))?;
        clsact::attach(program, &link.name, direction, clsact::FORWARD)
            .map_err(FenceError::attach(&link.name, "adding the clsact filter"))?;
        Ok(())
    }

    /// The descriptor of a loaded program.
    pub(super) fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, ForwardError> {
        let loaded = self.ebpf.program(name).and_then(|program| program.fd().ok());
        Ok(loaded.ok_or(FenceError::Incomplete { what: name })?.as_fd())
    }
}

/// Gives the pinned link the new program; false: there is no such link, or it stands on another device or none.
fn renew(pin: &Path, ifindex: u32, program: BorrowedFd<'_>) -> bool {
    let here = sys::pinned_link(pin).ok().flatten().is_some_and(|link| link.ifindex == ifindex);
    here && sys::update_pinned_link(pin, program).is_ok()
}

/// Why a device has no XDP program of ours, and what would help.
fn no_xdp(ifindex: u32, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "xdp: the driver has none".to_owned(),
        Some(libc::EBUSY) => {
            let holder = rtnl::xdp_program(ifindex).ok().flatten();
            let name = holder.and_then(audit::program_name).unwrap_or_default();
            format!("xdp: another program stands there (id {} {name})", holder.unwrap_or_default())
        }
        _ => format!(
            "xdp: the driver refuses it ({error}): a large MTU, LRO or GRO_HW that is on (`ethtool -k`), or fewer queues than CPUs are \
             the usual reasons"
        ),
    }
}

const fn place(direction: TcAttachType) -> &'static str {
    match direction {
        TcAttachType::Egress => EGRESS_PLACE,
        _ => INGRESS_PLACE,
    }
}

const fn tc_program(direction: TcAttachType) -> &'static str {
    match direction {
        TcAttachType::Egress => TC_EGRESS,
        _ => TC_INGRESS,
    }
}

/// What [`remove`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::dataplane) struct Removed {
    pub(in crate::dataplane) links: usize,
    pub(in crate::dataplane) filters: usize,
    pub(in crate::dataplane) qdiscs: usize,
}

/// Takes everything of ours off a device, whichever run put it there.
pub(super) fn remove(root: &Path, ifindex: u32) -> Result<Removed, ForwardError> {
    let mut removed = Removed::default();
    for place in [XDP_PLACE, INGRESS_PLACE, EGRESS_PLACE] {
        removed.links += usize::from(pins::remove_link(&link_pin(root, ifindex, place))?);
    }
    if let Some(link) = link::all()?.into_iter().find(|link| link.ifindex == ifindex) {
        audit::remove_stale(root, &link)?;
        for direction in [TcAttachType::Egress, TcAttachType::Ingress] {
            let (filter, qdisc) = remove_filter(root, &link, direction)?;
            removed.filters += usize::from(filter);
            removed.qdiscs += usize::from(qdisc);
        }
    }
    Ok(removed)
}

fn remove_tc(root: &Path, link: &LinkFacts, direction: TcAttachType) -> Result<(), ForwardError> {
    pins::remove_link(&link_pin(root, link.ifindex, place(direction)))?;
    remove_filter(root, link, direction).map(drop)
}

/// Deletes our filter of one direction, and the qdisc if one of our runs made it and nobody uses it any more.
fn remove_filter(root: &Path, link: &LinkFacts, direction: TcAttachType) -> Result<(bool, bool), ForwardError> {
    if root.parent().is_some_and(probe::is_further) {
        return Ok((false, false));
    }
    let there = clsact::detach(&link.name, direction, tc_program(direction))
        .map_err(FenceError::attach(&link.name, "deleting the clsact filter"))?;
    let mark = root.parent().map(|dir| qdisc_mark(dir, link.ifindex)).filter(|mark| mark.is_dir());
    let (true, Some(mark)) = (there, mark) else { return Ok((there, false)) };
    let gone = clsact::remove_empty_qdisc(link.ifindex)
        .map_err(FenceError::attach(&link.name, "deleting the clsact qdisc"))?;
    if gone {
        std::fs::remove_dir(&mark).map_err(FenceError::io("removing the mark", mark))?;
    }
    Ok((there, gone))
}
