//! What an endpoint's own sockets say of a packet: looked up in its network namespace, under the translated tuple.

use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
};
use bascule_ebpf_common::VipKey;

use crate::encap::low_word;
use crate::local::Target;
use crate::packet::Packet;
use crate::parse::{IPPROTO_TCP, Ipv4Header, Ipv6Header, TcpHeader};
use crate::request::Request;

/// `TCP_TIME_WAIT` and `TCP_LISTEN` (linux/tcp_states.h).
const TIME_WAIT: u32 = 6;
const LISTEN: u32 = 10;

/// The tuple of an IPv4 look-up (`struct bpf_sock_tuple`), client first.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tuple4 {
    client: u32,
    endpoint: u32,
    client_port: u16,
    endpoint_port: u16,
}

/// The same for IPv6.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tuple6 {
    client: VipKey,
    endpoint: VipKey,
    client_port: u16,
    endpoint_port: u16,
    /// Beyond what the helper reads.
    pad: u32,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    None,
    /// A listener, and nothing that knows the flow.
    Listens,
    /// A socket of the flow: half-open, established, closing.
    Knows,
    /// What is left of a flow that the endpoint closed first: the client may have used its port again since.
    Remembers,
}

/// Looks for a socket of the endpoint `target`.
#[inline(always)]
pub(crate) fn find<P: Packet>(packet: &P, request: &mut Request, target: &Target) -> Socket {
    if !target.has_sockets() {
        return Socket::None;
    }
    // -1 (BPF_F_CURRENT_NETNS) stays negative.
    let netns = i64::from(target.netns) as u64;
    let (client_port, endpoint_port) = (request.work.client_port, target.port);
    // SAFETY: the context is the program's; the tuple has the family's size.
    let socket = unsafe {
        if request.work.ip.v6 {
            request.work.build.tuple6 =
                Tuple6 { client: request.work.ip.source, endpoint: target.address, client_port, endpoint_port, pad: 0 };
            let tuple = (&raw mut request.work.build.tuple6).cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(packet.context(), tuple, 36, netns, 0)
        } else {
            let (client, endpoint) = (low_word(&request.work.ip.source), low_word(&target.address));
            request.work.build.tuple4 = Tuple4 { client, endpoint, client_port, endpoint_port };
            let tuple = (&raw mut request.work.build.tuple4).cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(packet.context(), tuple, 12, netns, 0)
        }
    };
    if socket.is_null() {
        return Socket::None;
    }
    // SAFETY: a socket that is held until it is released here.
    let state = unsafe {
        let state = (&raw const (*socket).state).read_volatile();
        bpf_sk_release(socket.cast());
        state
    };
    match state {
        LISTEN => Socket::Listens,
        TIME_WAIT => Socket::Remembers,
        _ => Socket::Knows,
    }
}

/// Does the packet acknowledge a SYN cookie of this host? The secret is the host's, so that any of its namespaces may have made it.
#[inline(always)]
pub(crate) fn has_cookie<P: Packet>(packet: &P, request: &mut Request, target: &Target) -> bool {
    let Some(mut tcp) = packet.read::<TcpHeader>(request.work.ip.transport()) else { return false };
    tcp.ports.destination = target.port;
    // Of the IP header the helpers read the addresses; the memory they are given must be written all the same.
    // SAFETY: the helpers read headers of the sizes they ask for.
    unsafe {
        if request.work.ip.v6 {
            let (source, destination) = (request.work.ip.source, target.address);
            let build = &mut request.work.build.cookie6;
            *build = (Ipv6Header { head: 0, payload: 0, next: IPPROTO_TCP, hops: 0, source, destination }, tcp);
            bpf_tcp_raw_check_syncookie_ipv6((&raw mut build.0).cast(), (&raw mut build.1).cast()) == 0
        } else {
            let (source, destination) = (low_word(&request.work.ip.source), low_word(&target.address));
            let build = &mut request.work.build.cookie4;
            *build = (Ipv4Header { source, destination, ..Ipv4Header::EMPTY }, tcp);
            bpf_tcp_raw_check_syncookie_ipv4((&raw mut build.0).cast(), (&raw mut build.1).cast()) == 0
        }
    }
}
