//! One side of the comparison: a site, its live flows, and the sender that floods it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_ebpf_common::forward::Tally;
use bascule_lab::audit::{Flows, Load};
use bascule_lab::forward::{Hook, Layout, NodePrograms, SERVICE_PORT, Site};
use bascule_lab::{Netns, Stamp, fifo, fifo_threads, sleep_until};

use super::losses::Losses;
use super::others;
use crate::dataplane::frames::{SYN, addressed, tcp4};
use crate::dataplane::sender::{Sender, Sent, Syns};

/// Live flows, and how often each sends: their goodput is what they ask for, as long as nothing is lost.
pub(super) const LIVE: usize = 1000;
const EVERY: Duration = Duration::from_millis(100);
/// First source of the flood, 10.128.0.0/10: nobody has it, and the router throws answers away.
const SOURCE: u32 = 0x0a80_0000;
const NOBODY: &str = "10.128.0.0/10";
/// How long the flows run alone before each part.
const CALM: Duration = Duration::from_millis(500);
/// After a part, until what is under way has arrived.
const SETTLE: Duration = Duration::from_millis(300);
/// The first balancer, and the first node with a pod.
const BALANCER: u16 = 1;
const HOME: u16 = 11;
/// Counts the SYNs of the flood as they come into a pod, before its stack.
const COUNTER: &str = "table netdev flood { counter syns { }; \
    chain in { type filter hook ingress device eth0 priority 0; ip saddr 10.128.0.0/10 counter name syns; }; }";

/// What one part was like.
pub(super) struct Part {
    /// SYNs that left the sender.
    pub(super) sent: u32,
    /// Time they took.
    pub(super) spent: Duration,
    /// SYNs that reached a server.
    pub(super) arrived: u64,
    /// Records that came back meanwhile; the same for each whole second; a second's before the flood.
    pub(super) echoed: u64,
    pub(super) seconds: Vec<u64>,
    pub(super) calm: f64,
    /// Longest time in which a live flow waited.
    pub(super) stall: Duration,
    /// Processor time of the sender's thread: its softirqs carry the flood as far as they come.
    pub(super) busy: Duration,
    /// Seconds of processor time that others took.
    pub(super) others: f64,
}

impl Part {
    /// SYNs a second.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.sent) / self.spent.as_secs_f64()
    }
}

/// What the flood left in the tables.
pub(super) struct Left {
    /// Of all nodes.
    pub(super) flows: usize,
    pub(super) fragments: usize,
    /// Of the node that has most.
    pub(super) half: usize,
    /// SYNs of the flood that nodes took for new flows.
    pub(super) taken: u64,
}

/// A site under flood.
pub(super) struct Side {
    name: &'static str,
    flows: Flows,
    sender: Sender,
    syns: Syns,
    /// New flows at all nodes before the flood.
    opened: u64,
    pods: Vec<Netns>,
    site: Site,
}

impl Side {
    /// Builds it, with programs on its nodes or without, and opens the live flows.
    pub(super) fn new(hook: Hook, through_us: bool) -> Result<Self> {
        let name = if through_us { "through us" } else { "without us" };
        let mut site = Site::new("flood", Layout { balancers: 1, homes: 1, pods: 1, hook })?;
        if !through_us {
            site.unload();
        }
        site.router.tool("ip", &["route", "add", "blackhole", NOBODY])?;
        let pods: Vec<Netns> =
            site.members.iter().flat_map(|member| &member.pods).map(|pod| pod.netns.clone()).collect();
        for pod in &pods {
            pod.tool("nft", &[COUNTER])?;
        }
        // Without us clients speak to the pod, as the router knows the way to it.
        let direct = SocketAddrV4::new(site.member(HOME).pods[0].address, SERVICE_PORT);
        let (target, next) = if through_us { (site.target(), BALANCER) } else { (direct, HOME) };
        let flows = Flows::start(&site.client, Load { target, paced: LIVE, every: EVERY, full_speed: 0, window: 1 })?;
        let open = flows.wait_open(Duration::from_secs(60)).unwrap_or_else(|_| flows.alive());
        ensure!(open == LIVE, "{name}: {open} of {LIVE} flows opened\n{}", site.describe()?);
        flows.hold(true);
        // Both ends of the flows go before whatever else the machine does: it is the flood, in softirqs, that is to hold them up.
        ensure!(fifo_threads("audit-")? > 1, "no thread of a client and a server");
        // From the router's own place on the LAN: what comes before the nodes is nobody's concern here.
        let frame = tcp4((Ipv4Addr::from_bits(SOURCE), 1024), (*target.ip(), target.port()), SYN, 0);
        let frame = addressed(frame, site.member(next).port.mac().0, site.router.mac("eth0")?.0);
        let sender = Sender::new(&site.router, "eth0")?;
        let mut side = Self { name, flows, sender, syns: Syns::new(frame, SOURCE), opened: 0, pods, site };
        side.opened = side.new_flows()?;
        Ok(side)
    }

