//! Asks for an address by ARP, over and over: whoever answers shows itself to a sniffer.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, sendto};

use crate::{LabError, Netns, Result, Stamp, fault, sleep_until};

/// A running asker; dropped, it stops.
#[derive(Debug)]
pub struct ArpAsker {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl ArpAsker {
    /// Broadcasts a request for `vip` from `own` on eth0 of `client` every `interval`.
    ///
    /// # Errors
    /// When its socket cannot be made.
    pub fn start(client: &Netns, own: Ipv4Addr, vip: Ipv4Addr, interval: Duration) -> Result<Self> {
        let mac = client.mac("eth0")?.0;
        let index = client.ifindex("eth0")?;
        let (socket, to) = client.run(|| fault::packet_socket(index))?;
        let frame = request(mac, own, vip);
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (stop.clone(), asked.clone());
        let thread = std::thread::Builder::new()
            .name("arp-asker".into())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    // A link that goes away takes the answers along: the sniffer shows that.
                    if sendto(socket.as_raw_fd(), &frame, &to, MsgFlags::empty()).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    sleep_until(Stamp::now() + interval);
                }
            })
            .map_err(LabError::io("a thread"))?;
        Ok(Self { stop, asked, thread: Some(thread) })
    }

    /// Requests sent so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for ArpAsker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn request(mac: [u8; 6], own: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}
