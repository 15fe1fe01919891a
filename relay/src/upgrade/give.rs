//! The old process's side.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::wire::Wire;
use super::{
    Freeze, Hello, Offer, Offered, PREPARATION_TIMEOUT, Released, SHORT, STANDSTILL_TIMEOUT, STEP_TIMEOUT,
    State, Taken, VERSION,
};
use crate::auth::NonceKey;
use crate::crew::Crew;
use crate::io::{Frozen, Listeners, SecureListeners};
use crate::operate::Event;
use crate::turn::{AddressPair, Handles, Serials};
use crate::{clock, notify};

/// All that a successor needs.
#[derive(Debug)]
pub struct Giver {
    /// Who has the sockets.
    pub crew: Crew,
    /// What nonces are made with.
    pub nonces: NonceKey,
    /// What tickets are made with.
    pub handles: Handles,
    /// Where serial numbers come from.
    pub serials: Serials,
    /// Addresses of behaviour discovery.
    pub pairs: Vec<AddressPair>,
    /// Other listening sockets, by name.
    pub others: Vec<(String, OwnedFd)>,
}

/// Waits for a successor, and says so once one has taken over.
pub async fn serve(listener: UnixListener, giver: Giver, events: mpsc::Sender<Event>) {
    let giver = Arc::new(giver);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(STEP_TIMEOUT).await;
            continue;
        };
        let Ok(stream) = stream.into_std() else { continue };
        let giver = Arc::clone(&giver);
        match spawn_blocking(move || giver.give(stream)).await {
            Ok(Ok(stream)) => {
                let _ = events.send(Event::HandedOver { successor: stream }).await;
                return;
            }
            Ok(Err(error)) => warn!(%error, "Another process did not take over; this one goes on"),
            Err(error) => warn!(%error, "Handing over broke off; this process goes on"),
        }
    }
}

impl Giver {
    fn give(&self, stream: UnixStream) -> io::Result<UnixStream> {
        let mut wire = Wire::new(stream)?;
        wire.allow(STEP_TIMEOUT);
        let Hello { version } = wire.receive(SHORT)?;
        if version != VERSION {
            let words = format!("version {version} of the hand-over is not {VERSION}: restart instead");
            wire.send(&Offer::Refused(words.clone()))?;
            return Err(io::Error::other(words));
        }
        self.offer(&mut wire)?;

        wire.allow(PREPARATION_TIMEOUT);
        wire.receive::<Freeze>(SHORT)?;
        wire.allow(STANDSTILL_TIMEOUT);
        let begun = clock::now();
        let successor = wire.peer()?.as_raw_nonzero();
        // Dropped, it lets every worker go on.
        let still = self.crew.stand_still()?;
        let (states, sockets): (Vec<_>, Vec<_>) =
            still.share()?.into_iter().map(|Frozen { state, sockets }| (state, sockets)).unzip();
        wire.send(&State { next_serial: self.serials.upcoming().0, workers: states })?;
        for sockets in &sockets {
            wire.send_descriptors(sockets)?;
        }
        wire.receive::<Taken>(SHORT)?;
        let stood_still = clock::now().saturating_duration_since(begun);
        // With this word it is the other's. If nobody is there to hear it, it is still ours.
        wire.send(&Released)?;
        still.release();
        let relays: usize = sockets.iter().map(Vec::len).sum();
        info!(relays, ?stood_still, successor, "Another process goes on");
        // Whoever watches this process is to watch that one, and hears about it from nobody but this one.
        notify::tell(&format!("MAINPID={successor}"));
        Ok(wire.into_stream())
    }

    fn offer(&self, wire: &mut Wire) -> io::Result<()> {
        let listeners = self.crew.listeners()?;
        let few = |count: usize| u16::try_from(count).map_err(|_| io::Error::other("too many sockets"));
        let counts = match listeners.first() {
            None => [0; 4],
            Some((plain, secure)) => {
                let (tls, dtls) = (secure.tls().len(), secure.dtls().len());
                [few(plain.udp().len())?, few(plain.tcp().len())?, few(tls)?, few(dtls)?]
            }
        };
        let offered = Offered {
            counts,
            workers: few(listeners.len())?,
            pairs: self.pairs.iter().map(|pair| (pair.primary, pair.alternate)).collect(),
            nonces: self.nonces.secret(clock::now(), PREPARATION_TIMEOUT),
            handles: self.handles.secret(),
            others: self.others.iter().map(|(name, _)| name.clone()).collect(),
        };
        wire.send(&Offer::Made(Box::new(offered)))?;
        for (plain, secure) in &listeners {
            let (plain, secure): (&Listeners, &SecureListeners) = (plain, secure);
            wire.send_descriptors(plain.udp())?;
            wire.send_descriptors(plain.tcp())?;
            wire.send_descriptors(secure.tls())?;
            wire.send_descriptors(secure.dtls())?;
        }
        let others: Vec<_> = self.others.iter().map(|(_, descriptor)| descriptor).collect();
        wire.send_descriptors(&others)
    }
}
