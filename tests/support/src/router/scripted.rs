//! A neighbour that says exactly what a test wants it to say, right or wrong.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::{LabError, Netns, Result, Stamp, capture};

/// Length of a message's header (RFC 4271 4.1).
const HEADER: usize = 19;
/// The largest message without RFC 8654.
const LARGEST: usize = 4096;
/// Message types (RFC 4271 4.1, RFC 2918 3).
const OPEN: u8 = 1;
/// UPDATE.
pub const UPDATE: u8 = 2;
/// NOTIFICATION.
pub const NOTIFICATION: u8 = 3;
/// KEEPALIVE.
pub const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;
/// AS_TRANS (RFC 6793 9).
const AS_TRANS: u16 = 23456;

/// Who the scripted neighbour is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its AS.
    pub asn: u32,
    /// BGP Identifier.
    pub id: Ipv4Addr,
    /// It offers four-octet AS numbers (RFC 6793).
    pub four_octet: bool,
    /// Offered hold time (s); with 0 neither side owes keepalives.
    pub hold_time: u16,
}

/// A message that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Its type.
    pub kind: u8,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// Waits for the speaker under test to dial.
#[derive(Debug)]
pub struct ScriptedPeer {
    listener: TcpListener,
}

impl ScriptedPeer {
    /// Listens in `netns` on port 179 of all IPv4 addresses.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(netns: &Netns) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179)));
        Ok(Self { listener: listener.map_err(LabError::io("the scripted neighbour's port"))? })
    }

    /// Its socket, for options that accepted connections begin with.
    pub fn socket(&self) -> &TcpListener {
        &self.listener
    }

    /// The next connection, with the own address that was dialled.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn accept(&self, deadline: Duration) -> Result<(IpAddr, ScriptedSession)> {
        if !capture::readable(self.listener.as_fd(), deadline) {
            return Err(LabError::Timeout { what: "the speaker to dial".to_owned(), after: deadline });
        }
        let make = || -> std::io::Result<_> {
            let (stream, _) = self.listener.accept()?;
            stream.set_nodelay(true)?;
            let local: SocketAddr = stream.local_addr()?;
            Ok((local.ip(), ScriptedSession { stream, early: Vec::new() }))
        };
        make().map_err(LabError::io("accept"))
    }
}

/// One connection.
#[derive(Debug)]
pub struct ScriptedSession {
    stream: TcpStream,
    /// What has arrived and was not taken.
    early: Vec<u8>,
}

impl ScriptedSession {
    /// Exchanges OPEN and KEEPALIVE; the session is Established afterwards. It offers both families and route refresh.
    ///
    /// # Errors
    /// When the speaker says something else.
    pub fn establish(&mut self, identity: Identity, deadline: Duration) -> Result<()> {
        self.send(&open(identity))?;
        let heard = self.hear(deadline)?;
        expect(heard.as_ref(), OPEN, "an OPEN")?;
        self.send(&message(KEEPALIVE, &[]))?;
        let heard = self.read(deadline)?;
        expect(heard.as_ref(), KEEPALIVE, "a KEEPALIVE")
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(LabError::io("scripted neighbour: write"))
    }

    /// Sends a KEEPALIVE.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn keepalive(&mut self) -> Result<()> {
        self.send(&message(KEEPALIVE, &[]))
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Asks for the IPv4 routes again (RFC 2918): an Established session must answer with UPDATEs.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn ask_refresh(&mut self) -> Result<()> {
        self.send(&message(ROUTE_REFRESH, &[0, 1, 0, 1]))
    }

    /// The next message that is no KEEPALIVE; None when the speaker has closed the connection.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn hear(&mut self, deadline: Duration) -> Result<Option<Heard>> {
        let end = Stamp::now() + deadline;
        loop {
            match self.read(end.since(Stamp::now()))? {
                Some(heard) if heard.kind == KEEPALIVE => {}
                other => return Ok(other),
            }
        }
    }

    /// The next message of any kind; None when the speaker has closed the connection. What arrived of a message before the deadline is
    /// kept for the next call.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn read(&mut self, deadline: Duration) -> Result<Option<Heard>> {
        let end = Stamp::now() + deadline;
        loop {
            if let Some(heard) = self.whole()? {
                return Ok(Some(heard));
            }
            let left = end.since(Stamp::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(LabError::io("scripted neighbour: timeout"))?;
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(count) => self.early.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(LabError::Timeout { what: "a message of the speaker".to_owned(), after: deadline });
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(LabError::io("scripted neighbour: read")(error)),
            }
        }
    }

    /// Takes the first message of what has arrived, when all of it has.
    fn whole(&mut self) -> Result<Option<Heard>> {
        let Some(header) = self.early.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        if header[..16] != [0xff; 16] || !(HEADER..=LARGEST).contains(&length) {
            return Err(LabError::answer("the speaker's header", format!("{header:02x?}")));
        }
        if self.early.len() < length {
            return Ok(None);
        }
        let rest = self.early.split_off(length);
        let message = std::mem::replace(&mut self.early, rest);
        Ok(Some(Heard { kind: message[18], body: message[HEADER..].to_vec() }))
    }
}

fn expect(heard: Option<&Heard>, kind: u8, what: &str) -> Result<()> {
    match heard {
        Some(heard) if heard.kind == kind => Ok(()),
        other => Err(LabError::answer("the speaker", format!("{other:02x?} and not {what}"))),
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).expect("scripted messages are short").to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// RFC 4271 4.2 and RFC 5492 4: version 4, AS, hold time, identifier, one parameter of type 2 with all capabilities.
fn open(identity: Identity) -> Vec<u8> {
    // Multiprotocol (1) for AFI 1 and 2, route refresh (2), four-octet AS (65).
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0];
    if identity.four_octet {
        capabilities.extend([65, 4]);
        capabilities.extend(identity.asn.to_be_bytes());
    }
    let length = u8::try_from(capabilities.len()).expect("twenty octets");
    let asn = u16::try_from(identity.asn).unwrap_or(AS_TRANS).to_be_bytes();
    let hold = identity.hold_time.to_be_bytes();
    let head = [4, asn[0], asn[1], hold[0], hold[1]];
    message(OPEN, &[&head[..], &identity.id.octets(), &[length + 2, 2, length], &capabilities].concat())
}
