//! What a receiver keeps beside the files, so that a killed transfer goes on where it was: the folder
//! `.farcall-partial` with parts of files, a journal of verified blocks for each, and the list of what is complete.
//!
//! A verified block counts at once as long as the machine runs. After it went down, only what had been written through
//! to the disk by then counts: the journal says which machine's run it is from, and how far it was written through.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use blake3::hazmat::ChainingValue;
use serde::{Deserialize, Serialize};

use super::BLOCK;

/// Below the folder that files are received into.
pub(super) const FOLDER: &str = ".farcall-partial";

/// The notes of one receiver, which has the folder for itself while this lives.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    /// Locked.
    list: File,
    complete: HashMap<String, Complete>,
    boot: String,
}

/// A file that is in its place, although others of its transfer are not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Complete {
    pub(super) key: String,
    pub(super) hash: String,
    /// Where it is: the bytes of the path below the receiver's folder.
    pub(super) place: Vec<u8>,
}

/// Which version of which file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) size: u64,
    pub(super) modified: (i64, u32),
}

/// A file that is not complete.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    pub(super) path: PathBuf,
    journal: File,
    journal_path: PathBuf,
    /// The blocks that were verified before.
    pub(super) verified: Vec<ChainingValue>,
}

impl State {
    /// Opens the notes below `root`. Fails with `WouldBlock` if another receiver has them.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let folder = root.join(FOLDER);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if !fs::symlink_metadata(&folder)?.is_dir() {
            return Err(io::Error::other("the place of the notes is taken by something else"));
        }
        let list = options().append(true).read(true).open(folder.join("complete"))?;
        list.try_lock().map_err(io::Error::from)?;
        let mut complete = HashMap::new();
        for line in BufReader::new(&list).lines() {
            // A line that was cut off is one that was not written.
            if let Ok(known) = serde_json::from_str::<Complete>(&line?) {
                complete.insert(known.key.clone(), known);
            }
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self { folder, list, complete, boot: boot.trim().to_owned() })
    }

    pub(super) fn complete(&self, key: &str) -> Option<&Complete> {
        self.complete.get(key)
    }

    /// Remembers that a file is in its place.
    pub(super) fn note_complete(&mut self, known: Complete) -> io::Result<()> {
        let mut line = serde_json::to_vec(&known)?;
        line.push(b'\n');
        self.list.write_all(&line)?;
        self.complete.insert(known.key.clone(), known);
        Ok(())
    }

    /// The part of a file that is there, shortened to what was verified.
    pub(super) fn partial(&self, place: &str, version: &Version) -> io::Result<Partial> {
        let path = self.folder.join(format!("{place}.part"));
        let journal_path = self.folder.join(format!("{place}.journal"));
        let file = options().truncate(false).open(&path)?;
        let mut journal = options().read(true).truncate(false).open(&journal_path)?;
        let header = Header { version: version.clone(), boot: self.boot.clone() };
        let most = usize::try_from(version.size.saturating_sub(1) / BLOCK as u64).unwrap_or(usize::MAX);
        let mut verified = read(&mut journal, &header).unwrap_or_default();
        verified.truncate(most.min(blocks_in(file.metadata()?.len())));
        file.set_len(verified.len() as u64 * BLOCK as u64)?;
        // Written anew: whatever was behind what counts is gone, and it belongs to this run of the machine.
        journal.set_len(0)?;
        io::Seek::rewind(&mut journal)?;
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        for value in &verified {
            bytes.push(VERIFIED);
            bytes.extend_from_slice(value);
        }
        if !verified.is_empty() {
            file.sync_data()?;
            bytes.push(SYNCED);
        }
        journal.write_all(&bytes)?;
        Ok(Partial { file, path, journal, journal_path, verified })
    }

    /// How much of a file there may be.
    pub(super) fn partial_length(&self, place: &str) -> u64 {
        fs::metadata(self.folder.join(format!("{place}.part"))).map_or(0, |there| there.len())
    }

    /// Forgets everything: all files are in their places.
    pub(super) fn clear(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }
}

