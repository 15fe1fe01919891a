//! Finds candidates without anybody to connect to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant as Deadline, timeout_at};

use super::{Config, Connection, Ends, Happening};
use crate::clock;
use crate::failure::{Failure, Reason};
use crate::media::Feeds;
use crate::net::{BindAddresses, Eagerness, IcePolicy, IceServer, ServerOutcome, Trust, UsableServers};
use crate::report::{CandidateReport, CandidateSide, Event, milliseconds};
use crate::session::{LinkEvent, LinkId, candidate};

/// A connection that will never have another side.
pub(crate) struct Gathering {
    connection: Connection,
    happenings: mpsc::UnboundedReceiver<(LinkId, Happening)>,
    ready: VecDeque<Event>,
    seen: Vec<CandidateReport>,
    /// The engine does not say which STUN server answered; if there is but one, it is that.
    only_stun: Option<String>,
    started: Instant,
    until: Instant,
    done: bool,
}

impl Gathering {
    pub(crate) async fn start(
        policy: IcePolicy,
        addresses: BindAddresses,
        trust: Trust,
        servers: &[IceServer],
        time: Duration,
    ) -> Result<Self, Failure> {
        let (sender, happenings) = mpsc::unbounded_channel();
        let config = Config {
            policy,
            addresses,
            trust,
            eagerness: Eagerness::AtOnce,
            feeds: Feeds::default(),
            tones: Arc::new(Mutex::new(mpsc::channel(1).1)),
            media: false,
            record: None,
            ends: Ends {
                outgoing: Arc::new(Mutex::new(mpsc::channel(1).1)),
                texts: mpsc::channel(1).0,
                data: mpsc::channel(1).0,
            },
            happenings: sender,
        };
        let started = clock::now();
        let servers = UsableServers::select(servers, policy);
        let ready = servers.warnings.iter().cloned().map(|message| Event::Warning { message }).collect();
        let mut stun =
            servers.servers.iter().flat_map(|server| &server.urls).filter(|url| url.starts_with("stun:"));
        let only_stun = stun.next().cloned().filter(|_| stun.next().is_none());
        let connection = Connection::open(&config, LinkId(1), servers).await?;
        if let LinkEvent::StepFailed { message } = connection.create_offer(false).await {
            return Err(Failure::new(Reason::Internal, message));
        }
        let until = started + time;
        Ok(Self { connection, happenings, ready, seen: Vec::new(), only_stun, started, until, done: false })
    }

    /// The next candidate or warning; nothing after the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            match timeout_at(Deadline::from_std(self.until), self.happenings.recv()).await {
                Ok(Some((_, Happening::Link(LinkEvent::LocalCandidate(candidate))))) => {
                    if let Some(report) = candidate::report(CandidateSide::Local, &candidate)
                        && !self.seen.contains(&report)
                    {
                        self.seen.push(report.clone());
                        let elapsed_ms = Some(milliseconds(clock::now() - self.started));
                        let url = match &report.url {
                            None if report.kind == "srflx" => self.only_stun.clone(),
                            url => url.clone(),
                        };
                        self.ready.push_back(Event::Candidate(CandidateReport { elapsed_ms, url, ..report }));
                    }
                }
                Ok(Some((_, Happening::Link(LinkEvent::GatheringComplete)))) | Ok(None) | Err(_) => {
                    self.complete()
                }
                Ok(Some(_)) => {}
            }
        }
    }

    pub(crate) async fn finish(self) {
        self.connection.close().await;
    }

    fn complete(&mut self) {
        self.done = true;
        let outcomes = self.connection.turn().outcomes_so_far();
        let complaints = outcomes.iter().filter_map(ServerOutcome::complaint);
        self.ready.extend(complaints.map(|message| Event::Warning { message }));
    }
}
