//! The MSS option of SYN and SYN-ACK: both ways must fit through the encapsulation.

use crate::packet::{Change, Packet, Sum, difference16};
use crate::parse::TCP;

/// Option kinds (RFC 9293 section 3.2).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
/// Options looked at. Stacks send MSS first; a few put NOPs in front.
const MAX_OPTIONS: usize = 8;

/// Lowers the MSS option of the TCP header at `tcp` to `most` if it is above; true: it was. `v6`: the family around it.
#[inline(always)]
pub(crate) fn clamp<P: Packet>(packet: &P, tcp: usize, most: u16, v6: bool) -> bool {
    if most == 0 {
        return false;
    }
    let Some([words, _]) = packet.read::<[u8; 2]>(tcp + 12) else { return false };
    let end = tcp + usize::from(words >> 4) * 4;
    let mut at = tcp + TCP;
    for _ in 0..MAX_OPTIONS {
        if at + 4 > end {
            return false;
        }
        let Some(option) = packet.read::<u32>(at).map(u32::to_ne_bytes) else { return false };
        match option[0] {
            END => return false,
            NOP => at += 1,
            MSS if option[1] == 4 => {
                let old = u16::from_be_bytes([option[2], option[3]]);
                return old > most && lower(packet, tcp, at + 2, (old, most), v6).is_some();
            }
            _ => {
                if option[1] < 2 {
                    return false;
                }
                at += usize::from(option[1] & 0x3f);
            }
        }
    }
    false
}

/// Writes the lower value. It may lie at an odd offset behind a NOP: then the checksum sees its bytes swapped.
#[inline(always)]
fn lower<P: Packet>(packet: &P, tcp: usize, at: usize, (old, new): (u16, u16), v6: bool) -> Option<()> {
    let mut plain = difference16(old.to_be(), new.to_be());
    if (at - tcp) & 1 != 0 {
        plain = difference16(old, new);
    }
    packet.fix_transport(tcp + 16, Change { pseudo: 0, plain, udp: false, v6 })?;
    packet.store(at, &new.to_be(), Sum::Stays)
}
