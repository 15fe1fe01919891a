//! Who talks to whom: identities, those known from before, and codes.

use std::path::Path;

use super::{Peer, Service};

const QUIET: [&str; 4] = ["--video", "none", "--audio", "none"];

/// The public key of whoever lives in this folder.
async fn key_of(home: &Path) -> String {
    let mut peer = Peer::spawn_as(home, "http://unused.invalid", &["identity"]);
    let own = peer.until("own_identity", |_| true).await;
    assert_eq!(peer.exit_code().await, 0);
    own["key"].as_str().unwrap().to_owned()
}

fn call<'a>(room: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["call", room], &QUIET[..], more].concat()
}

#[tokio::test]
async fn an_identity_is_made_once_and_is_the_same_from_then_on() {
    let home = tempfile::tempdir().unwrap();
    let key = key_of(home.path()).await;
    assert!(key.starts_with("ed25519:") && key.len() == 51, "{key}");
    assert_eq!(key_of(home.path()).await, key);
    let mut unreadable = Peer::spawn_at("http://unused.invalid", &["call", "room", "--identity", "/nowhere"]);
    assert_eq!(unreadable.until("error", |_| true).await["reason"], "BAD_USAGE");
}

#[tokio::test]
async fn two_who_trust_each_other_meet_and_a_stranger_is_refused() {
    let service = Service::start(2).await;
    let homes = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
    let [alice, bob, mallory] = homes.each_ref().map(tempfile::TempDir::path);
    let (alices, bobs) = (key_of(alice).await, key_of(bob).await);
    key_of(mallory).await;

    let mut early = Peer::spawn_as(alice, service.url(), &call("room", &["--trust", &bobs]));
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn_as(bob, service.url(), &call("room", &["--trust", &alices]));
    for (peer, key) in [(&mut early, &bobs), (&mut late, &alices)] {
        let identity = peer.until("identity", |_| true).await;
        assert_eq!(
            (identity["key"].as_str(), &identity["standing"]),
            (Some(key.as_str()), &"trusted".into())
        );
        peer.until("connected", |_| true).await;
    }

    for stranger in [mallory, Path::new("/nonexistent")] {
        let mut early = Peer::spawn_as(alice, service.url(), &call("other", &["--trust", &bobs]));
        early.until("status", |event| event["status"] == "Waiting").await;
        let mut late = Peer::spawn_as(stranger, service.url(), &call("other", &[]));
        late.say("let me in").await;
        for peer in [&mut early, &mut late] {
            assert_eq!(peer.until("error", |_| true).await["reason"], "UNTRUSTED");
            assert_eq!(peer.exit_code().await, 77);
        }
        let used =
            early.seen.iter().any(|line| line.contains("\"text\"") || line.contains("\"channel_open\""));
        assert!(!used, "{:#?}", early.seen);
    }
}

#[tokio::test]
async fn whoever_was_met_first_in_a_room_is_expected_there_until_forgotten() {
    let service = Service::start(2).await;
    let homes = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
    let [alice, bob, mallory] = homes.each_ref().map(tempfile::TempDir::path);
    for home in [alice, bob, mallory] {
        key_of(home).await;
    }
    for (other, standing) in [(bob, Some("new")), (bob, Some("known")), (mallory, None)] {
        let mut early = Peer::spawn_as(alice, service.url(), &call("a room", &[]));
        early.until("status", |event| event["status"] == "Waiting").await;
        let mut late = Peer::spawn_as(other, service.url(), &call("a room", &["--trust", "anybody"]));
        let Some(standing) = standing else {
            let error = early.until("error", |_| true).await;
            assert!(error["message"].as_str().unwrap().contains("new identity"), "{error}");
            assert_eq!((early.exit_code().await, late.exit_code().await), (77, 77));
            continue;
        };
        assert_eq!(early.until("identity", |_| true).await["standing"], standing);
        early.until("connected", |_| true).await;
        late.terminate();
        early.terminate();
        assert_eq!((early.exit_code().await, late.exit_code().await), (0, 0));
    }
    let mut known = Peer::spawn_as(alice, service.url(), &["known"]);
    let peer = known.until("known_peer", |_| true).await;
    assert_eq!((&peer["room"], &peer["key"]), (&"a room".into(), &key_of(bob).await.into()));
    for code in [0, 64] {
        let mut forget = Peer::spawn_as(alice, service.url(), &["known", "--forget", "a room"]);
        assert_eq!(forget.exit_code().await, code);
    }
    let mut early = Peer::spawn_as(alice, service.url(), &call("a room", &[]));
    early.until("status", |event| event["status"] == "Waiting").await;
    let _late = Peer::spawn_as(mallory, service.url(), &call("a room", &[]));
    assert_eq!(early.until("identity", |_| true).await["standing"], "new");
}

#[tokio::test]
async fn a_code_is_all_that_two_need_to_send_a_file() {
    let service = Service::start(2).await;
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("hello.txt"), folder.path().join("inbox"));
    std::fs::write(&from, "hello").unwrap();
    let mut sender = Peer::spawn(&service, &["send", from.to_str().unwrap()]);
    let made = sender.until("code", |_| true).await;
    let code = made["code"].as_str().unwrap();
    let command = made["command"].as_str().unwrap();
    assert_eq!(command, format!("farcall-peer --signaling {} receive {code}", service.url()));
    let mut receiver = Peer::spawn(&service, &["receive", code, "--to", to.to_str().unwrap()]);
    for peer in [&mut sender, &mut receiver] {
        peer.until("transferred", |_| true).await;
        assert_eq!(peer.exit_code().await, 0);
    }
    assert_eq!(std::fs::read_to_string(to.join("hello.txt")).unwrap(), "hello");
}

#[tokio::test]
async fn a_wrong_guess_burns_the_code() {
    let service = Service::start(2).await;
    let mut host = Peer::spawn(&service, &call_without_room());
    let code = host.until("code", |_| true).await["code"].as_str().unwrap().to_owned();
    let (number, _) = code.split_once('-').unwrap();
    let guess = ["acorn-actor-album", "acorn-actor-alley"].map(|words| format!("{number}-{words}"));
    let guess = guess.iter().find(|guess| **guess != code).unwrap();
    let mut guest = Peer::spawn(&service, &call(guess, &[]));
    for peer in [&mut host, &mut guest] {
        assert_eq!(peer.until("error", |_| true).await["reason"], "WRONG_CODE");
        assert_eq!(peer.exit_code().await, 77);
    }
    // Nobody is there any more for whoever knows it.
    let mut late = Peer::spawn(&service, &call(&code, &[]));
    late.until("status", |event| event["status"] == "Waiting").await;
    let mut mistyped = Peer::spawn(&service, &call("1234-acorn-actor-zzz", &[]));
    let error = mistyped.until("error", |_| true).await;
    assert!(error["message"].as_str().unwrap().contains("\"zzz\""), "{error}");
}

fn call_without_room() -> Vec<&'static str> {
    [&["call"], &QUIET[..]].concat()
}
