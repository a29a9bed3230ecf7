//! One request of the machine's: sent once, and what its answer means.

use std::time::Duration;

use bascule_core::election::lease::Failure;
use bascule_core::election::lease::kube::{Answer, Request};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::client::Body;
use kube::core::params::{GetParams, PostParams};

use crate::exchange::{self, Fault, message};
use crate::{LeaseName, record};

/// A Lease is below 2 KiB; etcd takes no object beyond 1.5 MiB.
const ANSWER_MAX: usize = 2 << 20;

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Done {
    /// For the machine.
    pub(crate) answer: Answer,
    /// The object of the answer, for the next write.
    pub(crate) lease: Option<Lease>,
    /// For people, of anything but a plain answer.
    pub(crate) detail: Option<String>,
}

impl Done {
    pub(crate) fn failed(failure: Failure, detail: impl Into<String>) -> Self {
        Self { answer: Answer::Failed(failure), lease: None, detail: Some(detail.into()) }
    }
}

/// The path of all Leases of the namespace.
pub(crate) fn collection(name: &LeaseName) -> kube::core::Request {
    kube::core::Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", name.namespace))
}

/// Sends it. `base` is the object that an update replaces.
pub(crate) async fn perform(client: &Client, name: &LeaseName, base: Option<&Lease>, request: &Request) -> Done {
    let leases = collection(name);
    let built = match (request, base) {
        (Request::Get, _) => leases.get(&name.name, &GetParams::default()),
        (Request::Create(record), _) => leases.create(&PostParams::default(), body(&record::fresh(name, record))),
        (Request::Update { record, .. }, Some(base)) => {
            leases.replace(&name.name, &PostParams::default(), body(&record::with(base, record)))
        }
        // A version that is not known any more is not the current one either: the machine reads again.
        (Request::Update { .. } | Request::Watch(_), _) => {
            return Done { answer: Answer::Conflict, lease: None, detail: None };
        }
    };
    match built {
        Ok(request) => send(client, request.map(Body::from)).await,
        Err(error) => Done::failed(Failure::Unavailable, error.to_string()),
    }
}

fn body(lease: &Lease) -> Vec<u8> {
    serde_json::to_vec(lease).expect("a Lease is JSON")
}

async fn send(client: &Client, request: http::Request<Body>) -> Done {
    let answer = match exchange::send(client, request).await {
        Ok(answer) => answer,
        // The token or the certificate is not there, or the server's is not believed: that is for whoever runs us, but it heals by itself
        // as a connection does.
        Err(error) => return Done::failed(Failure::Lost, error),
    };
    let (status, retry_after) = (answer.status, answer.retry_after);
    match answer.whole(ANSWER_MAX).await {
        Ok(bytes) => meaning(status, retry_after, &bytes),
        Err(error) => Done::failed(Failure::Lost, format!("{status}, and then {error}")),
    }
}

/// What status and body say.
fn meaning(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Done {
    let plain = |answer| Done { answer, lease: None, detail: None };
    let failed = |failure| Done::failed(failure, format!("{status}: {}", message(body)));
    match status {
        200..=299 => match serde_json::from_slice::<Lease>(body).map(|lease| (record::object(&lease), lease)) {
            Ok((Some(object), lease)) => Done { answer: Answer::Object(object), lease: Some(lease), detail: None },
            Ok((None, _)) => Done::failed(Failure::Unavailable, format!("{status}: a Lease without a version")),
            Err(error) => Done::failed(Failure::Unavailable, format!("{status}: no Lease: {error}")),
        },
        _ => match Fault::of(status, retry_after) {
            Fault::NotFound => plain(Answer::NotFound),
            Fault::Conflict => plain(Answer::Conflict),
            Fault::Gone | Fault::Refused => failed(Failure::Unavailable),
            Fault::Failed(failure) => failed(failure),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, retry_after: Option<u64>, body: &str) -> (Failure, String) {
        match meaning(status, retry_after.map(Duration::from_secs), body.as_bytes()) {
            Done { answer: Answer::Failed(failure), detail: Some(detail), .. } => (failure, detail),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_status_has_its_meaning() {
        assert_eq!(meaning(404, None, b"{}").answer, Answer::NotFound);
        assert_eq!(meaning(409, None, b"{}").answer, Answer::Conflict);
        let throttled = failure(429, Some(7), "Too many requests, please try again later.\n");
        assert_eq!(throttled.0, Failure::Throttled { retry_after: Some(Duration::from_secs(7)) });
        assert_eq!(throttled.1, "429: Too many requests, please try again later.");
        assert_eq!(failure(429, None, "").0, Failure::Throttled { retry_after: None });
        for (status, expected) in [
            (401, Failure::Denied),
            (403, Failure::Denied),
            (400, Failure::Unavailable),
            (410, Failure::Unavailable),
            (422, Failure::Unavailable),
            (500, Failure::Unavailable),
            (503, Failure::Unavailable),
            (504, Failure::Unavailable),
            // A redirect is not followed.
            (302, Failure::Unavailable),
        ] {
            assert_eq!(failure(status, None, "{}").0, expected, "{status}");
        }
    }

    #[test]
    fn a_success_without_a_lease_is_none() {
        assert_eq!(failure(200, None, "<html>").0, Failure::Unavailable);
        assert_eq!(failure(200, None, r#"{"metadata":{}}"#).0, Failure::Unavailable);
        let done = meaning(201, None, br#"{"metadata":{"resourceVersion":"5"}}"#);
        assert!(matches!(done.answer, Answer::Object(object) if object.version.0 == "5") && done.lease.is_some());
    }

    #[test]
    fn the_servers_own_words_are_shown() {
        let status = r#"{"kind":"Status","message":"leases is forbidden: User \"x\""}"#;
        assert_eq!(failure(403, None, status).1, "403: leases is forbidden: User \"x\"");
        assert_eq!(failure(500, None, &"x".repeat(1000)).1.len(), 205);
    }
}
