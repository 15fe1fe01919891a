//! Both ends in one thread, frame by frame.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use farcall_proto::peer::v1 as proto;
use farcall_proto::peer::v1::transfer_frame::Body;
use tempfile::TempDir;

use super::*;
use crate::failure::{Failure, Reason};

#[test]
fn files_and_folders_arrive_with_their_times_and_modes() {
    let world = World::new();
    world.write("box/deep/odd \n name", b"odd");
    world.write("box/empty", b"");
    world.write("single", &noise(3 * BLOCK + 5));
    fs::create_dir(world.source("box/nothing in it")).unwrap();
    fs::set_permissions(world.source("single"), fs::Permissions::from_mode(0o751)).unwrap();
    let then = UNIX_EPOCH + Duration::new(1_000_000_000, 123);
    for name in ["single", "box"] {
        fs::File::open(world.source(name)).unwrap().set_modified(then).unwrap();
    }
    let notices = world.transfer(&["box", "single"], Collision::Refuse).unwrap();
    for name in ["box/deep/odd \n name", "box/empty", "single"] {
        assert_eq!(fs::read(world.target(name)).unwrap(), fs::read(world.source(name)).unwrap(), "{name}");
    }
    assert!(world.target("box/nothing in it").is_dir());
    let single = fs::metadata(world.target("single")).unwrap();
    assert_eq!((single.modified().unwrap(), single.mode() & 0o777), (then, 0o751));
    assert_eq!(fs::metadata(world.target("box")).unwrap().modified().unwrap(), then);
    assert!(!world.target(state::FOLDER).exists(), "the notes are gone");
    let hash = blake3::hash(&fs::read(world.source("single")).unwrap()).to_hex().to_string();
    let told = |notice: &Notice| matches!(notice, Notice::File { path, hash: h, .. } if path == "single" && *h == hash);
    assert!(notices.iter().any(told), "{notices:?}");
}

#[test]
fn what_arrived_is_never_sent_again() {
    let world = World::new();
    let content = noise(10 * BLOCK + 77);
    world.write("box/a", &noise(1000));
    world.write("box/b", &content);
    world.write("box/c", &noise(500));
    // Both ends die after each number of pieces; whatever was verified stays.
    let mut sent_before = 0;
    for pieces in [1, 7, 20, 3] {
        let (sent, _) = world.until(&["box"], Collision::Refuse, pieces);
        sent_before += sent;
    }
    let notices = world.transfer(&["box"], Collision::Refuse).unwrap();
    let sum = |pick: fn(&Notice) -> u64| notices.iter().map(pick).sum::<u64>();
    let carried = sum(|notice| if let Notice::Carried { bytes } = notice { *bytes } else { 0 });
    let resumed = sum(|notice| if let Notice::Resumed { bytes } = notice { *bytes } else { 0 });
    let whole = 1500 + content.len() as u64;
    assert_eq!(carried + resumed, whole);
    // Each kill costs less than a block.
    assert!(sent_before + carried < whole + 4 * BLOCK as u64, "{sent_before} + {carried} for {whole}");
    assert!(resumed >= 4 * BLOCK as u64, "{resumed}");
    assert_eq!(fs::read(world.target("box/b")).unwrap(), content);
}

#[test]
fn a_source_that_changed_between_two_runs_is_sent_anew() {
    let world = World::new();
    world.write("file", &noise(5 * BLOCK));
    world.until(&["file"], Collision::Refuse, 15);
    let other: Vec<u8> = noise(5 * BLOCK).iter().map(|byte| !byte).collect();
    world.write("file", &other);
    world.transfer(&["file"], Collision::Refuse).unwrap();
    assert_eq!(fs::read(world.target("file")).unwrap(), other);

    // Even if it has the same time and length: its last block tells.
    let world = World::new();
    world.write("file", &noise(5 * BLOCK));
    let modified = fs::metadata(world.source("file")).unwrap().modified().unwrap();
    world.until(&["file"], Collision::Refuse, 15);
    world.write("file", &other);
    fs::File::open(world.source("file")).unwrap().set_modified(modified).unwrap();
    world.transfer(&["file"], Collision::Refuse).unwrap();
    assert_eq!(fs::read(world.target("file")).unwrap(), other);
}

