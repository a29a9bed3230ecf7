//! The protocol marker of addresses (`IFA_PROTO`), byte by byte: iproute2 6.1 can neither show nor set it.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use bascule_core::types::LinkId;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_EXCL | NLM_F_CREATE` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x600;
/// Message types and attribute types of `linux/rtnetlink.h` and `linux/if_addr.h`.
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const PROTO: u16 = 11;

/// The marker of an address on whatever link of the calling thread's namespace: `None` without one, or without the address.
///
/// # Errors
/// When the kernel does not answer as it should.
pub fn marker(address: IpAddr) -> Result<Option<u8>> {
    let wanted = octets(address);
    for message in exchange(GETADDR, REQUEST | DUMP, &[0; 8])? {
        let (mut is_it, mut proto) = (false, None);
        let mut rest = message.get(24..).unwrap_or_default();
        while rest.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let value = rest.get(4..length).context("an attribute")?;
            match u16::from_ne_bytes([rest[2], rest[3]]) {
                ADDRESS => is_it = value == wanted,
                PROTO => proto = value.first().copied(),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if is_it {
            return Ok(proto);
        }
    }
    Ok(None)
}

/// Adds an address without end to a link, marked with `proto`.
///
/// # Errors
/// What the kernel says.
pub fn add_marked(link: LinkId, address: IpAddr, prefix: u8, proto: u8) -> Result<()> {
    let family = u8::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })?;
    // IFA_F_NODAD.
    let mut body = vec![family, prefix, 2, 0];
    body.extend(link.0.to_ne_bytes());
    for (kind, value) in [(LOCAL, octets(address)), (ADDRESS, octets(address)), (PROTO, vec![proto, 0, 0, 0])] {
        let length = if kind == PROTO { 5 } else { u16::try_from(4 + value.len())? };
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    }
    exchange(NEWADDR, REQUEST | ACK | CREATE, &body).map(drop)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Sends one request and returns the messages up to its end.
fn exchange(kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = u32::try_from(16 + body.len())?.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let got = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..got];
        while rest.len() >= 16 {
            let length = usize::try_from(u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]))?;
            let message = rest.get(..length).context("a message")?;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                // NLMSG_ERROR and NLMSG_DONE begin with the result.
                2 | 3 => {
                    let code = i32::from_ne_bytes(message.get(16..20).context("a result")?.try_into()?);
                    ensure!(code == 0, "{}", std::io::Error::from_raw_os_error(-code));
                    return Ok(all);
                }
                _ => all.push(message.to_vec()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
