//! From a request to an answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Fake, Inner, Mood};

pub(super) async fn handle(
    State(fake): State<Fake>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned);
    {
        let mut inner = fake.lock();
        let whole = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        inner.seen.push((method.clone(), whole));
        inner.objects.requests += 1;
        if authorization != Some(format!("Bearer {}", inner.token)) {
            return status(401, "Unauthorized");
        }
        if let Some((_, code)) = inner.withheld.filter(|(end, _)| path.ends_with(end)) {
            return status(code, "withheld");
        }
    }
    // Watches may be waiting for the next request.
    fake.wake();
    let mood = thaw(&fake).await;
    match mood {
        Mood::Status(code) => return status(code, "as the test wants it"),
        Mood::Throttle(seconds) => {
            let said = [("retry-after", seconds.to_string())];
            return (StatusCode::TOO_MANY_REQUESTS, said, "Too many requests").into_response();
        }
        Mood::Break => {
            let parts: [Result<&str, std::io::Error>; 2] = [Ok("{"), Err(std::io::ErrorKind::ConnectionReset.into())];
            return Response::new(Body::from_stream(futures_util::stream::iter(parts)));
        }
        Mood::Slow => wait(&fake).await,
        Mood::Well | Mood::Freeze | Mood::Swallow | Mood::Conflict(_) => {}
    }
    if query.contains_key("watch") {
        return watch(fake, &path, &query);
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let answer = {
        let mut inner = fake.lock();
        match method.as_str() {
            "GET" => read(&inner, &path, &query),
            _ => write(&mut inner, &method, &path, &body),
        }
    };
    if method != "GET" {
        fake.wake();
    }
    if mood == Mood::Swallow && method != "GET" {
        std::future::pending::<()>().await;
    }
    answer
}

/// Waits until it is not frozen; the mood then.
async fn thaw(fake: &Fake) -> Mood {
    let mut pulse = fake.pulse.subscribe();
    loop {
        let mood = fake.lock().mood;
        if mood != Mood::Freeze || pulse.changed().await.is_err() {
            return mood;
        }
    }
}

/// How many requests watches are late.
const fn behind(mood: Mood) -> u64 {
    if let Mood::Conflict(behind) = mood { behind } else { 0 }
}

/// Waits until the test lets this request go on, or the mood is another one.
async fn wait(fake: &Fake) {
    let mut pulse = fake.pulse.subscribe();
    let turn = {
        let mut inner = fake.lock();
        inner.waiting += 1;
        inner.waiting
    };
    fake.bell.ring();
    loop {
        let over = {
            let inner = fake.lock();
            inner.released >= turn || inner.mood != Mood::Slow
        };
        if over || pulse.changed().await.is_err() {
            return;
        }
    }
}

fn status(code: u16, message: &str) -> Response {
    let said = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    (StatusCode::from_u16(code).expect("a status"), axum::Json(said)).into_response()
}

fn read(inner: &Inner, path: &str, query: &HashMap<String, String>) -> Response {
    if let Some(object) = inner.objects.get(path) {
        return axum::Json(object).into_response();
    }
    let kind = match path.rsplit('/').next() {
        Some("services") => "ServiceList",
        Some("endpointslices") => "EndpointSliceList",
        Some("nodes") => "NodeList",
        Some("namespaces") => "NamespaceList",
        Some("vippools") => "VipPoolList",
        Some("l2announcements") => "L2AnnouncementList",
        Some("bgppeers") => "BgpPeerList",
        Some("bgpannouncements") => "BgpAnnouncementList",
        Some("sites") => "SiteList",
        Some("sitetrafficpolicies") => "SiteTrafficPolicyList",
        _ => return status(404, &format!("{path} not found")),
    };
    // A token is the path of the last object of the page before.
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let after = query.get("continue").cloned().unwrap_or_default();
    let rest: Vec<_> = inner.objects.of(path).filter(|(at, _)| after.is_empty() || **at > after).collect();
    let items: Vec<&Value> = rest.iter().take(limit).map(|(_, object)| *object).collect();
    let token = if rest.len() > limit { rest[limit - 1].0.clone() } else { String::new() };
    let metadata = json!({"resourceVersion": inner.objects.version.to_string(), "continue": token});
    axum::Json(json!({"kind": kind, "metadata": metadata, "items": items})).into_response()
}

