//! The relay of a node: what it says to other sites ([`State`]), and which of their relays it has its sessions with. It does what `bascule_mesh::state`
//! does around the machine, and decides by the same [`partner`]; what that has for certificates and for earlier versions is not here.

mod seek;

use std::collections::{BTreeMap, VecDeque};

use bascule_core::site::partner::{self, CROSSING, Choice, Look, Pulse, Seeks, Side, Why, stood_still};
use bascule_core::site::state::State;
use bascule_core::site::state::io::Action;
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;

use super::host::{id, place};
use super::mutant::Mutant;
use super::node::{NAMES, RELAYS};

/// What goes over a connection of two relays.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Frame {
    Message(Vec<u8>),
    /// The sender leads its site, or does not any more.
    Leads(bool),
    Ping,
    Pong,
    Goodbye(Bye),
    /// Nothing more comes: the process is gone, or took no leave.
    Broken,
}

/// Why a relay ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Bye {
    Closed,
    /// It has a session with another relay of that site.
    Held,
    Stopping,
}

/// A connection whose ends have greeted each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fresh {
    pub(super) conn: u64,
    /// The node of the relay at the other end.
    pub(super) relay: usize,
    /// That one leads.
    pub(super) leads: bool,
    /// What it was told of us: that we lead.
    pub(super) stated: bool,
    pub(super) dialled: bool,
}

/// What the world is owed.
#[derive(Debug)]
pub(super) enum Owe {
    /// Call the relays of a site in this order until one greets.
    Call {
        to: usize,
        call: u64,
        order: Vec<usize>,
        seeks: bool,
        leads: bool,
    },
    Frame {
        conn: u64,
        frame: Frame,
    },
    /// The last frame; nothing is read any more.
    Shut {
        conn: u64,
        frame: Frame,
    },
}

/// What is owed to whom.
#[derive(Debug)]
pub(super) enum Owed {
    World(Owe),
    /// To the node: what the machine of records has for it.
    Node(Action),
}

/// How a session ends here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Ours,
    Replaced,
    Machine,
    Goodbye(Bye),
    Broken,
    Silent,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    conn: u64,
    relay: usize,
    leads: bool,
    stated: bool,
    dialled: bool,
    since: Instant,
    pulse: Pulse,
}

/// What there is with one site.
#[derive(Debug)]
struct Partner {
    link: Option<Link>,
    /// A relay that greeted and may yet say that it has another session.
    sought: Option<Link>,
    calling: Option<(u64, Why)>,
    seeks: Seeks,
    /// The relay to call first.
    first: usize,
}

impl Partner {
    /// This relay is called last.
    fn passed(&mut self, relay: usize) {
        self.first = (relay - RELAYS.start + 1) % RELAYS.len();
    }

    fn wants_another(&self) -> bool {
        RELAYS.len() > 1 && self.link.is_some_and(|link| !link.leads)
    }

    const fn is_idle(&self) -> bool {
        self.sought.is_none() && self.calling.is_none()
    }
}

/// It.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) state: State,
    site: usize,
    pub(super) leads: bool,
    partners: BTreeMap<usize, Partner>,
    drawn: u64,
    /// When it last ran.
    awake: Instant,
    owes: VecDeque<Owe>,
    mutant: Option<Mutant>,
}

impl Relay {
    pub(super) fn new((site, sites): (usize, usize), state: State, mutant: Option<Mutant>, at: Instant) -> Self {
        let partner = |other| {
            let (link, sought, calling) = Default::default();
            (other, Partner { link, sought, calling, seeks: Seeks::new(at), first: 0 })
        };
        let partners = (0..sites).filter(|other| *other != site).map(partner).collect();
        Self { state, site, leads: false, partners, drawn: 0, awake: at, owes: VecDeque::new(), mutant }
    }

    /// The connection of its session with a site, and the node at the other end.
    pub(super) fn session(&self, with: usize) -> Option<(u64, usize)> {
        self.partners.get(&with)?.link.map(|link| (link.conn, link.relay))
    }

