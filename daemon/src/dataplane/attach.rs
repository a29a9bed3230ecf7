//! Putting the programs on a link and taking them off.
//!
//! tcx: the link object is pinned, so it outlives the daemon, and a pinned link of a former run gets the new program in
//! one step. clsact: a filter stays by itself, and is replaced in place. Either way the other kind is removed only after
//! the wanted one stands, so a change of kind leaves no gap.

use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use bascule_ebpf_common::LinkInfo;

use super::error::FenceError;
use super::link::{self, LinkFacts};
use super::{EGRESS, Fence, INGRESS, clsact, pins, probe, program};

/// How to stand on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// tcx where the kernel has it, else clsact.
    Auto,
    /// tcx or nothing.
    Tcx,
    /// clsact or nothing.
    Clsact,
}

/// How the fence stands on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachKind {
    /// A pinned tcx link per direction.
    Tcx,
    /// A filter per direction in the clsact qdisc.
    Clsact,
}

/// Both programs with their place. Egress first: what this node says matters before what it hears.
pub(super) const PLACES: [(&str, TcAttachType, &str); 2] =
    [(EGRESS, TcAttachType::Egress, "egress"), (INGRESS, TcAttachType::Ingress, "ingress")];

pub(super) fn link_pin(dir: &Path, ifindex: u32, place: &str) -> PathBuf {
    dir.join(format!("link-{ifindex}-{place}"))
}

/// A folder whose existence says that the clsact qdisc of this link is our making.
pub(super) fn qdisc_mark(dir: &Path, ifindex: u32) -> PathBuf {
    dir.join(format!("qdisc-{ifindex}"))
}

impl Fence {
    /// Puts both programs on the link. Again on the same link: programs and MAC are renewed without a gap, so call it
    /// after a change of the link's address too.
    ///
    /// # Errors
    /// [`FenceError::NoLink`], [`FenceError::NotEthernet`], [`FenceError::Attach`].
    pub fn attach(&mut self, ifindex: u32, how: Attach) -> Result<AttachKind, FenceError> {
        let link = link::ethernet(ifindex)?;
        let info = LinkInfo { mac: link.mac, pad: [0; 2] };
        self.links.insert(ifindex, info, 0).map_err(FenceError::map("LINKS", "inserting"))?;
        let kind = match how {
            Attach::Auto | Attach::Clsact if probe::is_further(&self.dir) => {
                if !probe::has_tcx() {
                    return Err(FenceError::OneInstance { link: link.name });
                }
                self.attach_tcx(&link)?
            }
            Attach::Tcx => self.attach_tcx(&link)?,
            Attach::Clsact => self.attach_clsact(&link)?,
            Attach::Auto if probe::has_tcx() => match self.attach_tcx(&link) {
                Ok(kind) => kind,
                Err(e) => {
                    tracing::warn!(link = link.name, error = &e as &dyn std::error::Error, "no tcx, trying clsact");
                    remove_links(&self.dir, ifindex)?;
                    self.attach_clsact(&link)?
                }
            },
            Attach::Auto => self.attach_clsact(&link)?,
        };
        match kind {
            AttachKind::Tcx => {
                remove_filters(&self.dir, &link)?;
            }
            AttachKind::Clsact => {
                remove_links(&self.dir, ifindex)?;
            }
        }
        self.stands.put(ifindex, kind);
        Ok(kind)
    }

    /// Takes both programs off the link, whoever of our runs put them there. A link that is gone is no error.
    ///
    /// # Errors
    /// [`FenceError::Io`], [`FenceError::Attach`].
    pub fn detach(&mut self, ifindex: u32) -> Result<(), FenceError> {
        self.stands.take_off(ifindex);
        remove_links(&self.dir, ifindex)?;
        if let Some(link) = link::all()?.into_iter().find(|link| link.ifindex == ifindex) {
            remove_filters(&self.dir, &link)?;
        }
        match self.links.remove(&ifindex) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(aya::maps::MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(e) => Err(FenceError::map("LINKS", "removing")(e)),
        }
    }

    fn attach_tcx(&mut self, link: &LinkFacts) -> Result<AttachKind, FenceError> {
        for (name, direction, place) in PLACES {
            put_tcx(program(&mut self.ebpf, name)?, &self.dir, link, direction, place)?;
        }
        Ok(AttachKind::Tcx)
    }

