//! A bare participant: joins a room over gRPC and keeps every frame, to show what the server said on the wire.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::signaling_service_client::SignalingServiceClient;
use farcall_proto::signaling::v1::{GoAway, JoinRequest};
use tokio::runtime::{Builder, Runtime};

use crate::clock::{Deadline, PATIENCE};

/// A participant that only listens.
#[derive(Debug)]
pub struct Watcher {
    frames: Receiver<Body>,
    /// Owns the task that reads the stream; dropped, it cancels it.
    _runtime: Runtime,
}

impl Watcher {
    /// Joins `room` and waits for the welcome.
    pub fn join(url: &str, room: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let request = JoinRequest {
            room: room.to_owned(),
            display_name: "watcher".to_owned(),
            ..JoinRequest::default()
        };
        let joining = async {
            let mut client = SignalingServiceClient::connect(url.to_owned()).await?;
            let stream = client.join(request).await?.into_inner();
            anyhow::Ok(stream)
        };
        let mut stream = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, joining).await })
            .context("joining took too long")?
            .context("joining as a watcher")?;
        let (heard, frames) = channel();
        runtime.spawn(async move {
            // An error ends the stream as its end does: what came before is what counts.
            while let Ok(Some(frame)) = stream.message().await {
                let gone = frame.body.is_some_and(|body| heard.send(body).is_err());
                if gone {
                    break;
                }
            }
        });
        let watcher = Self { frames, _runtime: runtime };
        watcher.wait("the welcome", |body| matches!(body, Body::Welcome(_)).then_some(()))?;
        Ok(watcher)
    }

    /// Waits for the server to say that it goes, and what to do then.
    pub fn go_away(&self) -> Result<GoAway> {
        self.wait("GoAway", |body| if let Body::GoAway(go_away) = body { Some(go_away) } else { None })
    }

    fn wait<T>(&self, what: &str, mut pick: impl FnMut(Body) -> Option<T>) -> Result<T> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let left = deadline.left().max(Duration::from_millis(1));
            let Ok(body) = self.frames.recv_timeout(left) else {
                bail!("{what} never came: the stream ended or the deadline passed");
            };
            if let Some(found) = pick(body) {
                return Ok(found);
            }
        }
    }
}
