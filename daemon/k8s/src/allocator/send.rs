//! One write, and the event that goes with it.

use std::time::Duration;

use bascule_core::ipam::ServiceId;
use bascule_core::time::Instant;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::book::{Done, Notice, Target, Write};
use crate::exchange::{self, Fault, Trouble};

/// Longest silence of a server that is asked to write: etcd may have lost a member.
const SILENCE: Duration = Duration::from_secs(10);
/// A node carries its images, a Service little.
const ANSWER_MAX: usize = 4 << 20;
/// Who says it, in events.
const REPORTER: &str = "bascule";
/// `note` and `message` of an event end here (validation of the API).
const MESSAGE_MAX: usize = 1024;

/// What became of a write, for the book and for the state.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) target: Target,
    pub(super) done: Done,
    /// It was carried out.
    pub(super) written: bool,
    /// The event was sent.
    pub(super) said: bool,
    /// Neither, because of this.
    pub(super) trouble: Option<Trouble>,
}

/// Carries it out, unless the claim is over: nothing is sent after `deadline`, and nothing is waited for.
pub(super) async fn send(client: Client, write: Write, deadline: Instant, clock: fn() -> Instant) -> Sent {
    let target = write.target.clone();
    let left = deadline.since(clock());
    let sent = timeout(left.min(SILENCE), async {
        // Between the decision and this line the process may have slept.
        if clock() >= deadline {
            return Err(Trouble::lost("the claim is over"));
        }
        carry_out(&client, &write).await
    });
    let late = || Trouble::lost("no answer in time");
    match sent.await.map_err(|_| late()).and_then(|sent| sent) {
        Ok((done, said)) => {
            let written = !matches!(done, Done::Said);
            Sent { target, done, written, said, trouble: None }
        }
        Err(trouble) => {
            let done = match trouble.fault {
                Fault::NotFound | Fault::Refused => Done::Drop,
                Fault::Conflict | Fault::Gone => Done::Conflict,
                Fault::Failed(_) => Done::Again,
            };
            Sent { target, done, written: false, said: false, trouble: Some(trouble) }
        }
    }
}

async fn carry_out(client: &Client, write: &Write) -> Result<(Done, bool), Trouble> {
    let done = match &write.target {
        _ if write.patch.is_null() => Done::Said,
        Target::Service(ServiceId { namespace, name }) => {
            let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
            Done::Service(Box::new(patch(client, &path, "application/strategic-merge-patch+json", &write.patch).await?))
        }
        Target::Pool(name) => {
            let path = format!("/apis/bascule.dev/v1alpha1/vippools/{name}/status");
            Done::Pool(Box::new(patch(client, &path, "application/merge-patch+json", &write.patch).await?))
        }
        Target::Node(name) => {
            let path = format!("/api/v1/nodes/{name}");
            Done::Node(Box::new(patch(client, &path, "application/merge-patch+json", &write.patch).await?))
        }
    };
    // An event that is lost is not sent again: the condition says the same.
    let said = match &write.event {
        Some(notice) => notify(client, notice).await.is_ok(),
        None => false,
    };
    Ok((done, said))
}

async fn patch<T: DeserializeOwned>(client: &Client, path: &str, form: &str, patch: &Value) -> Result<T, Trouble> {
    let request =
        http::Request::patch(path).header(http::header::CONTENT_TYPE, form).body(patch.to_string().into_bytes());
    let request = request.map_err(|error| Trouble::nonsense(error.to_string()))?;
    let answer = exchange::open(client, request, SILENCE).await?.whole_in_time(ANSWER_MAX, SILENCE).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| Trouble::nonsense(format!("the answer to a write of {path}: {error}")))
}

async fn notify(client: &Client, notice: &Notice) -> Result<(), Trouble> {
    let about = &notice.about;
    // Events of what has no namespace are in this one.
    let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
    let mut object = json!({"apiVersion": "v1", "kind": about.kind, "name": about.name, "uid": about.uid});
    if !about.namespace.is_empty() {
        object["namespace"] = json!(about.namespace);
    }
    let now = now();
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": format!("{}.", about.name)},
        "involvedObject": object, "type": "Warning", "reason": notice.reason,
        "message": notice.message.chars().take(MESSAGE_MAX).collect::<String>(),
        "firstTimestamp": now, "lastTimestamp": now, "count": 1, "source": {"component": REPORTER},
        "reportingComponent": REPORTER, "reportingInstance": REPORTER});
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(event.to_string().into_bytes()).map_err(|error| Trouble::nonsense(error.to_string()))?;
    exchange::open(client, request, SILENCE).await.map(drop)
}

/// The wall clock as the API writes times, in seconds. Only for people: nothing is decided by it.
pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
