//! Export: how one kind of neighbor sees a route, or why it does not see it.
//!
//! Attributes are those of a route that this node originates (RFC 4271 section 5.1): there is no other. Neighbors with the same policy
//! and the same kind of session form a [`Group`] and share every attribute set, encoded once.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use serde::Serialize;

use crate::config::{ExportAction, ExportPolicy, NextHopMode};
use crate::wire::attr::community::GRACEFUL_SHUTDOWN;
use crate::wire::{AsPath, Attributes, EncodedAttributes, Family, FamilySet, LargeCommunity, NextHop, Origin};

/// LOCAL_PREF where none is configured: what routers assume themselves (RFC 4271 leaves the number open, every implementation takes 100).
const USUAL_LOCAL_PREF: u32 = 100;

/// LOCAL_PREF of draining routes: the lowest there is, which RFC 8326 recommends.
const DRAINING_LOCAL_PREF: u32 = 0;

/// What the presentation of routes depends on besides policy. Fixed while a session is Established.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionFacts {
    /// The AS that the neighbor knows us by: its `local_as`, else the speaker's. It alone stands in AS_PATH.
    pub own_as: u32,
    /// The neighbor is in the same AS.
    pub internal: bool,
    /// AS numbers of four octets were negotiated (RFC 6793).
    pub four_octet_as: bool,
    /// Negotiated families.
    pub families: FamilySet,
    /// Own address of the connection.
    pub local: IpAddr,
    /// The neighbor's address.
    pub remote: IpAddr,
    /// Own link-local address on the link that both share, if they share one (RFC 2545 section 3).
    pub link_local: Option<Ipv6Addr>,
}

/// Why a wanted route is not announced to a neighbor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum NotAnnounced {
    /// The policy denies it.
    Denied,
    /// The neighbor did not agree to the family.
    FamilyNotNegotiated {
        /// The route's.
        family: Family,
    },
    /// The session runs over the other family and no next hop of this one is configured.
    NoNextHop {
        /// The route's.
        family: Family,
    },
    /// The session runs between link-local addresses: the global half of the next hop must be configured.
    LinkLocalSession,
    /// The next hop would be the neighbor itself, which RFC 4271 section 5.1.3 forbids.
    NextHopIsNeighbor,
    /// The configured attributes leave no room for a prefix in a message of 4,096 octets.
    TooLarge,
}

impl fmt::Display for NotAnnounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("denied by the export policy"),
            Self::FamilyNotNegotiated { family } => write!(f, "the neighbor did not negotiate {}", name(*family)),
            Self::NoNextHop { family } => {
                let field = match family {
                    Family::Ipv4 => "nextHop",
                    Family::Ipv6 => "nextHop6",
                };
                write!(
                    f,
                    "no {} next hop: the session's own address is of the other family, set {field}",
                    name(*family)
                )
            }
            Self::LinkLocalSession => f.write_str("the session's own address is link-local: set nextHop6"),
            Self::NextHopIsNeighbor => f.write_str("the next hop would be the neighbor's own address"),
            Self::TooLarge => f.write_str("the attributes do not fit into a message of 4096 octets"),
        }
    }
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

/// One attribute set with its next hop, as a group of neighbors is sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Order within the group, so that prefixes of one set are packed together.
    pub(super) id: usize,
    /// In values.
    pub attributes: Attributes,
    /// Beside them.
    pub next_hop: NextHop,
    /// In octets.
    pub encoded: EncodedAttributes,
}

impl Exported {
    /// A neighbor that was sent one of them would learn nothing from the other.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.next_hop == other.next_hop && self.attributes == other.attributes
    }
}

type Shown = OnceLock<Result<Arc<Exported>, NotAnnounced>>;

/// Neighbors that are shown routes alike: same policy, same kind of session, same own addresses.
#[derive(Debug)]
pub struct Group {
    facts: SessionFacts,
    policy: ExportPolicy,
    /// Number of the first rule that names a VIP, and index of its action.
    by_vip: BTreeMap<String, (usize, usize)>,
    /// The same of a prefix.
    by_prefix: BTreeMap<IpNet, (usize, usize)>,
    /// Every different action, the default first; with what it makes of (draining, family), made when first asked for.
    actions: Vec<(ExportAction, [Shown; 4])>,
}

impl Group {
    pub(super) fn new(facts: &SessionFacts, policy: &ExportPolicy) -> Self {
        let mut actions = vec![policy.default.clone()];
        let (mut by_vip, mut by_prefix) = (BTreeMap::new(), BTreeMap::new());
        for (number, rule) in policy.rules.iter().enumerate() {
            let known = actions.iter().position(|action| *action == rule.action);
            let index = known.unwrap_or_else(|| {
                actions.push(rule.action.clone());
                actions.len() - 1
            });
            for vip in &rule.vips {
                by_vip.entry(vip.clone()).or_insert((number, index));
            }
            for prefix in &rule.prefixes {
                by_prefix.entry(*prefix).or_insert((number, index));
            }
        }
        let actions = actions.into_iter().map(|action| (action, Default::default())).collect();
        Self { facts: shared(facts, policy), policy: policy.clone(), by_vip, by_prefix, actions }
    }

    pub(super) fn is_for(&self, facts: &SessionFacts, policy: &ExportPolicy) -> bool {
        self.policy == *policy && self.facts == shared(facts, policy)
    }

