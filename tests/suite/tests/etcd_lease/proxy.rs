//! A relay before a member that does what a sick network does. It sees TLS and nothing inside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_etcd::Endpoint;
use bascule_lab::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// What is done with each chunk of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Well,
    /// Nothing passes. What was held comes through when the mood changes, however late that is.
    Hang,
    /// Requests pass, answers are lost.
    Swallow,
    /// Answers are late by so much.
    Slow(Duration),
    /// The connection breaks instead of passing anything on.
    Break,
}

pub(crate) struct Proxy {
    pub(crate) endpoint: Endpoint,
    mood: watch::Sender<Mood>,
    accepted: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In the namespace of a node, on a port of its loopback.
    pub(crate) fn start(netns: &Netns, server: SocketAddr) -> Result<Self> {
        let (mood, moods) = watch::channel(Mood::Well);
        let (accepted, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (bound, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let counters = (accepted.clone(), asked.clone());
        let thread = netns.spawn("proxy", move || {
            runtime.block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a port");
                bound.send(listener.local_addr().expect("it is bound").port()).expect("it is waited for");
                tokio::select! {
                    () = accept(listener, server, moods, counters) => {}
                    _ = stopped => {}
                }
            });
        });
        let port = address.recv().context("the proxy is bound")?;
        let endpoint = format!("https://{}:{port}", IpAddr::from([127, 0, 0, 1])).parse()?;
        Ok(Self { endpoint, mood, accepted, asked, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How many connections it was asked for so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many chunks of requests reached it so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

type Counters = (Arc<AtomicUsize>, Arc<AtomicUsize>);

async fn accept(listener: TcpListener, server: SocketAddr, moods: watch::Receiver<Mood>, counters: Counters) {
    while let Ok((client, _)) = listener.accept().await {
        counters.0.fetch_add(1, Ordering::Relaxed);
        let (moods, asked) = (moods.clone(), counters.1.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return };
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            // Either direction ends the other with it.
            tokio::select! {
                () = up(client_read, server_write, moods.clone(), asked) => {}
                () = down(server_read, client_write, moods) => {}
            }
        });
    }
}

/// Waits until something may pass; false when the connection breaks.
async fn passes(moods: &mut watch::Receiver<Mood>) -> bool {
    let mood = moods.wait_for(|mood| *mood != Mood::Hang).await.map(|mood| *mood);
    mood.is_ok_and(|mood| mood != Mood::Break)
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut moods: watch::Receiver<Mood>,
    asked: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        asked.fetch_add(1, Ordering::Relaxed);
        if !passes(&mut moods).await || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn down(mut from: OwnedReadHalf, to: OwnedWriteHalf, moods: watch::Receiver<Mood>) {
    let (chunks, received) = mpsc::channel(64);
    let read = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if chunks.send((Instant::now(), buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write(received, to, moods) => {}
    }
}

async fn write(
    mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut moods: watch::Receiver<Mood>,
) {
    while let Some((came, chunk)) = chunks.recv().await {
        if !passes(&mut moods).await {
            return;
        }
        let mood = *moods.borrow();
        match mood {
            Mood::Swallow => continue,
            Mood::Slow(late) => sleep_until(came + late).await,
            Mood::Well | Mood::Hang | Mood::Break => {}
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
