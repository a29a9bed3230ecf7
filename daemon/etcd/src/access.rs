//! Where the members of the cluster are, and by which files they and we are believed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;

/// One member of the cluster, as the operator names it: `https://HOST:PORT`, or `http://HOST:PORT` inside a lab.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    https: bool,
}

impl Endpoint {
    /// Name or address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Is it reached by TLS?
    pub const fn is_https(&self) -> bool {
        self.https
    }

    pub(crate) const fn uri(&self) -> &Uri {
        &self.uri
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri.to_string().trim_end_matches('/'))
    }
}

impl FromStr for Endpoint {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        let wrong = |why| AccessError::Endpoint { endpoint: text.to_owned(), why };
        let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it does not begin with https://")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().ok_or_else(|| wrong("it names no port; etcd's is 2379"))?;
        if host.is_empty() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("it is not of the form https://HOST:PORT"));
        }
        Ok(Self { uri, host, port, https })
    }
}

/// PEM files. They are read again before each request; when they have changed, the next request goes over a connection made with the new
/// ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    /// The CAs that the certificates of the members are signed by.
    pub ca: PathBuf,
    /// Our certificate with those between it and the CA. Its common name is our user, where etcd's authentication is on.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How the cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsFiles>,
}

/// Why a cluster cannot be reached like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The text names no member.
    #[error("etcd endpoint {endpoint:?}: {why}")]
    Endpoint {
        /// The text.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody to ask.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// `https` without files.
    #[error("etcd endpoint {0}: https needs a CA, a certificate and a key")]
    NoFiles(String),
    /// `http` in spite of files: what they protect would go over the wire as it is.
    #[error("etcd endpoint {0}: TLS files are given, and this is not https")]
    NotHttps(String),
}

impl Access {
    /// Members in the order in which they are tried.
    ///
    /// # Errors
    /// When there is none, or files and schemes do not fit.
    pub fn new(endpoints: Vec<Endpoint>, tls: Option<TlsFiles>) -> Result<Self, AccessError> {
        let misfit = endpoints.iter().find(|endpoint| endpoint.https != tls.is_some());
        match (misfit, endpoints.is_empty()) {
            (_, true) => Err(AccessError::NoEndpoint),
            (Some(endpoint), _) if endpoint.https => Err(AccessError::NoFiles(endpoint.to_string())),
            (Some(endpoint), _) => Err(AccessError::NotHttps(endpoint.to_string())),
            (None, false) => Ok(Self { endpoints, tls }),
        }
    }

    /// The members.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) const fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_scheme_host_and_port() {
        let endpoint: Endpoint = "https://[2001:db8::1]:2379".parse().expect("it is one");
        assert_eq!((endpoint.host(), endpoint.port(), endpoint.is_https()), ("2001:db8::1", 2379, true));
        assert_eq!(endpoint.to_string(), "https://[2001:db8::1]:2379");
        for (text, why) in [
            ("10.0.0.1:2379", "it does not begin with https://"),
            ("https://etcd", "it names no port; etcd's is 2379"),
            ("https://etcd:2379/v3", "it is not of the form https://HOST:PORT"),
            ("unix://etcd:2379", "it does not begin with https://"),
            ("https:// etcd", "it is no URL"),
        ] {
            let wrong = AccessError::Endpoint { endpoint: text.to_owned(), why };
            assert_eq!(text.parse::<Endpoint>(), Err(wrong));
        }
    }

    #[test]
    fn files_and_schemes_fit() {
        let endpoint = |text: &str| text.parse::<Endpoint>().expect("it is one");
        let (safe, open) = (endpoint("https://a:1"), endpoint("http://b:1"));
        let file = PathBuf::from("x.pem");
        let files = Some(TlsFiles { ca: file.clone(), certificate: file.clone(), key: file });
        assert_eq!(Access::new(Vec::new(), None), Err(AccessError::NoEndpoint));
        assert_eq!(Access::new(vec![safe.clone()], None), Err(AccessError::NoFiles(safe.to_string())));
        assert_eq!(
            Access::new(vec![safe.clone(), open.clone()], files.clone()),
            Err(AccessError::NotHttps(open.to_string()))
        );
        assert!(Access::new(vec![safe], files).is_ok() && Access::new(vec![open], None).is_ok());
    }
}
