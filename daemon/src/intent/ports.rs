//! `healthCheckNodePort`: tells load balancers outside whether this node has endpoints of a Service with `externalTrafficPolicy: Local`.
//!
//! kube-proxy answers the same question the same way. Where it runs it has the port, and keeps it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bascule_core::service::translate::HealthPort;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

/// Who is slower is no load balancer's probe.
const PATIENCE: Duration = Duration::from_secs(1);
/// Askers at once on one port; more wait in the backlog.
const ASKERS: usize = 16;
/// Longest request that is read; what it says does not matter.
const REQUEST: usize = 1024;

/// The ports that are answered.
#[derive(Default)]
pub struct Ports {
    open: BTreeMap<u16, Open>,
}

struct Open {
    name: String,
    endpoints: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    /// Answers for these Services, by namespace and name, and no others. A port that somebody else has is left to it, and tried again with
    /// the next change.
    pub async fn set(&mut self, wanted: &BTreeMap<String, HealthPort>) {
        let kept = |port: u16, name: &str| wanted.get(name).is_some_and(|health| health.port == port);
        self.open.retain(|port, open| kept(*port, &open.name));
        for (name, health) in wanted {
            if let Some(open) = self.open.get(&health.port) {
                let _before = open.endpoints.send_replace(health.endpoints);
                continue;
            }
            match listen(health.port).await {
                Ok(listener) => {
                    info!(service = name, port = health.port, "healthCheckNodePort is answered");
                    let (endpoints, told) = watch::channel(health.endpoints);
                    let task = tokio::spawn(serve(listener, name.clone(), told));
                    let _none = self.open.insert(health.port, Open { name: name.clone(), endpoints, task });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    info!(service = name, port = health.port, "healthCheckNodePort is answered by somebody else");
                }
                Err(error) => warn!(%error, service = name, port = health.port, "healthCheckNodePort is not answered"),
            }
        }
    }
}

/// For both families, or for IPv4 where there is no IPv6.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

async fn serve(listener: TcpListener, name: String, endpoints: watch::Receiver<usize>) {
    let askers = Arc::new(Semaphore::new(ASKERS));
    loop {
        let Ok(permit) = Arc::clone(&askers).acquire_owned().await else { return };
        // Out of descriptors, or a peer that is gone already: the next one waits a moment.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let text = answer(&name, *endpoints.borrow());
        tokio::spawn(async move {
            let _gone = timeout(PATIENCE, say(stream, &text)).await;
            drop(permit);
        });
    }
}

async fn say(mut stream: TcpStream, text: &str) -> io::Result<()> {
    let mut request = [0; REQUEST];
    let _length = stream.read(&mut request).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// 200 while there are endpoints, else 503, in kube-proxy's words.
fn answer(name: &str, endpoints: usize) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let body = serde_json::json!({ "service": { "namespace": namespace, "name": name }, "localEndpoints": endpoints });
    let (body, status) = (body.to_string(), if endpoints > 0 { "200 OK" } else { "503 Service Unavailable" });
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_port_follows_its_service_and_a_foreign_one_is_left_alone() {
        let foreign = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
        let taken = foreign.local_addr().unwrap().port();
        let free = {
            let probe = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
            probe.local_addr().unwrap().port()
        };
        let wanted = |endpoints| -> BTreeMap<String, HealthPort> {
            [
                ("shop/a".to_owned(), HealthPort { port: free, endpoints }),
                ("shop/b".to_owned(), HealthPort { port: taken, endpoints }),
            ]
            .into()
        };
        let mut ports = Ports::default();
        ports.set(&wanted(2)).await;
        let text = ask(free).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\"name\":\"a\""), "{text}");
        assert!(text.contains("\"localEndpoints\":2"), "{text}");
        ports.set(&wanted(0)).await;
        assert!(ask(free).await.unwrap().starts_with("HTTP/1.1 503 "));
        drop(foreign);
        ports.set(&wanted(1)).await;
        assert!(ask(taken).await.unwrap().contains("\"name\":\"b\""));
        ports.set(&BTreeMap::new()).await;
        tokio::task::yield_now().await;
        assert!(ask(free).await.is_err());
    }
}
