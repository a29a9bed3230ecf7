//! How the API server is reached, and the clients of an elector.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A connection that is not there after this time will not be: the least patience of an elector is shorter than that.
const CONNECT: Duration = Duration::from_secs(2);
/// Silence on a connection after a request was written. Below the time after which a lease of kube-vip's sample manifests (3 s) is lost.
const READ: Duration = Duration::from_secs(2);

/// Where the credentials are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Access {
    /// A file as kubectl reads it.
    Kubeconfig(PathBuf),
    /// What the kubelet gives a pod with a service account.
    InCluster,
}

/// Why there is no client. The files are read again at the next request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("in-cluster credentials: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    #[error("a client of the API server: {0}")]
    Client(#[from] kube::Error),
}

/// One for requests and one for the watch, so that neither waits for the other's connection.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) requests: Client,
    pub(crate) watches: Client,
}

impl Access {
    /// Reads the credentials and makes the clients. Connects nowhere yet.
    pub(crate) async fn clients(&self) -> Result<Clients, AccessError> {
        let mut config = self.config().await?;
        // An elector retries by itself, at its own pace: a retry inside the client would send an old record late.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(READ);
        let mut watches = config.clone();
        // A watch may be silent; how long is up to its reader.
        watches.read_timeout = None;
        config.read_timeout = Some(READ);
        // Else the time that a connection was idle counts too.
        config.reset_reader_on_write = true;
        Ok(Clients { requests: Client::try_from(config)?, watches: Client::try_from(watches)? })
    }

    async fn config(&self) -> Result<Config, AccessError> {
        match self {
            Self::Kubeconfig(path) => {
                let read = async {
                    let file = Kubeconfig::read_from(path)?;
                    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
                };
                read.await.map_err(|source| AccessError::Kubeconfig { path: path.clone(), source })
            }
            Self::InCluster => Ok(Config::incluster()?),
        }
    }
}
