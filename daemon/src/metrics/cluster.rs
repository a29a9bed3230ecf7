//! The families of the cluster's intent, from the plan in force at the scrape.

use bascule_k8s::{AllocatorState, ReportState};

use crate::handle::intent::InForce;

use super::catalog::{RESULTS_OF_REPORTS, RESULTS_OF_WRITES, SOURCES};
use super::{Metrics, advance};

/// Exact up to 2^53, beyond which no cluster goes.
fn gauge(count: usize) -> f64 {
    count as f64
}

impl Metrics {
    /// Takes over what is known of the cluster; `None`: its Services are left alone, and nothing is shown.
    pub fn update_cluster(&self, plan: Option<&InForce>) {
        let f = &self.inner.families;
        let Some(plan) = plan else { return };
        f.cluster_services.set(gauge(plan.services()));
        f.cluster_vips.set(gauge(plan.vips()));
        f.cluster_plan_seconds.set(plan.took.as_secs_f64());
        advance(&f.cluster_plans, plan.plans);
        f.cluster_intent_age.set(plan.age().unwrap_or(f64::INFINITY));
        for source in SOURCES {
            let reads = plan.source.unwrap_or("none") == source;
            f.cluster_source.with_label_values(&[source]).set(f64::from(u8::from(reads)));
        }
        for (reason, count) in plan.refused() {
            f.cluster_refused.with_label_values(&[reason]).set(count as f64);
        }
        f.cluster_objects.reset();
        for ((kind, state), count) in plan.objects() {
            f.cluster_objects.with_label_values(&[kind, state]).set(count as f64);
        }
        let may = plan.plan.standings.iter().any(|standing| standing.name == plan.node && standing.may_own);
        f.cluster_may_own.set(f64::from(u8::from(may)));
    }

    /// Takes over what the allocator of this node does; `None`: it has none.
    pub fn update_allocator(&self, state: Option<&AllocatorState>) {
        let f = &self.inner.families;
        let Some(state) = state else { return };
        f.allocator_leads.set(f64::from(u8::from(state.leads)));
        f.allocator_pending.set(if state.leads { gauge(state.pending) } else { 0.0 });
        let totals = [state.writes, state.conflicts, state.failures];
        for (result, total) in RESULTS_OF_WRITES.iter().zip(totals) {
            advance(&f.allocator_writes.with_label_values(&[result]), total);
        }
        advance(&f.allocator_events, state.events);
    }

    /// Takes over what became of this node's reports; `None`: it gives none.
    pub fn update_reports(&self, state: Option<&ReportState>) {
        let Some(state) = state else { return };
        for (result, total) in RESULTS_OF_REPORTS.iter().zip([state.written, state.failed]) {
            advance(&self.inner.families.cluster_reports.with_label_values(&[result]), total);
        }
    }
}
