//! `send` and `receive`.

use std::fs;
use std::path::Path;

use super::super::{Peer, Service};

#[tokio::test]
async fn folders_with_odd_names_and_a_large_file_arrive_whole() {
    let (service, folder) = (Service::start(2).await, tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("box/sub folder/empty")).unwrap();
    let large = noise(64 << 20);
    fs::write(at("large"), &large).unwrap();
    for name in ["box/-rf", "box/ünï\ncode", "box/sub folder/...", "box/zero"] {
        fs::write(at(name), if name.ends_with("zero") { "" } else { name }).unwrap();
    }
    let target = at("target");
    let mut receiver = Peer::spawn(&service, &["receive", "--key", "room", "--to", target.to_str().unwrap()]);
    let mut sender = Peer::spawn(
        &service,
        &["send", "--key", "room", at("box").to_str().unwrap(), at("large").to_str().unwrap()],
    );
    for peer in [&mut sender, &mut receiver] {
        let file = peer.until("file", |file| file["path"] == "large").await;
        assert_eq!(file["blake3"], blake3::hash(&large).to_hex().to_string());
        let done = peer.until("transferred", |_| true).await;
        assert_eq!((done["files"].as_u64(), done["resumed_bytes"].as_u64()), (Some(5), Some(0)));
        assert_eq!(peer.exit_code().await, 0);
    }
    assert!(fs::read(target.join("large")).unwrap() == large);
    for name in ["box/-rf", "box/ünï\ncode", "box/sub folder/...", "box/zero"] {
        assert_eq!(fs::read(target.join(name)).unwrap(), fs::read(at(name)).unwrap());
    }
    assert!(target.join("box/sub folder/empty").is_dir());
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2, "nothing but what was sent");
}

#[tokio::test]
async fn a_killed_receiver_and_a_killed_sender_go_on_where_they_were() {
    let (service, folder) = (Service::start(2).await, tempfile::tempdir().unwrap());
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    let content = noise(192 << 20);
    fs::write(&source, &content).unwrap();
    let total = content.len() as u64;
    let receive = ["receive", "--key", "room", "--to", target.to_str().unwrap()];
    let send = ["send", "--key", "room", source.to_str().unwrap()];

    let mut receiver = Peer::spawn(&service, &receive);
    let mut sender = Peer::spawn(&service, &send);
    let far = |part: u64| move |event: &serde_json::Value| event["bytes"].as_u64() > Some(total / 100 * part);
    receiver.until("progress", far(10)).await;
    receiver.kill().await;
    let arrived = verified(&target);
    assert!(arrived > 0);
    // A server would find out by itself.
    service.remove_the_absent().await;
    let mut receiver = Peer::spawn(&service, &receive);
    receiver.until("transfer_begun", |_| true).await;
    receiver.until("progress", far(40)).await;
    sender.kill().await;
    service.remove_the_absent().await;
    let mut sender = Peer::spawn(&service, &send);
    let sent = sender.until("transferred", |_| true).await;
    let received = receiver.until("transferred", |_| true).await;
    assert_eq!((sender.exit_code().await, receiver.exit_code().await), (0, 0));
    assert!(fs::read(target.join("source")).unwrap() == content);
    // What was there before this sender began, it did not send.
    let number = |event: &serde_json::Value, name: &str| event[name].as_u64().unwrap();
    assert_eq!(number(&sent, "carried_bytes") + number(&sent, "resumed_bytes"), total);
    assert!(number(&sent, "resumed_bytes") >= arrived.max(total / 100 * 40 - (1 << 20)), "{sent}");
    // The receiver that was not killed counts both of its connections: what was on its way is all that came twice.
    assert!(number(&received, "resumed_bytes") >= arrived, "{received}");
    assert!(number(&received, "carried_bytes") <= total - arrived + (256 << 10), "{received}, {arrived}");
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_to_both() {
    let (service, folder) = (Service::start(2).await, tempfile::tempdir().unwrap());
    let (source, target) = (folder.path().join("file"), folder.path().join("target"));
    fs::write(&source, "new").unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("file"), "old").unwrap();
    for (to, reason, code) in
        [(target.as_path(), "EXISTS", 73), (Path::new("/proc/nowhere"), "CANNOT_WRITE", 74)]
    {
        let mut receiver = Peer::spawn(&service, &["receive", "--key", "room", "--to", to.to_str().unwrap()]);
        let mut sender = Peer::spawn(&service, &["send", "--key", "room", source.to_str().unwrap()]);
        for peer in [&mut receiver, &mut sender] {
            let error = peer.until("error", |_| true).await;
            assert_eq!(error["reason"], reason, "{error}");
            assert_eq!(peer.exit_code().await, code);
        }
    }
    assert_eq!(fs::read(target.join("file")).unwrap(), b"old");
    let mut receiver =
        Peer::spawn(&service, &["receive", "--key", "room", "--overwrite", "--to", target.to_str().unwrap()]);
    let mut sender = Peer::spawn(&service, &["send", "--key", "room", source.to_str().unwrap()]);
    assert_eq!((sender.exit_code().await, receiver.exit_code().await), (0, 0));
    assert_eq!(fs::read(target.join("file")).unwrap(), b"new");
    let mut nothing = Peer::spawn(&service, &["send", "--key", "room", "/nowhere"]);
    assert_eq!(nothing.until("error", |_| true).await["reason"], "NO_INPUT");
    assert_eq!(nothing.exit_code().await, 66);
}

