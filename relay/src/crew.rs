//! All workers, as the operator sees them: one question to all, one answer of all.

use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

use crate::io::{Command, Frozen, Listed, Listeners, SecureListeners, Step, Wanted, Whose, WorkerHandle};
use crate::metrics::WorkerMetrics;
use crate::policy::Quota;
use crate::turn::{Admission, Peers, Rules, Serial};

/// The workers' handles. Clones speak to the same workers.
#[derive(Debug, Clone)]
pub struct Crew {
    workers: Arc<[WorkerHandle]>,
    metrics: Arc<[Arc<WorkerMetrics>]>,
}

/// Workers that stand still. They go on where they stood once this is dropped.
#[derive(Debug)]
pub struct Standstill(Vec<mpsc::Sender<Step>>);

impl Standstill {
    /// Lets them hand one another all they have, until nothing is on its way. Blocks.
    fn settle(&self) -> io::Result<()> {
        for round in 0..ROUNDS {
            let handled: usize = self.ask(Step::Settle)?.into_iter().sum();
            // What was sent in the first round may have come too late for it.
            if round > 0 && handled == 0 {
                return Ok(());
            }
        }
        Err(io::Error::other("the workers do not come to rest"))
    }

    /// What each of them has, in their order. Blocks.
    pub fn share(&self) -> io::Result<Vec<Frozen>> {
        self.ask(Step::Share)?.into_iter().collect()
    }

    /// Another process has it all.
    pub fn release(self) {
        for steps in self.0 {
            // A worker that is gone has nothing to give up.
            let _ = steps.send(Step::Release);
        }
    }

    fn ask<A>(&self, step: impl Fn(oneshot::Sender<A>) -> Step) -> io::Result<Vec<A>> {
        let mut pending = Vec::with_capacity(self.0.len());
        for steps in &self.0 {
            let (answer, answered) = oneshot::channel();
            steps.send(step(answer)).map_err(|_| io::Error::other(Unheard::Gone))?;
            pending.push(answered);
        }
        let answers = pending.into_iter().map(oneshot::Receiver::blocking_recv);
        answers.map(|answer| answer.map_err(|_| io::Error::other(Unheard::Gone))).collect()
    }
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

    /// The listening sockets of each worker, shared. Blocks.
    pub fn listeners(&self) -> io::Result<Vec<(Listeners, SecureListeners)>> {
        let mut pending = Vec::with_capacity(self.workers.len());
        for worker in self.workers.iter() {
            let (answer, answered) = oneshot::channel();
            worker.command(Command::Share { answer }).map_err(io::Error::other)?;
            pending.push(answered);
        }
        let answers = pending.into_iter().map(oneshot::Receiver::blocking_recv);
        answers.map(|answer| answer.map_err(|_| io::Error::other(Unheard::Gone))?).collect()
    }

    /// Has each worker serve DTLS at these, too.
    pub fn serve_dtls(&self, sockets: Vec<Vec<UdpSocket>>) -> Result<(), Unheard> {
        let mut pairs = self.workers.iter().zip(sockets);
        pairs.try_for_each(|(worker, sockets)| worker.command(Command::ServeDtls(sockets)))
    }

    /// Has all workers stand still, with nothing on its way between them. Blocks.
    pub fn stand_still(&self) -> io::Result<Standstill> {
        let mut still = Standstill(Vec::with_capacity(self.workers.len()));
        for worker in self.workers.iter() {
            let (sender, steps) = mpsc::channel();
            worker.command(Command::StandStill(steps)).map_err(io::Error::other)?;
            still.0.push(sender);
        }
        still.settle()?;
        Ok(still)
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

/// More than parcels can go from worker to worker.
const ROUNDS: usize = 1000;
