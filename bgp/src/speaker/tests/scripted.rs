//! One speaker; the test plays the network and the neighbor.

use std::collections::BTreeMap;

use core::time::Duration;

use super::{START, address};
use crate::config::SpeakerConfig;
use crate::event::Event;
use crate::io::{Action, Conn, Input};
use crate::session::State;
use crate::speaker::{NeighborStatus, Speaker};
use crate::time::Instant;
use crate::wire::header::MAX_LEN_EXTENDED;
use crate::wire::{
    Capability, DecodeContext, Family, FamilySet, Framer, Message, Notification, Open, encode_keepalive,
};

/// The neighbor: AS 65002, 192.0.2.2.
pub(super) struct Scripted {
    pub(super) speaker: Speaker,
    pub(super) now: Instant,
    /// What the driver was told, but for writes and reports.
    pub(super) actions: Vec<Action>,
    pub(super) events: Vec<Event>,
    /// Messages that the neighbor got, by connection.
    pub(super) heard: BTreeMap<Conn, Vec<Message>>,
    framers: BTreeMap<Conn, Framer>,
    /// Confirm writes at once.
    pub(super) window_open: bool,
    inbound: u64,
}

impl Scripted {
    pub(super) fn new(config: SpeakerConfig) -> Self {
        let mut this = Self {
            speaker: Speaker::new(7, START),
            now: START,
            actions: Vec::new(),
            events: Vec::new(),
            heard: BTreeMap::new(),
            framers: BTreeMap::new(),
            window_open: true,
            inbound: Conn::INBOUND,
        };
        this.input(Input::Synced);
        this.input(Input::Config(Box::new(config)));
        this
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.speaker.handle_input(input, self.now);
        self.take();
    }

    fn take(&mut self) {
        let mut written = Vec::new();
        while let Some(action) = self.speaker.poll_action() {
            match action {
                Action::Write { conn, bytes } => {
                    assert!(bytes.len() <= 64 * 1024 + 4096, "a write of {} bytes", bytes.len());
                    let framer = self.framers.entry(conn).or_default();
                    framer.push(&bytes);
                    let context = DecodeContext {
                        four_octet_as: true,
                        families: FamilySet::ALL,
                        ibgp: false,
                        enhanced_refresh: true,
                    };
                    while let Some(frame) = framer.next(MAX_LEN_EXTENDED).expect("we send whole messages") {
                        let message = Message::decode(&frame, &context).expect("we send good messages");
                        self.heard.entry(conn).or_default().push(message);
                    }
                    written.push(conn);
                }
                Action::Report(event) => self.events.push(event),
                other => self.actions.push(other),
            }
        }
        if self.window_open {
            for conn in written {
                self.input(Input::Written { conn, pending: 0, unacknowledged: None });
            }
        }
    }

    /// Runs every timer up to then.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.speaker.handle_timeout(self.now);
            self.take();
            assert!(
                self.speaker.poll_timeout() > Some(self.now) || self.speaker.poll_timeout().is_none(),
                "a busy loop"
            );
        }
        self.now = until;
    }

    /// The connection that is being dialled, taken from the actions.
    pub(super) fn dialled(&mut self) -> Option<Conn> {
        let at = self.actions.iter().position(|action| matches!(action, Action::Connect { .. }))?;
        match self.actions.remove(at) {
            Action::Connect { conn, .. } => Some(conn),
            _ => None,
        }
    }

    pub(super) fn connect(&mut self) -> Conn {
        let conn = self.dialled().expect("it dials");
        let local = (address(1), 40_000).into();
        self.input(Input::Connected { conn, local, on_link: true, link_local: None });
        conn
    }

    pub(super) fn accept(&mut self) -> Conn {
        let conn = Conn(self.inbound);
        self.inbound += 1;
        let local = (address(1), 179).into();
        self.input(Input::Accepted { conn, remote: address(2), local, on_link: true, link_local: None });
        conn
    }

    pub(super) fn send(&mut self, conn: Conn, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.input(Input::Received { conn, bytes: &bytes });
    }

    pub(super) fn send_open(&mut self, conn: Conn, open: &Open) {
        self.send(conn, |out| open.encode(out).expect("it fits"));
    }

    pub(super) fn keepalive(&mut self, conn: Conn) {
        self.send(conn, encode_keepalive);
    }

    pub(super) fn notify(&mut self, conn: Conn, notification: &Notification) {
        self.send(conn, |out| notification.encode(out));
    }

    /// Established on a connection that we dialled.
    pub(super) fn establish(&mut self) -> Conn {
        self.establish_with(&open())
    }

    pub(super) fn establish_with(&mut self, open: &Open) -> Conn {
        let conn = self.connect();
        self.send_open(conn, open);
        self.keepalive(conn);
        assert_eq!(self.state(), State::Established);
        conn
    }

    pub(super) fn status(&self) -> NeighborStatus {
        self.speaker.status(self.now).neighbors.into_iter().next().expect("one neighbor")
    }

    pub(super) fn state(&self) -> State {
        self.status().session.state
    }

    pub(super) fn last_error(&self) -> String {
        self.status().session.last_error.map(|error| error.text).unwrap_or_default()
    }

    pub(super) fn closed(&self, conn: Conn) -> bool {
        self.actions.contains(&Action::Close { conn })
    }

    /// NOTIFICATIONs that the neighbor got on a connection, as code and subcode.
    pub(super) fn notified(&self, conn: Conn) -> Vec<(u8, u8)> {
        let heard = self.heard.get(&conn).into_iter().flatten();
        heard
            .filter_map(|message| match message {
                Message::Notification(n) => Some((n.code.number(), n.subcode)),
                _ => None,
            })
            .collect()
    }
}

/// The neighbor's usual OPEN.
pub(super) fn open() -> Open {
    let capabilities = vec![
        Capability::multi_protocol(Family::Ipv4),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::FourOctetAs(65_002),
    ];
    Open::new(65_002, 90, [192, 0, 2, 2].into(), capabilities)
}

pub(super) fn open_with(extra: Capability) -> Open {
    let mut open = open();
    open.capabilities.push(extra);
    open
}
