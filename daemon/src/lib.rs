//! The daemon: everything of Bascule that touches the world.
//!
//! Rooms (`config`, `net`, `dataplane`, `health`, `admin`, `announce`, `metrics`, `logging`) do not import one another. They meet in
//! `driver`, the one event loop, and in `app`, which puts the process together; only `announce`, which runs its own sockets, names `net`. [`handle`] is the contract between the driver and those who ask it.

pub mod admin;
pub mod announce;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dataplane;
pub mod driver;
pub mod handle;
pub mod health;
pub mod intent;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod systemd;
