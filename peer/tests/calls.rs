//! Two real processes on loopback, with a signaling service made for the test.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod identities;
mod media;
mod service;
mod verbs;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tonic::transport::Identity;

use self::service::Service;
use self::service::road::Road;

#[tokio::test]
async fn two_peers_call_each_other_with_text_and_media_both_ways() {
    let service = Service::start(2).await;
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().to_str().unwrap();
    let mut early = Peer::spawn(&service, &["call", "room", "--record", record]);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &["call", "room"]);
    // Before anything is connected: both lines wait for the channel.
    early.say("hello from early").await;
    late.say("hello from late").await;

    for peer in [&mut early, &mut late] {
        let connected = peer.until("connected", |_| true).await;
        assert_eq!((&connected["local"], &connected["remote"]), (&"host".into(), &"host".into()));
    }
    assert_eq!(early.until("text", |_| true).await["text"], "hello from late");
    assert_eq!(late.until("text", |_| true).await["text"], "hello from early");
    // In either order, and perhaps before the text.
    let frames = || late.seen.iter().filter(|line| line.contains("\"first_frame\"")).count();
    for _ in frames()..2 {
        late.until("first_frame", |_| true).await;
    }
    // Enough to see whether whole seconds are recorded.
    let media_time = Duration::from_secs(2);
    assert!(timeout(media_time, late.until("hangup", |_| true)).await.is_err(), "the call ended by itself");
    late.terminate();
    assert_eq!(late.until("ended", |_| true).await["reason"], "terminated");
    assert_eq!(late.exit_code().await, 0);

    early.until("hangup", |_| true).await;
    let recorded = early.until("recorded", |event| event["kind"] == "video").await;
    let (path, frames) =
        (recorded["path"].as_str().unwrap().to_owned(), recorded["frames"].as_u64().unwrap());
    let stats = early.until("stats", |_| true).await;
    assert_eq!(stats["video"]["packets_lost"], 0);
    assert_eq!(stats["data"]["messages_received"], 1);
    assert!((20..60).contains(&frames), "{frames} frames in {media_time:?}");
    let clip = load(&path);
    assert!((clip.seconds() - frames as f64 / 15.0).abs() < 0.2, "{} s of {frames} frames", clip.seconds());

    // As alone as at the beginning, and ready for the next one.
    early.until("status", |event| event["status"] == "Waiting").await;
    early.terminate();
    assert_eq!(early.exit_code().await, 0);
}

#[tokio::test]
async fn tracks_come_and_go_during_a_call_from_both_sides() {
    let service = Service::start(2).await;
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().to_str().unwrap();
    let silent = ["call", "room", "--video", "none", "--audio", "none", "--commands", "--record"];
    let mut early = Peer::spawn(&service, &[&silent[..], &[record]].concat());
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &silent[..silent.len() - 1]);
    for peer in [&mut early, &mut late] {
        peer.until("channel_open", |_| true).await;
    }
    // At once, so that both offer.
    late.say("/video test").await;
    early.say("/audio test").await;
    early.until("first_frame", |event| event["kind"] == "video").await;
    late.until("first_frame", |event| event["kind"] == "audio").await;
    late.say("/video none").await;
    early.until("track_ended", |event| event["kind"] == "video").await;
    let recorded = early.until("recorded", |event| event["kind"] == "video").await;
    assert!(load(recorded["path"].as_str().unwrap()).seconds() > 0.0);
    // In another codec, in the same place.
    late.say("/video live").await;
    early.until("track", |event| event["codec"] == "video/H264").await;
    late.say("/vidoe none").await;
    late.until("warning", |event| event["message"].as_str().unwrap().contains("/vidoe")).await;
    // From one source to another without a pause between.
    late.say("/video test").await;
    early.until("recorded", |event| event["path"].as_str().unwrap().ends_with(".h264")).await;
    early.until("track", |event| event["codec"] == "video/VP8").await;
    early.say("//still here").await;
    assert_eq!(late.until("text", |_| true).await["text"], "/still here");
    late.say("/hangup").await;
    early.until("recorded", |event| event["path"].as_str().unwrap().ends_with("-2.ivf")).await;
    assert_eq!(late.exit_code().await, 0);
}

