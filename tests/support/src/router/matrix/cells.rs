//! What each cell does, and what the router must say.

use std::time::Duration;

use serde_json::json;

use super::subject::{PATIENCE, Subject, check_capabilities, demand, vip};
use super::{Cell, Feature};
use crate::router::{BfdState, BfdTimers, Family, GracefulRestart, Hops, Kind, Route, Session, State, host};
use crate::{LabError, Result, Stamp, sleep_until};

pub(super) fn run(cell: Cell) -> Result<String> {
    let family = if cell.feature == Feature::Ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let mut subject = Subject::new(cell.peer, family)?;
    let done = match cell.feature {
        Feature::Ipv4 | Feature::Ipv6 => plain(&mut subject),
        Feature::Md5 => md5(&mut subject),
        Feature::Gtsm => gtsm(&mut subject),
        Feature::Multihop => multihop(&mut subject),
        Feature::Refresh => refresh(&mut subject),
        Feature::GracefulRestart => graceful_restart(&mut subject),
        Feature::Drain => drain(&mut subject),
        Feature::MaxPrefix => max_prefix(&mut subject),
        Feature::Collision => collision(&mut subject),
        Feature::HoldZero => hold(&mut subject, 0),
        Feature::HoldThree => hold(&mut subject, 3),
        Feature::PeerRestart => peer_restart(&mut subject),
        Feature::Bfd300 => bfd(&mut subject, (300, 3), (300, 3), None),
        Feature::Bfd50 => bfd(&mut subject, (50, 3), (50, 3), None),
        Feature::BfdAsymmetric => bfd(&mut subject, (60, 4), (150, 3), None),
        Feature::BfdMultihop => bfd(&mut subject, (100, 3), (100, 3), Some(3)),
    };
    done.map_err(|error| LabError::answer(cell.to_string(), subject.explain(error).to_string()))
}

fn plain(subject: &mut Subject) -> Result<String> {
    let seen = subject.up()?;
    check_capabilities(&seen.capabilities, subject.family)?;
    demand(seen.hold_time == Some(9), || format!("the hold time is {:?}", seen.hold_time))?;
    subject.route()
}

fn md5(subject: &mut Subject) -> Result<String> {
    let file = subject.lab.directory().join("tor.key");
    let write = |key: &str| {
        std::fs::write(&file, format!("{key}\n"))?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
    };
    write("wrong").map_err(LabError::io("the password file"))?;
    subject.peer().password = Some("sesame".to_owned());
    if subject.kind == Kind::OpenBgpd {
        // On Linux its listening socket gets no keys.
        subject.let_router_dial();
    }
    subject.tor()["passwordFile"] = json!(file);
    subject.start_router()?;
    subject.start_daemon()?;
    // Three dials.
    let early = subject.router()?.wait_established(subject.near(), Duration::from_secs(4));
    demand(early.is_err(), || "a session with a wrong password".to_owned())?;
    write("sesame").map_err(LabError::io("the password file"))?;
    // The file is read again on change; its SYNs back off in the kernel meanwhile.
    subject.established()?;
    Ok(format!("none with a wrong password; corrected: {}", subject.route()?))
}

fn gtsm(subject: &mut Subject) -> Result<String> {
    subject.peer().hops = Hops::Gtsm;
    subject.tor()["ttlSecurity"] = json!(1);
    if subject.kind == Kind::ExaBgp {
        // What it accepts keeps the system's TTL.
        subject.let_router_dial();
    }
    subject.up()?;
    subject.route()
}

fn multihop(subject: &mut Subject) -> Result<String> {
    subject.peer().hops = Hops::Multihop(3);
    subject.tor()["multihop"] = json!(3);
    subject.up()?;
    subject.route()
}

fn refresh(subject: &mut Subject) -> Result<String> {
    subject.up()?;
    subject.route()?;
    let near = subject.near();
    let before = subject.router()?.session(near)?.updates;
    subject.router()?.refresh(near)?;
    let grown = move |s: &Session| s.state == State::Established && s.updates > before;
    let after = subject.router()?.wait_session(near, PATIENCE, "to get updates again", &grown)?;
    subject.route()?;
    Ok(format!("updates heard {before}, then {}", after.updates))
}

