//! One participant's stream: its `Welcome`, then its log, then whatever ends it.
//!
//! It is pulled: the transport asks for a frame when it can take one, so a slow reader is held by the bounds of its
//! log and by nothing else. No task, no channel. Dropping it is how the server learns that the reader is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use farcall_proto::signaling::v1::{GoAway, GoAwayAction, IceServersUpdate, KeepAlive, ResyncRequired};
use futures_util::{Stream, stream};
use tonic::Status;
use tracing::debug;

use super::status::Problem;
use super::{Context, convert};
use crate::backplane::{Backplane, Doorbell, ReadFailure};
use crate::credentials::Relay;
use crate::limits::Permit;
use crate::room::{Entry, LeaveReason, SessionId, StreamEnd, Timestamp};
use crate::wire::{Body, JoinResponse};

pub(super) struct Outbound<B: Backplane> {
    context: Arc<Context<B>>,
    session: SessionId,
    epoch: u64,
    doorbell: Doorbell,
    /// The last logged frame that was handed to the transport.
    cursor: u64,
    ready: VecDeque<JoinResponse>,
    ice_refresh_at: Option<Timestamp>,
    end: Option<End>,
    relay: Relay,
    /// Its place among those of its address and its identity.
    _permit: Permit,
}

/// How a stream ends once what is ready has been written.
enum End {
    Well,
    Badly(Status),
}

impl<B: Backplane> Outbound<B> {
    /// From here on the stream is its session's, and dropping it is its end.
    pub(super) fn new(
        context: Arc<Context<B>>,
        session: SessionId,
        epoch: u64,
        doorbell: Doorbell,
        cursor: u64,
    ) -> Self {
        context.metrics.streams.up();
        let mut outbound = Self {
            context,
            session,
            epoch,
            doorbell,
            cursor,
            ready: VecDeque::new(),
            ice_refresh_at: None,
            end: None,
            relay: Relay::Granted,
            _permit: Permit::default(),
        };
        outbound.schedule_ice_refresh();
        outbound
    }

    /// With what its participant was given.
    pub(super) fn holding(self, permit: Permit, relay: Relay) -> Self {
        let mut outbound = self;
        (outbound._permit, outbound.relay) = (permit, relay);
        outbound
    }

    pub(super) fn push(&mut self, body: Body) {
        self.ready.push_back(convert::unlogged(self.context.clock.now(), body));
    }

    pub(super) fn push_lost(&mut self, next_seq: u64, reason: &str) {
        self.push(Body::ResyncRequired(ResyncRequired { next_seq, reason: reason.into() }));
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<JoinResponse, Status>> + Send + 'static {
        stream::unfold(self, |mut outbound| async move {
            let frame = outbound.next().await?;
            Some((frame, outbound))
        })
    }

    async fn next(&mut self) -> Option<Result<JoinResponse, Status>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(Ok(frame));
            }
            match self.end.take() {
                Some(End::Well) => return None,
                Some(End::Badly(status)) => {
                    self.end = Some(End::Well);
                    return Some(Err(status));
                }
                None => {}
            }
            let backplane = &self.context.backplane;
            match backplane.read(&self.session, self.epoch, self.cursor, READ_AT_ONCE).await {
                Ok(entries) if entries.is_empty() => self.idle().await,
                Ok(entries) => self.deliver(&entries),
                Err(ReadFailure::Ended(why)) => self.ended(why),
                // The store rings when it is back.
                Err(ReadFailure::Unavailable(_)) => self.idle().await,
            }
        }
    }

    fn deliver(&mut self, entries: &[Entry]) {
        self.context.metrics.frames_delivered.add(entries.len() as u64);
        self.ready.extend(entries.iter().map(convert::entry));
        if let Some(last) = entries.last() {
            self.cursor = last.seq;
        }
    }

    /// Waits for something to say.
    async fn idle(&mut self) {
        // Most streams are idle most of the time: they hold on to nothing.
        self.ready = VecDeque::new();
        let keep_alive = self.context.settings.keep_alive;
        let refresh_in = self.ice_refresh_at.map(|at| at.since(self.context.clock.now()));
        let refresh_first = refresh_in.is_some_and(|refresh_in| refresh_in < keep_alive);
        let quiet = refresh_in.map_or(keep_alive, |refresh_in| refresh_in.min(keep_alive));
        let mut draining = self.context.draining.clone();
        tokio::select! {
            biased;
            () = draining.begun() => {
                let delay = Duration::from_millis(rand::random_range(0..GO_AWAY_SPREAD_MS));
                self.go_away(GoAwayAction::Resume, delay, "the server is going away");
            }
            () = self.doorbell.rung() => {}
            () = tokio::time::sleep(quiet) => {
                if refresh_first {
                    let ice_servers = self.context.ice_servers(&self.session, self.relay);
                    self.push(Body::IceServers(IceServersUpdate { ice_servers }));
                    self.schedule_ice_refresh();
                } else {
                    self.push(Body::KeepAlive(KeepAlive {}));
                }
            }
        }
    }

    fn ended(&mut self, why: StreamEnd) {
        debug!(session = %self.session, ?why, "Stream ended");
        match why {
            StreamEnd::Superseded => self.fail(&Problem::Superseded),
            StreamEnd::Forgotten => self.fail(&Problem::Refused(crate::room::Refusal::SessionNotFound)),
            StreamEnd::Unheard => {
                self.go_away(GoAwayAction::Resume, Duration::ZERO, "no heartbeat was heard of this session");
            }
            StreamEnd::Ended(LeaveReason::Left | LeaveReason::LeaseExpired) => self.end = Some(End::Well),
            StreamEnd::Ended(LeaveReason::Replaced) => {
                self.go_away(GoAwayAction::Stop, Duration::ZERO, "the same participant came in anew");
            }
            StreamEnd::Ended(LeaveReason::Removed) => {
                self.go_away(GoAwayAction::Stop, Duration::ZERO, "an operator removed this session");
            }
            StreamEnd::Ended(LeaveReason::Overflow) => {
                let reason = "too much was waiting for this session, which has ended";
                self.push_lost(0, reason);
                self.go_away(GoAwayAction::Reconnect, Duration::ZERO, reason);
            }
        }
    }

    fn go_away(&mut self, action: GoAwayAction, delay: Duration, reason: &str) {
        let delay = Some(convert::duration(delay));
        self.push(Body::GoAway(GoAway { action: action.into(), delay, reason: reason.into() }));
        self.end = Some(End::Well);
    }

    fn fail(&mut self, problem: &Problem) {
        self.context.metrics.refused(problem.reason());
        self.end = Some(End::Badly(problem.to_status()));
    }

    fn schedule_ice_refresh(&mut self) {
        let after = self.context.settings.ice.get().refresh_after();
        self.ice_refresh_at = after.map(|after| self.context.clock.now().after(after));
    }
}

