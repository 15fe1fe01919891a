//! The receiving end: refuses what it must before anything is written, asks for one file after the other from where
//! it has verified bytes, and puts each into its place when its hash is right.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farcall_proto::peer::v1 as proto;
use farcall_proto::peer::v1::EntryKind;
use farcall_proto::peer::v1::transfer_frame::Body;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};

use super::state::{Complete, Partial, State, Version};
use super::tree::Tree;
use super::{BLOCK, End, MOST_ENTRIES, Notice, Out, PIECE, ended_by, names, unacceptable};
use crate::failure::{Failure, Reason};

/// What to do where something is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collision {
    /// Nothing is transferred.
    Refuse,
    /// The file that is there goes.
    Replace,
    /// The new file gets a number.
    Rename,
}

/// One transfer over one connection.
#[derive(Debug)]
pub(crate) struct Incoming {
    root: PathBuf,
    collision: Collision,
    entries: Vec<Entry>,
    /// None until the whole list is there.
    state: Option<State>,
    /// Not asked for yet.
    missing: VecDeque<usize>,
    /// In the order in which they will come.
    asked: VecDeque<Asked>,
    out: Out,
    complete: bool,
}

#[derive(Debug)]
struct Entry {
    place: PathBuf,
    kind: EntryKind,
    version: Version,
    mode: u32,
}

#[derive(Debug)]
struct Asked {
    index: usize,
    partial: Partial,
    tree: Tree,
    unsynced: usize,
}

impl Incoming {
    pub(crate) fn new(root: &Path, collision: Collision) -> Self {
        Self {
            root: root.to_owned(),
            collision,
            entries: Vec::new(),
            state: None,
            missing: VecDeque::new(),
            asked: VecDeque::new(),
            out: Out::default(),
            complete: false,
        }
    }

    fn add(&mut self, entry: &proto::ManifestEntry) -> Result<(), Failure> {
        let place = names::safe(&entry.path)?;
        let kind = match entry.kind() {
            EntryKind::Unspecified => return Err(unacceptable("something that is neither file nor folder")),
            kind @ (EntryKind::File | EntryKind::Folder) => kind,
        };
        if self.entries.len() >= MOST_ENTRIES {
            return Err(unacceptable("too long a list"));
        }
        let version = Version {
            size: entry.size,
            modified: (entry.modified_seconds, entry.modified_nanoseconds.min(NANOSECONDS - 1)),
        };
        self.entries.push(Entry { place, kind, version, mode: entry.mode & 0o777 });
        Ok(())
    }

