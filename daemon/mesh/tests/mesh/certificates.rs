//! Certificates that change, expire, are revoked or are somebody else's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bascule_mesh::clock::Clock;
use bascule_mesh::pki::{self, Authority, PkiError, Roll};
use bascule_mesh::state::{Command, Dial, Ended, Event, Relay, RelayConfig, Status};
use bascule_mesh::tls::{Credentials, Refusal, TlsError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::common::rogue::Rogue;
use crate::common::{A, B, C, DAY, EPOCH, Fast, Mesh, Node, members, summary, until};

fn refused(status: &Status, why: Refusal) -> u64 {
    status.counters.sent_away.get(&why).copied().unwrap_or(0)
}

/// A, B and C, all connected.
async fn three(mesh: &mut Mesh) -> [Node; 3] {
    let a = mesh.start(A, "a1", &[]).await;
    let b = mesh.start(B, "b1", &[]).await;
    let c = mesh.start(C, "c1", &[]).await;
    // One end of each pair calls, so that no calls cross; later both could.
    a.tell(Command::Peers(members(&[(B, &[]), (C, &[])]))).await;
    b.tell(Command::Peers(members(&[(A, &[a.address]), (C, &[])]))).await;
    c.tell(Command::Peers(members(&[(A, &[a.address]), (B, &[b.address])]))).await;
    for (node, others) in [(&a, [B, C]), (&b, [A, C]), (&c, [A, B])] {
        for other in others {
            node.hears(other).await;
        }
    }
    let all = members(&[(A, &[a.address]), (B, &[b.address]), (C, &[c.address])]);
    for node in [&a, &b, &c] {
        node.tell(Command::Peers(all.clone())).await;
    }
    [a, b, c]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_replaced_under_traffic_without_a_lost_session() {
    let mut mesh = Mesh::new(10);
    let nodes = three(&mut mesh).await;
    let names = [(A, "a1"), (B, "b1"), (C, "c1")];
    let before = ended(&nodes).await;
    let (mut written, dir) = (0u32, mesh.dir.path().to_owned());
    let place = |site: bascule_core::site::SiteId, relay: &str| dir.join(format!("{}-{relay}", site.0));
    for step in 0..4 {
        match step {
            0 => mesh.authority.roll_begin(365, EPOCH).expect("first step"),
            1 => mesh.authority.roll_switch().expect("second step"),
            2 => {}
            _ => mesh.authority.roll_finish(EPOCH).expect("third step"),
        }
        for (index, (site, relay)) in names.into_iter().enumerate() {
            let events = |node: &Node| node.count(|e| matches!(e, Event::Reloaded { .. }));
            let seen = events(&nodes[index]);
            match step {
                1 => continue,
                // Certificate and key are two files: a relay may look in between, and must not mind.
                2 => drop(mesh.issue(site, relay)),
                _ => mesh.authority.export(EPOCH, &place(site, relay)).expect("exported"),
            }
            // Everybody writes while others still have the old files.
            for (at, node) in (0..).zip(&nodes) {
                written += 1;
                node.write(at, Some(summary(u16::try_from(written).expect("few"), written))).await;
            }
            until("the files are in force", || events(&nodes[index]) > seen).await;
        }
        if step == 2 {
            for node in &nodes {
                // Each side of each session showed another certificate; one move can show two.
                node.until("sessions have moved", |s| s.counters.renewed >= 2).await;
            }
        }
        for (at, node) in (0..).zip(&nodes) {
            let last = written - 2 + at;
            for (_, other) in nodes.iter().enumerate().filter(|(index, _)| *index != at as usize) {
                let origin = names[at as usize].0;
                let body = summary(u16::try_from(last).expect("few"), last);
                until("all know the last write", || other.record(origin, at) == Some(body)).await;
            }
            assert!(node.status().await.leads);
        }
    }
    assert_eq!(mesh.authority.roll(), Roll::Settled);
    // A session that still showed a certificate of the former authority would have ended when its files were taken.
    assert_eq!(ended(&nodes).await, before, "no session was lost");
    for node in &nodes {
        assert!(node.status().await.sites.values().all(|site| site.relay.is_some()));
    }
}

/// Sessions that each has lost.
async fn ended(nodes: &[Node; 3]) -> Vec<u64> {
    let mut all = Vec::new();
    for node in nodes {
        all.push(node.status().await.counters.ended.values().sum());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_renewed_also_where_only_one_end_can_call() {
    let mut mesh = Mesh::new(10);
    let dir = mesh.issue(A, "a1");
    // What A calls swallows everything.
    let mut config = mesh.config(&dir, members(&[(B, &["127.0.0.1:9".parse().expect("an address")])]));
    config.dial = Dial(Arc::new(|_| Box::pin(std::future::pending())));
    let a = Node::start(config).await;
    let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
    b.hears(A).await;
    let generation = |node: &Node| node.count(|e| matches!(e, Event::Renewed { .. }));
    for round in 1..=2 {
        let before = (generation(&a), generation(&b));
        // Both have new ones at once, and the lower site's call would count.
        mesh.issue(A, "a1");
        mesh.issue(B, "b1");
        until("the session has moved", || generation(&a) > before.0 && generation(&b) > before.1).await;
        a.write(1, Some(summary(round, 0))).await;
        until("it goes on", || b.record(A, 1) == Some(summary(round, 0))).await;
    }
    assert_eq!(a.status().await.counters.ended.len() + b.status().await.counters.ended.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_ends_its_session_and_no_other() {
    let mut mesh = Mesh::new(10);
    let [a, b, c] = three(&mut mesh).await;
    let downs = |node: &Node, of| node.count(|e| matches!(e, Event::Down { site, .. } if *site == of));
    let others = || [downs(&a, C), downs(&c, A), downs(&c, B)];
    let before = others();
    let serial = mesh.authority.issued().iter().find(|one| one.site == B.0).expect("issued").serial.clone();
    mesh.authority.revoke(&serial, EPOCH).expect("revoked");
    mesh.authority.export(EPOCH, &mesh.dir.path().join("1-a1")).expect("exported");
    a.until("A has ended it", |s| s.counters.ended.contains_key(&Ended::Refused(Refusal::Revoked))).await;
    a.until("A refuses new ones", |s| refused(s, Refusal::Revoked) > 1).await;
    b.until("B is told", |s| refused(s, Refusal::Theirs) > 0).await;
    assert_eq!(others(), before);
    // A new certificate is as good as ever.
    mesh.issue(B, "b1");
    a.hears(B).await;
    a.until("B is back", |s| s.sites[&B].relay.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_ends_its_session_and_a_new_one_mends_it() {
    let mut mesh = Mesh::new(10);
    let [a, b, c] = three(&mut mesh).await;
    // The others have theirs for 30 days, B for ten.
    for (site, relay) in [(A, "1-a1"), (C, "3-c1")] {
        let into = mesh.dir.path().join(relay);
        mesh.authority.issue((site, &relay[2..]), 30, EPOCH, &into).expect("issued");
    }
    for node in [&a, &c] {
        node.until("longer ones are in force", |s| s.expires > EPOCH + 20 * DAY).await;
    }
    let shown = |s: &Status, of| s.sites[&of].expires > EPOCH + 20 * DAY;
    a.until("C shows its new one", |s| shown(s, C)).await;
    c.until("A shows its new one", |s| shown(s, A)).await;
    let downs = |node: &Node, of| node.count(|e| matches!(e, Event::Down { site, .. } if *site == of));
    let before = (downs(&a, C), downs(&c, A));
    mesh.clock.wall.store(EPOCH + 11 * DAY, Ordering::Relaxed);
    a.until("A has ended it", |s| s.counters.ended.contains_key(&Ended::Refused(Refusal::Expired))).await;
    c.until("C has ended it", |s| s.counters.ended.contains_key(&Ended::Refused(Refusal::Expired))).await;
    b.until("B is told", |s| refused(s, Refusal::Theirs) > 0).await;
    assert_eq!((downs(&a, C), downs(&c, A)), before);
    let into = mesh.dir.path().join("2-b1");
    mesh.authority.issue((B, "b1"), 30, EPOCH + 11 * DAY, &into).expect("issued");
    a.until("B is back", |s| s.sites[&B].relay.is_some()).await;
}

/// F23. Each step brings new connections as well: A has a new certificate, with which its sessions move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clocks_that_jump_end_no_session_and_keep_nobody_out() {
    let mut mesh = Mesh::new(10);
    let nodes = three(&mut mesh).await;
    let [a, b, c] = &nodes;
    let file = mesh.dir.path().join("1-a1/clock");
    until("the time is kept", || file.exists()).await;
    let before = ended(&nodes).await;
    // 1970, an hour back, an hour ahead, and one that loses two seconds a minute.
    let slews = (1..=4).map(|minutes| EPOCH - 2 * minutes);
    for (step, wall) in (1..).zip([0, EPOCH - 3600, EPOCH + 3600, 60].into_iter().chain(slews)) {
        mesh.clock.wall.store(wall, Ordering::Relaxed);
        let renewed = |node: &Node| node.count(|e| matches!(e, Event::Renewed { site: A, .. }));
        let moved = (renewed(b), renewed(c));
        mesh.issue(A, "a1");
        until("sessions have moved", || renewed(b) > moved.0 && renewed(c) > moved.1).await;
        a.write(1, Some(summary(step, 0))).await;
        for node in [b, c] {
            until("all know what was written", || node.record(A, 1) == Some(summary(step, 0))).await;
        }
    }
    assert_eq!(ended(&nodes).await, before, "no session was lost");
    for node in &nodes {
        let status = node.status().await;
        assert!(status.counters.sent_away.is_empty(), "{status:?}");
        // Certificate and key are two files: a relay may look in between, and must not mind.
        let early = |e: &Event| matches!(e, Event::NotReloaded { error } if error.contains("not valid yet"));
        assert_eq!(node.count(early), 0, "{status:?}");
    }
    // A node that begins in 1970 goes on from what it has kept.
    mesh.clock.wall.store(0, Ordering::Relaxed);
    let d = mesh.issue(B, "b2");
    std::fs::copy(&file, d.join("clock")).expect("kept");
    Node::start(mesh.config(&d, members(&[(A, &[a.address])]))).await.kill().await;
    // What this is good for: without a floor the session ends, and there is no next one.
    mesh.clock.wall.store(EPOCH, Ordering::Relaxed);
    let [a, b, c] = nodes;
    drop(b);
    c.kill().await;
    let dir = mesh.dir.path().join("3-c1");
    let bare = RelayConfig { clock: mesh.clock.clone(), ..mesh.config(&dir, members(&[(A, &[a.address])])) };
    let c = Node::start(bare.clone()).await;
    c.hears(A).await;
    mesh.clock.wall.store(0, Ordering::Relaxed);
    c.until("it ends", |s| s.counters.ended.contains_key(&Ended::Refused(Refusal::NotYetValid))).await;
    c.until("it is counted", |s| refused(s, Refusal::NotYetValid) > 0).await;
    let next = Relay::new(bare).err().expect("its own certificate is not valid yet").to_string();
    assert!(next.contains("relay.pem: peers would refuse it: its certificate is not valid yet"), "{next}");
}

/// A floor is no licence: what is really made for later is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_valid_yet_is_refused_and_counted() {
    let mut mesh = Mesh::new(10);
    let dir = mesh.dir.path().join("1-a1");
    mesh.authority.issue((A, "a1"), 40, EPOCH, &dir).expect("issued");
    let a = Node::start(mesh.config(&dir, members(&[(B, &[])]))).await;
    let later = EPOCH + 20 * DAY;
    let dir = mesh.dir.path().join("2-b1");
    mesh.authority.issue((B, "b1"), 10, later, &dir).expect("issued");
    let ahead = Fast::new(10);
    ahead.wall.store(later, Ordering::Relaxed);
    let config = RelayConfig { clock: ahead, ..mesh.config(&dir, members(&[(A, &[a.address])])) };
    let b = Node::start(config).await;
    a.until("it is refused", |s| refused(s, Refusal::NotYetValid) > 0).await;
    b.until("B is told", |s| refused(s, Refusal::Theirs) > 0).await;
    assert_eq!(a.status().await.sites[&B].sessions, 0);
    mesh.clock.wall.store(later, Ordering::Relaxed);
    a.hears(B).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_somebody_else_are_refused_at_both_ends_and_counted() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let c = mesh.start(C, "c1", &[(A, &[a.address])]).await;
    a.tell(Command::Peers(members(&[(B, &[c.address]), (C, &[])]))).await;
    // Where B should be, C answers.
    a.until("A calls B and finds somebody else", |s| refused(s, Refusal::WrongName) > 0).await;
    a.hears(C).await;
    assert_eq!(a.status().await.sites[&B].sessions, 0);
    // A site that is not in the configuration calls.
    let wrong = |s: &Status| refused(s, Refusal::WrongName);
    let before = wrong(&a.status().await);
    let d = mesh.start(bascule_core::site::SiteId(4), "d1", &[(A, &[a.address])]).await;
    a.until("A sends a fourth site away", |s| wrong(s) > before).await;
    until("A says which", || a.count(|e| matches!(e, Event::SentAway { site: Some(site), .. } if site.0 == 4)) > 0)
        .await;
    // One of our own site.
    let (own, clock): (_, Arc<dyn Clock>) = (mesh.issue(A, "a2"), mesh.clock.clone());
    Rogue::connect(&own, &clock, a.address, A).await.closed().await;
    until("A sends its own site away", || a.count(|e| matches!(e, Event::SentAway { site: Some(A), .. })) > 0).await;
    // Another authority, the same names.
    let mut other = Mesh::new(10);
    let foreign = other.start(B, "b1", &[(A, &[a.address])]).await;
    a.until("A does not know that authority", |s| {
        refused(s, Refusal::UnknownAuthority) + refused(s, Refusal::Theirs) > 0
    })
    .await;
    foreign.until("nor it ours", |s| refused(s, Refusal::UnknownAuthority) > 0).await;
    assert_eq!(a.status().await.sites[&B].sessions, 0);
    assert_eq!(a.count(|e| matches!(e, Event::Down { .. })), 0, "C is unaffected");
    drop(d);
}

fn client(mesh: &Mesh, config: impl FnOnce(&Credentials) -> ClientConfig) -> (Arc<ClientConfig>, ServerName<'static>) {
    let clock: Arc<dyn Clock> = mesh.clock.clone();
    let credentials = Credentials::read(&mesh.dir.path().join("2-b1"), &clock).expect("good ones");
    (Arc::new(config(&credentials)), credentials.server_name(A))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handshake_is_a_full_one_and_nothing_below_it_is_answered() {
    let mut mesh = Mesh::new(10);
    mesh.issue(B, "b1");
    let a = mesh.start(A, "a1", &[(B, &[])]).await;
    // With a cache, were there anything to put into it.
    let (config, name) = client(&mesh, |credentials| {
        let mut config = (*credentials.client()).clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        config
    });
    for _ in 0..3 {
        let stream = TcpStream::connect(a.address).await.expect("a relay listens");
        let mut stream =
            TlsConnector::from(Arc::clone(&config)).connect(name.clone(), stream).await.expect("a handshake");
        let greeting = bascule_mesh::state::frame::Frame::Greeting { process: 1, renews: false, rank: None };
        tokio::io::AsyncWriteExt::write_all(&mut stream, &greeting.encode()).await.expect("written");
        let mut answer = [0; 14];
        let _all = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.expect("a greeting");
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
    let protocol = |s: &Status| refused(s, Refusal::Protocol);
    // Without a certificate; with another protocol; in the clear.
    let roots = mesh.dir.path().join("2-b1").join("trust.pem");
    let (nobody, _) = client(&mesh, |_| {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let mut store = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&roots).expect("a file") {
            store.add(root.expect("a certificate")).expect("a root");
        }
        let clock = Wall(mesh.clock.clone());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(clock));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3");
        let mut config = builder.with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = vec![b"bascule-state/2".to_vec()];
        config
    });
    let stream = TcpStream::connect(a.address).await.expect("a relay listens");
    let mut stream = TlsConnector::from(nobody).connect(name.clone(), stream).await.expect("our half of it");
    assert!(tokio::io::AsyncReadExt::read_u8(&mut stream).await.is_err());
    a.until("nobody is nobody", |s| refused(s, Refusal::NoCertificate) == 1).await;
    // Of another version of all of it: both ends can say so.
    let (other, _) = client(&mesh, |credentials| {
        let mut config = (*credentials.client()).clone();
        config.alpn_protocols = vec![b"bascule-state/3".to_vec()];
        config
    });
    let before = protocol(&a.status().await);
    let stream = TcpStream::connect(a.address).await.expect("a relay listens");
    assert!(TlsConnector::from(other).connect(name, stream).await.is_err());
    a.until("another version is counted as that", |s| refused(s, Refusal::Version) == 1).await;
    let mut stream = TcpStream::connect(a.address).await.expect("a relay listens");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    a.until("it is refused", |s| protocol(s) > before).await;
}

#[derive(Debug)]
struct Wall(Arc<crate::common::Fast>);

impl rustls::time_provider::TimeProvider for Wall {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(self.0.unix()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_do_not_fit_are_named_and_what_was_in_force_stays() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
    a.tell(Command::Peers(members(&[(B, &[])]))).await;
    b.hears(A).await;
    let dir = mesh.dir.path().join("2-b1");
    let good = std::fs::read(dir.join("relay.key")).expect("a key");
    let other = mesh.issue(B, "b2");
    std::fs::copy(other.join("relay.key"), dir.join("relay.key")).expect("another key");
    b.until("a key that is not the certificate's is named", |s| s.counters.not_reloaded > 0).await;
    std::fs::write(dir.join("relay.key"), &good).expect("the key");
    std::fs::copy(mesh.dir.path().join("1-a1/relay.pem"), dir.join("relay.pem")).expect("of another site");
    std::fs::copy(mesh.dir.path().join("1-a1/relay.key"), dir.join("relay.key")).expect("of another site");
    until("another site is named", || {
        b.count(|e| matches!(e, Event::NotReloaded { error } if error.contains("has become"))) > 0
    })
    .await;
    assert_eq!(b.count(|e| matches!(e, Event::Down { .. })), 0);
    mesh.issue(B, "b1");
    b.until("a good set is taken", |s| s.counters.renewed > 0).await;
    assert_eq!(b.count(|e| matches!(e, Event::Down { .. })), 0);
}

#[test]
fn an_authority_signs_only_keys_that_are_proven_and_names_that_it_chose() {
    let mut mesh = Mesh::new(1);
    let clock: Arc<dyn Clock> = mesh.clock.clone();
    let dir = mesh.dir.path().join("joins");
    let request = pki::request(&dir).expect("a request");
    mesh.authority.sign(&request, (B, "b9"), 10, EPOCH, &dir).expect("signed");
    let credentials = Credentials::read(&dir, &clock).expect("whole");
    assert_eq!(credentials.identity.uri(), "spiffe://sites.test/site/2/relay/b9");
    use std::os::unix::fs::PermissionsExt as _;
    for key in [dir.join("relay.key"), mesh.dir.path().join("ca/ca.key")] {
        let mode = std::fs::metadata(&key).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
    let spoiled = request.replacen("MI", "MJ", 1);
    let refused = mesh.authority.sign(&spoiled, (B, "b9"), 10, EPOCH, &dir);
    assert!(matches!(refused, Err(PkiError::Request { .. })));
    for bad in ["", "UPPER", "a/b", "-a", "a b"] {
        let refused = mesh.authority.issue((B, bad), 10, EPOCH, &dir);
        assert!(matches!(refused, Err(PkiError::Identity(_))), "{bad:?}");
    }
    assert!(matches!(mesh.authority.revoke("00", EPOCH), Err(PkiError::Unknown { .. })));
    let again = Authority::init(&mesh.dir.path().join("ca"), "sites.test", 1, EPOCH);
    assert!(matches!(again, Err(PkiError::Exists { .. })));
    std::fs::set_permissions(dir.join("relay.key"), std::fs::Permissions::from_mode(0o604)).expect("changed");
    assert!(matches!(Credentials::read(&dir, &clock), Err(TlsError::Mode { mode: 0o604, .. })));
}

#[test]
fn steps_of_a_replacement_come_in_order_and_a_relay_that_was_forgotten_holds_up_the_last() {
    let mut mesh = Mesh::new(1);
    mesh.issue(A, "a1");
    assert!(matches!(mesh.authority.roll_switch(), Err(PkiError::Step { .. })));
    assert!(matches!(mesh.authority.roll_finish(EPOCH), Err(PkiError::Step { .. })));
    mesh.authority.roll_begin(365, EPOCH).expect("begun");
    assert!(matches!(mesh.authority.roll_begin(365, EPOCH), Err(PkiError::Step { .. })));
    assert_eq!(mesh.authority.authorities().expect("two").len(), 2);
    mesh.authority.roll_switch().expect("switched");
    mesh.issue(B, "b1");
    let held = mesh.authority.roll_finish(EPOCH);
    assert!(
        matches!(held, Err(PkiError::InUse { count: 1, ref first }) if first.contains("site 1 relay a1")),
        "{held:?}"
    );
    // What the directory says is all there is to know: another process goes on where this one ended.
    let mut authority = Authority::open(&mesh.dir.path().join("ca")).expect("opened");
    assert_eq!(authority.roll(), Roll::Switched);
    authority.roll_finish(EPOCH + 11 * DAY).expect("the forgotten one has expired");
    assert_eq!(authority.authorities().expect("one").len(), 1);
}
