//! The few questions to rtnetlink that putting programs on devices needs, asked and answered at once.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// Length of `nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;

/// A socket on which one request is under way.
fn send(message: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    Ok(socket)
}

/// Asks for a whole table; the payload of each object as it came. For objects of others, which a decoder may not know.
pub(super) fn dump_raw(message: RouteNetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
    let socket = send(message, NLM_F_DUMP)?;
    let mut objects = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while let Some(header) = rest.get(..HEADER) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let payload = rest.get(HEADER..length).ok_or_else(|| io::Error::other("a netlink message is cut off"))?;
            match kind {
                NLMSG_DONE | NLMSG_ERROR => {
                    // 0 or a negative errno in front; an empty one is success.
                    let code = payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(objects) };
                }
                _ => objects.push(payload.to_vec()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Sends one request and reads until its end; the objects that the answer named.
pub(super) fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let socket = send(message, flags)?;
    let mut objects = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let part = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            match part.payload {
                NetlinkPayload::Done(_) => return Ok(objects),
                NetlinkPayload::Error(e) => return if e.code.is_none() { Ok(objects) } else { Err(e.to_io()) },
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                _ => {}
            }
            let length = (part.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// The XDP program on a device, by its id.
pub(super) fn xdp_program(ifindex: u32) -> io::Result<Option<u32>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    for object in request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK)? {
        let RouteNetlinkMessage::NewLink(link) = object else { continue };
        for attribute in link.attributes {
            let LinkAttribute::Xdp(facts) = attribute else { continue };
            let id = facts.iter().find_map(|fact| if let LinkXdp::ProgId(id) = fact { Some(*id) } else { None });
            return Ok(id.filter(|id| *id != 0));
        }
    }
    Ok(None)
}
