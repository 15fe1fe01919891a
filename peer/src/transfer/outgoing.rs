//! The sending end: a manifest of what was named, then one file after the other, as the receiver asks for them.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blake3::hazmat::ChainingValue;
use farcall_proto::peer::v1 as proto;
use farcall_proto::peer::v1::EntryKind;
use farcall_proto::peer::v1::transfer_frame::Body;
use prost::Message as _;

use super::tree::{Tree, block_at};
use super::{BLOCK, End, MOST_ENTRIES, Notice, Out, PIECE, ended_by, names, unacceptable};
use crate::failure::{Failure, Reason};

/// What will be sent. It outlives connections; each begins with [`Outgoing::start`].
#[derive(Debug)]
pub(crate) struct Outgoing {
    entries: Vec<Entry>,
    out: Out,
    /// The parts of a request so far.
    asking: Option<(usize, Vec<u8>)>,
    requests: VecDeque<(usize, Vec<ChainingValue>)>,
    current: Option<Reading>,
    /// Files of which something was sent.
    begun: BTreeSet<usize>,
    /// Files that are known to be in their places.
    received: BTreeSet<usize>,
    complete: bool,
}

#[derive(Debug)]
struct Entry {
    source: PathBuf,
    description: proto::ManifestEntry,
}

#[derive(Debug)]
struct Reading {
    index: usize,
    file: File,
    tree: Tree,
}

impl Outgoing {
    /// Lists what is in `paths`. A folder goes with everything in it, under its own name.
    pub(crate) fn scan(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut outgoing = Self {
            entries: Vec::new(),
            out: Out::default(),
            asking: None,
            requests: VecDeque::new(),
            current: None,
            begun: BTreeSet::new(),
            received: BTreeSet::new(),
            complete: false,
        };
        let mut taken = BTreeSet::new();
        for path in paths {
            let unreadable = |error| no_input(path, &error);
            let real = path.canonicalize().map_err(unreadable)?;
            let Some(name) = real.file_name() else {
                return Err(Failure::new(Reason::BadUsage, format!("{} has no name", path.display())));
            };
            // As it was named, unless that says nothing, as `.` does.
            let name = path.file_name().unwrap_or(name).as_bytes().to_vec();
            if !taken.insert(name.clone()) {
                let message = format!("two of the things to send are called {}", names::shown(&[name]));
                return Err(Failure::new(Reason::BadUsage, message));
            }
            outgoing.add(&real, &real, vec![name])?;
        }
        if outgoing.entries.is_empty() {
            return Err(Failure::new(Reason::NoInput, "there is nothing to send"));
        }
        let files = outgoing.files();
        let bytes = outgoing.entries.iter().map(|entry| entry.description.size).sum();
        outgoing.out.notices.push_back(Notice::Begun { files, bytes });
        Ok(outgoing)
    }

    fn add(&mut self, top: &Path, source: &Path, path: Vec<Vec<u8>>) -> Result<(), Failure> {
        let metadata = fs::metadata(source).map_err(|error| no_input(source, &error))?;
        let kind = if metadata.is_file() {
            EntryKind::File
        } else if metadata.is_dir() {
            EntryKind::Folder
        } else {
            self.skip(&path, "it is neither a file nor a folder");
            return Ok(());
        };
        if let Err(failure) = names::safe(&path) {
            self.skip(&path, &failure.message);
            return Ok(());
        }
        if self.entries.len() >= MOST_ENTRIES {
            let message = format!("more than {MOST_ENTRIES} files and folders in one transfer");
            return Err(Failure::new(Reason::BadUsage, message));
        }
        self.entries
            .push(Entry { source: source.to_owned(), description: describe(path.clone(), kind, &metadata) });
        if kind != EntryKind::Folder {
            return Ok(());
        }
        let listed = fs::read_dir(source).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut inside = listed.map_err(|error| no_input(source, &error))?;
        inside.sort_by_key(fs::DirEntry::file_name);
        for entry in inside {
            let mut path = path.clone();
            path.push(entry.file_name().as_bytes().to_vec());
            let source = entry.path();
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if is_link && !leads_to_a_file_in(top, &source) {
                self.skip(&path, "it is a link to a folder, out of the folder, or to nothing");
                continue;
            }
            self.add(top, &source, path)?;
        }
        Ok(())
    }

