//! Packets, worlds and fixtures as text. `fixtures/forward/README.md` describes the language.

mod fixture;
mod layer;
mod packet;
mod place;
pub(crate) mod words;
mod world;

pub use fixture::{Change, Expect, Fixture, Side, read_all};
pub use packet::{Keys, frame};
pub use world::World;