    /// The list is complete: checks it against what is here, then asks for the first files.
    fn begin(&mut self) -> Result<(), Failure> {
        self.check_structure()?;
        fs::create_dir_all(&self.root).map_err(|error| cannot_write(&self.root, &error))?;
        let opened = State::open(&self.root);
        let mut state = opened.map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                Failure::new(
                    Reason::Exists,
                    format!("another transfer into {} is going on", self.root.display()),
                )
            } else {
                cannot_write(&self.root, &error)
            }
        })?;
        let (files, bytes) = self.files().fold((0, 0u64), |(files, bytes), (_, entry)| {
            (files + 1, bytes.saturating_add(entry.version.size))
        });
        self.out.notices.push_back(Notice::Begun { files, bytes });
        let missing = self.check_places(&state)?;
        self.check_space(&state, &missing)?;
        self.make_folders(&mut state)?;
        self.state = Some(state);
        self.missing = missing;
        self.ask()
    }

    /// Every path once, and below folders that the list names before.
    fn check_structure(&self) -> Result<(), Failure> {
        let mut folders = BTreeSet::from([Path::new("")]);
        let mut all = BTreeSet::new();
        for entry in &self.entries {
            let parent = entry.place.parent().unwrap_or_else(|| Path::new(""));
            if !folders.contains(parent) || !all.insert(entry.place.as_path()) {
                return Err(unacceptable("a list in which a path is twice, or below no folder"));
            }
            if entry.kind == EntryKind::Folder {
                folders.insert(&entry.place);
            }
        }
        Ok(())
    }

    /// Which files are missing. Refuses all if one may not be where it should.
    fn check_places(&mut self, state: &State) -> Result<VecDeque<usize>, Failure> {
        let mut missing = VecDeque::new();
        let mut conflicts = Vec::new();
        let mut known = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let there = fs::symlink_metadata(self.root.join(&entry.place));
            if entry.kind == EntryKind::Folder {
                if there.is_ok_and(|there| !there.is_dir()) {
                    conflicts.push(&entry.place);
                }
            } else if let Some(complete) = state.complete(&entry.key())
                && self.is_in_place(entry, complete)
            {
                known.push((index, complete.hash.clone()));
            } else {
                if there.is_ok_and(|there| there.is_dir() || self.collision == Collision::Refuse) {
                    conflicts.push(&entry.place);
                }
                missing.push_back(index);
            }
        }
        if !conflicts.is_empty() {
            let shown: Vec<_> = conflicts.iter().take(3).map(|place| place.display().to_string()).collect();
            let more = if conflicts.len() > shown.len() {
                format!(" and {} more", conflicts.len() - shown.len())
            } else {
                String::new()
            };
            let message = format!("{}{more} exist already, and nothing was transferred", shown.join(", "));
            return Err(Failure::new(Reason::Exists, message));
        }
        for (index, hash) in known {
            let Some(entry) = self.entries.get(index) else { continue };
            self.out.notices.push_back(Notice::Resumed { bytes: entry.version.size });
            if let Ok(hash) = blake3::Hash::from_hex(&hash) {
                self.out.frames.push_back(received(index, &hash));
            }
        }
        Ok(missing)
    }

    fn is_in_place(&self, entry: &Entry, complete: &Complete) -> bool {
        let place = self.root.join(OsStr::from_bytes(&complete.place));
        fs::symlink_metadata(place).is_ok_and(|there| there.is_file() && there.len() == entry.version.size)
    }

    /// Better now than after an hour.
    fn check_space(&self, state: &State, missing: &VecDeque<usize>) -> Result<(), Failure> {
        let left = |index: &usize| {
            let entry = self.entries.get(*index)?;
            Some(entry.version.size.saturating_sub(state.partial_length(&entry.part())))
        };
        let needed = missing.iter().filter_map(left).fold(0, u64::saturating_add);
        // Where the file system does not tell, the writes will.
        let Ok(disk) = statvfs(&self.root) else { return Ok(()) };
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed > available {
            let message = format!(
                "{}: not enough space, {needed} bytes are missing there and {available} available",
                self.root.display()
            );
            return Err(Failure::new(Reason::CannotWrite, message));
        }
        Ok(())
    }

    fn make_folders(&self, state: &mut State) -> Result<(), Failure> {
        for entry in self.entries.iter().filter(|entry| entry.kind == EntryKind::Folder) {
            let folder = self.root.join(&entry.place);
            let made = match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => Err(error),
                // Its mode and time are set at the end, by whoever is there then.
                Ok(()) => state.note_complete(entry.complete(String::new(), &entry.place)),
            };
            made.map_err(|error| cannot_write(&folder, &error))?;
        }
        Ok(())
    }

    /// Asks ahead, so that no round trip is lost between files; or ends, if there is nothing to ask for.
    fn ask(&mut self) -> Result<(), Failure> {
        while self.asked.len() < AHEAD {
            let Some(index) = self.missing.pop_front() else { break };
            let (Some(entry), Some(state)) = (self.entries.get(index), &self.state) else { continue };
            let partial = state.partial(&entry.part(), &entry.version);
            let partial = partial.map_err(|error| cannot_write(&self.root.join(&entry.place), &error))?;
            self.ask_for(index, partial);
        }
        if self.asked.is_empty() {
            self.finish()?;
        }
        Ok(())
    }

    fn ask_for(&mut self, index: usize, partial: Partial) {
        let verified = partial.verified.concat();
        if !verified.is_empty() {
            let bytes = partial.verified.len() as u64 * BLOCK as u64;
            self.out.notices.push_back(Notice::Resumed { bytes });
        }
        let request = |verified: &[u8], more| {
            Body::Request(proto::FileRequest { index: index as u64, verified: verified.to_vec(), more })
        };
        let mut parts: Vec<Body> = verified.chunks(PIECE / 32 * 32).map(|part| request(part, true)).collect();
        if let Some(Body::Request(last)) = parts.last_mut() {
            last.more = false;
        } else {
            parts.push(request(&[], false));
        }
        self.out.frames.extend(parts);
        let tree = Tree::new(partial.verified.clone());
        self.asked.push_back(Asked { index, partial, tree, unsynced: 0 });
    }

    /// The file that comes now, and what is known of it.
    fn current(&mut self) -> Result<(&mut Asked, &Entry), Failure> {
        let asked = self.asked.front_mut().ok_or_else(|| unacceptable("what was not asked for"))?;
        let entry = self.entries.get(asked.index).ok_or_else(|| unacceptable("what was not asked for"))?;
        Ok((asked, entry))
    }

    fn data(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let (asked, entry) = self.current()?;
        let after = asked.tree.length() + piece.len() as u64;
        if piece.len() > asked.tree.room() || after > entry.version.size {
            return Err(unacceptable("more than the file has"));
        }
        if asked.tree.length() == asked.partial.verified.len() as u64 * BLOCK as u64 {
            let seek = io::Seek::seek(&mut asked.partial.file, io::SeekFrom::Start(asked.tree.length()));
            seek.map_err(|error| cannot_write(&entry.place, &error))?;
        }
        asked.partial.file.write_all(piece).map_err(|error| cannot_write(&entry.place, &error))?;
        asked.tree.update(piece);
        self.out.notices.push_back(Notice::Carried { bytes: piece.len() as u64 });
        Ok(())
    }

    fn block_end(&mut self, value: &[u8]) -> Result<(), Failure> {
        let (asked, entry) = self.current()?;
        let last = asked.tree.length() == entry.version.size;
        if asked.tree.block().as_slice() != value || !(last || asked.tree.room() == 0) {
            return Err(wrong_hash(&entry.place));
        }
        if !last {
            let value = asked.tree.end_block();
            asked.unsynced += 1;
            let noted = asked.partial.note_verified(&value).and_then(|()| {
                if asked.unsynced < SYNC_AFTER {
                    return Ok(());
                }
                asked.unsynced = 0;
                asked.partial.sync()
            });
            noted.map_err(|error| cannot_write(&entry.place, &error))?;
        }
        Ok(())
    }

    fn file_end(&mut self, end: &proto::FileEnd) -> Result<(), Failure> {
        let (asked, entry) = self.current()?;
        if asked.index as u64 != end.index || asked.tree.length() != entry.version.size {
            return Err(unacceptable("a file that is not whole"));
        }
        let Some(Asked { index, partial, tree, .. }) = self.asked.pop_front() else { return Ok(()) };
        let hash = tree.root();
        let (Some(entry), Some(state)) = (self.entries.get(index), &mut self.state) else { return Ok(()) };
        // Comparing in constant time is of no use here, and does no harm.
        if hash.as_bytes().as_slice() != end.hash.as_slice() {
            return Err(wrong_hash(&entry.place));
        }
        let placed = put_in_place(&self.root, entry, &partial, self.collision);
        let place = placed.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                Failure::new(Reason::Exists, format!("{} exists already", entry.place.display()))
            } else {
                cannot_write(&self.root.join(&entry.place), &error)
            }
        })?;
        let noted = state.note_complete(entry.complete(hash.to_hex().to_string(), &place));
        noted.and_then(|()| partial.forget()).map_err(|error| cannot_write(&place, &error))?;
        self.out.notices.push_back(Notice::File {
            path: place.display().to_string(),
            bytes: entry.version.size,
            hash: hash.to_hex().to_string(),
        });
        self.out.frames.push_back(received(index, &hash));
        self.ask()
    }

    /// The sender's file does not begin with what is here.
    fn restart(&mut self, index: u64) -> Result<(), Failure> {
        let (asked, entry) = self.current()?;
        if asked.index as u64 != index || asked.partial.verified.is_empty() {
            return Err(unacceptable("a new beginning for what has none"));
        }
        asked.partial.restart().map_err(|error| cannot_write(&entry.place, &error))?;
        if let Some(Asked { index, partial, .. }) = self.asked.pop_front() {
            self.ask_for(index, partial);
        }
        Ok(())
    }

    /// Everything is there: times and modes of folders, innermost first, since files in them change them.
    fn finish(&mut self) -> Result<(), Failure> {
        let Some(state) = self.state.take() else { return Ok(()) };
        for entry in self.entries.iter().rev().filter(|entry| entry.kind == EntryKind::Folder) {
            let folder = self.root.join(&entry.place);
            let dressed = fs::File::open(&folder).and_then(|opened| {
                if state.complete(&entry.key()).is_some() {
                    // Whoever received it may always look into it.
                    opened.set_permissions(Permissions::from_mode(entry.mode | 0o700))?;
                    opened.set_times(entry.times())?;
                }
                opened.sync_all()
            });
            dressed.map_err(|error| cannot_write(&folder, &error))?;
        }
        let cleared = state.clear().and_then(|()| fs::File::open(&self.root)?.sync_all());
        cleared.map_err(|error| cannot_write(&self.root, &error))?;
        self.out.frames.push_back(Body::Received(proto::Received {}));
        self.out.notices.push_back(Notice::Complete);
        self.complete = true;
        Ok(())
    }

    fn files(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.kind == EntryKind::File)
    }
}