    fn skip(&mut self, path: &[Vec<u8>], reason: &str) {
        let path = names::shown(path);
        self.out.notices.push_back(Notice::Skipped { path, reason: reason.to_owned() });
    }

    fn files(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.description.kind() == EntryKind::File).count() as u64
    }

    /// A new connection: everything is said again, and the receiver asks for what it lacks.
    pub(crate) fn start(&mut self) {
        self.out.frames.clear();
        self.asking = None;
        self.requests.clear();
        self.current = None;
        let mut part = proto::Manifest::default();
        let mut size = 0;
        for entry in &self.entries {
            let next = entry.description.encoded_len() + FIELD_OVERHEAD;
            if size + next > PIECE {
                self.out.frames.push_back(Body::Manifest(std::mem::take(&mut part)));
                size = 0;
            }
            size += next;
            part.entries.push(entry.description.clone());
        }
        part.complete = true;
        self.out.frames.push_back(Body::Manifest(part));
    }

    /// Opens a file where the receiver wants it from, if what it has is the beginning of it.
    fn begin(&mut self, index: usize, verified: Vec<ChainingValue>) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(index) else { return Ok(()) };
        let unreadable = |error| no_input(&entry.source, &error);
        let mut file = File::open(&entry.source).map_err(unreadable)?;
        unchanged(entry, &file.metadata().map_err(unreadable)?)?;
        // The last of its blocks is compared; that the file is as it was when the others came, its time says.
        if let Some((last, before)) = verified.split_last() {
            let from = before.len() as u64 * BLOCK as u64;
            file.seek(SeekFrom::Start(from)).map_err(unreadable)?;
            let mut block = vec![0; BLOCK];
            file.read_exact(&mut block).map_err(|_| changed(&entry.source))?;
            if block_at(before.len(), &block) != *last {
                self.out.frames.push_back(Body::Restart(proto::Restart { index: index as u64 }));
                return Ok(());
            }
            let bytes = verified.len() as u64 * BLOCK as u64;
            self.out.notices.push_back(Notice::Resumed { bytes });
        }
        self.begun.insert(index);
        self.current = Some(Reading { index, file, tree: Tree::new(verified) });
        Ok(())
    }

    fn end(&mut self, reading: Reading) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(reading.index) else { return Ok(()) };
        let metadata = reading.file.metadata().map_err(|error| no_input(&entry.source, &error))?;
        unchanged(entry, &metadata)?;
        let hash = reading.tree.root().as_bytes().to_vec();
        self.out.frames.push_back(Body::FileEnd(proto::FileEnd { index: reading.index as u64, hash }));
        Ok(())
    }

    fn known(&self, index: u64) -> Result<usize, Failure> {
        let known = usize::try_from(index).ok().filter(|index| {
            self.entries.get(*index).is_some_and(|entry| entry.description.kind() == EntryKind::File)
        });
        known.ok_or_else(|| unacceptable("a request for a file that is not in the list"))
    }
}

