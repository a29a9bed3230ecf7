//! The narrow end of the fence for the real-time thread: one shard written or read at a time.

use std::fmt;
use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData};
use bascule_ebpf_common::{MAX_SHARDS, ROLE_ACTIVE, ShardCtl, ShardKernel};

use super::error::FenceError;

/// Writes and reads shards.
pub struct FenceWriter {
    ctl: Array<MapData, ShardCtl>,
    kernel: Array<MapData, ShardKernel>,
    /// The same maps once more: what clones are made of.
    source: (MapData, MapData),
}

/// A slot must lie in the maps.
pub(super) const fn check_slot(slot: u32) -> Result<(), FenceError> {
    if slot < MAX_SHARDS { Ok(()) } else { Err(FenceError::Slot { slot, limit: MAX_SHARDS }) }
}

impl FenceWriter {
    pub(super) fn new(ctl: Map, kernel: Map) -> Result<Self, FenceError> {
        let (Map::Array(ctl), Map::Array(kernel)) = (ctl, kernel) else {
            return Err(FenceError::Incomplete { what: "CTL and KERNEL arrays" });
        };
        Self::from_data(ctl, kernel)
    }

    fn from_data(ctl: MapData, kernel: MapData) -> Result<Self, FenceError> {
        let source = (duplicate(&ctl, "CTL")?, duplicate(&kernel, "KERNEL")?);
        Ok(Self {
            ctl: Array::try_from(Map::Array(ctl)).map_err(FenceError::map("CTL", "taking"))?,
            kernel: Array::try_from(Map::Array(kernel)).map_err(FenceError::map("KERNEL", "taking"))?,
            source,
        })
    }

    pub(super) fn try_clone(&self) -> Result<Self, FenceError> {
        Self::from_data(duplicate(&self.source.0, "CTL")?, duplicate(&self.source.1, "KERNEL")?)
    }

    /// Writes the will of user space for `slot`: one system call.
    ///
    /// # Errors
    /// [`FenceError::Slot`]; [`FenceError::TermZero`] for an Active without a term; [`FenceError::Map`].
    pub fn write(&mut self, slot: u32, ctl: &ShardCtl) -> Result<(), FenceError> {
        check_slot(slot)?;
        // Term 0 equals the untouched `answer_closed_term`: such an owner would be mute.
        if ctl.role == ROLE_ACTIVE && ctl.term == 0 {
            return Err(FenceError::TermZero { slot });
        }
        self.ctl.set(slot, ctl, 0).map_err(FenceError::map("CTL", "writing"))
    }

    /// Reads both halves of a shard: two system calls, so the halves may be one advert apart.
    ///
    /// # Errors
    /// [`FenceError::Slot`], [`FenceError::Map`].
    pub fn read(&self, slot: u32) -> Result<(ShardCtl, ShardKernel), FenceError> {
        check_slot(slot)?;
        let ctl = self.ctl.get(&slot, 0).map_err(FenceError::map("CTL", "reading"))?;
        let kernel = self.kernel.get(&slot, 0).map_err(FenceError::map("KERNEL", "reading"))?;
        Ok((ctl, kernel))
    }

    /// Closes every shard, then forgets what the programs proved: a former run may have used the same terms. With every
    /// role Backup no program writes its half, so this is the one moment at which user space may.
    pub(super) fn close_all(&mut self) -> Result<(), FenceError> {
        for slot in 0..MAX_SHARDS {
            let ctl = self.ctl.get(&slot, 0).map_err(FenceError::map("CTL", "reading"))?;
            if ctl != ShardCtl::default() {
                self.ctl.set(slot, ShardCtl::default(), 0).map_err(FenceError::map("CTL", "closing"))?;
            }
        }
        for slot in 0..MAX_SHARDS {
            let kernel = self.kernel.get(&slot, 0).map_err(FenceError::map("KERNEL", "reading"))?;
            if kernel != ShardKernel::default() {
                self.kernel.set(slot, ShardKernel::default(), 0).map_err(FenceError::map("KERNEL", "resetting"))?;
            }
        }
        Ok(())
    }
}

fn duplicate(map: &MapData, name: &'static str) -> Result<MapData, FenceError> {
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(FenceError::io("duplicating the map", name))?;
    MapData::from_fd(fd).map_err(FenceError::map(name, "duplicating"))
}

impl fmt::Debug for FenceWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceWriter").finish_non_exhaustive()
    }
}
