//! Certificates and keys, read anew when their files change or when SIGHUP says so.
//!
//! Files are looked at again and again rather than watched: that also sees links that are moved, as containers do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::tls::{self, Tls};
use crate::metrics::Metrics;
use crate::tokens::Tokens;

pub(super) struct Reload {
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) tokens: Arc<Tokens>,
}

impl Reload {
    /// What to run for as long as the server does. SIGHUP is no reason to end from here on.
    pub(super) fn run(self, metrics: Arc<Metrics>) -> std::io::Result<impl Future<Output = ()> + Send> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut seen = self.state();
        Ok(async move {
            loop {
                tokio::select! {
                    Some(()) = hangup.recv() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => if self.state() == seen {
                        continue;
                    },
                }
                seen = self.state();
                self.reload(&metrics);
            }
        })
    }

    /// What cannot be read changes nothing, and is said once.
    fn reload(&self, metrics: &Metrics) {
        let tls = self.tls.as_ref().map_or(Ok(()), |tls| tls.reload());
        if let Err(error) = &tls {
            error!(%error, "Certificates stay as they were");
        }
        let tokens = self.tokens.reload();
        if let Err(error) = &tokens {
            error!(%error, "Token keys stay as they were");
        }
        if tls.is_ok() && tokens.is_ok() {
            metrics.reloads.add(1);
            info!("Certificates and token keys were read anew");
        } else {
            metrics.reloads_failed.add(1);
        }
    }

    fn state(&self) -> Vec<tls::FileState> {
        let certificates = self.tls.as_ref().map(|tls| tls.state_of_files()).unwrap_or_default();
        let keys = self.tokens.files().iter().map(|path| tls::file_state(Path::new(path)));
        certificates.into_iter().chain(keys).collect()
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(2);
