//! From what the relay of this node hears to facts for the machine, of which all nodes of the site are told.

use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::join::io::Fact;
use bascule_core::site::state::record::{Body, Key};
use bascule_mesh::state::Event;

/// What an event of the relay says of other sites.
pub(super) fn facts(event: &Event) -> Vec<Fact> {
    match event {
        Event::Heard { site, up } => vec![Fact::Session { site: *site, up: *up }],
        Event::Record { origin, key, body, age } => record(*origin, *key, *body, *age).into_iter().collect(),
        Event::Ask { from, service, amount } => vec![Fact::Ask { site: *from, service: *service, amount: *amount }],
        Event::Lend { from, service, amount } => vec![Fact::Loan { site: *from, service: *service, amount: *amount }],
        Event::Reach { from, reach } => {
            reach.iter().map(|(of, reached)| Fact::Reach { site: *from, of: *of, reached: *reached }).collect()
        }
        _ => Vec::new(),
    }
}

fn record(origin: SiteId, key: Key, body: Option<Body>, age: Duration) -> Option<Fact> {
    match key {
        Key::Service(service) => {
            let summary = match body {
                Some(Body::Service(summary)) => Some(summary),
                Some(Body::Vip { .. } | Body::Order { .. }) | None => None,
            };
            Some(Fact::Summary { site: origin, service, summary, age })
        }
        Key::Order(number) => {
            let order = match body {
                Some(Body::Order { service, seconds }) => Some((service, seconds)),
                Some(Body::Vip { .. } | Body::Service(_)) | None => None,
            };
            Some(Fact::Drained { site: origin, number, order, age })
        }
        Key::Vip(_) => None,
    }
}
