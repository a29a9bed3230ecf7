//! The lease electors of this node, each a task of its own with clients of its own: which store one drives, and what passes between it and
//! the loop.
//!
//! Which stores there are is said here and in the configuration, nowhere else. Commands wait in a queue that an elector empties between any
//! two steps; its words wait in a [`mailbox::Mailbox`].

pub(super) mod mailbox;

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bascule_core::election::lease::etcd::EtcdConfig;
use bascule_core::election::lease::kube::KubeConfig;
use bascule_core::election::lease::{Command, Word};
use bascule_core::node::config::{LeaseConfig, Store};
use bascule_core::node::io::{ElectorId, Order};
use bascule_core::node::lease::identity;
use bascule_core::types::Term;
use bascule_k8s::LeaseName;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::error;

use super::tasks::WorldSender;
use crate::config::Loaded;
use crate::driver::electors::Ordered;
use crate::net::rt::boot_now;
use mailbox::Mailbox;

/// Commands that may wait for an elector. It takes them between any two steps, none of which blocks; when it is full the task of orders
/// waits.
const COMMANDS: usize = 16;

/// How the stores are reached. Electors that start take what holds then.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stores {
    pub(super) kubernetes: bascule_k8s::Access,
    etcd: Option<bascule_etcd::Access>,
}

impl Stores {
    pub(super) fn of(loaded: &Loaded) -> Self {
        let kubeconfig = loaded.kubernetes.as_ref().and_then(|k| k.kubeconfig.clone());
        Self {
            kubernetes: kubeconfig.map_or(bascule_k8s::Access::InCluster, bascule_k8s::Access::Kubeconfig),
            etcd: loaded.etcd.as_ref().map(|e| e.access.clone()),
        }
    }
}

/// Who this node is to every store.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) holder: String,
    /// This boot of this machine, and which daemon on it: a restarted daemon knows its own lease by it; another machine of the same name,
    /// and another instance on this one, do not.
    pub(super) boot: String,
}

impl Identity {
    pub(super) fn of(node: &str, instance: u8) -> Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the id of this boot")?;
        Ok(Self { holder: identity(node), boot: format!("{}-{instance}", boot.trim()) })
    }
}

/// Runs the electors that the loop orders. Ends when the loop has ended and every elector that was told to stop has released its lease.
pub(super) async fn run(
    mut orders: mpsc::Receiver<Ordered>,
    identity: Identity,
    stores: watch::Receiver<Stores>,
    world: WorldSender,
) {
    let mut told: HashMap<ElectorId, mpsc::Sender<Command>> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            Some(ended) = running.join_next(), if !running.is_empty() => {
                match ended {
                    Ok(id) => drop(told.remove(&id)),
                    // Its claim ends with its deadline, in the kernel.
                    Err(error) => error!(%error, "a lease elector ended"),
                }
                continue;
            }
        };
        match order {
            Some((id, Order::Start { group, lease, term })) => {
                let (sender, commands) = mpsc::channel(COMMANDS);
                told.insert(id, sender);
                let seed = super::random_seed().ok();
                let (identity, stores, world) = (identity.clone(), stores.borrow().clone(), world.clone());
                running.spawn(async move {
                    let elector = Start { group, lease, term, seed, identity, stores };
                    follow(id, elector, commands, &world).await;
                    id
                });
            }
            Some((id, Order::Tell(command))) => {
                if let Some(elector) = told.get(&id) {
                    // One that has ended has nothing to be told.
                    let _ended = elector.send(command).await;
                }
            }
            None => break,
        }
    }
    // An elector to whom nobody can speak any more leaves its lease to run out: those senders are kept until the releases are through.
    while running.join_next().await.is_some() {}
}

/// What an elector begins with.
struct Start {
    group: String,
    lease: LeaseConfig,
    term: Term,
    seed: Option<u64>,
    identity: Identity,
    stores: Stores,
}

/// Runs one elector and passes its words on.
async fn follow(id: ElectorId, start: Start, commands: mpsc::Receiver<Command>, world: &WorldSender) {
    let mailbox = Mailbox::default();
    let running = async {
        start.run(commands, |word| mailbox.put(word)).await;
        mailbox.close();
    };
    let passing = async {
        while let Some(word) = mailbox.next().await {
            world.word(id, word).await;
        }
    };
    tokio::join!(running, passing);
}

impl Start {
    async fn run(self, commands: mpsc::Receiver<Command>, say: impl FnMut(Word)) {
        let Self { group, lease, term, seed, identity, stores } = self;
        let (timing, clock) = (lease.timing, boot_now);
        match lease.store {
            Store::Kubernetes { namespace, name } => {
                let machine = KubeConfig { identity: identity.holder, instance: identity.boot, timing, seed, term };
                let (access, lease) = (stores.kubernetes, LeaseName { namespace, name });
                let config = bascule_k8s::ElectorConfig { access, lease, machine, timing, clock };
                bascule_k8s::Elector::new(config).run(commands, say).await;
            }
            Store::Etcd { key } => {
                let Some(access) = stores.etcd else {
                    // The configuration refuses a VIP on etcd without etcd.
                    return error!(group, "no etcd is configured: the VIP has no elector");
                };
                let identity = format!("{}_{}", identity.holder, identity.boot);
                let machine =
                    EtcdConfig { identity, joint: false, members: access.endpoints().len(), timing, seed, term };
                let config = bascule_etcd::ElectorConfig { access, key, machine, clock };
                bascule_etcd::Elector::new(config).run(commands, say).await;
            }
        }
    }
}
