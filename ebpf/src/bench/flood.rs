//! SYNs from ever new tuples, with right checksums: what a kernel would drop unseen is no flood.

use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::XdpContext;

use crate::CONTROL;

/// Tuples are counted by address first (22 bits), then by source port.
const ADDRESS_BITS: u32 = 22;
/// First source port.
const FIRST_PORT: u32 = 1024;
/// Offsets in an untagged frame with an IPv4 header of 20 bytes (RFC 791 section 3.1, RFC 9293 section 3.1).
const IP_CHECK: usize = 24;
const IP_SOURCE: usize = 26;
const TCP_SOURCE: usize = 34;
const TCP_CHECK: usize = 50;
const END: usize = 54;

/// Makes the frame, which is a SYN already, the next one, and sends it.
#[inline(always)]
pub(crate) fn next(ctx: &XdpContext) -> Option<u32> {
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: one generator runs at a time, on one CPU.
    let (number, control) = unsafe {
        let number = (*control).next as u32;
        (*control).next += 1;
        (number, *control)
    };
    let source = control.source | (number & ((1 << ADDRESS_BITS) - 1));
    let port = FIRST_PORT + ((number >> ADDRESS_BITS) & 0x7fff);
    let halves = (source >> 16) + (source & 0xffff);
    let data = ctx.data();
    if data + END > ctx.data_end() {
        return None;
    }
    // SAFETY: END bytes were checked.
    unsafe {
        ((data + IP_SOURCE) as *mut u32).write_unaligned(source.to_be());
        ((data + TCP_SOURCE) as *mut u16).write_unaligned((port as u16).to_be());
        ((data + IP_CHECK) as *mut u16).write_unaligned(checksum(control.ip_sum + halves).to_be());
        ((data + TCP_CHECK) as *mut u16).write_unaligned(checksum(control.tcp_sum + halves + port).to_be());
        Some(bpf_redirect(control.ifindex, 0) as u32)
    }
}

/// The Internet checksum of a sum (RFC 1071).
#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    !(twice as u16)
}
