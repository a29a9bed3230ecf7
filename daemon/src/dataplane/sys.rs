//! The bpf(2) calls that aya lacks: links by pin and by id, XDP links that never fall back, and maps read in batches.
//!
//! Every command goes through [`bpf`]; the structures are the parts of `union bpf_attr` (linux/bpf.h) that each command reads.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of linux/bpf.h with the kernel that brought the youngest of them: BPF_LINK_DETACH and link ids are 5.8 and 5.9.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
const BPF_LINK_DETACH: libc::c_long = 34;
/// Attach types of linux/bpf.h.
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Places in a tcx chain: `BPF_F_BEFORE`, `BPF_F_AFTER`, and `BPF_F_LINK`: the neighbour is named by its link.
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;
const BY_LINK: u32 = 1 << 13;
/// Attach in the driver or not at all (linux/if_link.h).
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `BPF_LINK_TYPE_*`: links that stand on one device.
const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;

/// One command; what it returns.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: every caller gives the structure that the command reads, and what its pointers lead to outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    let rc = i32::try_from(rc).map_err(io::Error::other)?;
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// A command whose result is a new descriptor.
fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: &impl AsRawFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Arguments of BPF_OBJ_GET and BPF_OBJ_PIN.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Arguments of BPF_LINK_DETACH.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Arguments of BPF_LINK_CREATE as far as XDP and tcx go.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// Arguments of BPF_LINK_UPDATE.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Arguments of BPF_LINK_GET_NEXT_ID and BPF_LINK_GET_FD_BY_ID.
#[repr(C)]
struct Id {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Arguments of BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The front of `struct bpf_link_info`; the last two fields belong to links on devices.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Arguments of the batch commands.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A link on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceLink {
    pub(super) id: u32,
    pub(super) program: u32,
    /// The device, by its index in the device's own namespace; 0: the device is gone.
    pub(super) ifindex: u32,
}

/// Opens what is pinned at `path`.
fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf_fd(BPF_OBJ_GET, &mut Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })
}

/// Detaches the link pinned at `path`. The pin stays, and leads to a link without a device.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    detach(&open_pinned(path)?)
}

/// Detaches a link.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkDetach { link_fd: number(link)? }).map(drop)
}

/// What a pinned link stands on; `None` when it is no link on a device.
pub(super) fn pinned_link(path: &Path) -> io::Result<Option<DeviceLink>> {
    link_info(&open_pinned(path)?)
}

/// Puts an XDP program on a device as a link, in the driver or not at all. aya's own call goes on to netlink when the kernel says
/// EINVAL, which would take the place of a foreign program.
pub(super) fn create_xdp_link(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    create_link(program, ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE, 0)
}

/// Which way the frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// Puts a tc program on a device as a tcx link: right behind the link pinned at `behind`, where there is one, else first in the chain.
pub(super) fn create_tcx_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    way: Way,
    behind: Option<&Path>,
) -> io::Result<OwnedFd> {
    let attach_type = match way {
        Way::In => BPF_TCX_INGRESS,
        Way::Out => BPF_TCX_EGRESS,
    };
    match behind {
        Some(pin) => {
            let link = open_pinned(pin)?;
            create_link(program, ifindex, attach_type, AFTER | BY_LINK, number(&link)?)
        }
        None => create_link(program, ifindex, attach_type, BEFORE, 0),
    }
}

fn create_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
) -> io::Result<OwnedFd> {
    let mut create = LinkCreate {
        prog_fd: number(&program)?,
        target_ifindex: ifindex,
        attach_type,
        flags,
        relative_fd,
        pad: 0,
        expected_revision: 0,
    };
    bpf_fd(BPF_LINK_CREATE, &mut create)
}

/// Gives the link pinned at `path` another program, in one step and without a gap.
pub(super) fn update_pinned_link(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open_pinned(path)?;
    let mut update = LinkUpdate { link_fd: number(&link)?, new_prog_fd: number(&program)?, flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &mut update).map(drop)
}

/// Pins a link (or map, or program).
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(BPF_OBJ_PIN, &mut Object { pathname: path.as_ptr() as u64, bpf_fd: number(object)?, file_flags: 0 }).map(drop)
}

/// Every XDP and tcx link of the machine, whatever its namespace. Links that end while this runs are left out.
pub(super) fn device_links() -> io::Result<Vec<DeviceLink>> {
    let mut links = Vec::new();
    let mut at = 0;
    loop {
        let mut next = Id { id: at, next_id: 0, open_flags: 0 };
        match bpf(BPF_LINK_GET_NEXT_ID, &mut next) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(links),
            other => other?,
        };
        at = next.next_id;
        if let Ok(link) = link_by_id(at) {
            links.extend(link_info(&link)?);
        }
    }
}

/// Opens a link by its id.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(BPF_LINK_GET_FD_BY_ID, &mut Id { id, next_id: 0, open_flags: 0 })
}

fn link_info(link: &OwnedFd) -> io::Result<Option<DeviceLink>> {
    let mut raw = RawLinkInfo::default();
    let info_len = u32::try_from(size_of::<RawLinkInfo>()).map_err(io::Error::other)?;
    let info = std::ptr::from_mut(&mut raw) as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut Info { bpf_fd: number(link)?, info_len, info })?;
    let on_device = matches!(raw.kind, LINK_TYPE_XDP | LINK_TYPE_TCX);
    Ok(on_device.then_some(DeviceLink { id: raw.id, program: raw.prog_id, ifindex: raw.ifindex }))
}

/// Where a reading in batches stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cursor {
    /// Before the first entry.
    Start,
    /// At this bucket of the hash.
    At(u32),
    /// Past the last entry.
    End,
}

/// Reads the next entries of a hash map into the two buffers; how many there are, and where to go on. Each buffer holds `room`
/// entries. Whole buckets are read, so no entry that stays in the map is missed or told twice.
///
/// # Errors
/// ENOSPC when one bucket holds more than `room` entries.
pub(super) fn lookup_batch(
    map: BorrowedFd<'_>,
    from: Cursor,
    keys: &mut [u8],
    values: &mut [u8],
    room: u32,
) -> io::Result<(u32, Cursor)> {
    let (mut before, mut after) = match from {
        Cursor::End => return Ok((0, Cursor::End)),
        Cursor::Start => (None, 0u32),
        Cursor::At(bucket) => (Some(bucket), 0u32),
    };
    let mut batch = Batch {
        in_batch: before.as_mut().map_or(0, |b| std::ptr::from_mut(b) as u64),
        out_batch: std::ptr::from_mut(&mut after) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: room,
        map_fd: number(&map)?,
        elem_flags: 0,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => Ok((batch.count, Cursor::At(after))),
        // ENOENT: the end was reached; what was read up to it counts.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok((batch.count, Cursor::End)),
        Err(e) => Err(e),
    }
}