#[tokio::test]
async fn both_may_offer_at_once() {
    let service = Service::start(2).await;
    let arguments = ["call", "room", "--offer", "always", "--video", "none", "--audio", "none"];
    let mut early = Peer::spawn(&service, &arguments);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &arguments);
    late.say("both offered").await;
    assert_eq!(early.until("text", |_| true).await["text"], "both offered");
    late.until("connected", |_| true).await;
}

#[tokio::test]
async fn keys_that_are_dialed_are_told_once_each_and_in_order() {
    let service = Service::start(2).await;
    let mut early = Peer::spawn(&service, &["call", "room", "--video", "none"]);
    early.until("status", |event| event["status"] == "Waiting").await;
    let late = Peer::spawn(&service, &["call", "room", "--video", "none", "--dtmf", "1108*#ad"]);
    for key in "1108*#AD".chars() {
        assert_eq!(early.until("dtmf", |_| true).await["tone"], key.to_string());
    }
    drop(late);
    let mut silent = Peer::spawn(&service, &["call", "room", "--audio", "none", "--dtmf", "1"]);
    assert_eq!(silent.exit_code().await, 64);
}

#[tokio::test]
async fn what_a_call_carries_is_told_by_the_names_of_the_w3c() {
    let service = Service::start(2).await;
    let mut early = Peer::spawn(&service, &["call", "room", "--stats", "200ms"]);
    early.until("status", |event| event["status"] == "Waiting").await;
    let _late = Peer::spawn(&service, &["call", "room"]);
    let flows = |event: &Value| {
        let of = |kind: &'static str| {
            let report = event["report"].as_array().unwrap();
            report.iter().filter(move |entry| entry["type"] == kind)
        };
        of("inbound-rtp").count() == 2
            && of("inbound-rtp")
                .all(|stream| stream["packetsReceived"].as_u64().is_some_and(|count| count > 5))
            && of("outbound-rtp").count() == 2
            && of("candidate-pair").any(|pair| pair["currentRoundTripTime"].is_number())
            && of("transport")
                .any(|transport| transport["bytesReceived"].as_u64().is_some_and(|count| count > 0))
    };
    let event = early.until("stats_report", flows).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() * 1e3;
    for entry in event["report"].as_array().unwrap() {
        assert!(entry["id"].is_string(), "{entry}");
        assert!((entry["timestamp"].as_f64().unwrap() - now).abs() < 60_000.0, "{entry}");
    }
}

#[tokio::test]
async fn media_goes_on_while_signaling_is_away_and_its_session_is_resumed() {
    let service = Service::start(2).await;
    let mut early = Peer::spawn(&service, &["call", "room"]);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &["call", "room"]);
    late.until("channel_open", |_| true).await;
    early.until("channel_open", |_| true).await;
    service.cut_streams();
    early.until("signaling", |event| event["state"] == "lost").await;
    early.say("while it was away").await;
    assert_eq!(late.until("text", |_| true).await["text"], "while it was away");
    early.until("signaling", |event| event["state"] == "resumed").await;
    // What is said over signaling still arrives: once, although it may be repeated.
    early.terminate();
    late.until("hangup", |_| true).await;
    assert_eq!(early.exit_code().await, 0);
}

#[tokio::test]
async fn signaling_that_hangs_is_found_out_as_soon_as_the_path_is_silent() {
    let service = Service::start(2).await;
    let road = Road::to(&service).await;
    let arguments = ["call", "room", "--video", "none", "--audio", "none"];
    let mut early = Peer::spawn_at(&road.url(), &arguments);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &arguments);
    late.until("channel_open", |_| true).await;
    early.until("channel_open", |_| true).await;
    road.break_silently();
    late.signal("-STOP");
    let at = |event: Value| event["at_ms"].as_f64().unwrap();
    let silent = at(early.until("ice", |event| event["state"] == "disconnected").await);
    let found_out = at(early.until("signaling", |event| event["state"] == "lost").await);
    // A connection that is left to itself counts as broken fifteen seconds after the last word.
    assert!(found_out - silent < 6_000.0, "it took {} ms", found_out - silent);
    early.until("signaling", |event| event["state"] == "resumed").await;
    late.signal("-CONT");
    early.until("status", |event| event["status"] == "On call").await;
}

