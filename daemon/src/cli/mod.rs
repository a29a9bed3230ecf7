//! The command line: `bascule run`, and everything that asks a running daemon.
//!
//! Errors are one line on standard error and an exit status ([`Exit`]); what was asked for is on standard output.

mod args;
mod bfd;
mod bgp;
mod client;
mod cluster;
mod drain;
mod events;
mod forward;
mod pki;
mod reference;
pub mod render;
mod sites;
mod status;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use args::{Args, Bgp, Docs, Render, Verb};
use client::{Client, ClientError};

/// Exit statuses. 2 is also clap's own for a wrong command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Exit {
    /// Done.
    Done = 0,
    /// Refused or failed; the line on standard error says why.
    Failed = 1,
    /// No daemon answers on the socket.
    NoDaemon = 3,
}

/// The whole program, from the command line to the exit status.
pub fn main() -> ExitCode {
    let exit = match Args::parse().verb {
        Verb::Run { config } => done(crate::app::run(config)),
        Verb::Check { file } => {
            let (code, text) = crate::config::check(&file);
            let to = if code == 0 { Output::Result } else { Output::Complaint };
            return print(&text, to).map_or(Exit::Failed as u8, |()| code).into();
        }
        Verb::Status { json, socket } => asked(&socket.socket, async |client| {
            let state = client.get("/state").await?;
            if json { Ok(state) } else { Ok(status::table(&state)?) }
        }),
        Verb::Bfd { json, socket } => asked(&socket.socket, async |client| {
            let sessions = client.get("/bfd").await?;
            if json { Ok(sessions) } else { Ok(bfd::table(&sessions)?) }
        }),
        Verb::Bgp { what: None, json, socket } => asked(&socket, async |client| {
            let page = client.get("/bgp").await?;
            if json { Ok(page) } else { Ok(bgp::table(&page)?) }
        }),
        Verb::Bgp { what: Some(Bgp::Routes { neighbor }), json, socket } => asked(&socket, async |client| {
            let routes = client.get(&format!("/bgp/routes?neighbor={}", bgp::quoted(&neighbor))).await?;
            if json { Ok(routes) } else { Ok(bgp::routes(&routes)?) }
        }),
        Verb::Bgp { what: Some(Bgp::Reset { neighbor }), json: _, socket } => {
            asked(&socket, async |client| result(client.post("/bgp/reset", json!({ "neighbor": neighbor })).await?))
        }
        Verb::Services { json, socket } => asked(&socket.socket, async |client| {
            let page = client.get("/services").await?;
            if json { Ok(page) } else { Ok(forward::services(&page)?) }
        }),
        Verb::Flows { filter, json, socket } => asked(&socket.socket, async |client| {
            let page = client.get(&filter.path()).await?;
            if json { Ok(page) } else { Ok(forward::flows(&page)?) }
        }),
        Verb::Trace { to, from, protocol, json, socket } => asked(&socket.socket, async |client| {
            let page = client.get(&forward::trace_path(to, from, &protocol)).await?;
            if json { Ok(page) } else { Ok(forward::trace(&page)?) }
        }),
        Verb::Sites { json, socket } => asked(&socket.socket, async |client| {
            let page = client.get("/sites").await?;
            if json { Ok(page) } else { Ok(sites::table(&page)?) }
        }),
        Verb::Why { service, json, socket } => asked(&socket.socket, async |client| {
            let page = client.get(&format!("/why?service={}", bgp::quoted(&service))).await?;
            if json { Ok(page) } else { Ok(sites::why(&page)?) }
        }),
        Verb::Pki { what } => match pki::run(&what) {
            Ok(text) => said(&text),
            Err(error) => done::<anyhow::Error>(Err(error)),
        },
        Verb::Restart { socket } => {
            asked(&socket.socket, async |client| result(client.post("/restart", json!({})).await?))
        }
        Verb::Events { follow, json, socket } => follow_events(&socket.socket, follow, json),
        Verb::Move { vip, to, socket } => {
            let wanted = json!({ "vip": vip, "to": to });
            asked(&socket.socket, async |client| result(client.post("/move", wanted).await?))
        }
        Verb::Rebalance { dry_run, socket } => {
            asked(&socket.socket, async |client| cluster::rebalance(&client, dry_run).await)
        }
        Verb::Drain { what: None, off, socket } => {
            asked(&socket, async |client| result(client.post("/drain", json!({ "on": !off })).await?))
        }
        Verb::Drain { what: Some(what), off, socket } => {
            asked(&socket, async |client| result(client.post("/sites/drain", what.body(off)).await?))
        }
        Verb::Clean { instance, socket } => clean(socket.as_deref(), instance),
        Verb::Render { what } => match what {
            Render::StaticPod(wanted) => match render::static_pod(&wanted) {
                Ok(text) => said(&text),
                Err(error) => done::<String>(Err(error)),
            },
            Render::Systemd(wanted) => said(&render::systemd(&wanted)),
            Render::Masquerade(wanted) => masquerade(&wanted),
        },
        Verb::Version => said(&version()),
        Verb::Docs { what } => said(&match what {
            Docs::Config => crate::config::reference(),
            Docs::Metrics => crate::metrics::reference(),
            Docs::Cli => reference::cli(),
        }),
    };
    (exit as u8).into()
}

