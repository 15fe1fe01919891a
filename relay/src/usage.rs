//! What an allocation came to: a line in the log, and for whoever keeps accounts a record.
//!
//! Records are JSON, one a line, and go through a bounded queue to one task that writes them: a disk that does not
//! keep up costs records, which are counted, and never a datagram.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::io::{Count, Traffic};
use crate::metrics::WorkerMetrics;
use crate::turn::{Departure, Now, Transport};

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output, behind the ready line.
    Stdout,
    /// The end of a file.
    File(std::path::PathBuf),
}

/// What is written of one allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    event: &'static str,
    allocation: u64,
    user: String,
    account: String,
    realm: String,
    client: SocketAddr,
    transport: &'static str,
    relayed: SocketAddr,
    /// Seconds since 1970.
    start: u64,
    end: u64,
    to_peer: Count,
    to_client: Count,
    peers: u32,
    reason: &'static str,
}

/// A worker's end of the queue.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    records: Option<mpsc::Sender<Box<Record>>>,
}

impl Reporter {
    /// Says how an allocation was.
    pub fn report(
        &self,
        now: Now,
        departure: Departure,
        realm: &str,
        traffic: Traffic,
        metrics: &WorkerMetrics,
    ) {
        let Departure { summary, reason } = departure;
        let lifetime = Duration::from_secs(summary.age(now.instant).as_secs());
        let Traffic { to_peer, to_client } = traffic;
        let transport = name(summary.flow.transport);
        info!(
            allocation = %summary.serial,
            transport,
            ?lifetime,
            to_peer_datagrams = to_peer.datagrams,
            to_peer_bytes = to_peer.bytes,
            to_client_datagrams = to_client.datagrams,
            to_client_bytes = to_client.bytes,
            peers = summary.peers,
            reason = reason.name(),
            "Allocation ended"
        );
        debug!(allocation = %summary.serial, client = %summary.flow.client, relayed = %summary.relayed, user = %summary.user.name, "Ended allocation belonged to");
        let Some(records) = &self.records else { return };
        let record = Record {
            event: "allocation_ended",
            allocation: summary.serial.0,
            user: summary.user.name.to_string(),
            account: summary.user.account.to_string(),
            realm: realm.into(),
            client: summary.flow.client.0,
            transport,
            relayed: summary.relayed.0,
            start: now.unix.0.saturating_sub(lifetime.as_secs()),
            end: now.unix.0,
            to_peer,
            to_client,
            peers: summary.peers,
            reason: reason.name(),
        };
        if records.try_send(Box::new(record)).is_err() {
            metrics.usage_record_lost();
        }
    }
}

/// The queue, and what empties it.
#[must_use]
pub fn channel() -> (Reporter, mpsc::Receiver<Box<Record>>) {
    let (records, receiver) = mpsc::channel(QUEUE);
    (Reporter { records: Some(records) }, receiver)
}

/// Opens the destination, so that a wrong one is known before anybody is served.
pub async fn open(destination: &Destination) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    Ok(match destination {
        Destination::Stdout => Box::new(tokio::io::stdout()),
        Destination::File(path) => {
            Box::new(tokio::fs::OpenOptions::new().create(true).append(true).open(path).await?)
        }
    })
}

/// Writes records until every reporter is gone.
pub async fn write(mut records: mpsc::Receiver<Box<Record>>, mut to: Box<dyn AsyncWrite + Send + Unpin>) {
    let mut waiting = Vec::new();
    while records.recv_many(&mut waiting, BATCH).await > 0 {
        let mut lines = Vec::new();
        for record in waiting.drain(..) {
            if serde_json::to_writer(&mut lines, &record).is_ok() {
                lines.push(b'\n');
            }
        }
        let written = async {
            to.write_all(&lines).await?;
            to.flush().await
        };
        if let Err(error) = written.await {
            warn!(%error, "Usage records cannot be written");
        }
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Dtls => "dtls",
    }
}

/// Records that may wait.
const QUEUE: usize = 16_384;
const BATCH: usize = 256;