    /// Begins to lead the site, or ends that.
    pub(super) fn handle_rank(&mut self, leads: bool, at: Instant) {
        if std::mem::replace(&mut self.leads, leads) == leads {
            return;
        }
        if leads {
            self.state.handle_lead(at);
        }
        for to in self.partners.keys().copied().collect::<Vec<_>>() {
            self.state_rank(to);
        }
    }

    /// Tells the other end what we are, unless it knows.
    fn state_rank(&mut self, to: usize) {
        let leads = self.leads;
        let Some(link) = self.partners.get_mut(&to).and_then(|partner| partner.link.as_mut()) else { return };
        if link.stated != leads && self.mutant != Some(Mutant::RankUnsaid) {
            link.stated = leads;
            self.owes.push_back(Owe::Frame { conn: link.conn, frame: Frame::Leads(leads) });
        }
    }

    pub(super) fn handle_credit(&mut self, to: usize, service: ServiceId, amount: u32, lend: bool) {
        if self.partners.get(&to).and_then(|partner| partner.link).is_some_and(|link| link.leads) {
            self.state.handle_credit(id(to), service, amount, lend);
        }
    }

    /// A connection that came to us, or that counts as if it had.
    pub(super) fn handle_fresh(&mut self, from: usize, fresh: Fresh, at: Instant) {
        let _stays = self.settle(from, link(fresh, at), at);
    }

    /// Which of two connections with a site is the session. True: this one.
    fn settle(&mut self, with: usize, new: Link, at: Instant) -> bool {
        let leads = self.leads;
        let Some(partner) = self.partners.get_mut(&with) else { return false };
        if let Some(old) = &mut partner.link {
            let side = |of: &Link| Side { relay: NAMES[of.relay], dialled: of.dialled, leads: leads && of.leads };
            let age = at.since(old.since);
            if partner::choose(id(self.site), id(with), side(&*old), side(&new), age) == Choice::Keep {
                if old.relay != new.relay && old.pulse.handle_rival(at) {
                    self.owes.push_back(Owe::Frame { conn: old.conn, frame: Frame::Ping });
                }
                self.owes.push_back(Owe::Shut { conn: new.conn, frame: Frame::Goodbye(Bye::Held) });
                return false;
            }
            self.hang_up(with, Ended::Replaced);
        }
        self.install(with, new, at);
        true
    }

    fn install(&mut self, with: usize, mut new: Link, at: Instant) {
        let Some(partner) = self.partners.get_mut(&with) else { return };
        if self.site > with || new.dialled {
            partner.calling = None;
        }
        partner.seeks = Seeks::new(at);
        new.pulse.handle_frame(at);
        partner.link = Some(new);
        self.state_rank(with);
        self.state.handle_relay(id(with), NAMES[new.relay], at);
    }

    fn lost(&mut self, with: usize, ended: Ended, at: Instant) {
        self.hang_up(with, ended);
        self.state.handle_disconnected(id(with), at);
    }

    fn hang_up(&mut self, with: usize, ended: Ended) {
        let Some(partner) = self.partners.get_mut(&with) else { return };
        let Some(old) = partner.link.take() else { return };
        let bye = match ended {
            Ended::Ours => Bye::Stopping,
            Ended::Replaced => Bye::Held,
            Ended::Machine | Ended::Goodbye(_) | Ended::Broken | Ended::Silent => Bye::Closed,
        };
        if matches!(ended, Ended::Goodbye(Bye::Stopping | Bye::Held) | Ended::Broken | Ended::Silent) {
            partner.passed(old.relay);
        }
        partner.calling = partner.calling.and_then(|(call, why)| Some((call, why.without_session()?)));
        self.owes.push_back(Owe::Shut { conn: old.conn, frame: Frame::Goodbye(bye) });
    }