fn graceful_restart(subject: &mut Subject) -> Result<String> {
    subject.config.graceful_restart = GracefulRestart::On(60);
    subject.tor()["gracefulRestart"] = json!("60s");
    let seen = subject.up()?;
    let offered = seen.capabilities.graceful_restart.unwrap_or_default();
    let listed: Vec<Family> = offered.families.iter().map(|(family, _)| *family).collect();
    demand(offered.restart_time == 60 && listed == [subject.family], || format!("it offered {offered:?}"))?;
    subject.route()?;
    let prefix = host(vip(subject.family, 100));
    let began = Stamp::now();
    subject.bascule()?.ctl(&["restart"])?;
    subject.bascule()?.process.wait(PATIENCE)?;
    let there = |subject: &Subject| -> Result<()> {
        let route = subject.router()?.route(prefix)?;
        demand(route.is_some(), || "the router dropped the route".to_owned())
    };
    // Gone for a while, as a daemon is that is being replaced.
    let until = Stamp::now() + Duration::from_secs(1);
    while Stamp::now() < until {
        there(subject)?;
    }
    subject.start_daemon()?;
    let (near, end) = (subject.near(), Stamp::now() + PATIENCE);
    let again = loop {
        there(subject)?;
        let session = subject.router()?.session(near)?;
        let fresh = session.capabilities.graceful_restart.clone().unwrap_or_default();
        let kept = fresh.families.iter().all(|(_, kept)| *kept) && !fresh.families.is_empty();
        if session.state == State::Established && kept {
            break session;
        }
        demand(Stamp::now() < end, || format!("after the restart: {session:?}"))?;
    };
    // Also past the End-of-RIB, at which what is still stale would be flushed.
    let until = Stamp::now() + Duration::from_secs(2);
    while Stamp::now() < until {
        there(subject)?;
    }
    subject.route()?;
    let took = Stamp::now().since(began);
    Ok(format!("kept for all of {took:.1?}; forwarding preserved: {:?}", again.capabilities.graceful_restart))
}

fn drain(subject: &mut Subject) -> Result<String> {
    subject.up()?;
    subject.route()?;
    let (near, prefix) = (subject.near(), host(vip(subject.family, 100)));
    let local_pref = match subject.kind {
        Kind::Frr | Kind::Bird | Kind::OpenBgpd => Some(0),
        Kind::GoBgp => Some(1),
        Kind::ExaBgp => None,
    };
    let at = subject.bascule()?.process.sigterm()?;
    let last_choice = |r: Option<&Route>| {
        r.is_some_and(|r| r.communities.contains(&(65535, 0)) && (local_pref.is_none() || r.local_pref == local_pref))
    };
    subject.router()?.wait_route(prefix, PATIENCE, "to be the last choice", &last_choice)?;
    let drained = Stamp::now().since(at);
    subject.router()?.wait_route(prefix, PATIENCE, "to go", &|r| r.is_none())?;
    let gone = Stamp::now().since(at);
    demand(gone >= Duration::from_secs(2), || format!("withdrawn after {gone:?}, before the drain time of 2 s"))?;
    let told = |s: &Session| {
        // Cease, Administrative Shutdown (RFC 4486), in each router's words. ExaBGP 4.2 cannot read a NOTIFICATION (type 3) with a
        // text (RFC 9003), and says so.
        let words = s.last_error.as_deref().unwrap_or_default().to_lowercase();
        s.state != State::Established
            && ["shutdown", "administratively down", "(6,2)", "type \"3\""].iter().any(|word| words.contains(word))
    };
    let end = subject.router()?.wait_session(near, PATIENCE, "to end with Administrative Shutdown", &told)?;
    let status = subject.bascule()?.process.wait(PATIENCE)?;
    demand(status.success(), || format!("the daemon ended with {status}"))?;
    Ok(format!("65535:0 after {drained:.2?}, gone after {gone:.2?}, {}", end.last_error.unwrap_or_default()))
}

fn max_prefix(subject: &mut Subject) -> Result<String> {
    // Ours first: the router announces five, we take three.
    subject.config.networks.extend((1..=5).map(|n| host(std::net::Ipv4Addr::new(192, 0, 2, n).into())));
    subject.tor()["maxPrefix"] = json!(3);
    subject.tor()["maxPrefixAction"] = json!("reset");
    subject.start_router()?;
    subject.start_daemon()?;
    let near = subject.near();
    let over = |s: &Session| {
        let words = s.last_error.as_deref().unwrap_or_default().to_lowercase();
        let told = ["prefix", "(6,1)", "cease", "route limit"].iter().any(|word| words.contains(word));
        s.state != State::Established && told
    };
    let seen = subject.router()?.wait_session(near, PATIENCE, "to be ended by us", &over)?;
    let ours = seen.last_error.unwrap_or_default();
    if subject.kind == Kind::ExaBgp {
        return Ok(format!("ours: {ours}; ExaBGP has no limit of its own"));
    }
    // Then the router's: it takes two, and we announce three.
    subject.bascule = None;
    subject.config.networks.clear();
    subject.peer().max_prefix = Some(2);
    let more: Vec<_> = (100..103).map(|n| vip(subject.family, n)).collect();
    subject.daemon["vips"][0]["addresses"] = json!(more);
    if let Some(tor) = subject.tor().as_object_mut() {
        tor.remove("maxPrefix");
        tor.remove("maxPrefixAction");
    }
    subject.start_router()?;
    subject.start_daemon()?;
    let seen = subject.router()?.wait_session(near, PATIENCE, "to be ended by the router", &over)?;
    Ok(format!("ours: {ours}; theirs: {}", seen.last_error.unwrap_or_default()))
}

