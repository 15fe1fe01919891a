//! The process: how it starts, what it says when it cannot, and how it stops.

use std::io::Write;
use std::time::Duration;

use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::{GoAwayAction, JoinRequest, JoinResponse};
use tokio::net::TcpStream;
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::harness::{Server, command, reason, request, run, soon};

#[tokio::test]
async fn the_ready_line_says_where_and_nothing_else() {
    let server = Server::start(&[]).await;
    let address = server.address();
    assert_eq!(server.ready, serde_json::json!({ "ready": { "grpc": address.to_string() } }));
    assert_ne!(address.port(), 0);
}

#[tokio::test]
async fn sigterm_tells_every_stream_and_ends_well() {
    let mut server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    server.signal("TERM").await;
    match ada.next().await.body {
        Some(Body::GoAway(away)) => {
            assert_eq!(away.action(), GoAwayAction::Resume);
            assert!(away.delay.unwrap().seconds < 1);
        }
        other => panic!("{other:?}"),
    }
    ada.end().await.unwrap();
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn sigint_ends_well_too() {
    let mut server = Server::start(&[]).await;
    server.signal("INT").await;
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_draining_server_is_not_serving_and_waits_no_longer_than_its_grace() {
    let mut server = Server::start(&["--drain-grace", "300ms"]).await;
    let mut health = HealthClient::new(server.channel().await);
    let watch = HealthCheckRequest { service: "farcall.signaling.v1.SignalingService".into() };
    let mut states = health.watch(watch).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.signal("TERM").await;
    let state = soon("a change of health", states.message()).await.unwrap().unwrap();
    assert_eq!(state.status(), ServingStatus::NotServing);
    // This stream never ends by itself: the grace is what ends it.
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(TcpStream::connect(server.address()).await.is_err());
}

#[tokio::test]
async fn who_joins_a_draining_server_is_sent_elsewhere() {
    let mut server = Server::start(&["--drain-grace", "20s"]).await;
    let mut witness = server.join("blue").await;
    let channel = server.channel().await;
    let (say, said) = tokio::sync::oneshot::channel();
    let late = futures_util::stream::once(async { said.await.unwrap() });
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<JoinRequest, JoinResponse>::default();
    let path = "/farcall.signaling.v1.SignalingService/Join".parse().unwrap();
    let mut join = std::pin::pin!(grpc.streaming(Request::new(late), path, codec));
    // Once a later call on the same connection is answered, this one has arrived, all but its message.
    let mut health = HealthClient::new(channel);
    tokio::select! {
        biased;
        _ = &mut join => panic!("answered before it was asked"),
        answered = soon("health", health.check(HealthCheckRequest::default())) => drop(answered.unwrap()),
    }
    server.signal("TERM").await;
    assert!(matches!(witness.next().await.body, Some(Body::GoAway(_))));
    say.send(request("red")).unwrap();
    let status = soon("a refusal", join).await.expect_err("it was not refused");
    assert_eq!(reason(&status), (tonic::Code::Unavailable, "DRAINING".into()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn every_mistake_is_said_at_once_before_anything_starts() {
    let (code, said) = run(&["--listen", "nowhere", "--turn", "turn:host", "--resume-window", "1"]).await;
    assert_eq!(code, Some(64));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    for key in ["listen: ", "turn: ", "resume-window: "] {
        assert!(lines.iter().any(|line| line.starts_with(key)), "{said}");
    }
}

#[tokio::test]
async fn bad_usage_is_64_and_help_is_not() {
    for (flags, expected) in [
        (&["--nonsense"][..], 64),
        (&["nonsense"], 64),
        (&["--backplane", "nats://localhost"], 64),
        (&["--config", "/does/not/exist"], 64),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["check"], 0),
    ] {
        let (code, said) = run(flags).await;
        assert_eq!(code, Some(expected), "{flags:?}: {said}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_of_the_world() {
    let server = Server::start(&[]).await;
    let (code, said) = run(&["--listen", &server.address().to_string()]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot listen on"), "{said}");
}

#[tokio::test]
async fn a_file_is_checked_and_environment_and_flags_win_over_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"room-size = 1\nnonsense = 1\n").unwrap();
    let path = file.path().to_str().unwrap();
    let (code, said) = run(&["check", "--config", path]).await;
    assert_eq!(code, Some(64));
    assert!(said.contains("room-size: ") && said.contains("nonsense: "), "{said}");

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"room-size = 1\nlisten = \"nowhere\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let status = command(&["--room-size", "3", "check", "--config", path])
        .env("FARCALL_SIGNALING_LISTEN", "127.0.0.1:0")
        .status();
    assert_eq!(soon("the end of the process", status).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_its_clients_an_error_they_can_tell() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    server.signal("KILL").await;
    let ended = tokio::time::timeout(Duration::from_secs(5), ada.end()).await.unwrap();
    assert!(ended.is_err());
}
