//! The authority over services that one site at a time has: an elector for each on this node, on a key that all nodes of the site hold
//! together, and what its words mean here. The kernel is told first, then the file for whoever else must not act without the lease, then the
//! room.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bascule_core::election::lease::etcd::EtcdConfig;
use bascule_core::election::lease::{CloseReason, Command, Condition, Standing, Word};
use bascule_core::service::ServiceKey;
use bascule_core::site::policy::io::ReleaseReason;
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_etcd::{Elector, ElectorConfig};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::super::electors::mailbox::Mailbox;
use super::super::forward::{ForwardSender, Order};
use super::super::random_seed;
use super::News;
use super::terms::TermFile;
use crate::config::{Etcd, Sites, Spread};
use crate::handle::sites::{GrantView, HandedView, LeaseView};
use crate::net::rt::boot_now;

/// Longest wait between two looks at the clock of the fence.
const LOOK: Duration = Duration::from_secs(1);

/// Commands that may wait for an elector, which takes them between any two steps.
const COMMANDS: usize = 16;

/// What an elector said, once the kernel knows it.
#[derive(Debug)]
pub(super) enum Said {
    /// This site has the service, by this term, until then. And why this node does not serve it all the same, if so.
    Granted(u64, Instant, Option<String>),
    /// For longer.
    Extended(Instant),
    /// Not any more.
    Ended(CloseReason),
    /// Who has it.
    Holder(Option<String>),
    /// How the authority answers.
    Condition(Condition, Option<String>),
}

/// What an elector is made of: another one is another elector.
#[derive(Clone, PartialEq)]
struct Start {
    name: String,
    key: ServiceKey,
    entry: String,
    /// Of this node below it, by the names of its site and of itself.
    share: String,
    site: String,
    file: PathBuf,
    etcd: Etcd,
}

/// One elector, and what is known by it.
struct Running {
    start: Start,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
    holder: Option<String>,
    condition: Condition,
    detail: Option<String>,
    grant: Option<(u64, Instant)>,
    /// Why this node does not serve although the site has it.
    refused: Option<String>,
    grants: u64,
    /// Why and when it was handed over last, if nothing was granted since; and how often by why.
    handed: Option<(ReleaseReason, Instant)>,
    handovers: BTreeMap<&'static str, u64>,
}

/// All of them.
pub(super) struct Authority {
    /// This node, and which daemon of it this is.
    node: String,
    news: mpsc::Sender<News>,
    forward: ForwardSender,
    running: BTreeMap<ServiceId, Running>,
    /// What the policy wants; why not, where it does not.
    wants: BTreeMap<ServiceId, Option<ReleaseReason>>,
}

impl Authority {
    pub(super) const fn new(node: String, news: mpsc::Sender<News>, forward: ForwardSender) -> Self {
        Self { node, news, forward, running: BTreeMap::new(), wants: BTreeMap::new() }
    }

    /// Electors for these services and no others. One that is not wanted any more leaves its lease to run out, and the kernel closes with it.
    pub(super) fn fit(&mut self, sites: &Sites) {
        let wanted: BTreeMap<ServiceId, Start> = sites
            .services
            .iter()
            .filter_map(|(id, spread)| Some((*id, Start::of(*id, spread, sites, &self.node)?)))
            .collect();
        for (_, old) in
            self.running.extract_if(.., |id, run| wanted.get(id) != Some(&run.start) || run.task.is_finished())
        {
            old.task.abort();
            // Nobody will say any more when it ends.
            let (forward, key) = (self.forward.clone(), old.start.key);
            tokio::spawn(async move { forward.send(Order::Revoke(key, oneshot::channel().0)).await });
        }
        self.wants.retain(|id, _| wanted.contains_key(id));
        for (id, start) in wanted {
            if self.running.contains_key(&id) {
                continue;
            }
            let (commands, taken) = mpsc::channel(COMMANDS);
            let following = Following {
                id,
                key: start.key,
                file: TermFile::new(&start.file, &start.name, &start.site),
                commands: commands.clone(),
                forward: self.forward.clone(),
                news: self.news.clone(),
                grant: None,
            };
            let task = tokio::spawn(follow(start.clone(), taken, following));
            let run = Running {
                start,
                commands,
                task,
                holder: None,
                condition: Condition::Unknown,
                detail: None,
                grant: None,
                refused: None,
                grants: 0,
                handed: None,
                handovers: ReleaseReason::PLANNED.map(|reason| (reason.as_str(), 0)).into(),
            };
            // Before its first answer: an elector that begins would take whatever is free.
            run.tell(self.wants.get(&id).copied().unwrap_or(Some(ReleaseReason::Elsewhere)));
            self.running.insert(id, run);
        }
    }

