//! `bascule drain WHAT`: what of a site of several is taken out of use, and put back.

use std::net::IpAddr;

use clap::Subcommand;
use serde_json::{Value, json};

/// What of this site.
#[derive(Subcommand, Debug)]
pub(super) enum Drain {
    /// All services of several sites, at this site
    Site {
        #[command(flatten)]
        terms: Terms,
    },
    /// One service, at this site
    Service {
        /// The service, by its name
        #[arg(value_name = "SERVICE")]
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// All services behind one address, at this site
    Vip {
        /// The address
        #[arg(value_name = "VIP")]
        address: IpAddr,
        #[command(flatten)]
        terms: Terms,
    },
    /// The endpoints on a node
    Node {
        /// The node, by its name
        #[arg(value_name = "NODE")]
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// One endpoint of a service
    Endpoint {
        /// The service, by its name
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The endpoint, by its name
        #[arg(value_name = "ENDPOINT")]
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
}

/// How.
#[derive(clap::Args, Debug)]
pub(super) struct Terms {
    /// Connections that exist are given so long; then it is said that their time is over, and nothing else happens to them
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(..=604_800))]
    within: u32,
    /// Also when what is left would not suffice
    #[arg(long)]
    force: bool,
}

impl Drain {
    /// The body of the request.
    pub(super) fn body(&self, off: bool) -> Value {
        let (what, Terms { within, force }) = match self {
            Self::Site { terms } => (json!("site"), terms),
            Self::Service { name, terms } => (json!({ "service": { "name": name } }), terms),
            Self::Vip { address, terms } => (json!({ "vip": { "address": address } }), terms),
            Self::Node { name, terms } => (json!({ "node": { "name": name } }), terms),
            Self::Endpoint { service, name, terms } => {
                (json!({ "endpoint": { "service": service, "name": name } }), terms)
            }
        };
        json!({ "what": what, "on": !off, "seconds": within, "force": force })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Args, Verb};
    use super::*;

    fn body(words: &str) -> Option<Value> {
        let words = ["bascule", "drain"].into_iter().chain(words.split_whitespace());
        let Verb::Drain { what, off, .. } = Args::try_parse_from(words).ok()?.verb else { return None };
        Some(what?.body(off))
    }

    #[test]
    fn words_become_a_request() {
        let service = json!({ "service": { "name": "web" } });
        let expected = json!({ "what": service, "on": true, "seconds": 600, "force": false });
        assert_eq!(body("service web --socket /x"), Some(expected));
        let expected = json!({ "what": "site", "on": true, "seconds": 30, "force": true });
        assert_eq!(body("site --within 30 --force"), Some(expected));
        let what = json!({ "endpoint": { "service": "web", "name": "e1" } });
        assert_eq!(
            body("endpoint web e1 --off"),
            Some(json!({ "what": what, "on": false, "seconds": 600, "force": false }))
        );
        for wrong in ["vip web", "service", "node n1 --within 700000", "shop web"] {
            assert_eq!(body(wrong), None, "{wrong}");
        }
    }
}
