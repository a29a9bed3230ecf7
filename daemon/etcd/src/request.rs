//! One request of the machine's: sent once, and what its answer means.

use std::time::Duration;

use bascule_core::election::lease::Failure;
use bascule_core::election::lease::etcd::{Answer, Entry, LeaseId, Request};
use bascule_elector::chain;
use futures_util::stream;
use tonic::{Code, Status};

use crate::connection::Connection;
use crate::proto::{
    Compare, DeleteRangeRequest, KeyValue, LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, LeaseGrantRequest,
    LeaseRequest, LeaseResponse, LeaseRevokeResponse, PutRequest, RANGE, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TXN, TxnRequest, TxnResponse,
};
use crate::tls;

/// The answer, and for people what was wrong with it.
pub(crate) type Said = (Answer, Option<String>);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The entry's.
    pub(crate) entry: String,
    /// This node's share of a joint entry, which is below it.
    pub(crate) share: Option<String>,
}

impl Keys {
    /// Shares of all nodes begin with this.
    fn shares(&self) -> String {
        format!("{}/", self.entry)
    }

    fn share(&self) -> Result<&str, Status> {
        self.share.as_deref().ok_or_else(|| Status::internal("an entry without shares"))
    }
}

/// Sends it over `connection`.
pub(crate) async fn perform(connection: &Connection, keys: &Keys, request: Request) -> Said {
    let key = keys.entry.as_str();
    let answer = match request {
        Request::Look => look(connection, key).await,
        Request::Grant(ttl) => grant(connection, ttl).await,
        Request::Campaign { holder, lease, over } => campaign(connection, keys, &holder, lease, over).await,
        Request::KeepAlive(lease) => keep_alive(connection, lease).await,
        Request::Revoke(lease) => revoke(connection, lease).await,
        Request::Share { lease, over } => share(connection, keys, lease, over).await,
        Request::Leave(revision) => leave(connection, keys, revision).await,
        Request::Free(over) => free(connection, keys, over).await,
        // The driver keeps watches elsewhere.
        Request::Watch(_) => Err(Status::internal("a watch is no request")),
    };
    answer.map_or_else(
        |status| {
            let (answer, text) = meaning(&status);
            (answer, Some(format!("{}: {text}", connection.endpoint())))
        },
        |answer| (answer, None),
    )
}

async fn look(connection: &Connection, key: &str) -> Result<Answer, Status> {
    let found: RangeResponse = connection.unary(RANGE, RangeRequest { key: key.into() }).await?;
    Ok(Answer::Key(found.kvs.first().map(entry), revision(found.header.as_ref())))
}

async fn grant(connection: &Connection, ttl: Duration) -> Result<Answer, Status> {
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let lease: LeaseResponse = connection.unary(LEASE_GRANT, LeaseGrantRequest { ttl }).await?;
    Ok(granted(&lease))
}

/// With a share of this node in the same step, where there are shares.
async fn campaign(
    connection: &Connection,
    keys: &Keys,
    holder: &str,
    lease: LeaseId,
    over: u64,
) -> Result<Answer, Status> {
    let share = keys.share.as_deref().map(|share| put(share, holder, lease));
    let puts = [put(&keys.entry, holder, lease)].into_iter().chain(share).collect();
    transact(connection, keys, vec![Compare::revision(&keys.entry, over)], puts).await
}

/// The value of a share is for people, who read its key.
async fn share(connection: &Connection, keys: &Keys, lease: LeaseId, over: u64) -> Result<Answer, Status> {
    let share = put(keys.share()?, "", lease);
    transact(connection, keys, vec![Compare::revision(&keys.entry, over)], vec![share]).await
}

async fn leave(connection: &Connection, keys: &Keys, revision: u64) -> Result<Answer, Status> {
    let share = keys.share()?;
    transact(connection, keys, vec![Compare::revision(share, revision)], vec![delete(share)]).await?;
    Ok(Answer::Revoked)
}

async fn free(connection: &Connection, keys: &Keys, over: u64) -> Result<Answer, Status> {
    let alone = vec![Compare::revision(&keys.entry, over), Compare::nothing_below(&keys.shares())];
    transact(connection, keys, alone, vec![delete(&keys.entry)]).await
}

fn put(key: &str, value: &str, LeaseId(lease): LeaseId) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), lease };
    RequestOp { request_put: Some(put), ..RequestOp::default() }
}

fn delete(key: &str) -> RequestOp {
    RequestOp { request_delete_range: Some(DeleteRangeRequest { key: key.into() }), ..RequestOp::default() }
}

