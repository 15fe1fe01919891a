//! A configuration put in the place of another while allocations live. All of it or nothing: a file with a mistake
//! changes nothing but a counter.
//!
//! Files are looked at rather than watched: a comparison a second sees what `inotify` sees, and what it does not
//! (network file systems, a symlink in the path swapped by Kubernetes).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::clock;
use crate::config::{Config, ConfigError, Difference, Sources, Written};
use crate::crew::Crew;
use crate::metrics::ProcessMetrics;
use crate::service::Blueprint;
use crate::telemetry::LogFilter;

/// What can change, and where it comes from.
#[derive(Debug)]
pub struct Reloader {
    sources: Sources,
    config: Config,
    blueprint: Blueprint,
    logs: LogFilter,
    written: watch::Sender<Written>,
    metrics: Arc<ProcessMetrics>,
    file: Option<Watched>,
}

impl Reloader {
    /// Of a process that serves by `config`.
    #[must_use]
    pub fn new(
        sources: Sources,
        config: Config,
        blueprint: Blueprint,
        logs: LogFilter,
        metrics: Arc<ProcessMetrics>,
    ) -> Self {
        let written = watch::Sender::new(config.written.clone());
        let file = sources.file().map(Watched::new);
        Self { sources, config, blueprint, logs, written, metrics, file }
    }

    /// The configuration in force.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<Written> {
        self.written.subscribe()
    }

    /// How long allocations may go on after SIGTERM.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.config.drain_timeout
    }

    /// Whether another process could take over.
    #[must_use]
    pub fn can_be_upgraded(&self) -> bool {
        self.config.upgrade_socket.is_some()
    }

    /// Reads the configuration if its file is another than before.
    pub fn look(&mut self, crew: &Crew) {
        if self.file.as_mut().is_some_and(Watched::has_changed) {
            let _ = self.reload(crew);
        }
    }

    /// Reads the configuration, and goes by it if it is good.
    pub fn reload(&mut self, crew: &Crew) -> Result<Difference, ConfigError> {
        // What is read now need not be read again because of its date.
        if let Some(file) = &mut self.file {
            file.has_changed();
        }
        let result = self.sources.read().and_then(|config| self.follow(crew, config));
        self.metrics.reloaded(result.is_ok(), clock::unix_time().0);
        match &result {
            Ok(difference) => {
                for changed in &difference.changed {
                    info!(changed, "Configuration changed");
                }
                for changed in &difference.needs_restart {
                    warn!(changed, "Configuration changed, but this waits for a restart");
                }
                info!(
                    changed = difference.changed.len(),
                    needs_restart = difference.needs_restart.len(),
                    "Configuration reloaded"
                );
            }
            Err(mistakes) => {
                for mistake in mistakes.mistakes() {
                    error!(mistake, "Configuration is bad, the one before stays in force");
                }
            }
        }
        result
    }

    fn follow(&mut self, crew: &Crew, config: Config) -> Result<Difference, ConfigError> {
        let difference = self.config.written.difference(&config.written);
        if config.log != self.config.log
            && let Err(error) = self.logs.set(&config.log)
        {
            warn!(%error, "The log filter stays as it was");
        }
        if let Some(certificates) = &self.config.secure.certificates
            && let Err(error) = certificates.reload()
        {
            warn!(%error, "New certificates cannot be used; the old ones stay");
        }
        let quota = self.blueprint.follow(&self.config, &config);
        if let Err(error) = crew.follow(|| self.blueprint.rules(), &quota) {
            // It ends the process by itself.
            error!(%error, "A worker did not hear of the new configuration");
        }
        self.config.adopt(config);
        self.written.send_replace(self.config.written.clone());
        Ok(difference)
    }
}

/// A file, and what there is to tell by that it is another.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// Device, inode, length, and when it was written.
type Stamp = (u64, u64, u64, i64, i64);

impl Watched {
    fn new(path: &Path) -> Self {
        let path = path.to_owned();
        let seen = stamp(&path);
        Self { path, seen }
    }

    /// Whether it is another than the last time. One that is away for a moment is being replaced.
    fn has_changed(&mut self) -> bool {
        let Some(now) = stamp(&self.path) else { return false };
        self.seen.replace(now) != Some(now)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_another_when_it_is_written_or_replaced_and_not_while_it_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.toml");
        fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(&path);
        assert!(!watched.has_changed());
        fs::write(&path, "three").unwrap();
        assert!(watched.has_changed() && !watched.has_changed());
        fs::remove_file(&path).unwrap();
        assert!(!watched.has_changed());
        fs::write(folder.path().join("new"), "three").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(watched.has_changed() && !watched.has_changed());
    }
}
