//! The rules of RFC 5880 one by one, then pairs of sessions over a bad network, then the machine around them.

mod machine;
mod pair;
mod poll;
mod rules;

use core::time::Duration;

use super::session::{Change, Params, Session};
use super::timing::Timers;
use crate::time::Instant;
use crate::wire::bfd::{Control, Diag, Discard, State};

const PEER: u32 = 0xbeef;
const OURS: u32 = 77;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn timers(tx_ms: u32, rx_ms: u32, multiplier: u8) -> Timers {
    Timers { desired_min_tx: tx_ms * 1000, required_min_rx: rx_ms * 1000, multiplier }
}

/// One session and a clock; the test plays the peer.
struct Alone {
    session: Session,
    now: Instant,
    /// Every packet sent, with its time.
    sent: Vec<(Instant, Control)>,
    changes: Vec<Change>,
    /// What the peer says next.
    peer: Control,
}

impl Alone {
    fn new(timers: Timers) -> Self {
        Self::with(Params { timers, passive: false, local_discr: OURS, seed: 1 })
    }

    fn with(params: Params) -> Self {
        let now = Instant::from_nanos(5_000_000_000);
        let peer = Control {
            diag: Diag::NONE,
            state: State::Down,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            detect_mult: 3,
            my_discr: PEER,
            your_discr: 0,
            desired_min_tx: 100_000,
            required_min_rx: 100_000,
            required_min_echo_rx: 0,
        };
        let session = Session::new(params, now);
        let mut alone = Self { session, now, sent: Vec::new(), changes: Vec::new(), peer };
        alone.gather();
        alone
    }

    /// A session that is Up and whose first Poll Sequence is over.
    fn up(timers: Timers) -> Self {
        let mut alone = Self::new(timers);
        alone.hear(State::Init);
        alone.say(|c| c.is_final = true);
        alone.say(|_| {});
        assert_eq!((alone.session.state(), alone.session.polling()), (State::Up, false));
        alone.sent.clear();
        alone.changes.clear();
        alone
    }

    fn gather(&mut self) {
        while let Some(packet) = self.session.poll_packet() {
            self.sent.push((self.now, packet));
        }
        while let Some(change) = self.session.poll_change() {
            self.changes.push(change);
        }
    }

    /// The peer says its usual things, changed for this once.
    fn say(&mut self, edit: impl FnOnce(&mut Control)) {
        let mut packet = self.peer;
        edit(&mut packet);
        assert!(self.try_say(&packet).is_ok(), "{packet:?}");
    }

    fn try_say(&mut self, packet: &Control) -> Result<(), Discard> {
        let result = self.session.handle_packet(packet, self.now);
        self.gather();
        result
    }

    /// The peer says from now on that it is in this state, and says it now.
    fn hear(&mut self, state: State) {
        self.peer.state = state;
        self.peer.your_discr = if matches!(state, State::Init | State::Up) { OURS } else { 0 };
        self.say(|_| {});
    }

    /// Time passes in silence; timers run at their deadlines.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            self.gather();
        }
        self.now = end;
    }

    /// Time passes while the peer repeats its packet at this interval.
    fn run_alive(&mut self, span: Duration, every: Duration) {
        let end = self.now + span;
        while self.now + every <= end {
            self.run(every);
            self.say(|_| {});
        }
    }

    fn set(&mut self, timers: Timers) {
        self.session.set_timers(timers, self.now);
        self.gather();
    }

    fn last(&self) -> Control {
        self.sent.last().expect("a packet").1
    }

    /// Gaps between the packets sent, in microseconds.
    fn gaps(&self) -> Vec<u64> {
        self.sent.windows(2).map(|w| u64::try_from(w[1].0.since(w[0].0).as_micros()).expect("short")).collect()
    }
}
