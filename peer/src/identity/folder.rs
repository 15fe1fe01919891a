//! Where a user's files are, and how they are kept: for the user's eyes alone, and never half written.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Identity, KnownPeers};
use crate::failure::{Failure, Reason};

/// The folder of a user's identity and known peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// `$FARCALL_PEER_HOME`, `$XDG_CONFIG_HOME/farcall` or `~/.config/farcall`, whichever is first; nothing where there
    /// is no home.
    #[must_use]
    pub fn of_the_user() -> Option<Self> {
        Self::find(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// This one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn find(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let own = variable("FARCALL_PEER_HOME").map(PathBuf::from);
        let of_the_desktop = || variable("XDG_CONFIG_HOME").map(|folder| Path::new(&folder).join("farcall"));
        let of_the_home = || variable("HOME").map(|home| Path::new(&home).join(".config/farcall"));
        own.or_else(of_the_desktop).or_else(of_the_home).map(Self)
    }

    /// Where the identity is, if there is one.
    #[must_use]
    pub fn identity_file(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// Where the known peers are, if there are any.
    #[must_use]
    pub fn known_peers_file(&self) -> PathBuf {
        self.0.join("known_peers")
    }

    /// The identity, if there is one.
    pub fn identity(&self) -> Result<Option<Identity>, Failure> {
        let file = self.identity_file();
        match fs::read_to_string(&file) {
            Ok(pem) => read(&file, &pem).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("read", &file, &error)),
        }
    }

    /// Makes a new identity. One that is there stays.
    pub fn make_identity(&self) -> Result<Identity, Failure> {
        let (identity, pem) = Identity::generate();
        let file = self.identity_file();
        self.create(&file, &pem).map_err(|error| cannot("write", &file, &error))?;
        Ok(identity)
    }

    /// The peers that were met before.
    pub fn known_peers(&self) -> Result<KnownPeers, Failure> {
        let file = self.known_peers_file();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(cannot("read", &file, &error)),
        };
        KnownPeers::parse(&text)
            .map_err(|error| Failure::new(Reason::BadUsage, format!("{}: {error}", file.display())))
    }

    /// Reads them, changes them and writes them again, while no other process does.
    pub fn change_known_peers<T>(&self, change: impl FnOnce(&mut KnownPeers) -> T) -> Result<T, Failure> {
        let file = self.known_peers_file();
        let lock = self.lock().map_err(|error| cannot("lock", &file, &error))?;
        let mut known = self.known_peers()?;
        let before = known.to_string();
        let result = change(&mut known);
        let after = known.to_string();
        if before != after {
            self.replace(&file, &after).map_err(|error| cannot("write", &file, &error))?;
        }
        drop(lock);
        Ok(result)
    }

    fn ensure(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    fn create(&self, file: &Path, text: &str) -> io::Result<()> {
        self.ensure()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn replace(&self, file: &Path, text: &str) -> io::Result<()> {
        let beside = self.0.join(format!(".known_peers.{}", std::process::id()));
        let _ = fs::remove_file(&beside);
        self.create(&beside, text)?;
        fs::rename(&beside, file)
    }

    /// Held until it is dropped.
    fn lock(&self) -> io::Result<fs::File> {
        self.ensure()?;
        let path = self.0.join(".lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(path)?;
        file.lock()?;
        Ok(file)
    }
}

/// The identity in a file that the user names. It must be there, and be nobody else's.
pub(super) fn read(file: &Path, pem: &str) -> Result<Identity, Failure> {
    let bad = |why: String| Failure::new(Reason::BadUsage, format!("{}: {why}", file.display()));
    let mode = fs::metadata(file).map_err(|error| cannot("read", file, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        let name = file.display();
        return Err(bad(format!("others may read this private key: chmod 600 {name}")));
    }
    Identity::from_pem(pem).map_err(|error| bad(error.to_string()))
}

impl Identity {
    /// The one in a file, which nobody but its owner may be able to read.
    pub fn from_file(file: &Path) -> Result<Self, Failure> {
        let pem = fs::read_to_string(file).map_err(|error| cannot("read", file, &error))?;
        read(file, &pem)
    }
}

fn cannot(verb: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::new(Reason::BadUsage, format!("cannot {verb} {}: {error}", file.display()))
}

const PRIVATE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_first_that_is_named() {
        let find = |names: &[&str]| {
            Folder::find(|name| names.contains(&name).then(|| format!("/{name}").into()))
                .map(|folder| folder.0.display().to_string())
        };
        let all = ["FARCALL_PEER_HOME", "XDG_CONFIG_HOME", "HOME"];
        assert_eq!(find(&all).as_deref(), Some("/FARCALL_PEER_HOME"));
        assert_eq!(find(&all[1..]).as_deref(), Some("/XDG_CONFIG_HOME/farcall"));
        assert_eq!(find(&all[2..]).as_deref(), Some("/HOME/.config/farcall"));
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn an_identity_is_made_once_and_is_for_its_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().join("a/b"));
        assert!(folder.identity().unwrap().is_none());
        let made = folder.make_identity().unwrap().public_key();
        assert_eq!(folder.identity().unwrap().unwrap().public_key(), made);
        assert!(folder.make_identity().is_err());
        let file = folder.identity_file();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = folder.identity().unwrap_err();
        assert!(refused.message.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn known_peers_survive_and_many_may_write_at_once() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path());
        let keys: Vec<_> = (0..8).map(|_| Identity::generate().0.public_key()).collect();
        std::thread::scope(|scope| {
            for (number, key) in keys.iter().enumerate() {
                let folder = &folder;
                scope.spawn(move || {
                    let room = format!("room {number}");
                    folder.change_known_peers(|known| known.remember("server", &room, *key)).unwrap();
                });
            }
        });
        let known = folder.known_peers().unwrap();
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(known.key_of("server", &format!("room {number}")), Some(*key));
        }
    }
}
