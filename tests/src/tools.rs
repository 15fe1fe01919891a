//! Programs of others that scenarios lean on: which they are, and whether they are there.

use std::fmt;
use std::path::{Path, PathBuf};

/// A program that the machine must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Reads what a peer recorded (Debian: `ffmpeg`).
    Ffprobe,
    /// Makes clips to send (Debian: `ffmpeg`).
    Ffmpeg,
    /// Drives a TURN server (Debian: `coturn`).
    TurnClient,
    /// Asks a STUN server (Debian: `coturn`).
    StunClient,
    /// Asks a STUN server about the NAT in front of us (Debian: `coturn`).
    NatDiscovery,
    /// Another TURN server (Debian: `coturn`).
    TurnServer,
    /// The browser (Debian: `chromium`).
    Chromium,
    /// Drives it (Debian: `chromium-driver`).
    ChromeDriver,
    /// Keeps the sessions of several signaling servers (Debian: `redis-server`).
    Redis,
    /// Records packets (Debian: `tcpdump`).
    Tcpdump,
}

impl Tool {
    /// The name of its executable.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ffprobe => "ffprobe",
            Self::Ffmpeg => "ffmpeg",
            Self::TurnClient => "turnutils_uclient",
            Self::StunClient => "turnutils_stunclient",
            Self::NatDiscovery => "turnutils_natdiscovery",
            Self::TurnServer => "turnserver",
            Self::Chromium => "chromium",
            Self::ChromeDriver => "chromedriver",
            Self::Redis => "redis-server",
            Self::Tcpdump => "tcpdump",
        }
    }

    /// Whether it is on the search path.
    #[must_use]
    pub fn is_there(self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        find(self.program(), std::env::split_paths(&path)).is_some()
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

fn find(program: &str, path: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    path.map(|folder| folder.join(program)).find(|candidate| Path::is_file(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_found_in_the_folder_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = || [PathBuf::from("/nowhere"), folder.path().to_owned()].into_iter();
        assert_eq!(find("ffprobe", path()), None);
        std::fs::write(folder.path().join("ffprobe"), "").unwrap();
        assert_eq!(find("ffprobe", path()), Some(folder.path().join("ffprobe")));
    }
}
