//! Words for a replay.

use bascule_core::node::event::Event;

/// One line for an event.
pub(crate) fn event(event: &Event) -> String {
    match event {
        Event::Role { group, from, to, reason, .. } => {
            format!("{group}: {} -> {} ({})", from.as_str(), to.as_str(), reason.as_str())
        }
        other => format!("{other:?}"),
    }
}
