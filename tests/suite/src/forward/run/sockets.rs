//! Real sockets for the oracle's: connected, waiting and listening ones, in the node's namespace or the one called `a`.

use std::io::{ErrorKind, Read as _};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::FlowKey;
use bascule_lab::wait_for;
use socket2::{Domain, Socket, Type};

use crate::fence::{Netns, give_address};
use crate::forward::bytes::address_of;
use crate::forward::model::Sockets;

/// From fork to exec, on a busy machine.
const INHERITED: Duration = Duration::from_secs(5);

/// Sockets that live as long as this.
#[derive(Debug, Default)]
pub(crate) struct Held {
    sockets: Vec<Socket>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // Closed by a reset: nothing is left in TIME-WAIT for the next fixture.
            let _ = socket.set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

fn place(address: &VipKey, port: u16) -> SocketAddr {
    SocketAddr::new(address_of(address), u16::from_be(port))
}

/// Opens what the oracle names. `own`: the namespace id of the node's own; others lie in `there`.
pub(crate) fn open(wanted: &Sockets, there: &Netns) -> Result<Held> {
    let mut held = Held::default();
    for (ns, address, port) in &wanted.listening {
        let at = place(address, *port);
        inside(*ns, there, || held.listen(at)).with_context(|| format!("listen at {at}"))?;
    }
    for (ns, key) in &wanted.connected {
        inside(*ns, there, || held.connect(key)).with_context(|| format!("connect {key:x?}"))?;
    }
    for (ns, key) in &wanted.waiting {
        inside(*ns, there, || held.wait(key)).with_context(|| format!("TIME-WAIT of {key:x?}"))?;
    }
    Ok(held)
}

/// In that namespace, and again while an address is in use: a program that another test of this process is just starting holds copies of sockets
/// that the fixture before has closed, until it is that program.
fn inside<T>(ns: i32, there: &Netns, mut body: impl FnMut() -> Result<T>) -> Result<T> {
    let in_use = |error: &anyhow::Error| {
        error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::AddrInUse))
    };
    let mut last = None;
    let opened = wait_for(INHERITED, "an address that nobody uses", || {
        match if ns < 0 { body() } else { there.inside(&mut body) } {
            Err(error) if in_use(&error) => {
                last = Some(error);
                None
            }
            opened => Some(opened),
        }
    });
    match (opened, last) {
        (Ok(opened), _) => opened,
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => Err(error.into()),
    }
}

impl Held {
    fn listen(&mut self, at: SocketAddr) -> Result<()> {
        let socket = bound(at)?;
        socket.listen(8)?;
        self.sockets.push(socket);
        Ok(())
    }

    /// Both ends of a connection in one namespace: the endpoint's end is what a look-up of the tuple finds.
    fn connect(&mut self, key: &FlowKey) -> Result<()> {
        self.sockets.extend(Self::pair(key)?);
        Ok(())
    }

    /// The endpoint closes first: its end stays in TIME-WAIT, for a minute. Two fixtures must not name one tuple.
    fn wait(&mut self, key: &FlowKey) -> Result<()> {
        let [accepted, end] = Self::pair(key)?;
        for (closes, hears) in [(&accepted, &end), (&end, &accepted)] {
            closes.shutdown(Shutdown::Write)?;
            let mut hears = hears;
            ensure!(hears.read(&mut [0])? == 0, "nothing was sent");
        }
        Ok(())
    }

    /// Both ends, the endpoint's first.
    fn pair(key: &FlowKey) -> Result<[Socket; 2]> {
        let (client, endpoint) = (place(&key.client, key.client_port), place(&key.endpoint, key.endpoint_port));
        let listener = bound(endpoint)?;
        listener.listen(8)?;
        let end = bound(client)?;
        end.connect(&endpoint.into())?;
        let (accepted, _) = listener.accept()?;
        Ok([accepted, end])
    }
}

fn bound(at: SocketAddr) -> Result<Socket> {
    // Exists already when another socket of the fixture has the address.
    give_address(&format!("{}/{}", at.ip(), if at.is_ipv4() { 32 } else { 128 }), "lo")?;
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}