impl End for Outgoing {
    fn handle(&mut self, frame: Body) -> Result<(), Failure> {
        match frame {
            Body::Request(request) => {
                let index = self.known(request.index)?;
                let (asked, mut verified) = self.asking.take().unwrap_or_else(|| (index, Vec::new()));
                verified.extend_from_slice(&request.verified);
                let size = self.entries.get(index).map_or(0, |entry| entry.description.size);
                let most = size.saturating_sub(1) / BLOCK as u64 * 32;
                if asked != index || verified.len() as u64 > most || !verified.len().is_multiple_of(32) {
                    return Err(unacceptable("a request that fits no file"));
                }
                if request.more {
                    self.asking = Some((index, verified));
                } else if self.requests.len() >= MOST_REQUESTS {
                    return Err(unacceptable("too many requests at once"));
                } else {
                    let values = verified.chunks_exact(32).filter_map(|value| value.try_into().ok());
                    self.requests.push_back((index, values.collect()));
                }
                Ok(())
            }
            Body::FileReceived(end) => {
                let index = self.known(end.index)?;
                let Some(entry) = self.entries.get(index) else { return Ok(()) };
                let Ok(hash) = <[u8; 32]>::try_from(end.hash.as_slice()) else {
                    return Err(unacceptable("something that is no hash"));
                };
                if !self.received.insert(index) {
                    return Ok(());
                }
                if !self.begun.contains(&index) {
                    self.out.notices.push_back(Notice::Resumed { bytes: entry.description.size });
                }
                self.out.notices.push_back(Notice::File {
                    path: names::shown(&entry.description.path),
                    bytes: entry.description.size,
                    hash: blake3::Hash::from_bytes(hash).to_hex().to_string(),
                });
                Ok(())
            }
            Body::Received(_) => {
                self.complete = true;
                self.out.notices.push_back(Notice::Complete);
                Ok(())
            }
            Body::Failure(failure) => Err(ended_by(&failure)),
            Body::Manifest(_) | Body::Data(_) | Body::BlockEnd(_) | Body::FileEnd(_) | Body::Restart(_) => {
                Err(unacceptable("what only a sender says"))
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Body>, Failure> {
        if let Some(frame) = self.out.frames.pop_front() {
            return Ok(Some(frame));
        }
        let Some(mut reading) = self.current.take() else {
            let Some((index, verified)) = self.requests.pop_front() else { return Ok(None) };
            self.begin(index, verified)?;
            return self.next_frame();
        };
        let Some(entry) = self.entries.get(reading.index) else { return Ok(None) };
        let size = entry.description.size;
        let left = size.saturating_sub(reading.tree.length());
        if left == 0 {
            self.end(reading)?;
            return self.next_frame();
        }
        let want = PIECE.min(reading.tree.room()).min(usize::try_from(left).unwrap_or(PIECE));
        let mut piece = vec![0; want];
        reading.file.read_exact(&mut piece).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                changed(&entry.source)
            } else {
                no_input(&entry.source, &error)
            }
        })?;
        reading.tree.update(&piece);
        if reading.tree.length() == size {
            self.out.frames.push_back(Body::BlockEnd(reading.tree.block().to_vec()));
        } else if reading.tree.room() == 0 {
            self.out.frames.push_back(Body::BlockEnd(reading.tree.end_block().to_vec()));
        }
        self.current = Some(reading);
        self.out.notices.push_back(Notice::Carried { bytes: want as u64 });
        Ok(Some(Body::Data(piece)))
    }

    fn next_notice(&mut self) -> Option<Notice> {
        self.out.notices.pop_front()
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}

fn describe(path: Vec<Vec<u8>>, kind: EntryKind, metadata: &Metadata) -> proto::ManifestEntry {
    proto::ManifestEntry {
        path,
        kind: kind.into(),
        size: if kind == EntryKind::File { metadata.len() } else { 0 },
        mode: metadata.mode() & 0o777,
        modified_seconds: metadata.mtime(),
        modified_nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

fn leads_to_a_file_in(top: &Path, link: &Path) -> bool {
    let target = link.canonicalize();
    target.is_ok_and(|target| target.starts_with(top) && target.is_file())
}

fn unchanged(entry: &Entry, metadata: &Metadata) -> Result<(), Failure> {
    let now = describe(entry.description.path.clone(), EntryKind::File, metadata);
    let same = now.size == entry.description.size
        && now.modified_seconds == entry.description.modified_seconds
        && now.modified_nanoseconds == entry.description.modified_nanoseconds;
    if same { Ok(()) } else { Err(changed(&entry.source)) }
}

fn changed(path: &Path) -> Failure {
    Failure::new(Reason::NoInput, format!("{} changed while it was sent", path.display()))
}

fn no_input(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Reason::NoInput, format!("{}: {error}", path.display()))
}

/// A tag and a length.
const FIELD_OVERHEAD: usize = 8;
/// More than a receiver asks for in advance.
const MOST_REQUESTS: usize = 1024;
