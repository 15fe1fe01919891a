//! From the first client to the last: what ends the process, and what changes it while it runs.
//!
//! Everything that is asked of the whole process, by signal, by file or by the operator's service, arrives here as an
//! event and is dealt with in order, so that no two reloads cross.

use std::future::pending;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
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
    /// Another process goes on with the listeners and all clients by UDP.
    HandedOver {
        /// It sees by the end of this that this process has ended.
        successor: UnixStream,
    },
    /// Start another process of the program that is installed now, to take over.
    Upgrade,
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
    /// New clients are another process's.
    HandedOver,
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
    /// Processes that were started to take over.
    pub successors: JoinSet<std::io::Result<std::process::ExitStatus>>,
}

impl Operation {
    /// Until there is nothing left to serve, or no time.
    pub async fn run(mut self) -> Option<UnixStream> {
        let mut kept = None;
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
                            break info!("Shutting down");
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
                    Some(Event::HandedOver { successor }) => {
                        kept = Some(successor);
                        let within = self.reloader.drain_timeout();
                        let within = if within.is_zero() { STAY } else { within };
                        drain = Some(self.drain(Some(within)));
                        self.readiness.send_replace(Readiness::HandedOver);
                    }
                    Some(Event::Upgrade) if kept.is_some() => warn!("Another process goes on already"),
                    Some(Event::Upgrade) => self.start_successor(),
                    // Nobody is left who could ask for the end.
                    None => break warn!("Nobody can end this process any more"),
                },
                Some(ended) = self.successors.join_next() => {
                    warn!(?ended, "The process that was to take over has ended");
                }
                _ = watch.tick() => self.reloader.look(&self.crew),
                _ = look.tick(), if drain.is_some() => {
                    if self.crew.allocation_count() == 0 {
                        break info!("Drained");
                    }
                }
                () = deadline => break info!("Drained as long as there was time"),
            }
        }
        kept
    }

    /// The same program with the same arguments, as it is installed now. It asks for the hand-over by itself.
    fn start_successor(&mut self) {
        if !self.successors.is_empty() {
            return warn!("A process that is to take over has been started already");
        }
        let mut arguments = std::env::args_os();
        let Some(program) = arguments.next() else { return };
        if !self.reloader.can_be_upgraded() {
            return warn!("No --upgrade-socket: another process cannot take over");
        }
        match tokio::process::Command::new(program).args(arguments).spawn() {
            Ok(mut child) => {
                info!(pid = child.id(), "Another process is started to take over");
                self.successors.spawn(async move { child.wait().await });
            }
            Err(error) => warn!(%error, "No other process could be started to take over"),
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

/// For clients by stream, once another process has all others: as long as an allocation can live unrefreshed.
const STAY: Duration = Duration::from_secs(3600);
/// How often to look whether the last allocation has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often to look whether the configuration file is another.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
