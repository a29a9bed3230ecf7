//! Health gates: rise and fall over single probe results, and when the next probe is due.
//!
//! Decides when to probe and what the results mean. The driver runs the probe and reports each result once.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::time::Instant;

/// What a probe does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProbeKind {
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// `GET` answers with a status in the range, both ends included.
    Http {
        /// `http://host:port/path`.
        url: String,
        /// Lowest and highest status that counts as healthy.
        expect: (u16, u16),
    },
    /// The same over TLS.
    Https {
        /// `https://host:port/path`.
        url: String,
        /// Lowest and highest status that counts as healthy.
        expect: (u16, u16),
        /// Whose certificate is accepted.
        trust: Trust,
        /// What is shown to a server that asks who wants to know.
        client: Option<ClientCertificate>,
    },
    /// `grpc.health.v1.Health/Check` over HTTP/2 without TLS answers SERVING.
    Grpc {
        /// Where.
        address: SocketAddr,
        /// The service that is asked for; empty: the server as a whole.
        service: String,
    },
}

/// Whose certificate a probe accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Anybody's: the probe asks whether the server works, not who it is.
    Anybody,
    /// One that these authorities signed for the server's name.
    Authorities {
        /// Certificates in PEM (RFC 7468).
        pem: Arc<str>,
        /// The name; `None`: the host of the URL.
        name: Option<String>,
    },
}

/// A client's certificate with its key, as files: they are read at each probe, for whoever makes them renews them, and may not have made
/// them yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// The certificate and what leads to its authority, in PEM (RFC 7468).
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// One gate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateConfig {
    /// Name, unique on the node.
    pub name: String,
    /// What is asked.
    pub probe: ProbeKind,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// A probe without an answer by then has failed.
    pub timeout: Duration,
    /// Successes in a row that open the gate.
    pub rise: u32,
    /// Failures in a row that close it.
    pub fall: u32,
}

/// A gate at work. It starts closed: a node does not call itself healthy before it knows.
#[derive(Clone, Debug)]
pub struct Gate {
    config: GateConfig,
    up: bool,
    known: bool,
    streak: u32,
    next: Instant,
    running: bool,
    detail: String,
}

impl Gate {
    /// A gate whose first probe is due within its interval, spread by `jitter` in 0.0..1.0 of a tenth of it, so that the gates of a
    /// node do not fire together for ever.
    pub fn new(config: GateConfig, jitter: f64, now: Instant) -> Self {
        let next = now + config.interval.mul_f64(jitter.clamp(0.0, 1.0) / 10.0);
        Self { config, up: false, known: false, streak: 0, next, running: false, detail: "not probed yet".into() }
    }

    /// The configuration in force.
    pub fn config(&self) -> &GateConfig {
        &self.config
    }

    /// Open?
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// What the last probe said.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// When the next probe is due; `None` while one runs.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.running).then_some(self.next)
    }

    /// True when a probe must start now. The caller owes its result through [`Self::handle_result`].
    #[must_use]
    pub fn start_due(&mut self, now: Instant) -> bool {
        let due = !self.running && self.next <= now;
        if due {
            self.running = true;
            self.next = now + self.config.interval;
        }
        due
    }

    /// The result of the running probe; returns the new state when the gate changed.
    pub fn handle_result(&mut self, ok: bool, detail: &str) -> Option<bool> {
        self.running = false;
        detail.clone_into(&mut self.detail);
        if !self.known {
            // The first result decides at once: a start must not wait `rise` intervals, nor pretend for `fall`.
            self.known = true;
            self.up = ok;
            self.streak = 0;
            return Some(ok);
        }
        if ok == self.up {
            self.streak = 0;
            return None;
        }
        self.streak += 1;
        let needed = if ok { self.config.rise } else { self.config.fall };
        if self.streak < needed {
            return None;
        }
        self.up = ok;
        self.streak = 0;
        Some(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        let config = GateConfig {
            name: "api".into(),
            probe: ProbeKind::Tcp(([127, 0, 0, 1], 6443).into()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
        };
        Gate::new(config, 0.5, Instant::ZERO)
    }

    #[test]
    fn rise_and_fall_count_in_a_row() {
        let mut g = gate();
        assert!(!g.is_up());
        assert_eq!(g.handle_result(true, "200"), Some(true), "the first result decides");
        let states: Vec<Option<bool>> = [false, false, true, false, false, false, true, false, true, true]
            .into_iter()
            .map(|ok| g.handle_result(ok, ""))
            .collect();
        let expected = [None, None, None, None, None, Some(false), None, None, None, Some(true)];
        assert_eq!(states, expected);
    }

    #[test]
    fn one_probe_at_a_time_on_schedule() {
        let mut g = gate();
        let first = g.poll_timeout().expect("armed");
        assert_eq!(first, Instant::from_nanos(50_000_000));
        assert!(!g.start_due(Instant::ZERO));
        assert!(g.start_due(first));
        assert_eq!(g.poll_timeout(), None, "no second probe while one runs");
        let _ = g.handle_result(true, "");
        assert_eq!(g.poll_timeout(), Some(first + Duration::from_secs(1)));
    }
}
