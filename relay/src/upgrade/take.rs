//! The new process's side.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::wire::Wire;
use super::{
    Freeze, Hello, LONG, MEDIUM, Offer, Offered, PREPARATION_TIMEOUT, Released, SHORT, STANDSTILL_TIMEOUT,
    State, Taken, VERSION,
};
use crate::auth::NonceSecret;
use crate::config::Config;
use crate::io::{Listeners, SecureListeners, WorkerState};
use crate::turn::{AddressPair, HandleSecret};

/// What one worker listens on.
type Both = (Listeners, SecureListeners);

/// A take-over under way. Dropped before its end, it leaves the old process as it was.
#[derive(Debug)]
pub struct Taking {
    wire: Wire,
    pairs: Vec<AddressPair>,
    listeners: Vec<Both>,
    nonces: NonceSecret,
    handles: HandleSecret,
    others: Vec<(String, OwnedFd)>,
}

/// The state of the old process, which stands still.
#[derive(Debug)]
pub struct Unready {
    wire: Wire,
    /// The serial number to go on with.
    pub next_serial: u64,
    /// What each worker had.
    pub workers: Vec<(WorkerState, Vec<UdpSocket>)>,
}

impl Taking {
    /// Asks whoever is at this path. `None` if nobody is.
    pub fn begin(path: &Path) -> anyhow::Result<Option<Self>> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot take over at {}", path.display()));
            }
        };
        let mut wire = Wire::new(stream)?;
        // Another one may be trying before us.
        wire.allow(PREPARATION_TIMEOUT);
        wire.send(&Hello { version: VERSION })?;
        let offered = match wire.receive(MEDIUM).context("the other process makes no offer")? {
            Offer::Made(offered) => *offered,
            Offer::Refused(words) => bail!("the other process refused: {words}"),
        };
        let Offered { counts, workers, pairs, nonces, handles, others: names } = offered;
        let [udp, tcp, tls, dtls] = counts.map(usize::from);
        let mut listeners = Vec::new();
        for _ in 0..workers {
            let plain = Listeners::taken_over(wire.receive_descriptors(udp)?, wire.receive_descriptors(tcp)?);
            let secure =
                SecureListeners::taken_over(wire.receive_descriptors(tls)?, wire.receive_descriptors(dtls)?);
            listeners.push((plain, secure));
        }
        let others = wire.receive_descriptors(names.len())?;
        let pairs =
            pairs.into_iter().map(|(primary, alternate)| AddressPair { primary, alternate }).collect();
        Ok(Some(Self {
            wire,
            pairs,
            listeners,
            nonces,
            handles,
            others: names.into_iter().zip(others).collect(),
        }))
    }

    /// What the old process listens on, if that is what the new one is to listen on: its clients talk to nothing else.
    pub fn listeners(&mut self, config: &Config) -> anyhow::Result<(Vec<Both>, Vec<AddressPair>)> {
        let listeners = std::mem::take(&mut self.listeners);
        let Some((plain, secure)) = listeners.first() else { bail!("the other process has no workers") };
        let ((bound, _), (tls, dtls)) = (plain.addresses(), secure.addresses());
        if listeners.iter().any(|(plain, secure)| {
            (plain.addresses().0, secure.addresses()) != (bound.clone(), (tls.clone(), dtls.clone()))
        }) {
            bail!("the other process's workers listen on different addresses");
        }
        let alternates: Vec<_> = self.pairs.iter().map(|pair| pair.alternate).collect();
        // Behind those that were asked for come three more of each pair.
        let asked = bound.len().saturating_sub(3 * alternates.len());
        for (name, wanted, bound) in [
            ("listen", &config.listen, bound.get(..asked).unwrap_or_default()),
            ("alternate-listen", &config.alternate_listen, &alternates),
            ("tls-listen", &config.secure.tls_listen, &tls),
            ("dtls-listen", &config.secure.dtls_listen, &dtls),
        ] {
            if wanted.len() != bound.len()
                || !wanted.iter().zip(bound).all(|(wanted, bound)| is(wanted, bound))
            {
                bail!(
                    "{name}: the other process has {bound:?}, not {wanted:?}; other listeners want a restart"
                );
            }
        }
        if listeners.len() != config.workers.get() {
            let workers = listeners.len();
            warn!(workers, "As many workers as the other process has; another number wants a restart");
        }
        info!(workers = listeners.len(), listeners = ?bound, "Taking over from another process");
        Ok((listeners, self.pairs.clone()))
    }

    /// What nonces were made with.
    #[must_use]
    pub fn nonces(&self) -> &NonceSecret {
        &self.nonces
    }

    /// What tickets were made with.
    #[must_use]
    pub fn handles(&self) -> &HandleSecret {
        &self.handles
    }

    /// One of the other sockets.
    pub fn other(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.others.iter().position(|(found, _)| found == name)?;
        Some(self.others.swap_remove(at).1)
    }

    /// Everything is ready here: from now on nobody is served until the end.
    pub fn freeze(mut self) -> anyhow::Result<Unready> {
        self.wire.allow(STANDSTILL_TIMEOUT);
        self.wire.send(&Freeze)?;
        let State { next_serial, workers } =
            self.wire.receive(LONG).context("the other process does not say what it has")?;
        let mut taken = Vec::new();
        for state in workers {
            let sockets = self.wire.receive_descriptors(state.socket_count())?;
            taken.push((state, sockets));
        }
        Ok(Unready { wire: self.wire, next_serial, workers: taken })
    }
}

/// Whether an address is the one that was asked for, perhaps with a port of the system's choice.
fn is(wanted: &SocketAddr, bound: &SocketAddr) -> bool {
    wanted.ip() == bound.ip() && (wanted.port() == 0 || wanted.port() == bound.port())
}

impl Unready {
    /// The moment of decision: with the other's word everything is ours. Without it the other may have lost patience,
    /// and two that serve the same clients would be worse than one that has to start anew. It says yes or is gone: there
    /// is nothing in between to give up for.
    pub fn take(mut self) -> anyhow::Result<UnixStream> {
        self.wire.send(&Taken).context("the other process is gone")?;
        self.wire.wait_for_ever();
        self.wire.receive::<Released>(SHORT).context("the other process did not let go")?;
        Ok(self.wire.into_stream())
    }
}
