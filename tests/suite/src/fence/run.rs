//! The fence's programs run by the kernel on a frame and a link of the test's choice.

use std::io;
use std::os::fd::BorrowedFd;

use crate::bpf::{self, Ran};

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

/// Runs the program once on `frame` as if on link `ifindex`, and asserts that the frame is left as it was, but for the two hardware
/// addresses of one that is handed on.
///
/// # Errors
/// What the kernel says: frames shorter than an Ethernet header are refused.
///
/// # Panics
/// When the program returns another verdict or changes the frame otherwise.
pub fn test_run(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<Outcome> {
    let Ran { verdict, frame: out, .. } = bpf::tc(program, ifindex, frame, 1)?;
    let redirected = verdict == 7;
    let kept = if redirected { 12 } else { 0 };
    assert_eq!((out.len(), &out[kept..]), (frame.len(), &frame[kept..]), "the fence never changes a frame");
    let mac = |at: usize| out[at..at + 6].try_into().expect("six bytes");
    match verdict {
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
    Ok(bpf::tc(program, ifindex, frame, repeat)?.duration)
}
