//! The packet at the XDP hook: all of it in place, one linear piece as far as headers go.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::cty::{c_int, c_void};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;

use super::{Change, ETHERNET, Inner, Packet, Room, Sum, corrected, opaque};

/// A frame in XDP.
pub(crate) struct Xdp<'a>(pub(crate) &'a XdpContext);

impl Packet for Xdp<'_> {
    const CALLS: bool = false;

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0.as_ptr()
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn for_host(&self) -> bool {
        false
    }

    #[inline(always)]
    fn prepare(&self) {}

    #[inline(always)]
    fn store<T: Copy>(&self, offset: usize, value: &T, _sum: Sum) -> Option<()> {
        const { assert!(size_of::<T>() > 1, "the verifier learns nothing from a bound of one byte") };
        let at = opaque(self.0.data() + offset);
        if at + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: inside the frame by the comparison, which the verifier repeats; alignment as in `Packet::read`.
        unsafe { *(at as *mut T) = *value };
        Some(())
    }

    #[inline(always)]
    fn fix_ip(&self, offset: usize, change: u32) -> Option<()> {
        let checksum: u16 = self.read(offset)?;
        self.store(offset, &corrected(checksum, u64::from(change)), Sum::Stays)
    }

    #[inline(always)]
    fn fix_transport(&self, offset: usize, change: Change) -> Option<()> {
        let checksum: u16 = self.read(offset)?;
        if change.udp && checksum == 0 {
            return Some(());
        }
        let mut fixed = corrected(checksum, u64::from(change.pseudo) + u64::from(change.plain));
        if change.udp && fixed == 0 {
            fixed = 0xffff;
        }
        self.store(offset, &fixed, Sum::Stays)
    }

    #[inline(always)]
    fn encapsulate(&self, inner: Inner, room: Room) -> Option<()> {
        self.adjust(inner.at as c_int - (ETHERNET + room.bytes()) as c_int)
    }

    #[inline(always)]
    fn decapsulate(&self, inner: Inner, outer: Room) -> Option<()> {
        // The link header moves up to the inner packet. At most 22 bytes: two addresses, two tags, one EtherType.
        let addresses: [u32; 3] = self.read(0)?;
        let tag: u32 = self.read(12)?;
        let second: u32 = self.read(16)?;
        let kind: u16 = if inner.v6 { 0x86dd } else { 0x0800 };
        self.adjust(outer.bytes() as c_int)?;
        self.store(0, &addresses, Sum::Stays)?;
        // Offsets by case: the verifier does not follow a difference of two of them.
        if inner.link == ETHERNET {
            return self.store(12, &kind.to_be(), Sum::Stays);
        }
        self.store(12, &tag, Sum::Stays)?;
        if inner.link == ETHERNET + 4 {
            return self.store(16, &kind.to_be(), Sum::Stays);
        }
        self.store(16, &second, Sum::Stays)?;
        self.store(20, &kind.to_be(), Sum::Stays)
    }
}

impl Xdp<'_> {
    /// Moves the start of the frame; a negative number makes it longer. Fails without headroom.
    #[inline(always)]
    fn adjust(&self, by: c_int) -> Option<()> {
        if by == 0 {
            return Some(());
        }
        // SAFETY: `ctx` is the program's context; pointers into the frame are not kept over the call.
        (unsafe { bpf_xdp_adjust_head(self.0.ctx, by) } == 0).then_some(())
    }
}
