//! Clients of a service that one site at a time has, and its endpoints, which say who they are: who answered when, and from when on nobody did.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_lab::{Netns, Stamp, sleep_until, wait_for};

/// How long a client waits for an answer before it asks anew.
pub const IMPATIENCE: Duration = Duration::from_millis(250);
/// Between two questions.
const PACE: Duration = Duration::from_millis(20);
/// Until somebody is answered: start, learning (10 s) and the first lease, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An endpoint that tells its number, once for each byte that it gets, until the process ends.
///
/// # Errors
/// When its port is taken.
pub fn answer(netns: &Netns, at: SocketAddr, number: u8) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind(at))?;
    let _ends_with_the_process = netns.spawn("database", move || {
        listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || tell(stream, number))));
    });
    Ok(())
}

fn tell(mut stream: TcpStream, number: u8) {
    let mut asked = [0];
    while stream.read_exact(&mut asked).is_ok() && stream.write_all(&[number]).is_ok() {}
}

/// Asks for ever: on one connection for as long as it is answered, then on the next.
struct Asker {
    answers: Arc<Mutex<Vec<(Stamp, u8)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    /// `fresh`: each question on a connection of its own.
    fn start(netns: &Netns, to: SocketAddr, fresh: bool) -> Self {
        let (answers, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, ends) = (Arc::clone(&answers), Arc::clone(&stop));
        let thread = netns.spawn("asker", move || {
            let mut open: Option<TcpStream> = None;
            while !ends.load(Ordering::Relaxed) {
                sleep_until(Stamp::now() + PACE);
                let stream = open.take().or_else(|| TcpStream::connect_timeout(&to, IMPATIENCE).ok());
                let Some(mut stream) = stream else { continue };
                let mut answer = [0];
                let asked = stream
                    .set_read_timeout(Some(IMPATIENCE))
                    .and_then(|()| stream.write_all(&[1]))
                    .and_then(|()| stream.read_exact(&mut answer));
                if asked.is_ok() {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push((Stamp::now(), answer[0]));
                    open = Some(stream).filter(|_| !fresh);
                }
            }
        });
        Self { answers, stop, thread: Some(thread) }
    }

    fn all(&self) -> Vec<(Stamp, u8)> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

/// All clients; dropped, they stop.
pub struct Askers(Vec<Asker>);

impl Askers {
    /// From each of these hosts one that makes a new connection each time, and one that goes on with its own.
    pub fn start(hosts: &[&Netns], to: SocketAddr) -> Self {
        Self(hosts.iter().flat_map(|host| [true, false].map(|fresh| Asker::start(host, to, fresh))).collect())
    }

    /// Who answered whom when, in time.
    fn all(&self) -> Vec<(Stamp, u8)> {
        let mut all: Vec<(Stamp, u8)> = self.0.iter().flat_map(Asker::all).collect();
        all.sort_by_key(|(at, _)| *at);
        all
    }

    /// Waits until every client was answered by this endpoint after `since`.
    ///
    /// # Errors
    /// When one was not, within a minute.
    pub fn wait(&self, number: u8, since: Stamp) -> Result<()> {
        let answered = |asker: &Asker| asker.all().iter().any(|(at, by)| *at > since && *by == number);
        let all = || self.0.iter().all(answered).then_some(());
        wait_for(PATIENCE, "an answer to each client", all).with_context(|| format!("by site {number}"))
    }

    /// Waits for the first answer of an endpoint after `since`.
    ///
    /// # Errors
    /// When there is none within a minute.
    pub fn first(&self, number: u8, since: Stamp) -> Result<Stamp> {
        let first = || self.all().into_iter().find(|(at, by)| *at > since && *by == number).map(|(at, _)| at);
        wait_for(PATIENCE, "an answer", first).with_context(|| format!("by site {number}"))
    }

    /// The last answer of an endpoint.
    pub fn last(&self, number: u8) -> Option<Stamp> {
        self.all().into_iter().rev().find(|(_, by)| *by == number).map(|(at, _)| at)
    }
}
