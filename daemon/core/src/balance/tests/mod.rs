//! Tests of the balancer, against a driver that checks every promise of an action.

mod absent;
mod change;
mod determinism;
mod drain;
mod health;
mod hold;
mod lifecycle;
mod maglev;
mod reach;
mod recover;
mod reload;
mod sites;
mod slab;
mod unplaced;
mod world;
