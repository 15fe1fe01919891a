//! What changes while the server runs. Certificates and token keys are read anew when their files change; SIGHUP reads
//! the whole configuration again and takes up what a running server can.
//!
//! Files are looked at again and again rather than watched: that also sees links that are moved, as containers do. What
//! cannot be read, or is no valid configuration, changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::tls::{self, Tls};
use crate::config::{Change, Config, Written};
use crate::credentials::{IceServers, JoinTokens};
use crate::limits::Limits;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::tokens::Tokens;
use crate::web::Origins;

/// All that can change, and what it was read from.
pub(super) struct Reload {
    pub(super) written: Written,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) operators: Arc<Live<JoinTokens>>,
    pub(super) limits: Arc<Limits>,
    pub(super) origins: Arc<Live<Origins>>,
    pub(super) ice: Arc<Live<IceServers>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Reload {
    /// What to run for as long as the server does. SIGHUP is no reason to end from here on.
    pub(super) fn run(mut self) -> std::io::Result<impl Future<Output = ()> + Send> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut seen = self.state();
        Ok(async move {
            loop {
                tokio::select! {
                    Some(()) = hangup.recv() => self.reload(),
                    () = tokio::time::sleep(LOOK_AGAIN) => if self.state() != seen {
                        self.reload_files();
                    },
                }
                seen = self.state();
            }
        })
    }

    fn reload(&mut self) {
        match self.written.again() {
            Ok(config) => {
                self.take_up(config);
                self.metrics.reloads.add(1);
            }
            Err(mistakes) => {
                for mistake in &mistakes.0 {
                    error!(setting = mistake.key, rule = mistake.rule, "Setting is not valid");
                }
                error!("Configuration stays as it was");
                self.metrics.reloads_failed.add(1);
            }
        }
    }

    fn take_up(&mut self, config: Config) {
        let Config { settings, entrance, admin, web, written, .. } = config;
        // A port that begins or ceases to speak TLS has other defaults as well.
        let tls_stays = match (&self.tls, &entrance.tls) {
            (Some(tls), Some(newer)) => {
                tls.follow(newer);
                true
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.tokens.follow(&settings.tokens);
        self.operators.set(admin.tokens.get());
        self.limits.change(settings.quotas);
        self.origins.set(web.origins.get());
        self.ice.set(settings.ice.get());
        for change in self.written.changes(&written) {
            let Change { setting, from, to, live } = change;
            if live && (tls_stays || !setting.starts_with("tls-")) {
                info!(setting, from, to, "Setting changed");
            } else {
                warn!(setting, from, to, "Setting changes with the next start");
            }
        }
        // Compared with what was read before, so that the same change is not told twice.
        self.written = written;
        info!("Configuration, certificates and keys were read anew");
    }

    /// What cannot be read changes nothing, and is said once.
    fn reload_files(&self) {
        let tls = self.tls.as_ref().map_or(Ok(()), |tls| tls.reload());
        if let Err(error) = &tls {
            error!(%error, "Certificates stay as they were");
        }
        let tokens = self.tokens.reload();
        if let Err(error) = &tokens {
            error!(%error, "Token keys stay as they were");
        }
        if tls.is_ok() && tokens.is_ok() {
            self.metrics.reloads.add(1);
            info!("Certificates and token keys were read anew");
        } else {
            self.metrics.reloads_failed.add(1);
        }
    }

    fn state(&self) -> Vec<tls::FileState> {
        let certificates = self.tls.as_ref().map(|tls| tls.state_of_files()).unwrap_or_default();
        let keys = self.tokens.files();
        certificates.into_iter().chain(keys.iter().map(|path| tls::file_state(path))).collect()
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(2);
