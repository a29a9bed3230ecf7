//! Entries of the neighbour table that are kept, live: made, learned anew, made again after a flush, let go of.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule::net::netlink::{Entries, Target};
use bascule_core::neighbor::{Holder, Keeper, Place, Seen, Standing};
use bascule_core::types::{LinkId, Mac};
use bascule_suite::net::{Pair, index, ip};
use tokio::time::{Instant, sleep};

/// How long the slowest condition may take, a silent change of MAC: 5 s unconfirmed, 3 s of questions, an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// From one look to the next: shorter than the daemon's, nothing here depends on it.
const LOOK: Duration = Duration::from_millis(50);

fn on_node<F: Future<Output = Result<()>>>(pair: &Pair, body: impl FnOnce() -> F) -> Result<()> {
    pair.a.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(body())
    })
}

/// What the daemon's task does, one look at a time.
struct Task {
    entries: Entries,
    keeper: Keeper,
}

impl Task {
    fn new() -> Result<Self> {
        Ok(Self { entries: Entries::open(0)?, keeper: Keeper::default() })
    }

    async fn look(&mut self, place: Option<Place>) -> Result<Option<Seen>> {
        let mut wanted = BTreeMap::new();
        let mut seen = BTreeMap::new();
        if let Some(place) = place {
            wanted.extend(self.entries.carrier(place.link).await?.map(|carrier| (place, carrier)));
        }
        for place in self.keeper.reads(&wanted) {
            seen.extend(self.entries.entry(place).await?.map(|entry| (place, entry)));
        }
        for (place, step) in self.keeper.look(&wanted, &seen) {
            self.entries.step(place, step).await?;
        }
        Ok(place.and_then(|place| seen.get(&place).copied()))
    }

    async fn until(&mut self, place: Place, what: &str, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.look(Some(place)).await?;
            if let Some(seen) = seen.filter(&wanted) {
                return Ok(seen);
            }
            ensure!(Instant::now() < deadline, "{what}: {seen:?}");
            sleep(LOOK).await;
        }
    }
}

fn target(address: &str) -> Result<Target> {
    Ok(Target { address: address.parse()?, links: Vec::new(), beside: None, source: None })
}

const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);

#[test]
fn a_kept_entry_of_either_family_resolves_and_is_let_go_of_with_its_mac() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        for address in ["10.9.0.2", "2001:db8::2"] {
            let mut task = Task::new()?;
            let place = task.entries.place(&target(address)?).await?.context("a route")?;
            ensure!(place == Place { link: pair.a0, address: address.parse()? }, "{place:?}");
            let seen = task.until(place, "a MAC", |seen| seen.mac == Some(B)).await?;
            ensure!(seen.holder == Holder::Us && task.keeper.standing().resolved == 1, "{seen:?}");
            ensure!(
                ip(&format!("-d neigh show {address}"))?.contains("managed extern_learn"),
                "the kernel keeps it, too"
            );
            let groups = usize::from(place.address.is_ipv6());
            ensure!(task.entries.ours().await?.len() == 1 + groups, "IPv6 is asked by a group");

            task.look(None).await?;
            let seen = task.entries.entry(place).await?.context("the entry stays")?;
            ensure!(seen.holder == Holder::Nobody && seen.mac == Some(B), "{seen:?}");
            ensure!(task.entries.ours().await?.is_empty() && !task.entries.unmanaged());
        }
        Ok(())
    })
}

#[test]
fn an_ordinary_entry_is_marked_and_one_without_an_answer_goes_at_the_end() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        ip("neigh replace 10.9.0.2 dev a0 lladdr 02:00:00:00:00:0b nud stale")?;
        let mut task = Task::new()?;
        let place = Place { link: pair.a0, address: "10.9.0.2".parse()? };
        let seen = task.until(place, "a mark", |seen| seen.holder == Holder::Us).await?;
        ensure!(seen.mac == Some(B), "{seen:?}");

        let mut task = Task::new()?;
        let nobody = Place { link: pair.a0, address: "10.9.0.77".parse()? };
        task.until(nobody, "an entry", |seen| seen.holder == Holder::Us).await?;
        ensure!(task.keeper.standing() == Standing { unresolved: 1, ..Standing::default() });
        task.look(None).await?;
        ensure!(task.entries.entry(nobody).await?.is_none());
        Ok(())
    })
}