#[test]
fn what_is_there_stays_unless_one_says_otherwise() {
    let world = World::new();
    world.write("file.txt", b"new");
    fs::create_dir_all(&world.root).unwrap();
    fs::write(world.target("file.txt"), b"old").unwrap();
    let failure = world.transfer(&["file.txt"], Collision::Refuse).unwrap_err();
    assert_eq!(failure.reason, Reason::Exists);
    assert_eq!(fs::read(world.target("file.txt")).unwrap(), b"old");
    world.transfer(&["file.txt"], Collision::Rename).unwrap();
    assert_eq!(fs::read(world.target("file.txt")).unwrap(), b"old");
    assert_eq!(fs::read(world.target("file (2).txt")).unwrap(), b"new");
    world.transfer(&["file.txt"], Collision::Replace).unwrap();
    assert_eq!(fs::read(world.target("file.txt")).unwrap(), b"new");
}

#[test]
fn links_do_not_lead_out_of_a_folder_at_either_end() {
    let world = World::new();
    world.write("outside", b"secret");
    world.write("box/inside", b"open");
    symlink(world.source("outside"), world.source("box/out")).unwrap();
    symlink("inside", world.source("box/in")).unwrap();
    symlink("..", world.source("box/up")).unwrap();
    let notices = world.transfer(&["box"], Collision::Refuse).unwrap();
    let skipped = notices.iter().filter(|notice| matches!(notice, Notice::Skipped { .. })).count();
    assert_eq!(skipped, 2);
    assert!(!world.target("box/out").exists() && !world.target("box/up").exists());
    assert_eq!(fs::read(world.target("box/in")).unwrap(), b"open");

    // A link in the receiver's folder is not followed.
    let world = World::new();
    world.write("box/file", b"x");
    fs::create_dir_all(&world.root).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), world.target("box")).unwrap();
    assert_eq!(world.transfer(&["box"], Collision::Replace).unwrap_err().reason, Reason::Exists);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn a_hostile_list_is_refused_before_anything_is_written() {
    let file = |path: &[&str]| proto::ManifestEntry {
        path: path.iter().map(|name| name.as_bytes().to_vec()).collect(),
        kind: proto::EntryKind::File.into(),
        ..Default::default()
    };
    for entries in [
        vec![file(&["..", "x"])],
        vec![file(&["/etc/passwd"])],
        vec![file(&["no folder", "x"])],
        vec![file(&["x"]), file(&["x"])],
        vec![file(&["x"]), file(&["x", "y"])],
        vec![proto::ManifestEntry { kind: 0, ..file(&["x"]) }],
    ] {
        let world = World::new();
        let mut incoming = Incoming::new(&world.root, Collision::Replace);
        let manifest = proto::Manifest { entries: entries.clone(), complete: true };
        let failure = incoming.handle(Body::Manifest(manifest)).unwrap_err();
        assert_eq!(failure.reason, Reason::BadData, "{entries:?}");
        assert!(!world.root.exists());
    }
}

#[test]
fn bytes_that_were_changed_on_the_way_are_noticed() {
    let world = World::new();
    world.write("file", &noise(2 * BLOCK));
    let failure = world
        .run(&["file"], Collision::Refuse, |frame| {
            if let Body::Data(piece) = frame
                && let Some(byte) = piece.first_mut()
            {
                *byte ^= 1;
            }
            true
        })
        .unwrap_err();
    assert_eq!(failure.reason, Reason::BadData);
    assert!(!world.target("file").exists());
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let world = World::new();
    world.write("huge", b"");
    // Sparse: it takes no space here.
    fs::File::options().write(true).open(world.source("huge")).unwrap().set_len(8 << 40).unwrap();
    let failure = world.transfer(&["huge"], Collision::Refuse).unwrap_err();
    assert_eq!(failure.reason, Reason::CannotWrite);
    assert!(failure.message.contains("not enough space"), "{failure}");
}

