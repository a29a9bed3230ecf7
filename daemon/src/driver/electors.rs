//! Orders for lease electors on their way to their tasks: the loop never waits for them, and none is lost.

use std::collections::VecDeque;

use bascule_core::election::lease::Command;
use bascule_core::node::io::{ElectorId, Order};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Orders that may wait for the task. When it is full the driver keeps the rest and sends it with the next turn; of the standings of one
/// elector only the last one waits, so that what is kept is bounded by the number of groups.
pub const ELECTOR_QUEUE: usize = 256;

/// An order and whom it is for.
pub type Ordered = (ElectorId, Order);

/// What the task has not taken yet.
#[derive(Debug)]
pub(super) struct Orders {
    task: Sender<Ordered>,
    waiting: VecDeque<Ordered>,
}

impl Orders {
    pub(super) fn new(task: Sender<Ordered>) -> Self {
        Self { task, waiting: VecDeque::new() }
    }

    /// Sends an order, after those that wait.
    pub(super) fn add(&mut self, elector: ElectorId, order: Order) {
        let standing = |order: &Order| matches!(order, Order::Tell(Command::Standing(_)));
        if let Some(last) =
            self.waiting.back_mut().filter(|(id, last)| *id == elector && standing(last) && standing(&order))
        {
            last.1 = order;
        } else {
            self.waiting.push_back((elector, order));
        }
        self.send();
    }

    /// Sends what waits, as far as the task takes it.
    pub(super) fn send(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            match self.task.try_send(next) {
                Ok(()) => {}
                Err(TrySendError::Full(next)) => return self.waiting.push_front(next),
                // The process ends: the leases run out.
                Err(TrySendError::Closed(_)) => return self.waiting.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bascule_core::election::lease::Standing;
    use bascule_core::types::Term;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_the_task_does_not_take_waits_in_its_order_and_only_the_last_standing_does() {
        let (task, mut taken) = mpsc::channel(1);
        let mut orders = Orders::new(task);
        let tell = |command| Order::Tell(command);
        let told = [
            Command::Standing(Standing::Barred),
            Command::Closed(Term(1)),
            Command::Standing(Standing::Sick),
            Command::Standing(Standing::Fit),
            Command::Stop,
        ];
        for command in told {
            orders.add(ElectorId(7), tell(command));
        }
        let mut seen = Vec::new();
        while let Ok(order) = taken.try_recv() {
            seen.push(order);
            orders.send();
        }
        let left = [told[0], told[1], told[3], told[4]].map(|command| (ElectorId(7), tell(command)));
        assert_eq!(seen, left);
    }
}
