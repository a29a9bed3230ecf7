//! The allocator of addresses and node ids, beside everything else: it runs where the file allows it, and nothing of this node waits for it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_core::election::lease::Condition;
use bascule_core::election::lease::timing::Timing;
use bascule_k8s::{Allocator, AllocatorConfig, AllocatorState};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::electors::{Identity, Stores};
use crate::config::{ClusterServices, Loaded, Source};
use crate::handle::intent::IntentHandle;
use crate::net::rt::boot_now;

/// Of the Lease: duration, renew deadline and retry period, the defaults of client-go.
const TIMES: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(10), Duration::from_secs(2)];

/// One that takes part, or none.
pub(super) struct Running(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

/// The part of the file that says whether this node may allocate. With `source: file` there is no API server to write to.
pub(super) fn wanted(loaded: &Loaded) -> Option<&ClusterServices> {
    let services = loaded.kubernetes.as_ref()?.services.as_ref()?;
    (services.allocator && services.source == Source::Api).then_some(services)
}

impl Running {
    /// Takes part as the file in force at the start says.
    ///
    /// # Errors
    /// When this system has no random numbers.
    pub(super) fn start(loaded: &Loaded, identity: &Identity, handle: &IntentHandle) -> Result<Self> {
        let Some(services) = wanted(loaded) else { return Ok(Self(None)) };
        let timing = Timing::kubernetes(TIMES[0], TIMES[1], TIMES[2]).context("the times of the allocator's Lease")?;
        let access = Stores::of(loaded).kubernetes;
        let (namespace, holder, boot) = (&services.lease_namespace, &identity.holder, &identity.boot);
        let mut config = AllocatorConfig::new(access, namespace, holder, boot, timing, boot_now);
        config.seed = Some(super::random_seed()?);
        config.classes.clone_from(&services.classes);
        config.unclassed = services.unclassed;
        let allocator = Allocator::new(config);
        handle.set_allocator(allocator.state());
        tokio::spawn(tell(allocator.state()));
        let (stop, stopped) = oneshot::channel::<()>();
        let run = allocator.run(async {
            // A sender that is gone says the same.
            let _told = stopped.await;
        });
        Ok(Self(Some((stop, tokio::spawn(run)))))
    }

    /// Releases the Lease, if it is held, so that the next one need not wait for its end.
    pub(super) async fn stop(self, grace: Duration) {
        let Some((stop, mut task)) = self.0 else { return };
        // It hears also of a sender that is gone.
        let _told = stop.send(());
        if tokio::time::timeout(grace, &mut task).await.is_err() {
            warn!("the allocator's lease could not be released in time; it runs out");
            task.abort();
        }
    }
}

/// One line for each change of leadership, and of how the API server stands by the Lease.
async fn tell(mut state: watch::Receiver<AllocatorState>) {
    let (mut leads, mut holder, mut well) = (false, None, true);
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        if now.leads != leads {
            leads = now.leads;
            if leads {
                info!("this node gives addresses to Services and ids to nodes");
            } else {
                info!("this node gives no addresses any more");
            }
        }
        if now.holder != holder {
            holder = now.holder;
            if let Some(holder) = holder.as_deref().filter(|_| !leads) {
                info!(holder, "holds the Lease of the allocator");
            }
        }
        let stands = matches!(now.lease, Condition::Unknown | Condition::Reachable);
        if stands != well {
            well = stands;
            let (condition, detail) = (now.lease.as_str(), now.detail.unwrap_or_default());
            if well {
                info!("the API server answers for the Lease of the allocator");
            } else {
                warn!(condition, detail, "the API server does not answer for the Lease of the allocator");
            }
        }
    }
}
