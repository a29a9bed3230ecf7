//! The one bpf(2) call that aya lacks: taking a link off its device at once.
//!
//! Removing the last pin of a link detaches it too, but the kernel does so later, from a work queue.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of linux/bpf.h; BPF_LINK_DETACH is Linux 5.9.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Arguments of BPF_OBJ_GET.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Arguments of BPF_LINK_DETACH.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link pinned at `path`. The pin stays, and leads to a link without a device.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `get` holds what the command reads, and the path outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut get, size_of::<ObjGet>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut detach = LinkDetach { link_fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)? };
    // SAFETY: `detach` holds what the command reads.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw mut detach, size_of::<LinkDetach>()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