impl<B: Backplane> Drop for Outbound<B> {
    fn drop(&mut self) {
        self.context.metrics.streams.down();
        self.context.backplane.detach(&self.session, self.epoch);
    }
}

/// So that not all come back at once.
const GO_AWAY_SPREAD_MS: u64 = 1000;
/// Frames taken from the log in one go: enough for a burst of candidates, little enough for one stream to hold.
const READ_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;
    use crate::backplane::Memory;
    use crate::room::{Join, Profile};
    use crate::service::{Settings, testing};

    /// The next frame, at once or never.
    async fn next(
        stream: &mut (impl Stream<Item = Result<JoinResponse, Status>> + Unpin),
    ) -> Option<JoinResponse> {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.next());
        next.await.expect("nothing came").map(Result::unwrap)
    }

    async fn join(context: &Arc<Context<Memory>>) -> Outbound<Memory> {
        let join = Join {
            room: "red".into(),
            profile: Profile::default(),
            request_id: None,
            resume: None,
            may_create: true,
        };
        let (joined, doorbell) = context.backplane.join(join).await.unwrap();
        Outbound::new(context.clone(), joined.session, joined.epoch, doorbell, joined.cursor)
    }

    #[tokio::test]
    async fn an_idle_stream_says_that_it_is_alive_again_and_again() {
        let settings = Settings { keep_alive: Duration::from_millis(5), ..testing::settings() };
        let (context, _drain) = testing::context(settings);
        let mut stream = pin!(join(&context).await.into_stream());
        for _ in 0..3 {
            let frame = next(&mut stream).await.unwrap();
            assert_eq!((frame.seq, frame.body), (0, Some(Body::KeepAlive(KeepAlive {}))));
        }
    }

    #[tokio::test]
    async fn a_stream_is_told_of_the_drain_after_what_is_in_its_log() {
        let (context, drain) = testing::context(testing::settings());
        let mut stream = pin!(join(&context).await.into_stream());
        let _other = join(&context).await;
        drain.begin();
        let frame = next(&mut stream).await.unwrap();
        assert!(matches!(frame.body, Some(Body::Participant(_))), "{frame:?}");
        let frame = next(&mut stream).await.unwrap();
        assert!(matches!(frame.body, Some(Body::GoAway(_))), "{frame:?}");
        assert!(next(&mut stream).await.is_none());
    }

    #[tokio::test]
    async fn a_dropped_stream_is_gone_at_once() {
        let (context, _drain) = testing::context(testing::settings());
        let outbound = join(&context).await;
        let (session, epoch) = (outbound.session.clone(), outbound.epoch);
        assert_eq!(context.metrics.streams.value(), 1);
        drop(outbound);
        assert_eq!(context.metrics.streams.value(), 0);
        let read = context.backplane.read(&session, epoch, 0, 1).await;
        assert!(matches!(read, Err(ReadFailure::Ended(StreamEnd::Unheard))), "{read:?}");
    }
}
