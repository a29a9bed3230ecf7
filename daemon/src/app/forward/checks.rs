//! Checks of endpoints: which are due, and what their results come to. Every node checks every endpoint by itself, so that all of them
//! make the same tables without asking each other. Also questions out of turn, when the balancer doubts a node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::balance::{Balancer, Health};
use bascule_core::health::{Gate, GateConfig, ProbeKind};
use bascule_core::service::{EndpointId, ServiceSpec};
use bascule_core::time::Instant;
use tokio::sync::mpsc;

use super::by_place::ByPlace;
use crate::health;

/// Results that may wait: a probe that ends meanwhile waits with its own.
const RESULTS: usize = 256;

/// What an endpoint was asked for.
#[derive(Debug)]
enum Asked {
    /// By its check.
    Check(EndpointId),
    /// As a witness, in this inquiry.
    Witness(u32),
}

/// What came of one question.
#[derive(Debug)]
pub(super) struct Answer {
    asked: Asked,
    ok: bool,
    detail: String,
    took: Duration,
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
    /// Which services have endpoints with a check: mostly none has.
    checked: ByPlace<ServiceSpec, bool>,
    all: BTreeMap<EndpointId, Check>,
    sender: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

impl Checks {
    pub(super) fn new() -> Self {
        let (sender, answers) = mpsc::channel(RESULTS);
        Self { checked: ByPlace::default(), all: BTreeMap::new(), sender, answers }
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
    pub(super) fn configure<'a>(&mut self, services: impl Iterator<Item = &'a Arc<ServiceSpec>>, now: Instant) {
        self.checked.renew(services, |service| service.endpoints.iter().any(|endpoint| endpoint.check.is_some()));
        let mut wanted: BTreeMap<EndpointId, (String, &GateConfig)> = BTreeMap::new();
        for (service, _) in self.checked.iter().filter(|(_, checked)| **checked) {
            for endpoint in service.endpoints.iter() {
                if let Some(check) = endpoint.check.as_deref() {
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
            if check.gate.start_due(now) {
                let (kind, timeout) = (check.gate.config().probe.clone(), check.gate.config().timeout);
                start(&self.sender, Asked::Check(id.clone()), kind, timeout);
            }
        }
    }

    /// Asks a witness; its answer comes as any other.
    pub(super) fn ask(&self, inquiry: u32, probe: ProbeKind, timeout: Duration) {
        start(&self.sender, Asked::Witness(inquiry), probe, timeout);
    }

    /// The next answer. Never ends: this side holds a sender, too.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }

    /// Tells the balancer what an answer comes to.
    pub(super) fn handle_answer(&mut self, answer: Answer, balancer: &mut Balancer, now: Instant) {
        let Answer { asked, ok, detail, took } = answer;
        let id = match asked {
            Asked::Witness(inquiry) => return balancer.handle_witness(inquiry, ok, now),
            Asked::Check(id) => id,
        };
        let Some(check) = self.all.get_mut(&id) else { return };
        if ok {
            check.passed += 1;
            balancer.handle_answer_time(&id, took);
        } else {
            check.failed += 1;
        }
        if let Some(up) = check.gate.handle_result(ok, &detail) {
            tracing::info!(service = check.service, endpoint = id.endpoint, up, detail, "endpoint changed");
            balancer.handle_endpoint_health(&id, if up { Health::Ready } else { Health::Unready }, now);
        }
    }
}

fn start(sender: &mpsc::Sender<Answer>, asked: Asked, probe: ProbeKind, timeout: Duration) {
    let sender = sender.clone();
    tokio::spawn(async move {
        let begin = tokio::time::Instant::now();
        let (ok, detail) = health::probe(&probe, timeout).await;
        let took = begin.elapsed();
        // The room is gone: so is the question.
        let _ended = sender.send(Answer { asked, ok, detail, took }).await;
    });
}
