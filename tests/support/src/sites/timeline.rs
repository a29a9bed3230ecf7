//! What a daemon tells of the changes of a site table: `/why`, in the lab's time.

use serde_json::Value;

use super::file::NAMES;
use crate::bascule::Bascule;
use crate::{LabError, Result, Stamp};

/// One change, from its cause to its effect.
#[derive(Debug, Clone)]
pub struct Change {
    /// The rule that moved most, in words.
    pub why: String,
    /// When the cause began, as far as the daemon can tell.
    pub cause: Stamp,
    /// When it was noticed.
    pub detected: Stamp,
    /// When the table was computed.
    pub decided: Stamp,
    /// When it was in the kernel. None: not yet, or the next table overtook it.
    pub applied: Option<Stamp>,
    /// Share of new flows that each site has since, in the order of their numbers.
    pub after: [f64; 2],
}

/// The latest changes of a service's table on a node, the oldest first.
///
/// # Errors
/// When the daemon does not answer, or not with a timeline.
pub fn changes(daemon: &Bascule, service: &str) -> Result<Vec<Change>> {
    let (_, body) = daemon.get(&format!("/why?service={service}"))?;
    let wrong = || LabError::answer("/why", body.clone());
    let told: Value = serde_json::from_str(&body).map_err(|_| wrong())?;
    let changes = told["changes"].as_array().ok_or_else(wrong)?;
    changes.iter().map(|change| read(change).ok_or_else(wrong)).collect()
}

fn read(change: &Value) -> Option<Change> {
    // Daemons tell their times by CLOCK_BOOTTIME.
    let at = |key: &str| change[key].as_u64().map(Stamp::from_boottime);
    let share = |number: usize| change["after"][number.to_string()].as_f64().unwrap_or_default();
    Some(Change {
        why: words(&change["why"])?,
        cause: at("cause")?,
        detected: at("detected")?,
        decided: at("decided")?,
        applied: at("applied"),
        after: [share(1), share(2)],
    })
}

/// `dc-b is path-down`, `the score of dc-b`, or the rule's name.
fn words(why: &Value) -> Option<String> {
    let rule = why["rule"].as_str()?;
    let number = why["site"].as_u64().and_then(|number| usize::try_from(number).ok());
    let Some(site) = number.and_then(|number| NAMES.get(number.checked_sub(1)?)) else { return Some(rule.to_owned()) };
    Some(match why["verdict"].as_str() {
        Some(verdict) => format!("{site} is {verdict}"),
        None => format!("the {rule} of {site}"),
    })
}
