//! Metrics of the leases that elect groups.

use bascule_core::election::lease::Condition;
use bascule_core::node::status::LeaseStatus;

use super::catalog::RESULTS_OF_RENEWALS;
use super::register::Families;
use super::{absent, advance};

/// Sets what a snapshot says of a group's lease.
pub(super) fn update(f: &Families, group: &str, lease: &LeaseStatus) {
    for condition in Condition::ALL {
        let holds = f64::from(u8::from(lease.store_condition == condition));
        f.lease_condition.with_label_values(&[group, condition.as_str()]).set(holds);
    }
    f.lease_left.with_label_values(&[group]).set(lease.seconds_left.unwrap_or(0.0));
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double, and no cluster claims 2^53 times")]
    f.lease_transitions.with_label_values(&[group]).set(lease.transitions as f64);
    let totals = [lease.renewals, lease.expired, lease.lost];
    for (result, total) in RESULTS_OF_RENEWALS.iter().zip(totals) {
        advance(&f.lease_renewals.with_label_values(&[group, result]), total);
    }
}

/// Takes back the states of a group that is gone, or that no lease elects any more.
pub(super) fn take_back(f: &Families, group: &str) {
    for condition in Condition::ALL {
        absent(f.lease_condition.remove_label_values(&[group, condition.as_str()]));
    }
    absent(f.lease_left.remove_label_values(&[group]));
    absent(f.lease_transitions.remove_label_values(&[group]));
}