fn version() -> String {
    format!("bascule {}\n", env!("CARGO_PKG_VERSION"))
}

enum Output {
    Result,
    Complaint,
}

/// A reader that has seen enough (`bascule events | head`) is no error.
fn print(text: &str, to: Output) -> io::Result<()> {
    let written = match to {
        Output::Result => io::stdout().lock().write_all(text.as_bytes()),
        Output::Complaint => io::stderr().lock().write_all(text.as_bytes()),
    };
    written.or_else(|e| if e.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
}

fn said(text: &str) -> Exit {
    done(print(text, Output::Result))
}

fn masquerade(wanted: &render::Masquerade) -> Exit {
    match crate::config::load(&wanted.config) {
        Ok(loaded) => {
            let services = loaded.forwarding.as_ref().map_or(&[][..], |forwarding| &forwarding.config.services);
            said(&render::masquerade(services))
        }
        Err(errors) => {
            complain(errors);
            Exit::Failed
        }
    }
}

fn complain(what: impl Display) {
    // Standard error is the last place to complain to.
    let _unheard = print(&format!("bascule: {what}\n"), Output::Complaint);
}

fn done<E: Display>(result: Result<(), E>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(format_args!("{error:#}"));
            Exit::Failed
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn verdict(outcome: Result<Exit, ClientError>) -> Exit {
    outcome.unwrap_or_else(|error| {
        complain(&error);
        if matches!(error, ClientError::NoDaemon { .. }) { Exit::NoDaemon } else { Exit::Failed }
    })
}

/// Asks the daemon and prints what comes of it.
fn asked(socket: &Path, ask: impl AsyncFnOnce(Client) -> Result<String, ClientError>) -> Exit {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return done::<io::Error>(Err(error)),
    };
    verdict(runtime.block_on(ask(Client::new(socket))).map(|text| said(&text)))
}

/// The daemon's answer to a command, in words.
fn result(answer: String) -> Result<String, ClientError> {
    let answer: Value = serde_json::from_str(&answer).map_err(|e| ClientError::Answer(e.to_string()))?;
    Ok(format!("{}\n", answer["result"].as_str().unwrap_or("done")))
}

fn follow_events(socket: &Path, follow: bool, json: bool) -> Exit {
    let path = if follow { "/events?follow=true" } else { "/events" };
    asked(socket, async |client| {
        let show = |line: &str| {
            let text = if json { format!("{line}\n") } else { events::line(line) };
            // Not through `print`: a closed pipe must end the stream.
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
        client.lines(path, show).await.map(|()| String::new())
    })
}

/// Removes what a daemon left in this network namespace. A running one would lose its fence: refused.
fn clean(socket: Option<&Path>, instance: u8) -> Exit {
    let usual = crate::config::Admin::of(instance).socket;
    let socket = socket.unwrap_or(&usual);
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        complain(format_args!("a daemon answers on {}: stop it first, it would lose its fence", socket.display()));
        return Exit::Failed;
    }
    let removed = runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        // The addresses first: without the fence the kernel would answer for what is left of them.
        let addresses = runtime.block_on(async {
            let (netlink, _events) = crate::net::netlink::Netlink::start_as(instance)?;
            netlink.sweep(&[]).await
        })?;
        let mut fence = crate::dataplane::clean(&crate::dataplane::pin_root(instance))?;
        crate::dataplane::clean_fence(&crate::dataplane::term_root(instance), &mut fence)?;
        Ok((addresses.len(), fence))
    });
    match removed {
        Ok((0, fence)) if fence.is_empty() => said("nothing of ours in this network namespace\n"),
        Ok((addresses, f)) => said(&format!(
            "removed {addresses} addresses, {} pinned links, {} filters, {} qdiscs, {} pinned maps\n",
            f.links, f.filters, f.qdiscs, f.maps
        )),
        Err(error) => done(Err(error)),
    }
}

#[cfg(test)]
mod tests;
