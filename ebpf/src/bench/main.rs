//! Programs of tests and benches: never shipped, never attached outside a lab.
//!
//! `shim` is how the cost of a packet is measured. `BPF_PROG_TEST_RUN` with a repeat count does not restore the packet, so
//! that a program which encapsulates would see its own output from the second run on. The shim takes the next golden
//! packet from an array, restores length and first bytes, and tail-calls the program under test; `floor` in that place
//! gives what the shim itself costs.
#![no_std]
#![no_main]

mod abi;

use abi::{Control, HEAD_WORDS, MAX_PACKETS, Packet, SHORT_WORDS, SINK_OTHER, SINK_SLOTS, SINK_UDP};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;

/// By how much `spoil` makes a frame longer: what encapsulation over IPv4 adds.
const SPOIL: i32 = 44;

#[map]
static PACKETS: Array<Packet> = Array::with_max_entries(MAX_PACKETS, BPF_F_MMAPABLE);
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
/// Slot 0: what the shim calls.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static SINK: PerCpuArray<u64> = PerCpuArray::with_max_entries(SINK_SLOTS, 0);

/// Restores the next packet and runs the program under test on it.
#[xdp]
pub fn shim(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_some() {
        // SAFETY: nothing here has a destructor; without a program in the slot control comes back.
        unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

/// The cheapest program under test.
#[xdp]
pub fn floor(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Under test in the shim's own test: counts the frames that are as the shim should leave them (their first word is that of packet 0),
/// then spoils them as an encapsulating program does.
#[xdp]
pub fn spoil(ctx: XdpContext) -> u32 {
    let Some(packet) = PACKETS.get_ptr(0) else { return XDP_ABORTED };
    // SAFETY: a value of the array; user space writes it only between runs.
    let (length, first) = unsafe { ((*packet).length as usize, (*packet).head[0]) };
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 8 > end {
        return XDP_ABORTED;
    }
    // SAFETY: 8 bytes were checked.
    if end - data == length && unsafe { (data as *const u64).read_unaligned() } == first {
        count(SINK_UDP);
    }
    // SAFETY: a plain helper call; the packet pointers are read anew.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -SPOIL) } != 0 {
        return XDP_ABORTED;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 64 > end {
        return XDP_ABORTED;
    }
    for word in 0..8 {
        // SAFETY: 64 bytes were checked.
        unsafe { ((data + word * 8) as *mut u64).write_unaligned(u64::MAX) };
    }
    XDP_TX
}

/// Passes everything: a veth takes frames that XDP sends it only while it has a program itself.
#[xdp]
pub fn pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Under test in the shim: a generator that sends the packet out by `Control::ifindex`.
#[xdp]
pub fn send(_ctx: XdpContext) -> u32 {
    match CONTROL.get(0) {
        // SAFETY: a plain helper call.
        Some(control) => unsafe { bpf_redirect(control.ifindex, 0) as u32 },
        None => XDP_ABORTED,
    }
}

/// The end of a path: UDP over IPv4 is counted and dropped, the rest (ARP) passes.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 34 > end {
        return XDP_PASS;
    }
    // SAFETY: 34 bytes were checked.
    let (kind, protocol) = unsafe { (((data + 12) as *const u16).read_unaligned(), *((data + 23) as *const u8)) };
    // EtherType IPv4 and protocol 17 (RFC 894, RFC 768).
    let udp = kind == 0x0800u16.to_be() && protocol == 17;
    count(if udp { SINK_UDP } else { SINK_OTHER });
    if udp { XDP_DROP } else { XDP_PASS }
}

/// Adds one to a counter.
#[inline(always)]
fn count(slot: u32) {
    if let Some(count) = SINK.get_ptr_mut(slot) {
        // SAFETY: a per-CPU value.
        unsafe { *count += 1 };
    }
}

/// Makes the frame the next golden packet.
#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<()> {
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: test_run runs on one CPU; nobody else uses the entry meanwhile.
    let index = unsafe {
        let index = (*control).next;
        let following = index + 1;
        (*control).next = if following >= u64::from((*control).count) { 0 } else { following };
        index
    };
    let packet = PACKETS.get_ptr(index as u32)?;
    // SAFETY: a value of the array; user space writes it only between runs.
    let length = unsafe { (*packet).length } as usize;
    let have = ctx.data_end() - ctx.data();
    if have != length {
        // SAFETY: a plain helper call; the packet pointers are read anew below.
        let moved = unsafe { bpf_xdp_adjust_head(ctx.ctx, (have as i64 - length as i64) as i32) };
        if moved != 0 {
            return None;
        }
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + SHORT_WORDS * 8 > end {
        return None;
    }
    copy::<0, SHORT_WORDS>(data, packet);
    if data + HEAD_WORDS * 8 <= end {
        copy::<SHORT_WORDS, HEAD_WORDS>(data, packet);
    }
    Some(())
}

/// Copies the words `FROM..TO`, whose bounds the caller has checked.
#[inline(always)]
fn copy<const FROM: usize, const TO: usize>(data: usize, packet: *const Packet) {
    let mut word = FROM;
    while word < TO {
        // SAFETY: the caller compared the end of the frame; `head` has HEAD_WORDS words.
        unsafe { ((data + word * 8) as *mut u64).write_unaligned((*packet).head[word]) };
        word += 1;
    }
}

/// The licence the kernel is told. No helper in use asks for a GPL-compatible one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic: the verifier refuses an object in which this loop can be reached.
    loop {}
}
