//! How long the server takes to write something, asked all the time: what it makes late is not its clients' doing.

use std::io::{Error, Result as IoResult};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::ApiServer;
use super::kept::{Call, Kept};
use crate::{LabError, Result, Stamp, sleep_until};

/// Where it is written.
const OBJECTS: &str = "/api/v1/namespaces/kube-system/configmaps";
const NAME: &str = "lab-pulse";
/// From one write to the next, if it is answered before.
const EVERY: Duration = Duration::from_millis(100);

/// A write.
#[derive(Debug, Clone, Copy)]
struct Beat {
    sent: Stamp,
    /// `None`: under way, or never answered.
    answered: Option<Stamp>,
}

/// Writes, for as long as this is kept.
pub struct Pulse {
    beats: Arc<Mutex<Vec<Beat>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// The longest that a write had waited for its answer by `until`, of those that were under way at some time since `since`. Once the
    /// server has refused one, or the connection is lost, that one waits for ever.
    pub fn slowest(&self, since: Stamp, until: Stamp) -> Duration {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        slowest(&beats, since, until)
    }
}

fn slowest(beats: &[Beat], since: Stamp, until: Stamp) -> Duration {
    let recent = beats.iter().rev().filter(|beat| beat.sent <= until);
    let recent = recent.take_while(|beat| beat.answered.is_none_or(|at| at >= since));
    recent.map(|beat| beat.answered.unwrap_or(until).min(until).since(beat.sent)).max().unwrap_or_default()
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl ApiServer {
    /// Writes an object of its own ten times a second from now on.
    ///
    /// # Errors
    /// When the object cannot be made.
    pub fn pulse(&self) -> Result<Pulse> {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"beat": "0"}});
        self.must("POST", OBJECTS, Some(&object))?;
        let mut kept = self.client.netns().run(|| self.client.keep()).map_err(LabError::io("the API server"))?;
        let (beats, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (told, ended) = (Arc::clone(&beats), Arc::clone(&stop));
        let thread = self.client.netns().spawn("pulse", move || {
            while !ended.load(Ordering::Relaxed) {
                if let Err(error) = beat(&mut kept, &told) {
                    eprintln!("the API server did not take a write of the lab: {error}");
                    return;
                }
            }
        });
        Ok(Pulse { beats, stop, thread: Some(thread) })
    }
}

fn beat(kept: &mut Kept, beats: &Mutex<Vec<Beat>>) -> IoResult<()> {
    let sent = Stamp::now();
    beats.lock().unwrap_or_else(PoisonError::into_inner).push(Beat { sent, answered: None });
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME},
        "data": {"beat": sent.0.to_string()}});
    let (status, said) = kept.request(&Call { method: "PUT", path: format!("{OBJECTS}/{NAME}"), body })?;
    if !(200..=299).contains(&status) {
        return Err(Error::other(format!("{status}: {}", String::from_utf8_lossy(&said))));
    }
    if let Some(last) = beats.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
        last.answered = Some(Stamp::now());
    }
    sleep_until(sent + EVERY);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_counts_for_as_long_as_it_is() {
        let ms = |n: u64| Stamp(n * 1_000_000);
        let beat = |sent, answered: Option<u64>| Beat { sent: ms(sent), answered: answered.map(ms) };
        let beats = [beat(0, Some(900)), beat(1000, Some(1010)), beat(1100, Some(1400)), beat(1500, None)];
        let slow = |since, until| slowest(&beats, ms(since), ms(until)).as_millis();
        assert_eq!(slow(901, 1050), 10);
        assert_eq!(slow(900, 1050), 900, "one that ended at that moment");
        assert_eq!(slow(901, 1200), 100, "it is not answered yet");
        assert_eq!(slow(901, 1450), 300);
        assert_eq!(slow(1450, 4000), 2500, "never answered");
        assert_eq!(slow(1450, 1460), 0, "none was under way");
    }
}