    /// Floods with `count` SYNs at `rate` a second while the live flows run; says to the console how it went.
    pub(super) fn part(&mut self, count: u32, rate: u32) -> Result<Part> {
        self.flows.hold(false);
        let begun = Stamp::now();
        let before = self.flows.echoed();
        sleep_until(begun + CALM);
        let calm = (self.flows.echoed() - before) as f64 / Stamp::now().since(begun).as_secs_f64();
        let (arrived, lost) = (self.arrived()?, Losses::now(&self.site)?);
        self.flows.window()?;
        let others = others::seconds()?;
        let (sent, echoed, seconds) = self.flood(count, rate)?;
        let others = others::seconds()? - others;
        let heard = self.flows.look()?;
        self.flows.hold(true);
        sleep_until(Stamp::now() + SETTLE);
        let (arrived, lost) = (self.arrived()? - arrived, Losses::now(&self.site)?.since(&lost));
        let Sent { sent, refused, spent, busy } = sent;
        let stall = heard.longest_stall(&[]);
        let part = Part { sent, spent, arrived, echoed, seconds, calm, stall, busy, others };
        eprintln!(
            "flood, {}: {sent} SYNs at {:.0}/s, {refused} refused by the sender's queue, {arrived} arrived; {:.1} us of the sender's processor \
             each, other processes took {:.2} processors; records a second: {calm:.0} before, then {:?}; longest stall {:.0?}, client late by \
             {:.0?}; {} of {LIVE} flows live; lost: {lost}",
            self.name,
            part.rate(),
            part.busy.as_secs_f64() * 1e6 / f64::from(sent),
            part.others / part.spent.as_secs_f64(),
            part.seconds,
            part.stall,
            heard.late,
            self.flows.alive(),
        );
        Ok(part)
    }

    /// What was sent, and the records that came back meanwhile, in all and for each whole second.
    fn flood(&mut self, count: u32, rate: u32) -> Result<(Sent, u64, Vec<u64>)> {
        let (flows, sender, syns) = (&self.flows, &mut self.sender, &mut self.syns);
        std::thread::scope(|scope| {
            let (begun, before) = (Stamp::now(), flows.echoed());
            let flood = scope.spawn(|| {
                // A flood does not wait for those whom it harms: it gets its time first, on both sides alike.
                ensure!(fifo(), "the sender needs SCHED_FIFO");
                sender.flood(syns, count, rate).map(|sent| (sent, flows.echoed()))
            });
            let (mut seconds, mut last, mut turn) = (Vec::new(), before, begun);
            loop {
                turn = turn + Duration::from_secs(1);
                // The end of the flood is seen within a tenth of a second.
                while Stamp::now() < turn && !flood.is_finished() {
                    sleep_until(turn.min(Stamp::now() + Duration::from_millis(100)));
                }
                if flood.is_finished() {
                    break;
                }
                let now = flows.echoed();
                seconds.push(now - last);
                last = now;
            }
            let (sent, after) = flood.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            Ok((sent, after - before, seconds))
        })
    }

    /// SYNs of the flood that reached a server so far.
    pub(super) fn arrived(&self) -> Result<u64> {
        let mut sum = 0;
        for pod in &self.pods {
            let text = pod.tool("nft", &["-j", "list", "counter", "netdev", "flood", "syns"])?;
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let counters = json["nftables"].as_array().context("nft -j gives a list")?;
            let packets = counters.iter().find_map(|item| item["counter"]["packets"].as_u64());
            sum += packets.with_context(|| format!("no counter in {text}"))?;
        }
        Ok(sum)
    }

    /// What is in the tables now.
    pub(super) fn left(&self) -> Result<Left> {
        let mut left = Left { flows: 0, fragments: 0, half: 0, taken: self.new_flows()? - self.opened };
        for programs in self.programs() {
            left.flows += programs.flows()?;
            left.fragments += programs.fragments()?;
            left.half = left.half.max(programs.half_open()?);
        }
        Ok(left)
    }

    /// Ends the live flows; how many of them were broken.
    pub(super) fn finish(self) -> usize {
        let audit = self.flows.finish();
        let broken = audit.broken(&[]).len();
        if broken > 0 {
            eprintln!("flood, {}: {}", self.name, audit.describe(&[]));
        }
        broken
    }

    fn programs(&self) -> impl Iterator<Item = &NodePrograms> {
        self.site.members.iter().filter_map(|member| member.programs.as_ref())
    }

    /// New flows at all nodes: a SYN of the flood is one, where its home takes it for the service.
    fn new_flows(&self) -> Result<u64> {
        let mut sum = 0;
        for programs in self.programs() {
            sum += programs.tallies()?.of(Tally::FlowNew);
        }
        Ok(sum)
    }
}
