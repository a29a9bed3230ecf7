//! What the servers of these tests have in common: credentials in files, and a bell for whoever waits for something to happen there.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A kubeconfig and a token beside it, in a directory of their own.
pub(crate) struct Credentials {
    directory: tempfile::TempDir,
    address: String,
}

impl Credentials {
    /// For the server at this address: the token `good`.
    pub(crate) fn of(address: String) -> Self {
        let credentials = Self { directory: tempfile::tempdir().expect("a directory"), address };
        credentials.write_token("good");
        credentials.write_kubeconfig();
        credentials
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub(crate) fn write_token(&self, token: &str) {
        std::fs::write(self.directory.path().join("token"), token).expect("a file");
    }

    pub(crate) fn write_kubeconfig(&self) {
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": self.address}}],
            "users": [{"name": "t", "user": {"tokenFile": self.directory.path().join("token")}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}]});
        std::fs::write(self.kubeconfig(), config.to_string()).expect("a file");
    }
}

/// Rings with everything that happens at a server.
pub(crate) struct Bell(watch::Sender<u64>);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn ring(&self) {
        self.0.send_modify(|beat| *beat += 1);
    }

    /// Waits until this holds. It is looked at whenever the bell rings.
    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let mut heard = self.0.subscribe();
        let wait = async {
            while !condition() {
                heard.changed().await.expect("the server lives as long as its test");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited until {what}"));
    }
}