fn write(inner: &mut Inner, method: &str, path: &str, body: &Bytes) -> Response {
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let target = path.trim_end_matches("/status");
    let kind = usize::from(target.contains("/leases/"));
    inner.writes[kind] += 1;
    let count = inner.writes[kind];
    if matches!(inner.mood, Mood::Conflict(_))
        && count % 2 == 1
        && let Some(mut object) = inner.objects.get(target).cloned()
    {
        object["metadata"]["annotations"]["other"] = count.to_string().into();
        inner.objects.put(target, object);
    }
    let Some(mut object) = inner.objects.get(target).cloned() else {
        if method != "POST" {
            return status(404, &format!("{target} not found"));
        }
        let prefix = sent["metadata"]["generateName"].as_str().unwrap_or_default();
        let made = format!("{prefix}{count}");
        let name = sent["metadata"]["name"].as_str().unwrap_or(&made).to_owned();
        let created = format!("{path}/{name}");
        if inner.objects.get(&created).is_some() {
            return status(409, "already exists");
        }
        return (StatusCode::CREATED, axum::Json(inner.objects.put(&created, sent))).into_response();
    };
    let wanted = &sent["metadata"]["resourceVersion"];
    if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
        return status(409, "the object has been modified");
    }
    match method {
        "PUT" => object = sent,
        _ => merge(&mut object, &sent),
    }
    axum::Json(inner.objects.put(target, object)).into_response()
}

/// RFC 7396; and lists of conditions by their type, as a strategic merge patch has it.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            let _gone = into.as_object_mut().and_then(|into| into.remove(key));
        } else if key == "conditions" && into[key].is_array() {
            let all = into[key].as_array_mut().expect("it is one");
            for one in value.as_array().into_iter().flatten() {
                all.retain(|known| known["type"] != one["type"]);
                if one["$patch"] != "delete" {
                    all.push(one.clone());
                }
            }
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// From the version of the query on, until its time is up or the age ends.
fn watch(fake: Fake, path: &str, query: &HashMap<String, String>) -> Response {
    let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let life = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(300);
    let (age, pulse) = (fake.age.subscribe(), fake.pulse.subscribe());
    let end = tokio::time::Instant::now() + Duration::from_secs(life);
    let state = (fake, path.to_owned(), from, age, pulse, false);
    let lines = futures_util::stream::unfold(state, move |(fake, path, from, mut age, mut pulse, over)| async move {
        if over {
            return None;
        }
        loop {
            let next = {
                let inner = fake.lock();
                (inner.mood != Mood::Freeze).then(|| inner.objects.next(from, &path, behind(inner.mood)))
            };
            match next {
                None => {}
                Some(Err(_)) => {
                    let said = json!({"kind": "Status", "message": "too old resource version", "reason": "Expired", "code": 410});
                    let line = line(&json!({"type": "ERROR", "object": said}));
                    return Some((line, (fake, path, from, age, pulse, true)));
                }
                Some(Ok(Some(change))) => {
                    let line = line(&json!({"type": change.kind, "object": change.object}));
                    return Some((line, (fake, path, change.version, age, pulse, false)));
                }
                Some(Ok(None)) => {}
            }
            tokio::select! {
                _ = age.changed() => return None,
                _ = pulse.changed() => {}
                () = tokio::time::sleep_until(end) => {
                    let _mood = thaw(&fake).await;
                    // A bookmark says that everything before it was told: what happened while it was frozen goes first, and what is
                    // not to be told yet is left to the next watch.
                    let (version, rest, due) = {
                        let inner = fake.lock();
                        let rest = |behind| !matches!(inner.objects.next(from, &path, behind), Ok(None));
                        (inner.objects.version, rest(0), rest(behind(inner.mood)))
                    };
                    if due {
                        continue;
                    }
                    if rest {
                        return None;
                    }
                    let mark = json!({"metadata": {"resourceVersion": version.to_string()}, "kind": "Mark", "apiVersion": "v1"});
                    let line = line(&json!({"type": "BOOKMARK", "object": mark}));
                    return Some((line, (fake, path, version, age, pulse, true)));
                }
            }
        }
    });
    Response::new(Body::from_stream(lines))
}

fn line(event: &Value) -> Result<String, Infallible> {
    Ok(format!("{event}\n"))
}
