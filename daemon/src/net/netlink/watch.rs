//! The watcher: kernel events into the state, the state's news to the driver, and a full reading every 30 s and after every loss.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::socket::{NetlinkSocket, messages};
use super::state::State;
use super::{NetEvent, Shared, lock};
use crate::net::NetError;

/// From one full reading to the next: how long a lie of the events can last.
const RESYNC: Duration = Duration::from_secs(30);
/// After a reading or a socket that failed.
const RETRY: Duration = Duration::from_secs(1);
/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR` of `linux/rtnetlink.h`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

pub(super) struct Watcher {
    events: NetlinkSocket,
    /// Readings have a socket of their own: they never stand in the way of an installation.
    readings: NetlinkSocket,
    state: State,
    shared: Arc<Mutex<Shared>>,
    sender: mpsc::Sender<NetEvent>,
}

impl Watcher {
    pub(super) fn open(shared: Arc<Mutex<Shared>>, sender: mpsc::Sender<NetEvent>) -> Result<Self, NetError> {
        let (events, readings) = (NetlinkSocket::open(GROUPS)?, NetlinkSocket::open(0)?);
        Ok(Self { events, readings, state: State::default(), shared, sender })
    }

    /// Runs until the receiver is dropped.
    pub(super) async fn run(mut self) {
        let (mut next, mut synced) = (Instant::now(), false);
        loop {
            // Until the first reading is done the events wait in the socket.
            let news = tokio::select! {
                () = self.sender.closed() => return,
                () = sleep_until(next) => match self.read_all().await {
                    Ok(lost) => {
                        next = Instant::now() + RESYNC;
                        lost
                    }
                    Err(error) => {
                        tracing::warn!(%error, "links and addresses could not be read");
                        next = Instant::now() + RETRY;
                        continue;
                    }
                },
                datagram = self.events.next(), if synced => match datagram {
                    Ok(bytes) => {
                        let mut shared = lock(&self.shared);
                        let state = &mut self.state;
                        messages(bytes).filter_map(|m| state.apply(m.kind, m.payload, &mut shared)).collect()
                    }
                    Err(error) => {
                        self.recover(&error).await;
                        next = Instant::now();
                        continue;
                    }
                },
            };
            let mut news: Vec<NetEvent> = news;
            news.extend(self.state.publish());
            if !synced {
                synced = true;
                news.push(NetEvent::Synced);
            }
            for event in news {
                if self.sender.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads links and addresses anew; returns what of ours is gone.
    async fn read_all(&mut self) -> Result<Vec<NetEvent>, NetError> {
        // What is confirmed by now and missing in the reading has been removed, even if every event about it was lost.
        let confirmed = {
            let shared = lock(&self.shared);
            shared.installed.iter().filter(|(_, confirmed)| **confirmed).map(|(key, _)| *key).collect()
        };
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = self.readings.dump("list links", &request).await?;
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let addresses = self.readings.dump("list addresses", &request).await?;
        Ok(self.state.replace(&links, &addresses, confirmed, &mut lock(&self.shared)))
    }

    /// After a failed read of the event socket. Lost events need only the full reading that follows; anything else a new socket.
    async fn recover(&mut self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::ENOBUFS) {
            tracing::warn!("the kernel dropped netlink events; reading links and addresses anew");
            return;
        }
        tracing::error!(%error, "the netlink event socket failed; opening a new one");
        sleep(RETRY).await;
        match NetlinkSocket::open(GROUPS) {
            Ok(socket) => self.events = socket,
            Err(error) => tracing::error!(%error, "no new netlink event socket"),
        }
    }
}