#[test]
fn where_nothing_can_be_written_the_reason_is_told() {
    let mut world = World::new();
    world.write("file", b"x");
    world.root = PathBuf::from("/proc/nowhere");
    let failure = world.transfer(&["file"], Collision::Refuse).unwrap_err();
    assert_eq!(failure.reason, Reason::CannotWrite);
    let Body::Failure(told) = farewell(&failure) else { panic!("no farewell") };
    assert_eq!(ended_by(&told).reason, Reason::CannotWrite);
    assert_eq!(Outgoing::scan(&[PathBuf::from("/nowhere")]).unwrap_err().reason, Reason::NoInput);
}

#[test]
fn frames_of_the_wrong_side_end_it() {
    let world = World::new();
    world.write("file", b"x");
    let mut outgoing = Outgoing::scan(&[world.source("file")]).unwrap();
    outgoing.start();
    for frame in [
        Body::Data(vec![1]),
        Body::Request(proto::FileRequest { index: 9, ..Default::default() }),
        Body::Request(proto::FileRequest { verified: vec![0; 32], ..Default::default() }),
    ] {
        assert_eq!(outgoing.handle(frame).unwrap_err().reason, Reason::BadData);
    }
    let mut incoming = Incoming::new(&world.root, Collision::Refuse);
    for frame in
        [Body::Data(vec![1]), Body::FileEnd(proto::FileEnd::default()), Body::Received(proto::Received {})]
    {
        assert_eq!(incoming.handle(frame).unwrap_err().reason, Reason::BadData);
    }
    assert!(decode(b"\xff\xff").is_err());
}

/// A folder with things to send, and one to receive into.
struct World {
    folder: TempDir,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("target");
        Self { folder, root }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.folder.path().join("source").join(name)
    }

    fn target(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.source(name);
        fs::create_dir_all(path.parent().unwrap_or_else(|| Path::new(""))).unwrap();
        fs::write(path, content).unwrap();
    }

    fn transfer(&self, names: &[&str], collision: Collision) -> Result<Vec<Notice>, Failure> {
        self.run(names, collision, |_| true)
    }

    /// Stops after so many pieces; returns the bytes that were sent.
    fn until(&self, names: &[&str], collision: Collision, pieces: usize) -> (u64, usize) {
        let (mut bytes, mut seen) = (0, 0);
        self.run(names, collision, |frame| {
            if let Body::Data(piece) = frame {
                bytes += piece.len() as u64;
                seen += 1;
            }
            seen < pieces
        })
        .unwrap();
        (bytes, seen)
    }

    /// Returns what the receiver told. `pass` may change a frame of the sender, or end it all after it.
    fn run(
        &self,
        names: &[&str],
        collision: Collision,
        mut pass: impl FnMut(&mut Body) -> bool,
    ) -> Result<Vec<Notice>, Failure> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.source(name)).collect();
        let mut outgoing = Outgoing::scan(&paths)?;
        let mut incoming = Incoming::new(&self.root, collision);
        let mut notices = Vec::new();
        while let Some(notice) = outgoing.next_notice() {
            if matches!(notice, Notice::Skipped { .. }) {
                notices.push(notice);
            }
        }
        outgoing.start();
        loop {
            let mut idle = true;
            let mut going_on = true;
            if let Some(frame) = outgoing.next_frame()? {
                let mut frame = decode(&encode(frame))?;
                idle = false;
                going_on = pass(&mut frame);
                incoming.handle(frame)?;
            }
            while let Some(frame) = incoming.next_frame()? {
                idle = false;
                assert!(encode(frame.clone()).len() <= 64 << 10);
                outgoing.handle(frame)?;
            }
            while let Some(notice) = incoming.next_notice() {
                notices.push(notice);
            }
            if idle || !going_on {
                assert!(!going_on || (outgoing.is_complete() && incoming.is_complete()), "it stands still");
                return Ok(notices);
            }
        }
    }
}

/// Bytes without a pattern that blocks share.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}
