//! Whether the fence still stands where it was put, and putting it there again.
//!
//! Anybody with the rights may take programs off a device: `tc qdisc del dev X clsact` takes the filters of all with it, whoever made them.
//! A guard looks from a thread of its own, for attaching asks for the kernel's rtnl lock; it holds descriptors of the programs that
//! [`Fence`] loaded, so that what it puts on is what was there.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aya::pin::PinError;
use aya::programs::{SchedClassifier, TcAttachType};

use super::attach::{self, AttachKind, PLACES, link_pin};
use super::error::FenceError;
use super::link::{self, LinkFacts};
use super::{Fence, clsact, pins, program, sys};

/// Where a fence was put, by the index of the link; shared with its guard. Held for a line at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Stands(Arc<Mutex<BTreeMap<u32, AttachKind>>>);

impl Stands {
    pub(super) fn put(&self, ifindex: u32, kind: AttachKind) {
        let _before = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ifindex, kind);
    }

    pub(super) fn take_off(&self, ifindex: u32) {
        let _before = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&ifindex);
    }

    /// Forgets a link that is gone. Asked again under the lock: its index may have been given away, and the fence be put there.
    fn forget_gone(&self, ifindex: u32) {
        let mut stands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(link::ethernet(ifindex), Err(FenceError::NoLink { .. })) {
            let _before = stands.remove(&ifindex);
        }
    }

    fn all(&self) -> BTreeMap<u32, AttachKind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A program with its place.
struct Placed {
    name: &'static str,
    direction: TcAttachType,
    place: &'static str,
    id: u32,
    program: SchedClassifier,
}

/// What a look found of a link whose fence was not whole.
#[derive(Debug)]
pub struct Found {
    /// The link.
    pub ifindex: u32,
    /// Its name.
    pub link: String,
    /// What was missing: `ingress`, `egress` or both.
    pub missing: Vec<&'static str>,
    /// Whether it stands again.
    pub healed: Result<(), FenceError>,
}

/// What a look found.
#[derive(Debug, Default)]
#[must_use]
pub struct Look {
    /// Links whose fence was not whole.
    pub found: Vec<Found>,
    /// Why the kernel does not tell what stands on some link: nothing is known of that, and nothing was done there.
    pub unseen: Option<FenceError>,
}

/// Looks after a [`Fence`]; for another thread. It must have ended before the fence is taken away, or it would put it on again.
pub struct FenceGuard {
    dir: PathBuf,
    stands: Stands,
    programs: Vec<Placed>,
}

impl Fence {
    /// A guard of this fence.
    ///
    /// # Errors
    /// [`FenceError::Program`] when the kernel does not give the programs again.
    pub fn guard(&mut self) -> Result<FenceGuard, FenceError> {
        let mut programs = Vec::new();
        for (name, direction, place) in PLACES {
            // A descriptor of its own: by a pin that is gone at once, for to ask by the program's number takes CAP_SYS_ADMIN, which a pod has not.
            let pin = pins::guard_pin(&self.dir, place);
            let _left = pins::remove(&pin)?;
            let loaded = program(&mut self.ebpf, name)?;
            let refused = |e: PinError| FenceError::io("pinning a program at", &pin)(io::Error::other(e));
            loaded.pin(&pin).map_err(refused)?;
            let opened = SchedClassifier::from_pin(&pin);
            loaded.unpin().map_err(FenceError::io("removing the pin", &pin))?;
            let failed = |e| FenceError::Program { name, source: Box::new(e) };
            let program = opened.map_err(failed)?;
            let id = program.info().map_err(failed)?.id();
            programs.push(Placed { name, direction, place, id, program });
        }
        Ok(FenceGuard { dir: self.dir.clone(), stands: self.stands.clone(), programs })
    }
}

impl FenceGuard {
    /// Looks at every link that the fence was put on, and puts it on again where it is missing. A link that is gone is not missing.
    pub fn look(&mut self) -> Look {
        let mut look = Look::default();
        for (ifindex, kind) in self.stands.all() {
            match self.look_at(ifindex, kind) {
                Ok(found) => look.found.extend(found),
                Err(error) => look.unseen = Some(error),
            }
        }
        look
    }

    fn look_at(&mut self, ifindex: u32, kind: AttachKind) -> Result<Option<Found>, FenceError> {
        let link = match link::ethernet(ifindex) {
            Ok(link) => link,
            Err(FenceError::NoLink { .. }) => {
                self.stands.forget_gone(ifindex);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (mut missing, mut healed) = (Vec::new(), Ok(()));
        for placed in &mut self.programs {
            let stands = match kind {
                AttachKind::Tcx => tcx_stands(&self.dir, ifindex, placed),
                AttachKind::Clsact => clsact::stands(ifindex, placed.direction, clsact::FENCE, placed.id)
                    .map_err(FenceError::io("looking for the filter on link", &link.name))?,
            };
            if !stands {
                missing.push(placed.place);
                let put = put(&self.dir, &link, kind, placed);
                healed = healed.and(put);
            }
        }
        let found = !missing.is_empty() && still_there(&link);
        Ok(found.then_some(Found { ifindex, link: link.name, missing, healed }))
    }
}

/// A link that went while it was looked at took everything with it.
fn still_there(link: &LinkFacts) -> bool {
    link::ethernet(link.ifindex).is_ok_and(|now| now.name == link.name)
}

/// The pin leads to a link that stands on the device and carries our program. A pin that is gone took its link with it.
fn tcx_stands(dir: &std::path::Path, ifindex: u32, placed: &Placed) -> bool {
    let found = sys::pinned_link(&link_pin(dir, ifindex, placed.place)).ok().flatten();
    found.is_some_and(|link| link.ifindex == ifindex && link.program == placed.id)
}

fn put(dir: &std::path::Path, link: &LinkFacts, kind: AttachKind, placed: &mut Placed) -> Result<(), FenceError> {
    let Placed { direction, place, program, .. } = placed;
    match kind {
        AttachKind::Tcx => attach::put_tcx(program, dir, link, *direction, place),
        AttachKind::Clsact => {
            attach::mark_qdisc(dir, link)?;
            attach::put_clsact(program, link, *direction)
        }
    }
}

impl std::fmt::Debug for FenceGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let programs: Vec<(&str, u32)> = self.programs.iter().map(|placed| (placed.name, placed.id)).collect();
        f.debug_struct("FenceGuard").field("pins", &self.dir).field("programs", &programs).finish_non_exhaustive()
    }
}