#[test]
fn another_mac_is_learned_whether_the_neighbour_speaks_or_not() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        let mut task = Task::new()?;
        let place = Place { link: pair.a0, address: "10.9.0.2".parse()? };
        task.until(place, "a MAC", |seen| seen.mac == Some(B)).await?;
        for (last, speaks) in [(0x1b, true), (0x2b, false)] {
            pair.b.inside(|| ip(&format!("link set b0 address 02:00:00:00:00:{last:02x}")))?;
            if speaks {
                // Whoever has a new card has no entries either, and asks for us.
                pair.b.inside(|| ip("neigh flush dev b0"))?;
                pair.b.inside(|| Ok(UdpSocket::bind("10.9.0.2:0")?.send_to(b"?", "10.9.0.1:9")?))?;
            }
            let moved = Some(Mac([2, 0, 0, 0, 0, last]));
            let seen = task.until(place, "the other MAC", |seen| seen.mac == moved).await?;
            ensure!(seen.holder == Holder::Us, "{seen:?}");
        }
        Ok(())
    })
}

#[test]
fn an_entry_that_a_link_took_with_it_is_made_again() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        let mut task = Task::new()?;
        let place = Place { link: pair.a0, address: "10.9.0.2".parse()? };
        task.until(place, "a MAC", |seen| seen.mac == Some(B)).await?;
        ip("link set a0 down")?;
        ensure!(task.entries.entry(place).await?.is_none(), "the kernel flushes it");
        ensure!(task.entries.place(&target("10.9.0.2")?).await?.is_none(), "nor is there a route");
        ip("link set a0 up")?;
        task.until(place, "a MAC", |seen| seen.mac == Some(B) && seen.holder == Holder::Us).await?;
        // The carrier alone: the kernel spares it, and the neighbour may be another by then.
        pair.b.inside(|| ip("link set b0 down"))?;
        pair.b.inside(|| ip("link set b0 address 02:00:00:00:00:3b"))?;
        pair.b.inside(|| ip("link set b0 up"))?;
        let moved = Some(Mac([2, 0, 0, 0, 0, 0x3b]));
        task.until(place, "the other MAC", |seen| seen.mac == moved && seen.holder == Holder::Us).await?;
        Ok(())
    })
}

#[test]
fn a_permanent_entry_and_one_of_another_program_are_left_alone() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        ip("neigh replace 10.9.0.2 dev a0 lladdr 02:00:00:00:00:0b nud permanent")?;
        ip("neigh replace 10.9.0.3 dev a0 extern_learn lladdr 02:00:00:00:00:0b nud stale protocol zebra")?;
        let before = ip("-d neigh show dev a0")?;
        let mut task = Task::new()?;
        for address in ["10.9.0.2", "10.9.0.3"] {
            let place = Place { link: pair.a0, address: address.parse()? };
            for _ in 0..2 {
                task.look(Some(place)).await?;
                ensure!(task.keeper.standing().resolved == 1 && task.entries.ours().await?.is_empty());
            }
        }
        task.look(None).await?;
        ensure!(ip("-d neigh show dev a0")? == before, "{before}");
        Ok(())
    })
}

#[test]
fn the_way_is_the_gateway_and_the_link_is_that_of_the_subnet() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        ip("route add default via 10.9.0.2")?;
        let mut entries = Entries::open(0)?;
        let gateway = Place { link: pair.a0, address: "10.9.0.2".parse()? };
        ensure!(entries.place(&target("192.0.2.1")?).await? == Some(gateway));
        ensure!(entries.place(&target("10.9.0.1")?).await?.is_none(), "our own address");
        let mut neighbour = target("fe80::b")?;
        neighbour.beside = Some("10.9.0.100".parse()?);
        let beside = Place { link: pair.a0, address: "fe80::b".parse()? };
        ensure!(entries.place(&neighbour).await? == Some(beside));
        neighbour.beside = Some("10.10.0.100".parse()?);
        ensure!(entries.place(&neighbour).await?.is_none(), "no link has that subnet");
        neighbour.links = vec!["nosuch0".to_owned(), "a0".to_owned()];
        ensure!(entries.place(&neighbour).await? == Some(beside), "a named link wins");
        ensure!(entries.carrier(index("lo")?).await?.is_some() && entries.carrier(LinkId(9999)).await?.is_none());
        Ok(())
    })
}
