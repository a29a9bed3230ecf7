//! `BPF_PROG_TEST_RUN` with a chosen device: aya has no call for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the program said about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// TC_ACT_UNSPEC, TCX_NEXT.
    Pass,
    /// TC_ACT_SHOT, TCX_DROP.
    Drop,
    /// TC_ACT_REDIRECT, TCX_REDIRECT: handed on to this MAC, from that one.
    HandOn([u8; 6], [u8; 6]),
}

/// Command number of linux/bpf.h.
const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// Position of `ifindex` in `struct __sk_buff`, in words.
const SKB_IFINDEX: usize = 10;

/// The part of `union bpf_attr` that the command reads (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs the program once on `frame` as if on link `ifindex`, and asserts that the frame is left as it was, but for the two hardware
/// addresses of one that is handed on.
///
/// # Errors
/// What the kernel says: frames shorter than an Ethernet header are refused.
///
/// # Panics
/// When the program returns another verdict or changes the frame otherwise.
pub fn test_run(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<Outcome> {
    let (attr, out) = run(program, ifindex, frame, 1)?;
    let redirected = attr.retval.cast_signed() == 7;
    let kept = if redirected { 12 } else { 0 };
    assert_eq!((out.len(), &out[kept..]), (frame.len(), &frame[kept..]), "the fence never changes a frame");
    let mac = |at: usize| out[at..at + 6].try_into().expect("six bytes");
    match attr.retval.cast_signed() {
        -1 => Ok(Outcome::Pass),
        2 => Ok(Outcome::Drop),
        7 => Ok(Outcome::HandOn(mac(0), mac(6))),
        other => panic!("verdict {other} is neither NEXT nor DROP nor REDIRECT"),
    }
}

/// Runs the program `repeat` times and gives the mean time of one run as the kernel measured it, nanoseconds.
///
/// # Errors
/// As [`test_run`].
pub fn cost_ns(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8], repeat: u32) -> io::Result<u32> {
    Ok(run(program, ifindex, frame, repeat)?.0.duration)
}

fn run(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8], repeat: u32) -> io::Result<(Attr, Vec<u8>)> {
    let mut out = vec![0u8; frame.len() + 64];
    let mut context = [0u32; 48];
    context[SKB_IFINDEX] = ifindex;
    let size = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut attr = Attr {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        data_size_in: size(frame.len())?,
        data_size_out: size(out.len())?,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: size(size_of_val(&context))?,
        ctx_in: context.as_ptr() as u64,
        ..Attr::default()
    };
    // SAFETY: every pointer in `attr` leads to memory of the size stated beside it that lives through the call.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<Attr>()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr, out))
}
