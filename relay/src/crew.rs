//! All workers, as the operator sees them: one question to all, one answer of all.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::io::{Command, Listed, Wanted, Whose, WorkerHandle};
use crate::metrics::WorkerMetrics;
use crate::policy::Quota;
use crate::turn::{Admission, Peers, Rules, Serial};

/// The workers' handles. Clones speak to the same workers.
#[derive(Debug, Clone)]
pub struct Crew {
    workers: Arc<[WorkerHandle]>,
    metrics: Arc<[Arc<WorkerMetrics>]>,
}

/// Why a worker does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// Too many commands wait already.
    #[error("a worker has too many commands waiting")]
    Busy,
    /// It has ended.
    #[error("a worker has ended")]
    Gone,
}

impl Crew {
    /// Of these workers, with what they count.
    #[must_use]
    pub fn new(workers: Arc<[WorkerHandle]>, metrics: Arc<[Arc<WorkerMetrics>]>) -> Self {
        Self { workers, metrics }
    }

    /// What they count.
    #[must_use]
    pub fn metrics(&self) -> &Arc<[Arc<WorkerMetrics>]> {
        &self.metrics
    }

    /// How many allocations live.
    #[must_use]
    pub fn allocation_count(&self) -> u64 {
        self.metrics.iter().fold(0u64, |sum, worker| sum.wrapping_add(worker.allocations.value()))
    }

    /// The oldest allocations that are wanted.
    pub async fn list(&self, wanted: &Wanted) -> Result<Vec<Listed>, Unheard> {
        let lists = self.ask(|answer| Command::List { wanted: wanted.clone(), answer }).await?;
        let mut all: Vec<_> = lists.into_iter().flatten().collect();
        all.sort_unstable_by_key(|listed| listed.summary.serial);
        all.truncate(wanted.limit);
        Ok(all)
    }

    /// One allocation.
    pub async fn find(&self, serial: Serial) -> Result<Option<(Listed, Peers)>, Unheard> {
        Ok(self.ask(|answer| Command::Find { serial, answer }).await?.into_iter().flatten().next())
    }

    /// Ends allocations. Says how many.
    pub async fn close(&self, whose: &Whose) -> Result<usize, Unheard> {
        Ok(self.ask(|answer| Command::Close { whose: whose.clone(), answer }).await?.into_iter().sum())
    }

    /// Lets new allocations be made, or none.
    pub fn admit(&self, admission: Admission) -> Result<(), Unheard> {
        self.workers.iter().try_for_each(|worker| worker.command(Command::Admit(admission)))
    }

    /// Goes by other rules from now on.
    pub fn follow(&self, mut rules: impl FnMut() -> Rules, quota: &Quota) -> Result<(), Unheard> {
        self.workers.iter().try_for_each(|worker| {
            worker.command(Command::Follow { rules: Box::new(rules()), quota: quota.clone() })
        })
    }

    /// Asks all at once, then waits for all.
    async fn ask<A>(&self, question: impl Fn(oneshot::Sender<A>) -> Command) -> Result<Vec<A>, Unheard> {
        let mut pending = Vec::with_capacity(self.workers.len());
        for worker in self.workers.iter() {
            let (answer, answered) = oneshot::channel();
            worker.command(question(answer))?;
            pending.push(answered);
        }
        let mut answers = Vec::with_capacity(pending.len());
        for answered in pending {
            answers.push(answered.await.map_err(|_| Unheard::Gone)?);
        }
        Ok(answers)
    }
}