    /// The policy wants it, or not, and why.
    pub(super) fn want(&mut self, id: ServiceId, reason: Option<ReleaseReason>) {
        self.wants.insert(id, reason);
        let Some(run) = self.running.get(&id) else { return };
        match reason {
            None => info!(service = run.start.name, "this site asks for the service"),
            Some(reason) if run.grant.is_some() && reason.is_planned() => {
                info!(service = run.start.name, reason = reason.as_str(), "this site hands the service over");
            }
            Some(reason) if run.grant.is_some() => {
                warn!(service = run.start.name, reason = reason.as_str(), "this site lets its lease run out");
            }
            Some(reason) => info!(service = run.start.name, reason = reason.as_str(), "this site does not ask"),
        }
        run.tell(reason);
    }

    /// Notes what was said.
    pub(super) fn hear(&mut self, id: ServiceId, said: &Said, now: Instant) {
        let wanted = self.wants.get(&id).copied().flatten();
        let Some(run) = self.running.get_mut(&id) else { return };
        let service = run.start.name.as_str();
        match said {
            Said::Granted(term, deadline, refused) => {
                run.grants += 1;
                run.handed = None;
                run.grant = Some((*term, *deadline));
                match refused {
                    None => info!(service, term, "this site has the service"),
                    Some(why) => {
                        error!(service, term, why, "this site has the service, and this node does not serve it")
                    }
                }
                run.refused.clone_from(refused);
            }
            Said::Extended(deadline) => {
                if let Some((_, until)) = &mut run.grant {
                    *until = *deadline;
                }
            }
            Said::Ended(CloseReason::HandedOver) => {
                let term = run.grant.take().map(|(term, _)| term);
                run.refused = None;
                // Told otherwise in between, it was for a drain that was taken back.
                let reason = wanted.filter(|reason| reason.is_planned()).unwrap_or(ReleaseReason::Draining);
                run.handed = Some((reason, now));
                *run.handovers.entry(reason.as_str()).or_default() += 1;
                info!(service, term, reason = reason.as_str(), "this node has handed the service over: silent");
            }
            Said::Ended(reason) => {
                let term = run.grant.take().map(|(term, _)| term);
                run.refused = None;
                warn!(service, term, reason = reason.as_str(), "this site does not have the service any more: silent");
            }
            Said::Holder(holder) => {
                info!(service, holder, "the site that has the service");
                run.holder.clone_from(holder);
            }
            Said::Condition(condition, detail) => {
                match condition {
                    Condition::Reachable => info!(service, "the authority answers"),
                    other => warn!(service, condition = other.as_str(), detail, "the authority does not answer"),
                }
                (run.condition, run.detail) = (*condition, detail.clone());
            }
        }
    }

    /// Any of them reaches it.
    pub(super) fn is_reachable(&self) -> bool {
        self.running.values().any(|run| run.condition == Condition::Reachable)
    }

    pub(super) fn conditions(&self) -> impl Iterator<Item = String> {
        let refused = self.running.values().filter_map(|run| Some((run, run.refused.as_ref()?)));
        refused.map(|(run, why)| format!("{} is not served by this node: {why}", run.start.name))
    }

    pub(super) fn view(&self, id: ServiceId, now: Instant) -> Option<LeaseView> {
        let run = self.running.get(&id)?;
        // Once another site has it, that is why; what was said when it was given up may be over.
        let elsewhere = run.holder.as_ref().is_some_and(|holder| *holder != run.start.site);
        let reason = self.wants.get(&id).copied().filter(|_| !elsewhere).unwrap_or(Some(ReleaseReason::Elsewhere));
        Some(LeaseView {
            holder: run.holder.clone(),
            authority: run.condition.as_str(),
            detail: run.detail.clone(),
            refrains: reason.map(ReleaseReason::as_str),
            grant: run.grant.map(|(term, until)| GrantView { term, seconds: until.since(now).as_secs_f64() }),
            grants: run.grants,
            handed: run
                .handed
                .map(|(reason, at)| HandedView { reason: reason.as_str(), seconds: now.since(at).as_secs_f64() }),
            handovers: run.handovers.clone(),
        })
    }

    /// The process ends. Nothing is given up (ADR 0042): a daemon that comes back in time goes on with the lease, and else the kernel closes with it.
    pub(super) fn stop(&mut self) {
        for (_, run) in std::mem::take(&mut self.running) {
            run.task.abort();
        }
    }
}

