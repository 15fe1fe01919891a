//! From the first client to the last: what ends the process, and what changes it while it runs.
//!
//! Everything that is asked of the whole process, by signal, by file or by the operator's service, arrives here as an
//! event and is dealt with in order, so that no two reloads cross.

use std::future::pending;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use crate::config::{ConfigError, Difference};
use crate::crew::Crew;
use crate::reload::Reloader;
use crate::turn::Admission;

/// Something asked of the process.
#[derive(Debug)]
pub enum Event {
    /// SIGTERM or SIGINT. The second one ends it at once.
    Terminate,
    /// Read the configuration again.
    Reload {
        /// How it went.
        answer: Option<oneshot::Sender<Result<Difference, ConfigError>>>,
    },
    /// Take no new allocations, and end with the last one.
    Drain {
        /// Or after this, whichever comes first.
        within: Option<Duration>,
    },
}

/// What a load balancer wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// New clients are welcome.
    Serving,
    /// Those who are here may stay a while.
    Draining,
}

/// Deals with events until the process is to end.
#[derive(Debug)]
pub struct Operation {
    /// Who does the work.
    pub crew: Crew,
    /// What can change while it runs.
    pub reloader: Reloader,
    /// Told about draining.
    pub readiness: watch::Sender<Readiness>,
    /// What comes.
    pub events: mpsc::Receiver<Event>,
}

impl Operation {
    /// Until there is nothing left to serve, or no time.
    pub async fn run(mut self) {
        // Whether there is a drain, and until when.
        let mut drain: Option<Option<Instant>> = None;
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = interval(WATCH_INTERVAL);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = async {
                match drain.flatten() {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Terminate) => {
                        let within = self.reloader.drain_timeout();
                        if drain.is_some() || within.is_zero() {
                            return info!("Shutting down");
                        }
                        drain = Some(self.drain(Some(within)));
                    }
                    Some(Event::Drain { within }) => drain = Some(self.drain(within)),
                    Some(Event::Reload { answer }) => {
                        let result = self.reloader.reload(&self.crew);
                        if let Some(answer) = answer {
                            let _ = answer.send(result);
                        }
                    }
                    // Nobody is left who could ask for the end.
                    None => return warn!("Nobody can end this process any more"),
                },
                _ = watch.tick() => self.reloader.look(&self.crew),
                _ = look.tick(), if drain.is_some() => {
                    if self.crew.allocation_count() == 0 {
                        return info!("Drained");
                    }
                }
                () = deadline => return info!("Drained as long as there was time"),
            }
        }
    }

    fn drain(&self, within: Option<Duration>) -> Option<Instant> {
        let allocations = self.crew.allocation_count();
        info!(allocations, ?within, "Draining: no new allocations");
        self.readiness.send_replace(Readiness::Draining);
        if let Err(error) = self.crew.admit(Admission::Closed) {
            warn!(%error, "Not every worker heard that there are to be no new allocations");
        }
        within.map(|within| Instant::now() + within)
    }
}

/// How often to look whether the last allocation has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often to look whether the configuration file is another.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
