//! The MSS option of a SYN-ACK: lowered to what fits the encapsulated path (RFC 9293 section 3.7.1, RFC 6691).

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::cty::{c_long, c_void};
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::programs::TcContext;

use crate::packet::{Change, Packet as _, Skb, Sum, difference16};

/// TCP option kinds (RFC 9293 section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// Length of the MSS option.
const MSS_LENGTH: u8 = 4;
/// Bytes of a TCP header without options; offsets of its length (in words of four bytes) and checksum.
const HEADER: u32 = 20;
const OFFSET: usize = 12;
const CHECKSUM: usize = 16;
/// Most options a header can hold: each byte of its 40 a no-operation.
const MAX_OPTIONS: u32 = 40;

/// A walk over the options.
#[repr(C)]
struct Walk {
    skb: *mut __sk_buff,
    /// Where the next option starts.
    at: u32,
    /// Where the header ends.
    end: u32,
    /// Where the value of the MSS option lies; 0: not found.
    found: u32,
    pad: u32,
}

/// Lowers the MSS of the TCP header at `l4` to `limit` (0: none); true: it was higher.
#[inline(always)]
pub(super) fn clamp(ctx: &TcContext, l4: usize, limit: u16) -> bool {
    if limit == 0 {
        return false;
    }
    let Ok(words) = ctx.load::<u8>(l4 + OFFSET) else { return false };
    let mut walk =
        Walk { skb: ctx.skb.skb, at: l4 as u32 + HEADER, end: l4 as u32 + u32::from(words >> 4) * 4, found: 0, pad: 0 };
    // A loop in the code would be verified once for every way through it; the helper's callback is verified once.
    // SAFETY: the callback takes the `Walk` that it is given.
    unsafe { bpf_loop(MAX_OPTIONS, option as *mut c_void, (&raw mut walk).cast(), 0) };
    if walk.found == 0 {
        return false;
    }
    let at = walk.found as usize;
    let Ok(old) = ctx.load::<u16>(at) else { return false };
    if u16::from_be(old) <= limit {
        return false;
    }
    let new = limit.to_be();
    // The checksum adds words from the header's start: at an odd offset the two bytes lie in two of them, exchanged (RFC 1071
    // section 2: byte order independence).
    let (from, to) = if (at - l4) & 1 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    let change = Change { pseudo: 0, plain: difference16(from, to), udp: false, v6: false };
    Skb(ctx).fix_transport(l4 + CHECKSUM, change).is_some() && Skb(ctx).store(at, &new, Sum::Changes).is_some()
}

/// Reads one option; 1 ends the walk.
extern "C" fn option(_turn: u32, walk: *mut c_void) -> c_long {
    // SAFETY: `clamp` gives a live `Walk`.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.at >= walk.end {
        return 1;
    }
    let ctx = TcContext::new(walk.skb);
    let Ok(kind) = ctx.load::<u8>(walk.at as usize) else { return 1 };
    if kind == NO_OPERATION {
        walk.at += 1;
        return 0;
    }
    if kind == END {
        return 1;
    }
    let Ok(length) = ctx.load::<u8>(walk.at as usize + 1) else { return 1 };
    if length < 2 || walk.at + u32::from(length) > walk.end {
        return 1;
    }
    if kind == MSS && length == MSS_LENGTH {
        walk.found = walk.at + 2;
        return 1;
    }
    walk.at += u32::from(length);
    0
}