    fn attach_clsact(&mut self, link: &LinkFacts) -> Result<AttachKind, FenceError> {
        mark_qdisc(&self.dir, link)?;
        for (name, direction, _) in PLACES {
            put_clsact(program(&mut self.ebpf, name)?, link, direction)?;
        }
        Ok(AttachKind::Clsact)
    }
}

/// Puts one program on the link as a pinned tcx link: in place of one of a former run, else first in the chain.
pub(super) fn put_tcx(
    program: &mut SchedClassifier,
    dir: &Path,
    link: &LinkFacts,
    direction: TcAttachType,
    place: &str,
) -> Result<(), FenceError> {
    let pin = link_pin(dir, link.ifindex, place);
    if renew_pinned(program, &pin) {
        return Ok(());
    }
    // None, or one whose device is gone: its index may have been given to this link.
    pins::remove_link(&pin)?;
    pin_new(program, link, direction, &pin)
}

/// Sees to the clsact qdisc of the link, and notes when it is our making.
pub(super) fn mark_qdisc(dir: &Path, link: &LinkFacts) -> Result<(), FenceError> {
    let made = clsact::ensure_qdisc(&link.name, link.ifindex);
    if made.map_err(FenceError::attach(&link.name, "adding the clsact qdisc"))? {
        let mark = qdisc_mark(dir, link.ifindex);
        if let Err(e) = std::fs::create_dir(&mark)
            && e.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(FenceError::io("marking our qdisc by", mark)(e));
        }
    }
    Ok(())
}

/// Puts one program into the clsact qdisc of the link, which must be there.
pub(super) fn put_clsact(
    program: &mut SchedClassifier,
    link: &LinkFacts,
    direction: TcAttachType,
) -> Result<(), FenceError> {
    clsact::attach(program, &link.name, direction, clsact::FENCE)
        .map_err(FenceError::attach(&link.name, "adding the clsact filter"))
}

/// Gives a pinned link of a former run the new program; false: there is no such link, or it leads nowhere.
fn renew_pinned(program: &mut SchedClassifier, pin: &Path) -> bool {
    let Ok(pinned) = PinnedLink::from_pin(pin) else { return false };
    let Ok(link) = SchedClassifierLink::try_from(FdLink::from(pinned)) else { return false };
    // The link is taken back so that aya does not count it as its own; the pin keeps it on the device.
    program.attach_to_link(link).is_ok_and(|id| program.take_link(id).is_ok())
}

fn pin_new(
    program: &mut SchedClassifier,
    link: &LinkFacts,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), FenceError> {
    let fail = |what| FenceError::attach(&link.name, what);
    // First in the chain: a program before ours could end it with a verdict of its own.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id =
        program.attach_with_options(&link.name, direction, options).map_err(|e| fail("creating the tcx link")(e))?;
    let owned = program.take_link(id).map_err(FenceError::attach(&link.name, "taking the tcx link"))?;
    let fd = FdLink::try_from(owned).map_err(FenceError::attach(&link.name, "taking the tcx link"))?;
    fd.pin(pin).map_err(FenceError::attach(&link.name, "pinning the tcx link"))?;
    Ok(())
}

/// Detaches and unpins our tcx links on `ifindex`; how many there were.
pub(super) fn remove_links(dir: &Path, ifindex: u32) -> Result<usize, FenceError> {
    let mut removed = 0;
    for (_, _, place) in PLACES {
        removed += usize::from(pins::remove_link(&link_pin(dir, ifindex, place))?);
    }
    Ok(removed)
}

/// Deletes our filters on the link, and the qdisc if we made it and nobody else uses it; how many filters and qdiscs.
pub(super) fn remove_filters(dir: &Path, link: &LinkFacts) -> Result<(usize, usize), FenceError> {
    if probe::is_further(dir) {
        return Ok((0, 0));
    }
    let mut filters = 0;
    for (name, direction, _) in PLACES {
        let there = clsact::detach(&link.name, direction, name)
            .map_err(FenceError::attach(&link.name, "deleting the clsact filter"))?;
        filters += usize::from(there);
    }
    let mark = qdisc_mark(dir, link.ifindex);
    let mut qdiscs = 0;
    if mark.is_dir() {
        let removed = clsact::remove_empty_qdisc(link.ifindex)
            .map_err(FenceError::attach(&link.name, "deleting the clsact qdisc"))?;
        qdiscs += usize::from(removed);
        std::fs::remove_dir(&mark).map_err(FenceError::io("removing the mark", mark))?;
    }
    Ok((filters, qdiscs))
}
