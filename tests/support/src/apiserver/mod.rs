//! A real API server: kube-apiserver with RBAC on Debian's etcd, in a namespace of the lab.
//!
//! Which programs: `KUBEBUILDER_ASSETS` when it is set (envtest's convention), else the one that `cargo xtask` has built. etcd's data lies on
//! a tmpfs that goes away with the process. When the guard is dropped it says which server ran.

mod client;
mod front;
mod kept;
mod pki;
#[path = "../../../../xtask/src/apiserver_place.rs"]
mod place;
mod pulse;
mod shared;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use client::Client;
pub use front::{Front, Mood};
pub use kept::{Call, Watch};
use pki::{ADMIN_TOKEN, Pki};
pub use pulse::Pulse;
pub use shared::{Answer, Session, SharedStore, TlsClient};

use crate::pki::Pair;
use crate::{Lab, LabError, Netns, Process, Result, wait_for};

/// Where it listens, as on a node of kubeadm's.
pub const PORT: u16 = 6443;
/// From start to `/readyz`: 6 s on an idle machine, and its threads compete with those of other tests.
const START: Duration = Duration::from_secs(120);
/// Seconds that a token of a service account is good for; the least that the API server grants.
const TOKEN_SECONDS: u32 = 600;

/// A running API server and its store.
#[derive(Debug)]
pub struct ApiServer {
    /// The API server itself.
    pub server: Process,
    /// Its store.
    pub etcd: Process,
    client: Client,
    pki: Pki,
    directory: PathBuf,
    version: String,
}

impl ApiServer {
    /// Starts both in `netns`, reachable by `addresses` of it and by 127.0.0.1, and waits until it is ready.
    ///
    /// # Errors
    /// When a program is missing or does not come up in time; the end of its output is in the error.
    pub fn start(lab: &Lab, netns: &Netns, addresses: &[IpAddr]) -> Result<Self> {
        let assets = find()?;
        let directory = lab.directory().join(format!("api-{}", netns.name()));
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let all: Vec<IpAddr> = addresses.iter().copied().chain([local]).collect();
        let pki = Pki::create(&directory, 1, &all)?;
        let etcd = lab.process("etcd", netns, &assets.etcd).args(etcd_args(local)).private_run().spawn()?;
        let server = spawn_server(lab, netns, &pki)?;
        let client = Client::new(netns, SocketAddr::new(local, PORT), &pki.ca)?;
        let mut api = Self { server, etcd, client, pki, directory, version: String::new() };
        api.wait_ready()?;
        let (_, version) = api.request("GET", "/version", None)?;
        let origin = if assets.given { place::ASSETS } else { "built from tests/k8s" };
        api.version =
            format!("kube-apiserver {} ({origin})", version["gitVersion"].as_str().unwrap_or("of no version"));
        Ok(api)
    }

    /// Ends the server by SIGKILL, starts it anew on the same store, and waits until it is ready.
    ///
    /// # Errors
    /// Those of [`ApiServer::start`].
    pub fn restart(&mut self, lab: &Lab, netns: &Netns) -> Result<()> {
        self.server.sigkill()?;
        self.server = spawn_server(lab, netns, &self.pki)?;
        self.wait_ready()
    }

    /// Waits for `/readyz`.
    ///
    /// # Errors
    /// When it does not come, or one of the two ends.
    pub fn wait_ready(&mut self) -> Result<()> {
        let Self { server, etcd, client, .. } = self;
        let ready = wait_for(START, "kube-apiserver to be ready", || {
            if !server.alive() || !etcd.alive() {
                return Some(false);
            }
            let answer = client.request(ADMIN_TOKEN, "GET", "/readyz", None);
            answer.is_ok_and(|(status, _)| status == 200).then_some(true)
        });
        match ready {
            Ok(true) => Ok(()),
            _ => Err(LabError::answer(
                "kube-apiserver is not ready",
                format!("its output:\n{}\netcd's:\n{}", self.server.tail(), self.etcd.tail()),
            )),
        }
    }

