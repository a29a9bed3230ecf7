//! SYN cookies as the kernel makes them: a program of a few instructions around `bpf_tcp_raw_gen_syncookie_ipv4/6`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bascule_ebpf_common::forward::FlowKey;

use crate::bpf;
use crate::forward::bytes::{address_bytes, is_v4};

/// Helper numbers (linux/bpf.h).
const GENERATE4: u32 = 204;
const GENERATE6: u32 = 205;

/// One instruction as the word the kernel reads.
fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    u64::from(op)
        | u64::from(dst) << 8
        | u64::from(src) << 12
        | u64::from(off.cast_unsigned()) << 16
        | u64::from(imm.cast_unsigned()) << 32
}

/// Calls the helper on the IP header behind the Ethernet header and writes what it returns over the first eight bytes.
fn program(header: i32, helper: u32) -> io::Result<OwnedFd> {
    let code = [
        insn(0x61, 6, 1, 0, 0),                    // r6 = ctx->data
        insn(0x61, 7, 1, 4, 0),                    // r7 = ctx->data_end
        insn(0xbf, 2, 6, 0, 0),                    // r2 = r6
        insn(0x07, 2, 0, 0, 14 + header + 20),     // r2 += headers
        insn(0x2d, 2, 7, 7, 0),                    // if r2 > r7 goto out
        insn(0xbf, 1, 6, 0, 0),                    // r1 = r6
        insn(0x07, 1, 0, 0, 14),                   // r1 += 14
        insn(0xbf, 2, 6, 0, 0),                    // r2 = r6
        insn(0x07, 2, 0, 0, 14 + header),          // r2 += 14 + header
        insn(0xb7, 3, 0, 0, 20),                   // r3 = 20
        insn(0x85, 0, 0, 0, helper.cast_signed()), // r0 = helper(r1, r2, r3)
        insn(0x7b, 6, 0, 0, 0),                    // *(u64 *)r6 = r0
        insn(0xb7, 0, 0, 0, 2),                    // out: r0 = XDP_PASS
        insn(0x95, 0, 0, 0, 0),                    // exit
    ];
    bpf::load_xdp(&code)
}

/// The acknowledgement number that answers a cookie for this tuple, if the acknowledgement's sequence number is `sequence`.
pub(crate) fn acknowledgement(key: &FlowKey, sequence: u32) -> io::Result<u32> {
    let v4 = is_v4(&key.client);
    let program = if v4 { program(20, GENERATE4)? } else { program(40, GENERATE6)? };
    let mut frame = vec![0u8; 14];
    if v4 {
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    } else {
        frame.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
    }
    frame.extend(address_bytes(&key.client));
    frame.extend(address_bytes(&key.endpoint));
    frame.extend(key.client_port.to_ne_bytes());
    frame.extend(key.endpoint_port.to_ne_bytes());
    // The SYN's own number is one less than that of the acknowledgement.
    frame.extend(sequence.wrapping_sub(1).to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 2, 2, 0, 0, 0, 0, 0]);
    let (_, out) = bpf::xdp(program.as_fd(), 1, &frame, 0)?;
    let word = u64::from_ne_bytes(out[..8].try_into().map_err(io::Error::other)?);
    let value = u32::try_from(word & 0xffff_ffff).map_err(io::Error::other)?;
    if word.cast_signed() < 0 {
        return Err(io::Error::other(format!("no cookie: {}", word.cast_signed())));
    }
    Ok(value.wrapping_add(1))
}
