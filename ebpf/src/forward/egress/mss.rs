//! The MSS option of a SYN-ACK: lowered to what fits the encapsulated path (RFC 9293 section 3.7.1, RFC 6691).

use aya_ebpf::programs::TcContext;

use super::frame::forget;

/// TCP option kinds (RFC 9293 section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// Length of the MSS option.
const MSS_LENGTH: u8 = 4;
/// Bytes of a TCP header without options, and offset of its checksum.
const HEADER: usize = 20;
const CHECKSUM: usize = 16;
/// Most options a header can hold: each byte of its 40 a no-operation.
const MAX_OPTIONS: usize = 40;

/// Lowers the MSS of the TCP header at `l4` (`header` bytes long) to `limit` (0: none); true: it was higher.
#[inline(always)]
pub(super) fn clamp(ctx: &TcContext, l4: usize, header: usize, limit: u16) -> bool {
    if limit == 0 {
        return false;
    }
    let end = l4 + header;
    let mut at = l4 + HEADER;
    for _ in 0..MAX_OPTIONS {
        at = usize::from(forget(at as u16));
        if at >= end {
            return false;
        }
        let Ok(kind) = ctx.load::<u8>(at) else { return false };
        match kind {
            END => return false,
            NO_OPERATION => at += 1,
            _ => {
                let Ok(length) = ctx.load::<u8>(at + 1) else { return false };
                if kind == MSS && length == MSS_LENGTH && at + 4 <= end {
                    return lower(ctx, l4, at + 2, limit);
                }
                if length < 2 {
                    return false;
                }
                at += usize::from(length);
            }
        }
    }
    false
}

#[inline(always)]
fn lower(ctx: &TcContext, l4: usize, at: usize, limit: u16) -> bool {
    let Ok(old) = ctx.load::<u16>(at) else { return false };
    if u16::from_be(old) <= limit {
        return false;
    }
    let new = limit.to_be();
    // The checksum adds words from the header's start: at an odd offset the two bytes lie in two of them, exchanged (RFC 1071
    // section 2: byte order independence).
    let (from, to) = if (at - l4) & 1 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    ctx.skb.l4_csum_replace(l4 + CHECKSUM, u64::from(from), u64::from(to), 2).is_ok()
        && ctx.store(at, &new, 0).is_ok()
}