#[tokio::test]
async fn an_offer_that_does_not_arrive_goes_by_another_connection() {
    let service = Service::start(2).await;
    let road = Road::to(&service).await;
    let arguments = ["call", "room", "--video", "none", "--audio", "none", "--commands"];
    let mut early = Peer::spawn_at(&road.url(), &arguments);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &arguments);
    late.until("channel_open", |_| true).await;
    early.until("channel_open", |_| true).await;
    road.break_silently();
    early.say("/audio test").await;
    let at = |event: Value| event["at_ms"].as_f64().unwrap();
    let offered = at(early.until("negotiation", |event| event["description"] == "offer").await);
    let found_out = at(early.until("signaling", |event| event["state"] == "lost").await);
    assert!(found_out - offered < 8_000.0, "it took {} ms", found_out - offered);
    late.until("first_frame", |event| event["kind"] == "audio").await;
}

#[tokio::test]
async fn a_server_that_forgot_everything_does_not_end_a_call() {
    let service = Service::start(2).await;
    let mut early = Peer::spawn(&service, &["call", "room"]);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &["call", "room"]);
    late.until("channel_open", |_| true).await;
    early.until("channel_open", |_| true).await;
    service.forget_everything();
    for peer in [&mut early, &mut late] {
        peer.until("signaling", |event| event["state"] == "rejoined").await;
    }
    early.say("still here").await;
    assert_eq!(late.until("text", |_| true).await["text"], "still here");
    // The sessions are new ones, and they know each other: a hang-up arrives.
    late.terminate();
    early.until("hangup", |_| true).await;
    early.until("status", |event| event["status"] == "Waiting").await;
}

#[tokio::test]
async fn a_third_one_finds_the_room_full() {
    let service = Service::start(2).await;
    let arguments = ["call", "room", "--video", "none", "--audio", "none"];
    let mut first = Peer::spawn(&service, &arguments);
    let mut second = Peer::spawn(&service, &arguments);
    first.until("connected", |_| true).await;
    second.until("connected", |_| true).await;
    let mut third = Peer::spawn(&service, &arguments);
    assert_eq!(third.until("error", |_| true).await["reason"], "ROOM_FULL");
    assert_eq!(third.exit_code().await, 75);
}

#[tokio::test]
async fn what_cannot_work_is_told_with_a_reason_and_a_code() {
    let service = Service::start(2).await;
    let unreachable = "http://127.0.0.1:1";
    let missing = "/nonexistent/clip.ivf";
    for (signaling, arguments, reason, code) in [
        (unreachable, &["call", "room"][..], "UNREACHABLE", 69),
        ("not a url", &["call", "room"], "BAD_USAGE", 64),
        (service.url(), &["call", "room", "--video", missing], "BAD_MEDIA", 64),
        (service.url(), &["call", "room", "--token", "wrong"], "BAD_TOKEN", 77),
    ] {
        let mut peer = Peer::spawn_at(signaling, arguments);
        let error = peer.until("error", |_| true).await;
        assert_eq!(error["reason"], reason, "{error}");
        assert_eq!(peer.exit_code().await, code);
    }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_it_is_named_and_nowhere_else() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right.pem", &certified.cert.pem()), file("wrong.pem", &other.cert.pem()));
    let nonsense = file("nonsense.pem", "nonsense");
    let identity = Identity::from_pem(certified.cert.pem(), certified.signing_key.serialize_pem());
    let service = Service::start_encrypted(2, identity).await;
    let mut peer = Peer::spawn(&service, &["call", "room", "--ca", &right]);
    peer.until("status", |event| event["status"] == "Waiting").await;
    for (arguments, reason) in [
        (&["call", "room"][..], "UNREACHABLE"),
        (&["call", "room", "--ca", &wrong], "UNREACHABLE"),
        (&["call", "room", "--ca", &nonsense], "BAD_USAGE"),
        (&["call", "room", "--ca", "/nowhere"], "BAD_USAGE"),
    ] {
        let error = Peer::spawn(&service, arguments).until("error", |_| true).await;
        assert_eq!(error["reason"], reason, "{error}");
    }
}

