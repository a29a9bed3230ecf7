//! Probes between nodes: the driver of one [`bascule_core::site::path::Path`], which is what this node thinks of one other site.
//!
//! A flow is a pair of nodes and source ports with a connected socket of its own, so the kernel drops what comes from elsewhere and the
//! network may send flows over different links. Both ends number a flow alike ([`flow_number`]).
//!
//! Order, as for BFD: what has arrived counts before a timer calls it late. The `now` of a packet is taken after it was read, the `now` of
//! an expiry before the look at the sockets that found them empty.
//!
//! Bounds: a flow has its packets checked at [`RATE`] a second (a genuine one sends 10, and 16 large ones a round), what is more is dropped
//! unread and counted; a turn reads [`BUDGET`] of each socket. What is sent is bounded by the machine.

pub mod io;
mod socket;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bascule_core::site::path::Path;
use bascule_core::site::path::io::{Action, Event};
use bascule_core::time::Instant;
use bascule_core::wire::site::MAX;
use tokio::sync::mpsc;
use tokio::time::sleep;

pub use io::{Command, Counters, Flow, PathConfig, PathStatus};
pub use socket::open;

use crate::clock::Clock;

/// Packets of a flow that are checked in a second, and at once after a pause: 250 times a genuine peer. A check costs some 2 us.
pub const RATE: f64 = 2500.0;
/// Packets read of one socket before the others and the timers have their turn.
const BUDGET: usize = 64;
/// Turns in which a socket was not empty, before timers have theirs all the same: only a flood is so long.
const TURNS: usize = 4;
/// Tokio's clock stands while the machine is suspended and ours does not: the driver looks at least so often.
const LOOK: Duration = Duration::from_secs(1);

/// The number of a flow between the node of rank `here` and that of rank `there` of the other site, `port` being which of `ports`
/// source ports. The other end, which ranks the same two nodes the other way round, comes to the same number, and no two flows of a node
/// have the same. Ranks are 0..`nodes`.
pub const fn flow_number(here: u8, there: u8, port: u8, nodes: u8, ports: u8) -> u8 {
    let nodes = if nodes == 0 { 1 } else { nodes };
    // Their sum modulo `nodes`, in eight bits.
    let (here, left) = (here % nodes, nodes - there % nodes);
    let rank = if here >= left { here - left } else { here + (nodes - left) };
    rank * ports + port
}

/// The driver.
#[derive(Debug)]
pub struct Prober {
    machine: Path,
    flows: Vec<Flow>,
    numbers: Vec<u8>,
    buckets: Vec<(f64, Instant)>,
    counters: Counters,
    silent_since: Option<Instant>,
    clock: Arc<dyn Clock>,
    buffer: Vec<u8>,
}

impl Prober {
    /// A prober of the flows of a path, in the order of their numbers. It has sent nothing yet.
    pub fn new(mut config: PathConfig) -> Self {
        let now = config.clock.now();
        let numbered = (0u8..).zip(&config.flows).map(|(place, flow)| flow.number.unwrap_or(place));
        let numbers: Vec<u8> = numbered.collect();
        config.machine.flows = numbers.iter().max().map_or(0, |last| last.saturating_add(1));
        Self {
            machine: Path::new(config.machine, config.run, config.seed, now),
            buckets: vec![(RATE, now); config.flows.len()],
            flows: config.flows,
            numbers,
            counters: Counters::default(),
            silent_since: None,
            clock: config.clock,
            // One byte more than any probe: what fills it is too long.
            buffer: vec![0; MAX + 1],
        }
    }

