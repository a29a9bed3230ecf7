//! A short part of the live matrix: every foreign router with a session and the attributes of a route, and the features that have most
//! to lose. All of it is `cargo xtask drill --only bgp-matrix`.

use bascule_lab::router::Kind;
use bascule_lab::router::matrix::{Cell, Feature, Outcome};

fn hold(peer: Kind, features: &[Feature]) {
    for feature in features {
        let cell = Cell { peer, feature: *feature };
        match cell.run() {
            Ok(Outcome::Holds(said)) => println!("{cell}: {said}"),
            Ok(Outcome::Cannot(reason)) => panic!("{cell}: {reason}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn frr_holds_both_families_and_bfd() {
    hold(Kind::Frr, &[Feature::Ipv4, Feature::Ipv6, Feature::Bfd50]);
}

#[test]
fn bird_holds_both_families_and_drains() {
    hold(Kind::Bird, &[Feature::Ipv4, Feature::Ipv6, Feature::Drain]);
}

#[test]
fn gobgp_holds_and_drains() {
    hold(Kind::GoBgp, &[Feature::Ipv4, Feature::Drain]);
}

#[test]
fn openbgpd_holds_with_a_password() {
    hold(Kind::OpenBgpd, &[Feature::Ipv6, Feature::Md5]);
}

#[test]
fn exabgp_holds_and_drains() {
    hold(Kind::ExaBgp, &[Feature::Ipv4, Feature::Drain]);
}

#[test]
fn sessions_that_both_sides_dial_collide_into_one() {
    hold(Kind::Frr, &[Feature::Collision]);
    hold(Kind::Bird, &[Feature::Collision]);
}