#[tokio::test]
async fn no_relay_and_no_other_path_is_a_failure_of_both_in_bounded_time() {
    let service = Service::start(2).await;
    let arguments = ["call", "room", "--ice-policy", "relay"];
    let mut early = Peer::spawn(&service, &arguments);
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &arguments);
    for peer in [&mut early, &mut late] {
        let error = peer.until("error", |_| true).await;
        assert_eq!(error["reason"], "ICE_FAILED");
        assert!(error["details"]["local_candidates"].is_array(), "{error}");
        assert_eq!(peer.exit_code().await, 76);
    }
}

#[tokio::test]
async fn throughput_is_measured_on_both_sides() {
    let service = Service::start(2).await;
    let mut receiver = Peer::spawn(&service, &["bench", "room"]);
    receiver.until("status", |event| event["status"] == "Waiting").await;
    let mut sender = Peer::spawn(&service, &["bench", "room", "--send", "4MiB"]);
    for peer in [&mut sender, &mut receiver] {
        let bench = peer.until("bench", |_| true).await;
        assert_eq!(bench["bytes"], 4 << 20);
        assert_eq!(peer.exit_code().await, 0);
    }
}

#[tokio::test]
async fn candidates_are_listed_without_a_room() {
    let mut peer = Peer::spawn_at("http://unused.invalid", &["candidates", "--stun", "stuns:127.0.0.1"]);
    let warning = peer.until("warning", |_| true).await;
    assert!(warning["message"].as_str().unwrap().contains("stuns:127.0.0.1"), "{warning}");
    for (protocol, tcp_type) in [("udp", Value::Null), ("tcp", "passive".into())] {
        let mut found = Peer::spawn_at("http://unused.invalid", &["candidates"]);
        let is_of = |event: &Value| event["protocol"] == protocol && event["tcp_type"] == tcp_type;
        let candidate = found.until("candidate", is_of).await;
        assert_eq!(candidate["type"], "host");
        assert!(candidate["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{candidate}");
    }
    assert_eq!(peer.exit_code().await, 0);
}

/// A running `farcall-peer --json`, killed when it goes out of scope.
struct Peer {
    process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<String>,
}

impl Peer {
    fn spawn(service: &Service, arguments: &[&str]) -> Self {
        Self::spawn_at(service.url(), arguments)
    }

    fn spawn_at(signaling: &str, arguments: &[&str]) -> Self {
        Self::spawn_as(Path::new("/nonexistent"), signaling, arguments)
    }

    /// Somebody whose identity and known peers are in this folder.
    fn spawn_as(home: &Path, signaling: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_farcall-peer"))
            .args(["--json", "--bind", "127.0.0.1", "--signaling", signaling])
            .args(arguments)
            .env_remove("FARCALL_PEER_TOKEN")
            .env("FARCALL_PEER_HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, input, lines, seen: Vec::new() }
    }

    async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next event of this name that fits.
    async fn until(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let event = timeout(DEADLINE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap();
                self.seen.push(line);
                if event["event"] == name && fits(&event) {
                    return Some(event);
                }
            }
            None
        });
        match event.await {
            Ok(Some(event)) => event,
            Ok(None) => panic!("ended without {name}: {:#?}", self.seen),
            Err(_) => panic!("no {name} in {DEADLINE:?}: {:#?}", self.seen),
        }
    }

    fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Without a chance to say anything.
    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    async fn exit_code(&mut self) -> i32 {
        let status = timeout(DEADLINE, self.process.wait()).await.expect("it does not end").unwrap();
        status.code().expect("killed")
    }
}

fn load(path: &str) -> std::sync::Arc<farcall_peer::Clip> {
    farcall_peer::Clip::load(farcall_peer::MediaKind::Video, Path::new(path)).unwrap()
}

const DEADLINE: Duration = Duration::from_secs(30);
