//! From a Lease to the machine's record of it, and back.

use std::time::Duration;

use bascule_core::election::lease::kube::{Object, Record, Version, WallMicros};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use crate::LeaseName;

/// Which boot of which machine wrote the record; see `Record::instance`.
pub(crate) const INSTANCE: &str = "bascule.dev/holder-instance";

/// A Lease as the machine sees it. `None` when it names no version, which no server leaves out.
pub(crate) fn object(lease: &Lease) -> Option<Object> {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or_default();
    let micros = |time: Option<MicroTime>| WallMicros(time.map_or(0, |t| t.0.as_microsecond()));
    let record = Record {
        holder: spec.holder_identity.unwrap_or_default(),
        instance: lease.metadata.annotations.as_ref().and_then(|all| all.get(INSTANCE)).cloned(),
        duration: Duration::from_secs(seconds),
        acquired: micros(spec.acquire_time),
        renewed: micros(spec.renew_time),
        transitions: spec.lease_transitions.and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
    };
    Some(Object { version: Version(lease.metadata.resource_version.clone()?), record })
}

/// A Lease that is not there yet.
pub(crate) fn fresh(name: &LeaseName, record: &Record) -> Lease {
    let metadata =
        ObjectMeta { namespace: Some(name.namespace.clone()), name: Some(name.name.clone()), ..ObjectMeta::default() };
    with(&Lease { metadata, spec: None }, record)
}

/// `base` with another record: its version, labels, other annotations and the rest of its spec stay.
pub(crate) fn with(base: &Lease, record: &Record) -> Lease {
    let mut lease = base.clone();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    match &record.instance {
        Some(instance) => drop(annotations.insert(INSTANCE.to_owned(), instance.clone())),
        None => drop(annotations.remove(INSTANCE)),
    }
    let before = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: i32::try_from(record.duration.as_secs()).ok(),
        acquire_time: time(record.acquired),
        renew_time: time(record.renewed),
        lease_transitions: i32::try_from(record.transitions).ok(),
        ..before
    });
    lease
}

fn time(at: WallMicros) -> Option<MicroTime> {
    Timestamp::from_microsecond(at.0).ok().map(MicroTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kube-vip's client-go writes it.
    const FOREIGN: &str = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease",
        "metadata":{"name":"plndr-cp-lock","namespace":"kube-system","resourceVersion":"77","labels":{"a":"b"},"uid":"u"},
        "spec":{"holderIdentity":"cp2","leaseDurationSeconds":15,"acquireTime":"2026-01-01T00:00:00.000001Z",
                "renewTime":"2026-01-01T00:00:05.500000Z","leaseTransitions":3}}"#;

    #[test]
    fn a_foreign_lease_is_read() {
        let lease: Lease = serde_json::from_str(FOREIGN).unwrap();
        let Object { version, record } = object(&lease).unwrap();
        assert_eq!((version.0.as_str(), record.holder.as_str(), record.instance), ("77", "cp2", None));
        assert_eq!((record.duration, record.transitions), (Duration::from_secs(15), 3));
        assert_eq!(record.renewed.0 - record.acquired.0, 5_499_999);
    }

    #[test]
    fn what_we_do_not_write_stays_and_what_we_write_comes_back() {
        let lease: Lease = serde_json::from_str(FOREIGN).unwrap();
        let record = Record {
            holder: "cp1".into(),
            instance: Some("boot".into()),
            duration: Duration::from_secs(3),
            acquired: WallMicros(1_700_000_000_000_001),
            renewed: WallMicros(1_700_000_000_000_002),
            transitions: 4,
        };
        let ours = with(&lease, &record);
        let text = serde_json::to_string(&ours).unwrap();
        let read: Lease = serde_json::from_str(&text).unwrap();
        assert_eq!(object(&read), Some(Object { version: Version("77".into()), record: record.clone() }));
        assert_eq!((&read.metadata.labels, &read.metadata.uid), (&lease.metadata.labels, &lease.metadata.uid));
        let released = with(&ours, &Record { holder: String::new(), instance: None, ..record });
        assert_eq!(released.metadata.annotations.unwrap().get(INSTANCE), None);
        assert_eq!(released.spec.unwrap().holder_identity.as_deref(), Some(""));
    }

    #[test]
    fn an_empty_lease_is_nobodys() {
        let lease: Lease = serde_json::from_str(r#"{"metadata":{"resourceVersion":"1"}}"#).unwrap();
        let record = object(&lease).unwrap().record;
        assert_eq!((record.holder.as_str(), record.duration, record.transitions), ("", Duration::ZERO, 0));
        assert_eq!(object(&Lease::default()), None);
    }
}
