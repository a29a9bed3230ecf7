//! Logs: one line per change of state, values as fields, each level with one meaning.
//!
//! - `error`: this node does not do its work and somebody must act (no fence, an address that cannot be put on a link).
//! - `warn`: something outside is wrong and was handled by a rule, or a protection had to act (a rival, one-way loss, a closed fence).
//! - `info`: a change of state that is part of normal work.
//! - `debug`: what a developer asks for. Nothing is logged per packet or per timer at any level.
//!
//! A change is logged once, where its event leaves the node; [`log_event`] is that place.

use std::io::IsTerminal;

use bascule_core::bfd::io::BfdEvent;
use bascule_core::election::Reason;
use bascule_core::election::lease::Condition;
use bascule_core::node::event::Event;
use bascule_core::wire::bfd::State;
use thiserror::Error;
use tracing::field::display;
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people and the journal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The level is no filter.
    #[error(
        "log level {level:?}: {source}; use error, warn, info, debug, trace, or a filter such as info,bascule::net=debug"
    )]
    Level {
        /// As given.
        level: String,
        /// What the filter's parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is installed already.
    #[error("logging was started twice: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Starts logging to standard error, for the whole process. Records of crates that use `log` come along.
///
/// # Errors
/// [`LogError`] when the level is no filter or logging runs already.
pub fn init(format: LogFormat, level: &str) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let colours = std::io::stderr().is_terminal();
    subscriber(format, level, colours, std::io::stderr)?.try_init().map_err(|e| LogError::Twice(Box::new(e)))
}

fn subscriber<W>(
    format: LogFormat,
    level: &str,
    colours: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(level).map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
    })
}

/// Writes the line of an event, if it has one. Call it once for every [`Event`] the node reports.
pub fn log_event(event: &Event) {
    match event {
        Event::Role { group, from, to, reason, term, owner } => {
            let (from, to, why, owner) = (from.as_str(), to.as_str(), reason.as_str(), owner.map(display));
            if is_trouble(*reason) {
                warn!(%group, from, to, reason = why, term = term.0, owner, "role changed");
            } else {
                info!(%group, from, to, reason = why, term = term.0, owner, "role changed");
            }
        }
        Event::Takeover { group, term, reason, detect, claim, announce } => {
            info!(%group, term = term.0, reason = reason.as_str(), detect, claim, announce, "address taken over");
        }
        Event::Rival { group, address, mac, source, first } => {
            if *first {
                let (address, mac, source) = (address.map(display), mac.map(display), source.map(display));
                warn!(%group, address, mac, source, "somebody else behaves as owner");
            }
        }
        Event::OneWay { group, source } => {
            warn!(%group, source = source.map(display), "yielded to an Active that cannot hear us");
        }
        Event::FenceClosed { group, term } => {
            warn!(%group, term = term.0, "the fence closed: no advert left, or no lease was renewed, in time");
        }
        Event::LeaseHolder { group, holder } => info!(%group, holder, "the lease has another holder"),
        Event::LeaseStore { group, condition, detail } => {
            let word = condition.as_str();
            match condition {
                Condition::Unknown | Condition::Reachable => {
                    info!(%group, condition = word, detail, "the store of the lease answers");
                }
                Condition::Throttled | Condition::Unreachable => {
                    warn!(%group, condition = word, detail, "the store of the lease does not answer as it should");
                }
                Condition::Denied => {
                    error!(%group, condition = word, detail, "the store of the lease refuses us");
                }
            }
        }
        Event::LeaseStalled { group, seconds } => warn!(%group, seconds, "the elector was held up"),
        Event::AddressInUse { group, address, mac } => {
            error!(%group, %address, %mac, "a foreign host holds the address: no claim");
        }
        Event::VridInUse { group, vrid, source, active } => {
            let source = source.map(display);
            if *active {
                error!(%group, vrid, source, "another virtual router with other addresses uses our VRID: no claim");
            } else {
                info!(%group, vrid, source, "the VRID is free again");
            }
        }
        Event::Gate { gate, up, detail } => {
            if *up {
                info!(%gate, up, detail, "gate opened");
            } else {
                warn!(%gate, up, detail, "gate closed");
            }
        }
        Event::Health { group, healthy, priority } => {
            if *healthy {
                info!(%group, healthy, priority, "all gates open");
            } else {
                warn!(%group, healthy, priority, "a gate is closed: in the sick band");
            }
        }
        Event::AddressRestored { group, address } => {
            warn!(%group, %address, "somebody removed the address: put back");
        }
        Event::InstallFailed { group, error } => {
            error!(%group, error, "the addresses cannot be put on the link");
        }
        Event::Routes { group, want, addresses } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            info!(%group, want = want.as_str(), addresses = addresses.join(","), "routes wanted otherwise");
        }
        Event::Handover { group, to, error } => match error {
            None => info!(%group, to = to.map(display), "handed over"),
            Some(error) => warn!(%group, error, "hand-over failed"),
        },
        Event::Blocked { group, condition } => match condition {
            None => info!(%group, "takes part again"),
            Some(condition) => error!(%group, condition, "cannot take part"),
        },
        Event::ConfigApplied { added, changed, removed, unchanged } => {
            let [added, changed, removed] = [added, changed, removed].map(|names| names.join(","));
            info!(added, changed, removed, unchanged, "configuration in force");
        }
        Event::Fence { ready, error } => match error {
            None => info!(ready, "the fence is armed"),
            Some(error) => error!(ready, error, "the fence cannot be armed"),
        },
        Event::Drain { on } => {
            if *on {
                info!(on, "drained: out of the election");
            } else {
                info!(on, "undrained: takes part again");
            }
        }
        Event::Refused { channel, source, error, first } => {
            if *first {
                warn!(channel, %source, error, "packets refused");
            }
        }
        Event::Bfd(change) => bfd_line(change),
        // Measured on every advert: a metric, never a line.
        Event::AdvertLateness { .. } => {}
    }
}

