//! The few questions to rtnetlink that putting programs on devices needs, asked and answered at once.

use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// Sends one request and reads until its end; the objects that the answer named.
pub(super) fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

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
