//! Why a peer's certificate is not believed, in words that can be counted.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};
use serde::Serialize;

/// Why there is no session with whoever is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate was revoked.
    Revoked,
    /// No authority of ours has signed its certificate.
    UnknownAuthority,
    /// Its certificate is for no site of the configuration, for our own, for another mesh, or not for the site that we called.
    WrongName,
    /// It showed none.
    NoCertificate,
    /// It speaks no TLS 1.3, or not for this purpose.
    Protocol,
    /// It speaks another version of our protocol, which has nothing in common with ours.
    Version,
    /// It refused ours.
    Theirs,
    /// It says more than it may.
    Flood,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::UnknownAuthority,
        Self::WrongName,
        Self::NoCertificate,
        Self::Protocol,
        Self::Version,
        Self::Theirs,
        Self::Flood,
    ];

    /// The word for labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Revoked => "revoked",
            Self::UnknownAuthority => "unknown-authority",
            Self::WrongName => "wrong-name",
            Self::NoCertificate => "no-certificate",
            Self::Protocol => "protocol",
            Self::Version => "version",
            Self::Theirs => "theirs",
            Self::Flood => "flood",
        }
    }

    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::Revoked => Self::Revoked,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                _ => Self::UnknownAuthority,
            },
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::Version
            }
            Error::AlertReceived(alert) if of_a_certificate(*alert) => Self::Theirs,
            _ => Self::Protocol,
        }
    }

    /// Of an error of a TLS stream; `None` when it is the network's.
    pub(crate) fn of_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Error>().map(Self::of)
    }
}

const fn of_a_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its certificate has expired",
            Self::NotYetValid => "its certificate is not valid yet",
            Self::Revoked => "its certificate was revoked",
            Self::UnknownAuthority => "no authority of trust.pem has signed its certificate",
            Self::WrongName => "its certificate is for somebody else",
            Self::NoCertificate => "it showed no certificate",
            Self::Protocol => "it does not speak our protocol over TLS 1.3",
            Self::Version => {
                "it speaks another version of our protocol, or another protocol: upgrade one of the two sites"
            }
            Self::Theirs => "it refused our certificate",
            Self::Flood => "it says more than it may",
        })
    }
}