    /// Probes until nobody can tell it anything any more. `say` must not block.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut say: impl FnMut(Event)) {
        for flow in &self.flows {
            // Tokio takes a socket for full until the kernel has said once that it is not. An error is met again at the first probe.
            let _known = flow.socket.writable().await;
        }
        loop {
            let mut before = self.clock.now();
            // Timers wait while there is more to read, but not for ever.
            for _ in 0..TURNS {
                if self.drain() {
                    break;
                }
                before = self.clock.now();
            }
            self.machine.handle_expire(before);
            while let Some(action) = self.machine.poll_action() {
                match action {
                    Action::Send { flow, payload } => self.send(flow, &payload),
                    Action::Report(event) => {
                        self.note(&event);
                        say(event);
                    }
                }
            }
            let due = self.machine.poll_timeout();
            let wait = due.map_or(LOOK, |at| at.since(self.clock.now()).min(LOOK));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.told(command),
                    None => return,
                },
                () = readable(&self.flows) => {}
                () = sleep(self.clock.sleep(wait)) => {}
            }
        }
    }

    /// Keeps when silence began: whoever asks for the state learns it, whichever event it was asked for.
    fn note(&mut self, event: &Event) {
        match *event {
            Event::Down { silent, .. } => {
                let silent = Duration::try_from_secs_f64(silent).unwrap_or_default();
                let nanos = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
                self.silent_since = Some(Instant::from_nanos(self.clock.now().as_nanos().saturating_sub(nanos)));
            }
            Event::Up => self.silent_since = None,
            _ => {}
        }
    }

    fn told(&mut self, command: Command) {
        match command {
            Command::Keys(keys) => self.machine.handle_keys(keys),
            Command::Evidence(evidence) => self.machine.handle_evidence(evidence, self.clock.now()),
            Command::Status(answer) => {
                let status = PathStatus {
                    path: self.machine.status(),
                    counters: self.counters,
                    silent_since: self.silent_since,
                };
                // Who asked and went away needs no answer.
                let _gone = answer.send(status);
            }
        }
    }

    /// Reads what has arrived, up to the budget of a turn. True when nothing is left.
    fn drain(&mut self) -> bool {
        let mut emptied = true;
        for (place, flow) in self.flows.iter().enumerate() {
            let number = self.numbers[place];
            let mut left = BUDGET;
            while left > 0 {
                left -= 1;
                let len = match flow.socket.try_recv(&mut self.buffer) {
                    Ok(len) => len,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        // An ICMP error for what we sent: the silence that follows says as much.
                        self.counters.receive_errors += 1;
                        continue;
                    }
                };
                self.counters.received += 1;
                let now = self.clock.now();
                let (tokens, at) = &mut self.buckets[place];
                *tokens = (*tokens + now.since(*at).as_secs_f64() * RATE).min(RATE);
                *at = now;
                if *tokens < 1.0 {
                    self.counters.flooded += 1;
                    continue;
                }
                *tokens -= 1.0;
                self.machine.handle_packet(number, &self.buffer[..len], now);
            }
            emptied &= left > 0;
        }
        emptied
    }

    fn send(&mut self, flow: u8, payload: &[u8]) {
        // A number without a node at the other end: the machine's, of a larger site.
        let Some(place) = self.numbers.iter().position(|number| *number == flow) else { return };
        let flow = &self.flows[place];
        match flow.socket.try_send(payload) {
            Ok(_) => self.counters.sent += 1,
            // Larger than the link: it does not get through, which is what the probe was to find out.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.counters.too_large += 1,
            // A full queue, no route, a filter: lost, as any packet may be.
            Err(_) => self.counters.send_errors += 1,
        }
    }
}

/// Waits until any flow has something to read.
async fn readable(flows: &[Flow]) {
    poll_fn(|context| {
        let ready = flows.iter().any(|flow| flow.socket.poll_recv_ready(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_number_a_flow_alike_and_no_node_has_a_number_twice() {
        for (nodes, ports) in [(1, 1), (2, 1), (3, 2), (5, 3), (255, 1)] {
            for here in 0..nodes {
                let mut seen = Vec::new();
                for (there, port) in (0..nodes).flat_map(|there| (0..ports).map(move |port| (there, port))) {
                    let number = flow_number(here, there, port, nodes, ports);
                    assert_eq!(number, flow_number(there, here, port, nodes, ports));
                    seen.push(number);
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..nodes * ports).collect::<Vec<_>>(), "node {here} of {nodes}");
            }
        }
    }
}
