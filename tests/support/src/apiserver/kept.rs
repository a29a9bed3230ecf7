//! Connections of the user that may do everything which are kept: many writes at once, and a watch.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use super::ApiServer;
use super::pki::ADMIN_TOKEN;
use crate::{LabError, Result, Stamp, http, sleep_until, wait_for};

/// How often a watch looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// POST, PUT, DELETE ...
    pub method: &'static str,
    /// From the root on.
    pub path: String,
    /// `Null`: none.
    pub body: Value,
}

/// A connection. It belongs to the namespace of the thread that made it.
pub(super) struct Kept {
    stream: StreamOwned<ClientConnection, TcpStream>,
    rest: Vec<u8>,
}

impl Kept {
    pub(super) fn new(stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        Self { stream, rest: Vec::new() }
    }

    fn ask(&mut self, method: &str, path: &str, body: &Value) -> io::Result<()> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: kubernetes\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
             Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(format!("{head}{body}").as_bytes())?;
        self.stream.flush()
    }

    /// More bytes; 0 at the end.
    fn more(&mut self) -> io::Result<usize> {
        let mut part = [0; 16 << 10];
        let length = self.stream.read(&mut part)?;
        self.rest.extend(&part[..length]);
        Ok(length)
    }

    /// One request and its answer.
    pub(super) fn request(&mut self, call: &Call) -> io::Result<(u16, Vec<u8>)> {
        self.ask(call.method, &call.path, &call.body)?;
        loop {
            if let Some((status, body, used)) = http::first(&self.rest) {
                self.rest.drain(..used);
                return Ok((status, body));
            }
            if self.more()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// What a watch saw, for as long as it is kept.
pub struct Watch<T> {
    seen: Arc<Mutex<Vec<(Stamp, T)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Clone> Watch<T> {
    /// What was seen so far, and when it arrived.
    pub fn seen(&self) -> Vec<(Stamp, T)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first since `since` that `wanted` takes.
    pub fn find(&self, since: Stamp, wanted: impl Fn(&T) -> bool) -> Option<(Stamp, T)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // What is looked for has just come, or is about to.
        let recent = seen.iter().rev().take_while(|(at, _)| *at >= since);
        recent.filter(|(_, one)| wanted(one)).last().cloned()
    }

    /// Waits for one; see [`Self::find`].
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait(&self, within: Duration, what: &str, since: Stamp, wanted: impl Fn(&T) -> bool) -> Result<(Stamp, T)> {
        wait_for(within, what, || self.find(since, &wanted))
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl ApiServer {
    /// Makes all these requests, `width` at a time, each on a connection that is kept. Gives the moment of each answer, in the order of
    /// `calls`.
    ///
    /// # Errors
    /// When one is not answered with success; no more are begun then.
    pub fn many(&self, width: usize, calls: &[Call]) -> Result<Vec<Stamp>> {
        self.many_at(width, calls, |_| None)
    }

    /// Like [`Self::many`], none of them before its time, by its place in `calls`. One whose connections are all busy comes later.
    ///
    /// # Errors
    /// As there.
    pub fn many_at(
        &self,
        width: usize,
        calls: &[Call],
        due: impl Fn(usize) -> Option<Stamp> + Sync,
    ) -> Result<Vec<Stamp>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(vec![Stamp(0); calls.len()]);
        let work = || -> Result<()> {
            let mut kept = self.client.keep().map_err(LabError::io("a connection to the API server"))?;
            while let Some((at, call)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, calls.get(at)?)))
            {
                let what = format!("{} {}", call.method, call.path);
                if let Some(due) = due(at) {
                    sleep_until(due);
                }
                let answer = kept.request(call).map_err(LabError::io(what.clone()));
                match answer {
                    Ok((200..=299, _)) => done.lock().unwrap_or_else(PoisonError::into_inner)[at] = Stamp::now(),
                    other => {
                        next.store(calls.len(), Ordering::Relaxed);
                        let (status, body) = other?;
                        let said = format!("{status}: {}", String::from_utf8_lossy(&body));
                        return Err(LabError::answer(what, said));
                    }
                }
            }
            Ok(())
        };
        let all = || {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..width.min(calls.len())).map(|_| scope.spawn(work)).collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(join).collect::<Result<Vec<()>>>()
            })
        };
        self.client.netns().run(all)?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Watches a collection from now on and keeps what `pick` makes of each object.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn watch<T: Send + 'static>(
        &self,
        collection: &str,
        pick: impl Fn(&Value) -> Option<T> + Send + 'static,
    ) -> Result<Watch<T>> {
        let list = self.must("GET", &format!("{collection}?limit=1"), None)?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let path = format!("{collection}?watch=true&resourceVersion={version}");
        let open = || -> io::Result<(Kept, String)> {
            let mut kept = self.client.keep()?;
            kept.ask("GET", &path, &Value::Null)?;
            let end = loop {
                if let Some(end) = kept.rest.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end + 4;
                }
                if kept.more()? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            };
            let head = kept.rest.drain(..end).collect();
            kept.stream.sock.set_read_timeout(Some(LOOK))?;
            Ok((kept, String::from_utf8(head).unwrap_or_default()))
        };
        let (mut kept, head) = self.client.netns().run(open).map_err(LabError::io(path.clone()))?;
        if head.split(' ').nth(1) != Some("200") {
            return Err(LabError::answer(path, head));
        }
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (found, ended) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = self.client.netns().spawn("watch", move || follow(&mut kept, &pick, &found, &ended));
        Ok(Watch { seen, stop, thread: Some(thread) })
    }
}

fn follow<T>(kept: &mut Kept, pick: &impl Fn(&Value) -> Option<T>, seen: &Mutex<Vec<(Stamp, T)>>, stop: &AtomicBool) {
    let mut chunks = http::Chunks::default();
    while !stop.load(Ordering::Relaxed) && !chunks.ended {
        let used = chunks.take(&kept.rest);
        kept.rest.drain(..used);
        let now = Stamp::now();
        while let Some(end) = chunks.body.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = chunks.body.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            if let Some(one) = pick(&event["object"]) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((now, one));
            }
        }
        match kept.more() {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
