//! The `bpf` calls that aya lacks: `BPF_PROG_TEST_RUN` with a device and headroom, batched look-ups, raw programs and links.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Command numbers of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_CREATE: libc::c_long = 28;
/// Position of `ifindex` in `struct __sk_buff`, in words.
const SKB_IFINDEX: usize = 10;
/// Bytes of 0xff in front of the frame, which a program that makes it longer must overwrite. They are given as metadata: the kernel
/// zeroes the headroom, but what lies there as metadata becomes headroom when the program takes it. Less than 253, in whole words.
pub(crate) const HEADROOM: usize = 128;
/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_XDP`.
const TYPE_TC: u32 = 3;
const TYPE_XDP: u32 = 6;
/// `BPF_XDP`, the type of a link.
const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
/// `BPF_F_BEFORE`: in front of the program named, or of all.
const BEFORE: u32 = 1 << 3;
/// `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const DRIVER_MODE: u32 = 1 << 2;

/// What `BPF_PROG_TEST_RUN` reads of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
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

/// What a batch command reads.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// What loading a program reads, as far as these tests fill it.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    rest: [u64; 12],
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

fn size(n: usize) -> io::Result<u32> {
    u32::try_from(n).map_err(io::Error::other)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: every pointer in the attributes leads to memory of the size stated beside it that lives through the call.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// A command that makes something.
fn make<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: a descriptor that the call just made and nobody else holds.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs an XDP program on a frame as if it had arrived on a device: verdict and frame afterwards.
pub(crate) fn xdp(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8], headroom: usize) -> io::Result<(u32, Vec<u8>)> {
    let mut input = vec![0xff; headroom];
    input.extend(frame);
    let mut out = vec![0u8; input.len() + 512];
    let context =
        XdpMd { data: size(headroom)?, data_end: size(input.len())?, ingress_ifindex: ifindex, ..XdpMd::default() };
    let mut after = XdpMd::default();
    let mut attr = TestRun {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        data_size_in: size(input.len())?,
        data_size_out: size(out.len())?,
        data_in: input.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: size(size_of::<XdpMd>())?,
        ctx_size_out: size(size_of::<XdpMd>())?,
        ctx_in: (&raw const context) as u64,
        ctx_out: (&raw mut after) as u64,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    let (from, to) = (after.data as usize, after.data_end as usize);
    Ok((attr.retval, out.get(from..to).ok_or_else(|| io::Error::other("offsets of the frame"))?.to_vec()))
}

/// What a tc program made of a frame.
pub(crate) struct Ran {
    pub(crate) verdict: i32,
    pub(crate) frame: Vec<u8>,
    /// Mean time of one run, nanoseconds.
    pub(crate) duration: u32,
}

/// Runs a tc program `repeat` times on a frame as if it were on a device.
pub(crate) fn tc(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8], repeat: u32) -> io::Result<Ran> {
    let mut out = vec![0u8; frame.len() + 512];
    let mut context = [0u32; 48];
    context[SKB_IFINDEX] = ifindex;
    let mut attr = TestRun {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        data_size_in: size(frame.len())?,
        data_size_out: size(out.len())?,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: size(size_of_val(&context))?,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(Ran { verdict: attr.retval.cast_signed(), frame: out, duration: attr.duration })
}

/// All values of a per-CPU array of `u64`, summed over the CPUs.
pub(crate) fn sums(map: BorrowedFd<'_>, slots: usize, cpus: usize) -> io::Result<Vec<u64>> {
    let mut keys = vec![0u32; slots];
    let mut values = vec![0u64; slots * cpus];
    let mut cursor = 0u64;
    let mut attr = Batch {
        out_batch: (&raw mut cursor) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: size(slots)?,
        map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        ..Batch::default()
    };
    match bpf(MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => {}
        // Everything was read.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        Err(e) => return Err(e),
    }
    if attr.count as usize != slots {
        return Err(io::Error::other("fewer values than slots"));
    }
    Ok(values.chunks_exact(cpus).map(|c| c.iter().sum()).collect())
}

/// Loads an XDP program of these instructions.
pub(crate) fn load_xdp(instructions: &[u64]) -> io::Result<OwnedFd> {
    load(TYPE_XDP, instructions)
}

/// Loads a tc program of these instructions.
pub(crate) fn load_tc(instructions: &[u64]) -> io::Result<OwnedFd> {
    load(TYPE_TC, instructions)
}

fn load(kind: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut log = vec![0u8; 65536];
    let mut attr = Load {
        kind,
        count: size(instructions.len())?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: size(log.len())?,
        log_buf: log.as_mut_ptr() as u64,
        ..Load::default()
    };
    make(PROG_LOAD, &mut attr)
        .map_err(|e| io::Error::other(format!("{e}: {}", String::from_utf8_lossy(&log).trim_end_matches('\0'))))
}

/// Attaches an XDP program to a device, in the driver; it leaves with the link.
pub(crate) fn link_xdp(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let program = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    make(LINK_CREATE, &mut [program, ifindex, ATTACH_XDP, DRIVER_MODE])
}

/// Attaches a tc program to a device, before all others; it leaves with the link.
pub(crate) fn link_tcx_first(program: BorrowedFd<'_>, ifindex: u32, egress: bool) -> io::Result<OwnedFd> {
    let program = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let at = if egress { ATTACH_TCX_EGRESS } else { ATTACH_TCX_INGRESS };
    // Nothing relative to which, no revision expected: the front of the chain.
    make(LINK_CREATE, &mut [program, ifindex, at, BEFORE, 0, 0, 0, 0])
}
