//! `/sites/drain`: from the words of an operator to what an order is about.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bascule_core::site::orders::Target;
use bascule_core::site::summary::ServiceId;
use serde::Deserialize;
use serde_json::json;

use super::Asked;
use super::sites::ALONE;
use super::views::no;
use crate::handle::forward::ForwardStatus;
use crate::handle::sites::{SitesStatus, Wanted};

/// What is to be drained, or not any more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Order {
    what: What,
    on: bool,
    #[serde(default)]
    seconds: u32,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum What {
    Site,
    Service { name: String },
    Vip { address: IpAddr },
    Node { name: String },
    Endpoint { service: String, name: String },
}

/// A target, and how many ready endpoints of services of several sites are on it.
type Found = (Target, BTreeMap<ServiceId, u16>);

/// What the words mean on this node now; the error is for a person.
fn find(what: &What, sites: &SitesStatus, forward: &ForwardStatus) -> Result<Found, String> {
    let number = |name: &str| sites.services.iter().find(|s| s.name == name).map(|s| ServiceId(s.number));
    let service = |name: &str| number(name).ok_or_else(|| format!("{name} is no service of several sites"));
    let balanced = || forward.balance.iter().flat_map(|balance| &balance.services);
    match what {
        What::Site => Ok((Target::Site, BTreeMap::new())),
        What::Service { name } => Ok((Target::Service(service(name)?), BTreeMap::new())),
        What::Vip { address } => Ok((Target::Vip(*address), BTreeMap::new())),
        What::Node { name } => {
            let node = forward.nodes.iter().find(|node| node.name == *name);
            let node = node.ok_or_else(|| format!("{name} is no node of forwarding here"))?;
            let on_it = |service: &bascule_core::balance::status::ServiceStatus| {
                let there = service.endpoints.iter().filter(|e| e.serving && e.node.as_ref() == Some(name)).count();
                Some((number(&service.name)?, u16::try_from(there).unwrap_or(u16::MAX)))
            };
            Ok((Target::Node(node.id), balanced().filter_map(on_it).collect()))
        }
        What::Endpoint { service: of, name } => {
            let id = service(of)?;
            let mut endpoints = balanced().filter(|service| service.name == *of).flat_map(|service| &service.endpoints);
            let found = endpoints.find(|endpoint| endpoint.name == *name);
            let found = found.ok_or_else(|| format!("{name} is no endpoint of {of} here"))?;
            let parts = BTreeMap::from([(id, u16::from(found.serving))]);
            Ok((Target::Endpoint(id, found.address, found.port), parts))
        }
    }
}

/// `POST /sites/drain`.
pub(super) async fn drain(State(asked): State<Asked>, Json(order): Json<Order>) -> Response {
    let handle = asked.handle.sites();
    let Some(status) = handle.get() else { return no(StatusCode::NOT_FOUND, ALONE) };
    let forward = match asked.handle.forward().status().await {
        Ok(forward) => forward,
        Err(gone) => return no(StatusCode::SERVICE_UNAVAILABLE, &gone.to_string()),
    };
    let (target, parts) = match find(&order.what, &status, &forward) {
        Ok(found) => found,
        Err(wrong) => return no(StatusCode::NOT_FOUND, &wrong),
    };
    let within = Duration::from_secs(order.seconds.into());
    let wanted = if order.on { Wanted::Drain { within, parts, force: order.force } } else { Wanted::Undrain };
    match handle.order(target, wanted).await {
        Ok(result) => Json(json!({ "result": result })).into_response(),
        Err(refused) => no(StatusCode::CONFLICT, &refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::fixtures::{across, plane};

    fn found(what: serde_json::Value) -> Result<Found, String> {
        let order: Order = serde_json::from_value(json!({ "what": what, "on": true })).expect("an order");
        let mut forward = plane();
        // The service of the fixture is one of several sites, with an endpoint on a node.
        let service = &mut forward.balance.as_mut().expect("tables").services[0];
        service.name = "web".to_owned();
        service.endpoints[0].node = Some("n2".to_owned());
        find(&order.what, &across(), &forward)
    }

    #[test]
    fn words_become_targets() {
        let web = ServiceId(7);
        assert_eq!(found(json!("site")), Ok((Target::Site, BTreeMap::new())));
        assert_eq!(found(json!({ "service": { "name": "web" } })), Ok((Target::Service(web), BTreeMap::new())));
        let vip = found(json!({ "vip": { "address": "10.9.0.100" } }));
        assert_eq!(vip, Ok((Target::Vip([10, 9, 0, 100].into()), BTreeMap::new())));
        let one = BTreeMap::from([(web, 1)]);
        assert_eq!(found(json!({ "node": { "name": "n2" } })), Ok((Target::Node(2), one.clone())));
        assert_eq!(found(json!({ "node": { "name": "n3" } })), Ok((Target::Node(3), BTreeMap::from([(web, 0)]))));
        let endpoint = found(json!({ "endpoint": { "service": "web", "name": "e1" } }));
        assert_eq!(endpoint, Ok((Target::Endpoint(web, [10, 1, 0, 1].into(), 5353), one)));
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (what, why) in [
            (json!({ "service": { "name": "dns" } }), "dns is no service of several sites"),
            (json!({ "node": { "name": "n9" } }), "n9 is no node of forwarding here"),
            (json!({ "endpoint": { "service": "web", "name": "e9" } }), "e9 is no endpoint of web here"),
        ] {
            assert_eq!(found(what), Err(why.to_owned()));
        }
        assert!(serde_json::from_value::<Order>(json!({ "what": "node", "on": true })).is_err(), "which node?");
    }
}
