//! `bascule pki`: the authority of a mesh of sites, a directory on a machine that needs no network ([`bascule_mesh::pki`]).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bascule_mesh::SiteId;
use bascule_mesh::pki::{Authority, Issued, PkiError, RELAY_REQUEST, request};
use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};

use crate::clock;

/// The authority's directory.
#[derive(clap::Args, Debug)]
pub(super) struct Of {
    /// Directory of the authority
    #[arg(long, value_name = "DIR", default_value = "/etc/bascule/authority")]
    authority: PathBuf,
}

/// Whose certificate it is.
#[derive(clap::Args, Debug)]
pub(super) struct Whose {
    /// Number of the site
    #[arg(long, value_name = "1-254", value_parser = clap::value_parser!(u8).range(1..=254))]
    site: u8,
    /// Name of the relay; of a node that is no relay, its own
    #[arg(long, value_name = "NAME")]
    relay: String,
    /// Days that it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Directory for what the node needs (`site.certificates` of its configuration)
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

#[derive(Subcommand, Debug)]
pub(super) enum Pki {
    /// Make an authority for a domain
    Init {
        #[command(flatten)]
        of: Of,
        /// Domain of the mesh, such as sites.example; it needs no DNS
        #[arg(long, value_name = "DOMAIN")]
        domain: String,
        /// Days that the authority is valid
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: u64,
    },
    /// Make key and certificate of a node, with all files that it needs
    Issue {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        whose: Whose,
    },
    /// On the node: make a key that stays there, and a request for `sign`
    Request {
        /// Directory of the node's certificate
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Sign a request
    ///
    /// The name is what is said here, whatever the request asks for.
    Sign {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        whose: Whose,
        /// The request
        #[arg(value_name = "FILE")]
        request: PathBuf,
    },
    /// Revoke a certificate; nodes know once they have what `export` writes
    Revoke {
        #[command(flatten)]
        of: Of,
        /// Its number, from `list`
        #[arg(value_name = "NUMBER")]
        serial: String,
    },
    /// Replace the authority, in three steps with `export` to all nodes after each
    Roll {
        #[command(flatten)]
        of: Of,
        /// `begin`: a second one is trusted; `switch`: it signs, issue to all; `finish`: the first one is forgotten
        #[arg(value_enum)]
        step: Step,
        /// Days that the second one is valid (`begin`)
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: u64,
    },
    /// Write trust.pem and revoked.pem, for all nodes
    Export {
        #[command(flatten)]
        of: Of,
        /// Directory to write them to
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Show what was handed out, its end, and what was revoked
    List {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(super) enum Step {
    Begin,
    Switch,
    Finish,
}

/// Carries it out; the text is for people.
pub(super) fn run(what: &Pki) -> anyhow::Result<String> {
    let now = clock::unix_ms() / 1000;
    Ok(match what {
        Pki::Init { of, domain, days } => {
            let authority = Authority::init(&of.authority, domain, *days, now)?;
            format!("an authority for {} in {}; keep ca.key there\n", authority.domain(), of.authority.display())
        }
        Pki::Issue { of, whose } => {
            let issued = Authority::open(&of.authority)?.issue(name(whose), whose.days, now, &whose.into)?;
            handed(&issued, &whose.into)
        }
        Pki::Request { into } => {
            request(into)?;
            format!("{}: give it to `bascule pki sign`; the key stays here\n", into.join(RELAY_REQUEST).display())
        }
        Pki::Sign { of, whose, request } => {
            let text =
                std::fs::read_to_string(request).map_err(|source| PkiError::File { path: request.clone(), source })?;
            let issued = Authority::open(&of.authority)?.sign(&text, name(whose), whose.days, now, &whose.into)?;
            handed(&issued, &whose.into)
        }
        Pki::Revoke { of, serial } => {
            let revoked = Authority::open(&of.authority)?.revoke(serial, now)?;
            let (site, relay) = (revoked.site, revoked.relay);
            format!("revoked: site {site} relay {relay}; `bascule pki export`, and give revoked.pem to all nodes\n")
        }
        Pki::Roll { of, step, days } => {
            let mut authority = Authority::open(&of.authority)?;
            match step {
                Step::Begin => authority.roll_begin(*days, now)?,
                Step::Switch => authority.roll_switch()?,
                Step::Finish => authority.roll_finish(now)?,
            }
            format!("the authority is {}\n", authority.roll())
        }
        Pki::Export { of, into } => {
            Authority::open(&of.authority)?.export(now, into)?;
            format!("trust.pem and revoked.pem in {}\n", into.display())
        }
        Pki::List { of } => list(&Authority::open(&of.authority)?, now)?,
    })
}

fn name(whose: &Whose) -> (SiteId, &str) {
    (SiteId(whose.site), &whose.relay)
}

fn handed(issued: &Issued, into: &Path) -> String {
    let Issued { serial, site, relay, .. } = issued;
    format!("site {site} relay {relay}: {serial} in {}\n", into.display())
}

fn list(authority: &Authority, now: u64) -> Result<String, PkiError> {
    let mut text = format!("domain {}   the authority is {}\n", authority.domain(), authority.roll());
    for (subject, ends) in authority.authorities()? {
        // A String takes whatever is written to it.
        let _infallible = writeln!(text, "trusted: {subject}   {}", left(ends, now));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec!["NUMBER", "SITE", "RELAY", "STATE"]);
    for one in authority.issued() {
        let state = if one.revoked.is_some() { "revoked".to_owned() } else { left(one.not_after, now) };
        table.add_row(vec![one.serial.clone(), one.site.to_string(), one.relay.clone(), state]);
    }
    text.push('\n');
    table.lines().for_each(|line| text.push_str(&format!("{}\n", line.trim())));
    Ok(text)
}

/// Days, a part of one as a whole one.
fn left(ends: u64, now: u64) -> String {
    match ends.checked_sub(now) {
        Some(seconds) => format!("{} days left", seconds.div_ceil(86_400)),
        None => "expired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Args, Verb};

    fn pki(words: &[&str]) -> anyhow::Result<String> {
        let all = ["bascule", "pki"].iter().chain(words);
        match Args::try_parse_from(all)?.verb {
            Verb::Pki { what } => run(&what),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_authority_from_the_first_certificate_to_its_successor() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (ca, node, other) = (path("ca"), path("node"), path("other"));
        let said = pki(&["init", "--authority", &ca, "--domain", "sites.example"]).expect("made");
        assert!(said.contains("sites.example"), "{said}");
        assert!(pki(&["init", "--authority", &ca, "--domain", "sites.example"]).is_err(), "nothing is written over");

        pki(&["issue", "--authority", &ca, "--site", "1", "--relay", "r1", "--into", &node]).expect("issued");
        pki(&["request", "--into", &other]).expect("asked");
        let request = format!("{other}/{RELAY_REQUEST}");
        pki(&["sign", "--authority", &ca, "--site", "2", "--relay", "m1", "--into", &other, &request]).expect("signed");
        for place in [&node, &other] {
            for file in ["relay.pem", "relay.key", "trust.pem"] {
                assert!(Path::new(place).join(file).is_file(), "{place}/{file}");
            }
        }
        let listed = pki(&["list", "--authority", &ca]).expect("listed");
        assert!(listed.contains("90 days left") && listed.contains("not being replaced"), "{listed}");
        let serial = Authority::open(Path::new(&ca)).expect("there").issued()[0].serial.clone();
        pki(&["revoke", "--authority", &ca, &serial]).expect("revoked");
        pki(&["export", "--authority", &ca, "--into", &other]).expect("exported");
        assert!(pki(&["list", "--authority", &ca]).expect("listed").contains("revoked"));
        let error = pki(&["revoke", "--authority", &ca, "00"]).expect_err("not issued here");
        assert!(error.to_string().contains("00"), "{error}");

        assert!(pki(&["roll", "--authority", &ca, "switch"]).is_err(), "out of order");
        assert!(pki(&["roll", "--authority", &ca, "begin"]).expect("begun").contains("signs nothing yet"));
        pki(&["roll", "--authority", &ca, "switch"]).expect("switched");
        assert!(pki(&["roll", "--authority", &ca, "finish"]).is_err(), "a relay has no newer certificate");
        pki(&["issue", "--authority", &ca, "--site", "2", "--relay", "m1", "--into", &other]).expect("issued anew");
        assert!(pki(&["roll", "--authority", &ca, "finish"]).expect("over").contains("not being replaced"));
    }
}
