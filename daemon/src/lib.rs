//! Bascule.