/// All of it if all of that holds, else what the entry is.
async fn transact(
    connection: &Connection,
    keys: &Keys,
    compare: Vec<Compare>,
    success: Vec<RequestOp>,
) -> Result<Answer, Status> {
    let look = RangeRequest { key: keys.entry.as_str().into() };
    let failure = vec![RequestOp { request_range: Some(look), ..RequestOp::default() }];
    let answer: TxnResponse = connection.unary(TXN, TxnRequest { compare, success, failure }).await?;
    let at = revision(answer.header.as_ref());
    if answer.succeeded {
        return Ok(Answer::Won(at));
    }
    let found = answer.responses.first().and_then(|response| response.response_range.as_ref());
    let found = found.ok_or_else(|| Status::internal("a lost Txn without its Range"))?;
    Ok(Answer::Key(found.kvs.first().map(entry), at))
}

/// On a stream of its own, of one message: what answers it can only be the answer to it.
async fn keep_alive(connection: &Connection, LeaseId(id): LeaseId) -> Result<Answer, Status> {
    let mut answers = connection.stream(LEASE_KEEP_ALIVE, stream::iter([LeaseRequest { id }])).await?;
    let answer: Option<LeaseResponse> = answers.message().await?;
    let answer = answer.ok_or_else(|| Status::internal("a keep-alive without an answer"))?;
    if answer.id != id {
        return Err(Status::internal("a keep-alive of another lease"));
    }
    Ok(granted(&answer))
}

async fn revoke(connection: &Connection, LeaseId(id): LeaseId) -> Result<Answer, Status> {
    let LeaseRevokeResponse {} = connection.unary(LEASE_REVOKE, LeaseRequest { id }).await?;
    Ok(Answer::Revoked)
}

/// A keep-alive of a lease that is gone is answered with a TTL of zero, or less.
fn granted(lease: &LeaseResponse) -> Answer {
    Answer::Lease(LeaseId(lease.id), Duration::from_secs(u64::try_from(lease.ttl).unwrap_or_default()))
}

fn revision(header: Option<&ResponseHeader>) -> u64 {
    header.and_then(|header| u64::try_from(header.revision).ok()).unwrap_or_default()
}

/// The key as the machine sees it. A value that is no text is somebody's all the same.
pub(crate) fn entry(kv: &KeyValue) -> Entry {
    Entry {
        holder: String::from_utf8_lossy(&kv.value).into_owned(),
        lease: LeaseId(kv.lease),
        revision: u64::try_from(kv.mod_revision).unwrap_or_default(),
    }
}

/// What anything but success says (etcd's `rpctypes`, "Status codes and their use in gRPC").
fn meaning(status: &Status) -> (Answer, String) {
    // Only what broke underneath has a cause; a status that was sent has none.
    if let Some(cause) = std::error::Error::source(status) {
        let text = chain(cause);
        let failure = if tls::is_denial(&text) { Failure::Denied } else { Failure::Lost };
        return (Answer::Failed(failure), text);
    }
    let answer = match status.code() {
        Code::NotFound => Answer::NoLease,
        Code::ResourceExhausted => Answer::Failed(Failure::Throttled { retry_after: None }),
        Code::PermissionDenied | Code::Unauthenticated => Answer::Failed(Failure::Denied),
        // With authentication on, for a certificate without a common name, and for none at all.
        Code::InvalidArgument if status.message().contains("user name is empty") => Answer::Failed(Failure::Denied),
        _ => Answer::Failed(Failure::Unavailable),
    };
    (answer, format!("{:?}: {}", status.code(), status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_meaning() {
        for (status, expected) in [
            (Status::not_found("etcdserver: requested lease not found"), Answer::NoLease),
            (
                Status::resource_exhausted("etcdserver: too many requests"),
                Answer::Failed(Failure::Throttled { retry_after: None }),
            ),
            (Status::permission_denied("etcdserver: permission denied"), Answer::Failed(Failure::Denied)),
            (Status::unauthenticated("etcdserver: invalid auth token"), Answer::Failed(Failure::Denied)),
            (Status::invalid_argument("etcdserver: user name is empty"), Answer::Failed(Failure::Denied)),
            (Status::invalid_argument("etcdserver: key is not provided"), Answer::Failed(Failure::Unavailable)),
            (Status::unavailable("etcdserver: no leader"), Answer::Failed(Failure::Unavailable)),
            (Status::unknown("context deadline exceeded"), Answer::Failed(Failure::Unavailable)),
            (Status::from_error("broken".into()), Answer::Failed(Failure::Lost)),
        ] {
            let (answer, text) = meaning(&status);
            assert_eq!(answer, expected, "{status}");
            assert!(text.contains(status.message()), "{text}");
        }
    }

    #[test]
    fn a_lease_that_is_gone_has_no_time() {
        assert_eq!(granted(&LeaseResponse { id: 7, ttl: -1 }), Answer::Lease(LeaseId(7), Duration::ZERO));
        assert_eq!(granted(&LeaseResponse { id: 7, ttl: 5 }), Answer::Lease(LeaseId(7), Duration::from_secs(5)));
    }
}