#[tokio::test]
async fn who_keeps_receiving_takes_what_several_bring_and_outlives_what_it_refuses() {
    let (service, folder) = (Service::start(2).await, tempfile::tempdir().unwrap());
    let (source, target) = (folder.path().join("file"), folder.path().join("target"));
    let to = target.to_str().unwrap();
    let mut receiver = Peer::spawn(&service, &["receive", "--key", "room", "--keep", "--to", to]);
    let send = ["send", "--key", "room", source.to_str().unwrap()];
    fs::write(&source, "first").unwrap();
    assert_eq!(Peer::spawn(&service, &send).exit_code().await, 0);
    receiver.until("transferred", |_| true).await;
    // The same name once more may not be replaced: told to both, and no reason to go.
    fs::write(&source, "second").unwrap();
    assert_eq!(Peer::spawn(&service, &send).exit_code().await, 73);
    let refused = receiver.until("warning", |_| true).await;
    assert!(refused["message"].as_str().unwrap().contains("exist already"), "{refused}");
    assert_eq!(fs::read(target.join("file")).unwrap(), b"first");
    fs::rename(&source, folder.path().join("third")).unwrap();
    let third = folder.path().join("third");
    assert_eq!(
        Peer::spawn(&service, &["send", "--key", "room", third.to_str().unwrap()]).exit_code().await,
        0
    );
    let done = receiver.until("transferred", |_| true).await;
    assert_eq!((done["files"].as_u64(), done["bytes"].as_u64()), (Some(1), Some(6)), "each counts by itself");
    assert_eq!(fs::read(target.join("third")).unwrap(), b"second");
    receiver.terminate();
    receiver.until("ended", |_| true).await;
    assert_eq!(receiver.exit_code().await, 0);
}

/// Bytes that a killed receiver has noted as verified.
fn verified(target: &Path) -> u64 {
    let mut notes = fs::read_dir(target.join(".farcall-partial")).unwrap().map(|entry| entry.unwrap().path());
    let journal =
        notes.find(|path| path.extension().is_some_and(|extension| extension == "journal")).unwrap();
    let bytes = fs::read(journal).unwrap();
    let records = bytes.splitn(2, |byte| *byte == b'\n').nth(1).unwrap();
    let (mut rest, mut blocks) = (records, 0);
    while let Some((tag, after)) = rest.split_first() {
        rest = if *tag == b'v' && after.len() >= 32 {
            blocks += 1;
            &after[32..]
        } else {
            after
        };
    }
    blocks * (256 << 10)
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}
