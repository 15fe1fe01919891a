//! What is refused, with which code, reason and details; and that it hurts nobody else.

use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::{
    ClientFrame, GoAwayAction, Hangup, JoinRequest, LeaveRequest, PeerCapabilities, PeerMessage,
    ResumeResult, ResumeToken, SessionDescription, SessionDescriptionType,
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::{Participant, Server, reason, request, text_frame};

async fn refused(server: &Server, join: JoinRequest) -> Status {
    Participant::join(server.client().await, join).await.err().expect("it was not refused")
}

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(reason(status), (Code::InvalidArgument, "BAD_FIELD".into()));
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn one_too_many_finds_the_room_full() {
    let server = Server::start(&["--room-size", "3"]).await;
    let mut members = [server.join("red").await, server.join("red").await, server.join("red").await];
    let status = refused(&server, request("red")).await;
    assert_eq!(reason(&status), (Code::ResourceExhausted, "ROOM_FULL".into()));
    assert_eq!(status.get_details_quota_failure().unwrap().violations.len(), 1);
    server.join("blue").await;
    members[0].leave().await;
    server.join("red").await;
}

#[tokio::test]
async fn a_full_server_says_so_and_when_to_come_back() {
    let server = Server::start(&["--max-rooms", "1", "--max-sessions", "2"]).await;
    let _members = [server.join("red").await, server.join("red").await];
    let status = refused(&server, request("blue")).await;
    assert_eq!(reason(&status), (Code::ResourceExhausted, "SERVER_FULL".into()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test]
async fn every_bad_field_of_a_join_is_named() {
    let server = Server::start(&[]).await;
    let long = "é".repeat(65);
    let bad = JoinRequest {
        room: String::new(),
        display_name: long.clone(),
        request_id: "too short".into(),
        resume: Some(ResumeToken { session_id: long.clone(), resume_secret: vec![1], last_received_seq: 0 }),
        capabilities: Some(PeerCapabilities {
            user_agent: long.clone(),
            features: std::iter::repeat_n("x".to_owned(), 17).collect(),
        }),
        identity_key: vec![0; 31],
    };
    let named = fields(&refused(&server, bad).await);
    for field in [
        "room",
        "display_name",
        "request_id",
        "resume.session_id",
        "resume.resume_secret",
        "capabilities.user_agent",
        "capabilities.features",
        "identity_key",
    ] {
        assert!(named.iter().any(|name| name == field), "{field} not in {named:?}");
    }
    assert_eq!(fields(&refused(&server, request(&long)).await), ["room"]);
    // 64 characters are no more than 64, whatever their bytes.
    server.join(&"é".repeat(64)).await;
}

#[tokio::test]
async fn a_bad_frame_is_named_and_those_before_it_are_taken() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    let description = |kind: SessionDescriptionType, size| {
        Payload::Description(SessionDescription { r#type: kind.into(), sdp: "x".repeat(size) })
    };
    ada.text("1").await;
    let bad = [
        (description(SessionDescriptionType::Offer, 256 * 1024 + 1), "message.description.sdp"),
        (description(SessionDescriptionType::Unspecified, 10), "message.description.type"),
        (Payload::Hangup(Hangup { reason: "x".repeat(257) }), "message.hangup.reason"),
        (Payload::Data(vec![0; 512 * 1024]), "message"),
    ];
    for (number, (payload, field)) in (2..).zip(bad) {
        let mut frame = text_frame(number + 1, "");
        let message = PeerMessage { payload: Some(payload), ..PeerMessage::default() };
        frame.body = Some(farcall_proto::signaling::v1::client_frame::Body::Message(message));
        let frames = vec![text_frame(number, &number.to_string()), frame];
        assert_eq!(fields(&ada.call(frames, 0).await.unwrap_err()), [format!("frames[1].{field}")]);
    }
    for text in ["1", "2", "3", "4", "5"] {
        assert_eq!(bob.next_text().await, text);
    }
    let nothing = ClientFrame { client_seq: 6, body: None };
    assert_eq!(fields(&ada.call(vec![nothing], 0).await.unwrap_err()), ["frames[0].message"]);
    assert_eq!(fields(&ada.call(vec![text_frame(0, "")], 0).await.unwrap_err()), ["frames[0].client_seq"]);
    assert_eq!(fields(&ada.call(Vec::new(), 99).await.unwrap_err()), ["ack"]);
    assert_eq!(fields(&refused(&server, ada.resumption(99)).await), ["resume.last_received_seq"]);
}

#[tokio::test]
async fn the_largest_description_passes_and_a_call_beyond_all_bounds_does_not() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    let sdp = "x".repeat(256 * 1024);
    let largest = SessionDescription { r#type: SessionDescriptionType::Offer.into(), sdp };
    ada.say(Payload::Description(largest.clone())).await.unwrap();
    assert_eq!(bob.next_message().await.1.payload, Some(Payload::Description(largest)));
    let status = ada.say(Payload::Data(vec![0; 1024 * 1024])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    ada.text("unhurt").await;
    assert_eq!(bob.next_text().await, "unhurt");
}

#[tokio::test]
async fn sessions_open_to_their_secret_alone() {
    let server = Server::start(&[]).await;
    let ada = server.join("red").await;
    let mut thief = server.join("red").await;
    let own = thief.welcome.session_id.clone();
    thief.welcome.session_id = ada.id().into();
    let status = thief.call(vec![text_frame(1, "I am Ada")], 0).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Unauthenticated, "BAD_RESUME_SECRET".into()));
    let status = refused(&server, thief.resumption(0)).await;
    assert_eq!(reason(&status), (Code::Unauthenticated, "BAD_RESUME_SECRET".into()));
    thief.welcome.session_id = own;
    thief.leave().await;
    let status = thief.call(Vec::new(), 0).await.unwrap_err();
    assert_eq!(reason(&status), (Code::NotFound, "SESSION_NOT_FOUND".into()));
    let nobody = LeaveRequest { session_id: "x".into(), resume_secret: vec![] };
    assert_eq!(fields(&thief.client.leave(nobody).await.unwrap_err()), ["resume_secret"]);
}

#[tokio::test]
async fn a_gap_is_refused_with_what_comes_next() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let status = ada.call(vec![text_frame(2, "")], 0).await.unwrap_err();
    assert_eq!(reason(&status), (Code::FailedPrecondition, "CLIENT_SEQ_GAP".into()));
    assert_eq!(status.message(), "frame 1 comes next, not 2");
}

#[tokio::test]
async fn a_receiver_that_does_not_acknowledge_holds_its_senders() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    let frames = (1..=512).map(|number| text_frame(number, "x")).collect();
    assert_eq!(ada.call(frames, 0).await.unwrap().last_client_seq, 512);
    let status = ada.call(vec![text_frame(513, "one more")], 0).await.unwrap_err();
    assert_eq!(reason(&status), (Code::ResourceExhausted, "LOG_FULL".into()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    bob.call(Vec::new(), 1).await.unwrap();
    ada.call(vec![text_frame(513, "one more")], 0).await.unwrap();
    for seq in 1..=513 {
        assert_eq!(bob.next_message().await.0, seq);
    }
}

#[tokio::test]
async fn a_session_that_falls_hopelessly_behind_is_ended_and_told_so() {
    let server = Server::start(&["--room-size", "3"]).await;
    let mut ada = server.join("red").await;
    let client = server.client().await;
    // Comings and goings cannot be refused to anybody; Ada acknowledges none of them.
    for _ in 0..513 {
        Participant::join(client.clone(), request("red")).await.unwrap().leave().await;
    }
    let mut events = 0;
    let lost = loop {
        match ada.next().await.body {
            Some(Body::Participant(_)) => events += 1,
            other => break other,
        }
    };
    assert!((1..=1025).contains(&events), "{events}");
    assert!(matches!(lost, Some(Body::ResyncRequired(_))), "{lost:?}");
    match ada.next().await.body {
        Some(Body::GoAway(away)) => assert_eq!(away.action(), GoAwayAction::Reconnect),
        other => panic!("{other:?}"),
    }
    ada.end().await.unwrap();
    assert_eq!(ada.resume(0).await.welcome.resume_result(), ResumeResult::ResyncRequired);
}

#[tokio::test]
async fn a_token_is_asked_for_where_one_is_configured() {
    let server = Server::start(&["--join-token", "red,blue", "--join-token", "green"]).await;
    let mut client = server.client().await;
    for (authorization, admitted) in [
        (None, false),
        (Some("Bearer nonsense"), false),
        (Some("blue"), false),
        (Some("Bearer blue"), true),
        (Some("Bearer green"), true),
    ] {
        let mut join = Request::new(request("room"));
        if let Some(value) = authorization {
            join.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        match client.join(join).await {
            Ok(_) => assert!(admitted, "{authorization:?}"),
            Err(status) => {
                assert!(!admitted, "{authorization:?}: {status:?}");
                assert_eq!(reason(&status), (Code::Unauthenticated, "BAD_TOKEN".into()));
            }
        }
    }
}