    /// A frame of a session, or of a connection that may become one.
    pub(super) fn handle_frame(&mut self, conn: u64, frame: Frame, at: Instant) {
        self.wake(at);
        let of = |link: &Option<Link>| link.is_some_and(|link| link.conn == conn);
        let found = self.partners.iter_mut().find(|(_, partner)| of(&partner.link) || of(&partner.sought));
        // Of a connection that we have ended.
        let Some((&with, partner)) = found else { return };
        if of(&partner.sought) && !self.sought(with, &frame, at) {
            return;
        }
        let Some(link) = self.partners.get_mut(&with).and_then(|partner| partner.link.as_mut()) else { return };
        link.pulse.handle_frame(at);
        match frame {
            Frame::Message(bytes) => self.state.handle_late(id(with), &bytes, link.pulse.late(), at),
            Frame::Leads(leads) => link.leads = leads,
            Frame::Ping => self.owes.push_back(Owe::Frame { conn, frame: Frame::Pong }),
            Frame::Pong => link.pulse.handle_answer(),
            Frame::Goodbye(bye) => self.lost(with, Ended::Goodbye(bye), at),
            Frame::Broken => self.lost(with, Ended::Broken, at),
        }
    }

    /// Once in [`partner::LOOK`]: who was silent for long is asked, and given up without an answer.
    pub(super) fn look(&mut self, at: Instant) {
        self.wake(at);
        for with in self.partners.keys().copied().collect::<Vec<_>>() {
            let Some(partner) = self.partners.get_mut(&with) else { continue };
            if partner.sought.is_some_and(|link| at.since(link.since) >= CROSSING) {
                self.not_taken_up(with, at);
            }
            let Some(link) = self.partners.get_mut(&with).and_then(|partner| partner.link.as_mut()) else { continue };
            match link.pulse.look(at) {
                Look::Over => self.lost(with, Ended::Silent, at),
                Look::Ask => self.owes.push_back(Owe::Frame { conn: link.conn, frame: Frame::Ping }),
                Look::Heard => {}
            }
        }
    }

    /// It runs; perhaps after it stood still.
    fn wake(&mut self, at: Instant) {
        let Some(gap) = stood_still(std::mem::replace(&mut self.awake, at), at) else { return };
        for link in self.partners.values_mut().filter_map(|partner| partner.link.as_mut()) {
            link.pulse.handle_gap(gap);
            self.owes.push_back(Owe::Frame { conn: link.conn, frame: Frame::Ping });
        }
    }

    /// Takes leave of all sites.
    pub(super) fn leave(&mut self) {
        for with in self.partners.keys().copied().collect::<Vec<_>>() {
            self.hang_up(with, Ended::Ours);
        }
    }

    /// Deadlines passed.
    pub(super) fn handle_expire(&mut self, at: Instant) {
        self.state.handle_expire(at);
    }

    /// The next thing that it owes.
    pub(super) fn poll(&mut self, at: Instant) -> Option<Owed> {
        loop {
            if let Some(owe) = self.owes.pop_front() {
                return Some(Owed::World(owe));
            }
            match self.state.poll_action() {
                Some(Action::Dial(site)) => self.call(place(site), Why::Session),
                Some(Action::Send(site, bytes)) => {
                    let link = self.partners.get(&place(site)).and_then(|partner| partner.link);
                    if let Some(Link { conn, .. }) = link {
                        return Some(Owed::World(Owe::Frame { conn, frame: Frame::Message(bytes) }));
                    }
                }
                Some(close @ Action::Close(site, _)) => {
                    self.hang_up(place(site), Ended::Machine);
                    return Some(Owed::Node(close));
                }
                Some(action) => return Some(Owed::Node(action)),
                None => {
                    self.seek(at);
                    if self.owes.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    /// When it has something to do without being told anything.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let sought =
            self.partners.values().filter(|partner| self.leads && partner.wants_another() && partner.is_idle());
        self.state.poll_timeout().into_iter().chain(sought.map(|partner| partner.seeks.next())).min()
    }
}

const fn link(fresh: Fresh, at: Instant) -> Link {
    let Fresh { conn, relay, leads, stated, dialled } = fresh;
    Link { conn, relay, leads, stated, dialled, since: at, pulse: Pulse::new(at) }
}