impl Running {
    fn tell(&self, reason: Option<ReleaseReason>) {
        let standing = match reason {
            None => Standing::Fit,
            Some(reason) if reason.is_planned() => Standing::Leaving,
            Some(_) => Standing::Barred,
        };
        if self.commands.try_send(Command::Standing(standing)).is_err() {
            // The policy says it again only when it changes its mind; `fit` begins an elector that ended anew.
            error!(service = self.start.name, "an elector takes no commands");
            self.task.abort();
        }
    }
}

impl Start {
    fn of(id: ServiceId, spread: &Spread, sites: &Sites, node: &str) -> Option<Self> {
        let etcd = sites.authority.as_ref().filter(|_| spread.is_passive())?;
        Some(Self {
            name: spread.name.clone(),
            key: spread.key,
            entry: format!("/bascule/sites/{}/{}", sites.domain, id.0),
            share: format!("{}/{node}", sites.own().name),
            site: sites.own().name.clone(),
            file: sites.terms.join(&spread.name),
            etcd: etcd.clone(),
        })
    }
}

async fn follow(start: Start, commands: mpsc::Receiver<Command>, mut following: Following) {
    let machine = EtcdConfig {
        identity: start.site,
        joint: true,
        members: start.etcd.access.endpoints().len(),
        timing: start.etcd.timing,
        seed: random_seed().ok(),
        term: Term(0),
    };
    let config = ElectorConfig { access: start.etcd.access, key: start.entry, machine, clock: boot_now };
    let mailbox = Mailbox::default();
    let running = async {
        Elector::joint(config, &start.share).run(commands, |word| mailbox.put(word)).await;
        mailbox.close();
    };
    let passing = async {
        while let Some(word) = mailbox.next().await {
            following.word(word).await;
        }
    };
    tokio::join!(running, passing);
}

/// What carries an elector's words.
struct Following {
    id: ServiceId,
    key: ServiceKey,
    file: TermFile,
    commands: mpsc::Sender<Command>,
    forward: ForwardSender,
    news: mpsc::Sender<News>,
    grant: Option<(u64, Instant)>,
}

impl Following {
    async fn word(&mut self, word: Word) {
        let said = match word {
            Word::Claim { epoch, deadline, .. } => {
                let (done, wait) = oneshot::channel();
                self.forward.send(Order::Grant(self.key, epoch, deadline, done)).await;
                let granted = wait.await.unwrap_or_else(|_| Err("forwarding has ended".to_owned()));
                self.grant = Some((epoch, deadline));
                let _said = self.write().await;
                Said::Granted(epoch, deadline, granted.err())
            }
            Word::Extend { deadline, .. } => {
                self.forward.send(Order::Extend(self.key, deadline)).await;
                self.grant = self.grant.map(|(term, _)| (term, deadline));
                let _said = self.write().await;
                Said::Extended(deadline)
            }
            Word::Close { term, reason } => {
                let (done, wait) = oneshot::channel();
                self.forward.send(Order::Revoke(self.key, done)).await;
                let silent = wait.await.unwrap_or(false);
                let deadline = self.grant.take().map(|(_, deadline)| deadline);
                let written = self.write().await;
                // What is not closed, or still read as open, is so until its deadline: nothing may be released before.
                if !(silent && written) && reason.is_chosen() {
                    pass(deadline).await;
                }
                // An elector that has ended waits for nothing.
                let _ended = self.commands.send(Command::Closed(term)).await;
                Said::Ended(reason)
            }
            Word::Holder(holder) => Said::Holder(holder),
            Word::Condition { condition, detail } => Said::Condition(condition, detail),
            Word::Stalled(late) => {
                warn!(?late, "an elector was held up");
                return;
            }
        };
        // A room that has ended needs no news.
        let _ended = self.news.send(News::Lease(self.id, said)).await;
    }

    /// False: the file says what it said before.
    async fn write(&self) -> bool {
        let (file, grant) = (self.file.clone(), self.grant);
        match tokio::task::spawn_blocking(move || file.write(grant)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => warn!(%error, "the file that says by which term this site has a service is not written"),
            Err(error) => error!(%error, "the file of a term"),
        }
        false
    }
}

/// Waits until it has passed on the clock of the fence, which goes on in suspend while tokio's does not.
async fn pass(deadline: Option<Instant>) {
    while let Some(left) = deadline.map(|at| at.since(boot_now())).filter(|left| !left.is_zero()) {
        sleep(left.min(LOOK)).await;
    }
}