impl End for Incoming {
    fn handle(&mut self, frame: Body) -> Result<(), Failure> {
        match frame {
            Body::Manifest(part) if self.state.is_none() => {
                for entry in part.entries {
                    self.add(&entry)?;
                }
                if part.complete { self.begin() } else { Ok(()) }
            }
            Body::Data(piece) => self.data(&piece),
            Body::BlockEnd(value) => self.block_end(&value),
            Body::FileEnd(end) => self.file_end(&end),
            Body::Restart(restart) => self.restart(restart.index),
            Body::Failure(failure) => Err(ended_by(&failure)),
            Body::Manifest(_) | Body::Request(_) | Body::FileReceived(_) | Body::Received(_) => {
                Err(unacceptable("what only a receiver says, or a second list"))
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Body>, Failure> {
        Ok(self.out.frames.pop_front())
    }

    fn next_notice(&mut self) -> Option<Notice> {
        self.out.notices.pop_front()
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Entry {
    /// Of this version of this file.
    fn key(&self) -> String {
        let (seconds, nanoseconds) = self.version.modified;
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.place.as_os_str().as_bytes()).update(&[0]);
        hasher.update(&self.version.size.to_le_bytes()).update(&seconds.to_le_bytes());
        hasher.update(&nanoseconds.to_le_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// What its part is called, whichever version it is.
    fn part(&self) -> String {
        blake3::hash(self.place.as_os_str().as_bytes()).to_hex().chars().take(32).collect()
    }

    fn complete(&self, hash: String, place: &Path) -> Complete {
        Complete { key: self.key(), hash, place: place.as_os_str().as_bytes().to_vec() }
    }

    fn times(&self) -> FileTimes {
        FileTimes::new().set_modified(time(self.version.modified))
    }
}

/// Writes it through to the disk, and gives it its name. Returns the name, below `root`.
fn put_in_place(root: &Path, entry: &Entry, partial: &Partial, collision: Collision) -> io::Result<PathBuf> {
    partial.file.set_permissions(Permissions::from_mode(entry.mode))?;
    partial.file.set_times(entry.times())?;
    partial.file.sync_all()?;
    if collision == Collision::Replace {
        fs::rename(&partial.path, root.join(&entry.place))?;
        return Ok(entry.place.clone());
    }
    let mut place = entry.place.clone();
    for number in 2..MOST_NAMES {
        match rename_to_nothing(&partial.path, &root.join(&place)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && collision == Collision::Rename => {
                place = numbered(&entry.place, number);
            }
            Err(error) => return Err(error),
            Ok(()) => return Ok(place),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Never replaces anything, not even what appears at this moment.
fn rename_to_nothing(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot: a second name, then one less.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        result => result.map_err(io::Error::from),
    }
}

/// `a.tar` as `a (2).tar`.
fn numbered(place: &Path, number: u32) -> PathBuf {
    let mut name = place.file_stem().unwrap_or_default().to_owned();
    name.push(format!(" ({number})"));
    if let Some(extension) = place.extension() {
        name.push(".");
        name.push(extension);
    }
    place.with_file_name(name)
}

fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

fn received(index: usize, hash: &blake3::Hash) -> Body {
    Body::FileReceived(proto::FileEnd { index: index as u64, hash: hash.as_bytes().to_vec() })
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Reason::CannotWrite, format!("{}: {error}", path.display()))
}

fn wrong_hash(path: &Path) -> Failure {
    Failure::new(
        Reason::BadData,
        format!("{}: what came has another hash than what was sent", path.display()),
    )
}

const NANOSECONDS: u32 = 1_000_000_000;
/// Files asked for at a time.
const AHEAD: usize = 16;
/// Blocks between two times that a file is written through: 32 MiB.
const SYNC_AFTER: usize = 128;
const MOST_NAMES: u32 = 10_000;