fn collision(subject: &mut Subject) -> Result<String> {
    subject.peer().passive = false;
    subject.tor()["mode"] = json!("both");
    subject.up()?;
    let said = subject.route()?;
    // Whoever lost would show within its next dials.
    let until = Stamp::now() + Duration::from_secs(5);
    while Stamp::now() < until {
        let seen = subject.router()?.session(subject.near())?;
        demand(seen.state == State::Established, || format!("it did not stay: {seen:?}"))?;
        sleep_until(Stamp::now() + Duration::from_millis(100));
    }
    Ok(format!("stays for 5 s; {said}"))
}

fn hold(subject: &mut Subject, seconds: u16) -> Result<String> {
    subject.tor()["holdTime"] = json!(format!("{seconds}s"));
    let seen = subject.up()?;
    demand(seen.hold_time == Some(seconds), || format!("negotiated {:?}", seen.hold_time))?;
    subject.route()?;
    // Three hold times of 3 s; with hold 0 as long, through which no keepalive comes.
    let until = Stamp::now() + Duration::from_secs(9);
    while Stamp::now() < until {
        let seen = subject.router()?.session(subject.near())?;
        demand(seen.state == State::Established, || format!("it did not stay: {seen:?}"))?;
        sleep_until(Stamp::now() + Duration::from_millis(200));
    }
    subject.route()?;
    Ok(format!("hold time {seconds} s, stays for 9 s"))
}

fn peer_restart(subject: &mut Subject) -> Result<String> {
    subject.up()?;
    subject.route()?;
    let router = subject.router.as_mut().expect("it was started");
    for process in router.processes() {
        process.sigkill()?;
    }
    let at = Stamp::now();
    subject.start_router()?;
    subject.established()?;
    let said = subject.route()?;
    Ok(format!("back after {:.1?}; {said}", Stamp::now().since(at)))
}

/// Intervals (ms) and multipliers of the node and of the router.
fn bfd(subject: &mut Subject, node: (u32, u8), router: (u32, u8), hops: Option<u8>) -> Result<String> {
    let ms = |n: u32| Duration::from_millis(n.into());
    subject.peer().bfd = Some(BfdTimers::symmetric(ms(router.0), router.1));
    subject.tor()["bfd"] = json!({
        "transmitInterval": format!("{}ms", node.0), "receiveInterval": format!("{}ms", node.0), "multiplier": node.1,
    });
    // Through a failed keepalive nothing must happen: only BFD is quick enough for what follows.
    subject.peer().hold_time = Some(90);
    subject.tor()["holdTime"] = json!("90s");
    if let Some(hops) = hops {
        subject.peer().hops = Hops::Multihop(hops);
        subject.tor()["multihop"] = json!(hops);
        // BIRD sends these packets with the system's TTL of 64; all others with 255, which is the default of the setting.
        if subject.kind == Kind::Bird {
            subject.tor()["bfd"]["minimumTtl"] = json!(65 - hops);
        }
    }
    subject.up()?;
    let near = subject.near();
    // RFC 5880 6.8.7 and 6.8.4: the larger of both sides' wishes, times the sender's multiplier.
    let (transmit, detection) = (ms(node.0.max(router.0)), ms(node.0.max(router.0)) * u32::from(node.1));
    let negotiated = |s: &crate::router::BfdSession| {
        s.state == BfdState::Up
            && s.transmit == transmit
            && s.detection == detection
            && s.multihop.is_none_or(|multihop| multihop == hops.is_some())
    };
    subject.router()?.wait_bfd(near, PATIENCE, &negotiated).map_err(|error| subject.explain(error))?;
    subject.route()?;
    let steady = Stamp::now() + Duration::from_secs(3);
    while Stamp::now() < steady {
        let seen = subject.router()?.bfd(near)?;
        demand(seen.as_ref().is_some_and(negotiated), || format!("it did not stay up: {seen:?}"))?;
    }
    let cut = subject.net.cut(0, &[0])?;
    let prefix = host(vip(subject.family, 100));
    subject.router()?.wait_route(prefix, Duration::from_secs(5), "to go", &|r| r.is_none())?;
    demand(cut.dropped()? > 0, || "the cut dropped nothing".to_owned())?;
    drop(cut);
    subject.router()?.wait_bfd(near, PATIENCE, &negotiated).map_err(|error| subject.explain(error))?;
    subject.established()?;
    subject.route()?;
    Ok(format!("{transmit:?}, detection {detection:?}; down on a cut, up again"))
}