    /// Negotiated families.
    pub fn families(&self) -> FamilySet {
        self.facts.families
    }

    /// How a route is shown.
    ///
    /// # Errors
    /// Why it is not.
    pub fn show(&self, prefix: &IpNet, vip: &str, draining: bool) -> Result<&Arc<Exported>, NotAnnounced> {
        let family = Family::of(prefix);
        if !self.facts.families.contains(family) {
            return Err(NotAnnounced::FamilyNotNegotiated { family });
        }
        // The first rule that names one of them holds.
        let named = [self.by_prefix.get(prefix), self.by_vip.get(vip)];
        let action = named.into_iter().flatten().min().map_or(0, |(_, action)| *action);
        let slot = usize::from(draining) * 2 + usize::from(family == Family::Ipv6);
        let (policy, shown) = &self.actions[action];
        let exported = shown[slot].get_or_init(|| {
            let (attributes, next_hop) = export(policy, &self.facts, draining, family)?;
            let encoded = EncodedAttributes::new(&attributes, self.facts.four_octet_as);
            let encoded = encoded.map_err(|_| NotAnnounced::TooLarge)?;
            Ok(Arc::new(Exported { id: action * shown.len() + slot, attributes, next_hop, encoded }))
        });
        exported.as_ref().map_err(|reason| *reason)
    }
}

/// The facts without what tells neighbors of one group apart: the neighbor's address matters only where the policy names it as next hop.
fn shared(facts: &SessionFacts, policy: &ExportPolicy) -> SessionFacts {
    let mut actions = policy.rules.iter().map(|rule| &rule.action).chain([&policy.default]);
    let remote = facts.remote.to_canonical();
    let named = actions.any(|action| match action.next_hop {
        NextHopMode::Own => false,
        NextHopMode::Address { v4, v6 } => v4.map(IpAddr::V4) == Some(remote) || v6.map(IpAddr::V6) == Some(remote),
    });
    let remote = if named { remote } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SessionFacts { local: facts.local.to_canonical(), remote, ..facts.clone() }
}

/// What one action makes of a route.
///
/// # Errors
/// Why it makes nothing.
pub fn export(
    action: &ExportAction,
    facts: &SessionFacts,
    draining: bool,
    family: Family,
) -> Result<(Attributes, NextHop), NotAnnounced> {
    if action.deny {
        return Err(NotAnnounced::Denied);
    }
    let next_hop = next_hop(action.next_hop, facts, family)?;
    let set = &action.attributes;
    let mut communities = set.communities.clone();
    if draining {
        communities.push(GRACEFUL_SHUTDOWN);
    }
    let local_pref = if draining { DRAINING_LOCAL_PREF } else { set.local_pref.unwrap_or(USUAL_LOCAL_PREF) };
    // RFC 4271 section 5.1.2 b: a route of our own goes to internal neighbors with an empty path, which leaves nothing to prepend to.
    let hops = if facts.internal { 0 } else { 1 + usize::from(action.prepend) };
    let attributes = Attributes {
        origin: Origin::Igp,
        as_path: AsPath::sequence(core::iter::repeat_n(facts.own_as, hops)),
        med: set.med,
        local_pref: facts.internal.then_some(local_pref),
        communities: ordered(communities),
        ext_communities: ordered(set.extended_communities.clone()),
        large_communities: ordered(set.large_communities.iter().map(large).collect()),
    };
    Ok((attributes, next_hop))
}

fn large(&[global, local1, local2]: &[u32; 3]) -> LargeCommunity {
    LargeCommunity { global, local1, local2 }
}

/// Communities are a set (RFC 1997, RFC 4360 section 2, RFC 8092 section 3: duplicates are not sent), and equal sets shall compare equal.
fn ordered<T: Ord>(mut set: Vec<T>) -> Vec<T> {
    set.sort_unstable();
    set.dedup();
    set
}

fn next_hop(mode: NextHopMode, facts: &SessionFacts, family: Family) -> Result<NextHop, NotAnnounced> {
    let (v4, v6) = match mode {
        NextHopMode::Own => (None, None),
        NextHopMode::Address { v4, v6 } => (v4, v6),
    };
    let next_hop = match (family, facts.local.to_canonical()) {
        (Family::Ipv4, IpAddr::V4(own)) => NextHop::V4(v4.unwrap_or(own)),
        (Family::Ipv4, IpAddr::V6(_)) => NextHop::V4(v4.ok_or(NotAnnounced::NoNextHop { family })?),
        (Family::Ipv6, IpAddr::V6(own)) => {
            let global = v6.unwrap_or(own);
            if global.is_unicast_link_local() {
                return Err(NotAnnounced::LinkLocalSession);
            }
            // RFC 2545 section 3: the link-local address belongs to whom the global one belongs to. Of ours we know that, and FRR closes
            // the session for a link-local address that it cannot reach.
            NextHop::V6 { global, link_local: facts.link_local.filter(|_| global == own) }
        }
        (Family::Ipv6, IpAddr::V4(_)) => {
            NextHop::V6 { global: v6.ok_or(NotAnnounced::NoNextHop { family })?, link_local: None }
        }
    };
    if next_hop.address() == facts.remote.to_canonical() {
        return Err(NotAnnounced::NextHopIsNeighbor);
    }
    Ok(next_hop)
}

#[cfg(test)]
mod tests;
