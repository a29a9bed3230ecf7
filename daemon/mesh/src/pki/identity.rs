//! Who a certificate is for: a site and one of its relays, in a URI (RFC 5280 section 4.2.1.6) of the form SPIFFE gives them.
//!
//! The address of a relay is no part of it: relays move, and an address proves nothing.

use bascule_core::site::SiteId;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A relay of a site.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// The mesh: all sites that know one another have the same.
    pub domain: String,
    /// The site.
    pub site: SiteId,
    /// The relay, unique in its site: the name of its node.
    pub relay: String,
}

/// Why something is no identity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// A domain or a relay is not a name of lower-case letters, digits, dots and hyphens.
    #[error("{name:?} is not a name: 1 to {most} of a-z 0-9 - . that begin and end with a letter or digit")]
    Name {
        /// What was given.
        name: String,
        /// Longest.
        most: usize,
    },
    /// Sites are 1 to 254.
    #[error("{site} is not a site: 1 to 254")]
    Site {
        /// What was given.
        site: u8,
    },
    /// The certificate cannot be read.
    #[error("not a certificate: {why}")]
    Certificate {
        /// Why.
        why: String,
    },
    /// Not exactly one URI that is a relay.
    #[error("{uris:?} is not exactly one name of a relay")]
    Uris {
        /// The URIs of the certificate.
        uris: Vec<String>,
    },
}

/// Of a DNS name without its first label (RFC 1035 section 2.3.4, less what `site-254.` takes).
const DOMAIN: usize = 200;
/// A DNS label.
const RELAY: usize = 63;

fn name(name: &str, most: usize) -> Result<String, IdentityError> {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = (1..=most).contains(&bytes.len())
        && bytes.iter().all(|c| edge(*c) || *c == b'-' || *c == b'.')
        && bytes.first().is_some_and(|c| edge(*c))
        && bytes.last().is_some_and(|c| edge(*c))
        && !name.contains("..");
    if good { Ok(name.to_owned()) } else { Err(IdentityError::Name { name: name.to_owned(), most }) }
}

impl Identity {
    /// An identity of these parts.
    ///
    /// # Errors
    /// [`IdentityError`] when one is not a name or the site not 1 to 254.
    pub fn new(domain: &str, site: SiteId, relay: &str) -> Result<Self, IdentityError> {
        if !(1..=254).contains(&site.0) {
            return Err(IdentityError::Site { site: site.0 });
        }
        Ok(Self { domain: checked_domain(domain)?, site, relay: name(relay, RELAY)? })
    }

    /// As the certificate has it.
    pub fn uri(&self) -> String {
        format!("spiffe://{}/site/{}/relay/{}", self.domain, self.site.0, self.relay)
    }

    /// The DNS name that the certificate has beside the URI: what the TLS library compares when we dial. It resolves to nothing.
    pub fn server_name(domain: &str, site: SiteId) -> String {
        format!("site-{}.{domain}", site.0)
    }

    fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("spiffe://")?.split('/');
        let (domain, s, site, r, relay) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let site: u8 = site.parse().ok()?;
        let identity = Self::new(domain, SiteId(site), relay).ok()?;
        // Numbers have one spelling: a zero in front is another name.
        (s == "site" && r == "relay" && parts.next().is_none() && identity.uri() == uri).then_some(identity)
    }

    /// Who a certificate is for. Whether it is to be believed is the verifier's matter.
    ///
    /// # Errors
    /// [`IdentityError`] when it has not exactly one URI, and this of a relay.
    pub fn of(der: &[u8]) -> Result<Self, IdentityError> {
        let bad = |why: String| IdentityError::Certificate { why };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| bad(e.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|e| bad(e.to_string()))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        match uris[..] {
            [uri] => Self::parse(uri),
            _ => None,
        }
        .ok_or_else(|| IdentityError::Uris { uris: uris.iter().map(|u| (*u).to_owned()).collect() })
    }
}

pub(super) fn checked_domain(domain: &str) -> Result<String, IdentityError> {
    name(domain, DOMAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_spelling() {
        let identity = Identity::new("sites.example", SiteId(2), "node-a").expect("good parts");
        assert_eq!(identity.uri(), "spiffe://sites.example/site/2/relay/node-a");
        assert_eq!(Identity::parse(&identity.uri()), Some(identity));
        for bad in [
            "spiffe://sites.example/site/02/relay/node-a",
            "spiffe://sites.example/site/2/relay/node-a/",
            "spiffe://sites.example/site/2/relay/",
            "spiffe://sites.example/site/0/relay/a",
            "spiffe://sites.example/site/255/relay/a",
            "spiffe://sites.example/site/256/relay/a",
            "spiffe://Sites.example/site/2/relay/a",
            "spiffe:///site/2/relay/a",
            "https://sites.example/site/2/relay/a",
            "spiffe://sites.example/site/2/node/a",
            "spiffe://sites..example/site/2/relay/a",
        ] {
            assert_eq!(Identity::parse(bad), None, "{bad}");
        }
    }
}