/// Leaving Up is trouble, unless an operator did it, here or there.
fn bfd_line(change: &BfdEvent) {
    let BfdEvent { peer, remote, from, to, diag, remote_state, remote_diag, detection, lateness } = change;
    let by_operator = *to == State::AdminDown || *remote_state == State::AdminDown;
    if *from == State::Up && !by_operator {
        warn!(%peer, %remote, %from, %to, %diag, %remote_state, %remote_diag, detection, lateness, "BFD session failed");
    } else {
        info!(%peer, %remote, %from, %to, %diag, %remote_state, %remote_diag, detection, lateness, "BFD session changed");
    }
}

/// Writes the line of a BGP event, if it has one.
pub fn log_bgp(event: &bascule_bgp::event::Event) {
    use bascule_bgp::event::Event as Bgp;
    use bascule_bgp::session::State;
    match event {
        Bgp::State { neighbor, from, to, reason } => match (from, to) {
            (_, State::Established) => info!(%neighbor, reason, "BGP session established"),
            (State::Established, _) => warn!(%neighbor, reason, "BGP session ended"),
            // On the way up and down again, every few seconds while a neighbor is away.
            _ => debug!(%neighbor, ?from, ?to, reason, "BGP session changed"),
        },
        Bgp::Notification { neighbor, sent, code, subcode, text } => {
            let direction = if *sent { "sent" } else { "received" };
            warn!(%neighbor, direction, code, subcode, text, "BGP NOTIFICATION");
        }
        Bgp::Unreachable { neighbor, reason } => warn!(%neighbor, reason, "BGP neighbor not reached"),
        Bgp::CapabilitiesReduced { neighbor, without } => {
            warn!(%neighbor, without, "BGP neighbor refused capabilities: trying without");
        }
        Bgp::EndOfRib { neighbor, family } => info!(%neighbor, family = family.as_str(), "End-of-RIB sent"),
        Bgp::PrefixLimit { neighbor, prefixes, limit } => {
            warn!(%neighbor, prefixes, limit, "BGP neighbor sends more prefixes than its limit");
        }
        Bgp::Malformed { neighbor, reason } => warn!(%neighbor, reason, "malformed UPDATE"),
        Bgp::Drain { step } => info!(step, "BGP sessions leave"),
        // Measured for every batch: a metric, never a line.
        Bgp::Sent { .. } => {}
    }
}

/// Reasons behind which something went wrong, as opposed to an election doing its work.
const fn is_trouble(reason: Reason) -> bool {
    match reason {
        Reason::OneWay
        | Reason::FenceExpired
        | Reason::LinkDown
        | Reason::Unhealthy
        | Reason::FenceUnavailable
        | Reason::AddressInUse
        | Reason::InstallFailed
        | Reason::LeaseLost => true,
        Reason::Started
        | Reason::ActiveDown
        | Reason::PeerReleased
        | Reason::SickActive
        | Reason::Handover
        | Reason::HigherPriority
        | Reason::Overtaken
        | Reason::Stopped
        | Reason::Reconfigured
        | Reason::LeaseAcquired => false,
    }
}

#[cfg(test)]
mod tests;