    /// Its own word for its version, and where it comes from.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A request of the user that may do everything. Gives status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.client.request(ADMIN_TOKEN, method, path, body)
    }

    /// A request of the bearer of `token`.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn request_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.client.request(token, method, path, body)
    }

    /// Like [`ApiServer::request`], and anything but success is an error.
    ///
    /// # Errors
    /// When there is no answer, or a bad one.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        match self.request(method, path, body)? {
            (200..=299, answer) => Ok(answer),
            (status, answer) => Err(LabError::answer(format!("{method} {path}"), format!("{status}: {answer}"))),
        }
    }

    /// Creates every object of these manifests (YAML, several documents).
    ///
    /// # Errors
    /// When the text is not understood or an object is refused.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        for object in documents(manifests)? {
            self.must("POST", &collection(&object)?, Some(&object))?;
        }
        Ok(())
    }

    /// Creates every kind of ours, as `kubectl apply -f deploy/crds` does, and waits until all of them are served.
    ///
    /// # Errors
    /// When one is refused or not served in time.
    pub fn install_kinds(&self) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
        let io = |path: &Path| LabError::io(path.display().to_string());
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io(&folder))? {
            files.push(entry.map_err(io(&folder))?.path());
        }
        files.sort();
        let mut collections = Vec::new();
        for file in &files {
            let text = std::fs::read_to_string(file).map_err(io(file))?;
            self.apply(&text)?;
            let name = |object: &Value, path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
            for kind in documents(&text)? {
                let parts =
                    ["/spec/group", "/spec/versions/0/name", "/spec/names/plural"].map(|part| name(&kind, part));
                let [Some(group), Some(version), Some(plural)] = parts else {
                    return Err(LabError::answer("a kind of ours", kind.to_string()));
                };
                collections.push(format!("/apis/{group}/{version}/{plural}"));
            }
        }
        for collection in collections {
            wait_for(START, "a kind of ours to be served", || {
                let (status, _) = self.request("GET", &collection, None).ok()?;
                (status == 200).then_some(())
            })?;
        }
        Ok(())
    }

    /// What service accounts asked for so far, as `audit.k8s.io/v1` events: denied or not, watches from their start on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let log = &self.pki.audit_log;
        let text = std::fs::read_to_string(log).map_err(LabError::io(log.display().to_string()))?;
        // The last line may be on its way.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// A token of a service account.
    ///
    /// # Errors
    /// When the account is not there.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS}});
        let answer = self.must("POST", &path, Some(&asked))?;
        let token = answer["status"]["token"].as_str();
        token.map(str::to_owned).ok_or_else(|| LabError::answer("a token request", answer.to_string()))
    }

    /// Like [`ApiServer::kubeconfig`], for the user that may do everything, at 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig("admin", IpAddr::V4(Ipv4Addr::LOCALHOST), ADMIN_TOKEN)
    }

    /// Writes a kubeconfig named `name` for the bearer of `token` that reaches the server by `address`. The token lies in a file beside
    /// it, named `NAME.token`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, name: &str, address: IpAddr, token: &str) -> Result<PathBuf> {
        let token_file = self.directory.join(format!("{name}.token"));
        let path = self.directory.join(format!("{name}.kubeconfig"));
        let server = SocketAddr::new(address, PORT);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("https://{server}"), "certificate-authority": self.pki.ca}}],
            "users": [{"name": "lab", "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        });
        let write =
            |path: &Path, text: String| std::fs::write(path, text).map_err(LabError::io(path.display().to_string()));
        write(&token_file, token.to_owned())?;
        write(&path, config.to_string())?;
        Ok(path)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        println!("API server: {}", self.version);
    }
}

/// The objects of manifests.
///
/// # Errors
/// When the text is not understood.
pub fn documents(manifests: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(manifests).map_err(|e| LabError::answer("the manifests", e.to_string()))
}

fn find() -> Result<place::Assets> {
    place::find().map_err(|e| LabError::answer("the API server of the tests", e.to_string()))
}

fn spawn_server(lab: &Lab, netns: &Netns, pki: &Pki) -> Result<Process> {
    let leaf = pki.servers.first().ok_or_else(|| LabError::answer("the lab's PKI", "it has no server"))?;
    let args = server_args(pki, leaf, IpAddr::V4(Ipv4Addr::LOCALHOST));
    lab.process("kube-apiserver", netns, find()?.apiserver).args(args).spawn()
}

fn store_url(address: IpAddr) -> String {
    format!("http://{}", SocketAddr::new(address, 2379))
}

/// For a store that listens on this address.
fn etcd_args(address: IpAddr) -> [String; 11] {
    let (client, peer) = (&store_url(address), "http://127.0.0.1:2380");
    let pair = |flag: &str, value: &str| format!("--{flag}={value}");
    [
        // A tmpfs of its own.
        pair("data-dir", "/run/etcd"),
        pair("name", "lab"),
        pair("listen-client-urls", client),
        pair("advertise-client-urls", client),
        pair("listen-peer-urls", peer),
        pair("initial-advertise-peer-urls", peer),
        pair("initial-cluster", &format!("lab={peer}")),
        // One member elects itself; a busy machine must not make it doubt that.
        pair("heartbeat-interval", "500"),
        pair("election-timeout", "5000"),
        pair("logger", "zap"),
        pair("log-level", "warn"),
    ]
}

/// For the server with this certificate and the store at this address.
fn server_args(pki: &Pki, leaf: &Pair, store: IpAddr) -> Vec<String> {
    let path = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let pair = |flag: &str, value: &str| format!("--{flag}={value}");
    vec![
        pair("etcd-servers", &store_url(store)),
        pair("bind-address", "0.0.0.0"),
        pair("secure-port", &PORT.to_string()),
        // Nobody is told of it (see the next flag), and a namespace may have no address but loopback's, which is refused here (RFC 5737).
        pair("advertise-address", "192.0.2.1"),
        pair("endpoint-reconciler-type", "none"),
        pair("service-cluster-ip-range", "10.96.0.0/16,fd96::/108"),
        pair("authorization-mode", "RBAC"),
        pair("service-account-issuer", "https://kubernetes.default.svc"),
        path("service-account-key-file", &pki.accounts_public),
        path("service-account-signing-key-file", &pki.accounts),
        path("tls-cert-file", &leaf.certificate),
        path("tls-private-key-file", &leaf.key),
        path("token-auth-file", &pki.tokens),
        path("audit-policy-file", &pki.audit_policy),
        path("audit-log-path", &pki.audit_log),
        pair("cert-dir", &pki.ca.parent().unwrap_or(Path::new("/")).display().to_string()),
    ]
}

/// Where objects of this kind are created.
fn collection(object: &Value) -> Result<String> {
    let plural = match object["kind"].as_str() {
        Some("ServiceAccount") => "serviceaccounts",
        Some("Namespace") => "namespaces",
        Some("Role") => "roles",
        Some("RoleBinding") => "rolebindings",
        Some("ClusterRole") => "clusterroles",
        Some("ClusterRoleBinding") => "clusterrolebindings",
        Some("Lease") => "leases",
        Some("CustomResourceDefinition") => "customresourcedefinitions",
        kind => return Err(LabError::answer("the manifests", format!("the lab does not know the kind {kind:?}"))),
    };
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str().map(|n| format!("namespaces/{n}/")).unwrap_or_default();
    Ok(format!("/{root}/{version}/{namespace}{plural}"))
}
