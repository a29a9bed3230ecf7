//! Two sites of real daemons and everything that happens between sites, for the demo and the bench: what is measured of each event, what it must meet,
//! and its timeline from the daemons' own tables of changes. The bounds are those of `docs/sites-faults.md`.

mod inside;
mod many;
mod outage;
mod planned;
mod scene;
mod seen;
mod stage;

pub use many::shift_many;
pub use scene::Scene;
pub use seen::{Measure, Seen, table};
pub use stage::Stage;
