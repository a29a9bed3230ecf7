//! Checks of endpoints: which are due, and what their results come to. Every node checks every endpoint by itself, so that all of them
//! make the same tables without asking each other.

use std::collections::BTreeMap;

use bascule_core::balance::Health;
use bascule_core::health::{Gate, GateConfig};
use bascule_core::service::{EndpointId, ServiceSpec};
use bascule_core::time::Instant;
use tokio::sync::mpsc;

use crate::health;

/// Results that may wait: a probe that ends meanwhile waits with its own.
const RESULTS: usize = 256;

/// The result of one check.
#[derive(Debug)]
pub(super) struct Checked {
    endpoint: EndpointId,
    ok: bool,
    detail: String,
}

/// One endpoint's check.
#[derive(Debug)]
pub(super) struct Check {
    /// Name of the service, for people.
    pub(super) service: String,
    gate: Gate,
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl Check {
    pub(super) fn is_up(&self) -> bool {
        self.gate.is_up()
    }

    pub(super) fn detail(&self) -> &str {
        self.gate.detail()
    }
}

pub(super) struct Checks {
    all: BTreeMap<EndpointId, Check>,
    sender: mpsc::Sender<Checked>,
    results: mpsc::Receiver<Checked>,
}

impl Checks {
    pub(super) fn new() -> Self {
        let (sender, results) = mpsc::channel(RESULTS);
        Self { all: BTreeMap::new(), sender, results }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&EndpointId, &Check)> {
        self.all.iter()
    }

    /// What the checks that have spoken say now.
    pub(super) fn known(&self) -> Vec<(EndpointId, Health)> {
        let spoken = self.all.iter().filter(|(_, check)| check.passed + check.failed > 0);
        spoken.map(|(id, check)| (id.clone(), if check.is_up() { Health::Ready } else { Health::Unready })).collect()
    }

    /// What shall be checked from now on. A check that stays as it is goes on where it was.
    pub(super) fn configure<'a>(&mut self, services: impl Iterator<Item = &'a ServiceSpec>, now: Instant) {
        let mut wanted: BTreeMap<EndpointId, (String, &GateConfig)> = BTreeMap::new();
        for service in services {
            for endpoint in &service.endpoints {
                if let Some(check) = &endpoint.check {
                    let id = EndpointId { service: service.key(), endpoint: endpoint.name.clone() };
                    wanted.insert(id, (service.name.clone(), check));
                }
            }
        }
        self.all.retain(|id, check| wanted.get(id).is_some_and(|(_, config)| *config == check.gate.config()));
        let count = wanted.len().max(1);
        for (at, (id, (service, config))) in wanted.into_iter().enumerate() {
            // Spread evenly, so that a thousand checks do not start together.
            let jitter = at as f64 / count as f64;
            self.all.entry(id).or_insert_with(|| Check {
                service,
                gate: Gate::new(config.clone(), jitter, now),
                passed: 0,
                failed: 0,
            });
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.all.values().filter_map(|check| check.gate.poll_timeout()).min()
    }

    /// Starts what is due; each check runs beside the room.
    pub(super) fn start_due(&mut self, now: Instant) {
        for (id, check) in &mut self.all {
            if !check.gate.start_due(now) {
                continue;
            }
            let (kind, timeout) = (check.gate.config().probe.clone(), check.gate.config().timeout);
            let (endpoint, sender) = (id.clone(), self.sender.clone());
            tokio::spawn(async move {
                let (ok, detail) = health::probe(&kind, timeout).await;
                // The room is gone: so is the question.
                let _ended = sender.send(Checked { endpoint, ok, detail }).await;
            });
        }
    }

    /// The next result. Never ends: this side holds a sender, too.
    pub(super) async fn result(&mut self) -> Option<Checked> {
        self.results.recv().await
    }

    /// What a result comes to, when it is news.
    pub(super) fn handle_result(&mut self, result: Checked) -> Option<(EndpointId, Health)> {
        let check = self.all.get_mut(&result.endpoint)?;
        if result.ok {
            check.passed += 1;
        } else {
            check.failed += 1;
        }
        let up = check.gate.handle_result(result.ok, &result.detail)?;
        let EndpointId { endpoint, .. } = &result.endpoint;
        tracing::info!(service = check.service, endpoint, up, detail = result.detail, "endpoint changed");
        Some((result.endpoint, if up { Health::Ready } else { Health::Unready }))
    }
}