impl Partial {
    /// Forgets what was verified.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.verified.clear();
        self.file.set_len(0)?;
        let mut header = String::new();
        io::Seek::rewind(&mut self.journal)?;
        let length = BufReader::new(&self.journal).read_line(&mut header)?;
        self.journal.set_len(length as u64)?;
        io::Seek::seek(&mut self.journal, io::SeekFrom::End(0))?;
        Ok(())
    }

    pub(super) fn note_verified(&mut self, value: &ChainingValue) -> io::Result<()> {
        let mut record = vec![VERIFIED];
        record.extend_from_slice(value);
        self.journal.write_all(&record)
    }

    /// Everything that was noted is on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.journal.write_all(&[SYNCED])?;
        self.journal.sync_data()
    }

    /// The file is in its place.
    pub(super) fn forget(self) -> io::Result<()> {
        fs::remove_file(&self.journal_path)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: Version,
    boot: String,
}

/// The blocks that count.
fn read(journal: &mut File, wanted: &Header) -> Option<Vec<ChainingValue>> {
    let mut reader = BufReader::new(journal);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let header: Header = serde_json::from_str(&line).ok()?;
    if header.version != wanted.version {
        return None;
    }
    let mut verified = Vec::new();
    let mut synced = 0;
    let mut tag = [0];
    while reader.read_exact(&mut tag).is_ok() {
        match tag {
            [VERIFIED] => {
                let mut value = ChainingValue::default();
                if reader.read_exact(&mut value).is_err() {
                    break;
                }
                verified.push(value);
            }
            [SYNCED] => synced = verified.len(),
            _ => break,
        }
    }
    if header.boot.is_empty() || header.boot != wanted.boot {
        verified.truncate(synced);
    }
    Some(verified)
}

fn blocks_in(length: u64) -> usize {
    usize::try_from(length / BLOCK as u64).unwrap_or(usize::MAX)
}

/// Never through a link.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    options.write(true).create(true).mode(0o600).custom_flags(no_follow);
    options
}

const VERIFIED: u8 = b'v';
const SYNCED: u8 = b's';

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version = Version { size: 10 * BLOCK as u64, modified: (5, 6) };

    fn filled(state: &State, blocks: usize, synced_after: usize) {
        let mut partial = state.partial("place", &VERSION).unwrap();
        partial.file.set_len((blocks * BLOCK) as u64).unwrap();
        for block in 0..blocks {
            partial.note_verified(&[u8::try_from(block).unwrap(); 32]).unwrap();
            if block + 1 == synced_after {
                partial.sync().unwrap();
            }
        }
    }

    #[test]
    fn verified_blocks_count_after_a_kill_and_synced_ones_after_a_crash() {
        let root = tempfile::tempdir().unwrap();
        let mut state = State::open(root.path()).unwrap();
        filled(&state, 5, 2);
        assert_eq!(state.partial("place", &VERSION).unwrap().verified.len(), 5);
        // The machine went down: all that was just read was synced by that.
        state.boot = "another run".to_owned();
        assert_eq!(state.partial("place", &VERSION).unwrap().verified.len(), 5);

        let mut crashed = state.partial("place", &VERSION).unwrap();
        crashed.restart().unwrap();
        drop(crashed);
        filled(&state, 5, 2);
        state.boot = "yet another run".to_owned();
        assert_eq!(state.partial("place", &VERSION).unwrap().verified.len(), 2);
    }

    #[test]
    fn another_version_of_the_file_starts_anew() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        filled(&state, 3, 3);
        let other = Version { modified: (5, 7), ..VERSION };
        assert!(state.partial("place", &other).unwrap().verified.is_empty());
    }

    #[test]
    fn a_torn_or_foreign_journal_is_no_harm() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        filled(&state, 3, 1);
        let journal = root.path().join(FOLDER).join("place.journal");
        let bytes = fs::read(&journal).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&journal, &bytes[..cut]).unwrap();
            let partial = state.partial("place", &VERSION).unwrap();
            assert!(partial.verified.len() <= 3);
            partial.file.set_len(3 * BLOCK as u64).unwrap();
        }
        fs::write(&journal, b"{\"version\":{\"size\":1").unwrap();
        assert!(state.partial("place", &VERSION).unwrap().verified.is_empty());
    }

    #[test]
    fn two_receivers_do_not_share_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        assert_eq!(State::open(root.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        state.clear().unwrap();
        assert!(!root.path().join(FOLDER).exists());
    }
}
