//! What participants of a room see of each other, and what survives a broken stream.

use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::{
    GetIceServersRequest, IceCandidate, IceCandidates, JoinRequest, LeaveReason, ParticipantState,
    PeerCapabilities, PeerMessage, ResumeResult, SessionDescription, SessionDescriptionType,
};
use farcall_proto::turn_credentials::{AuthSecret, UnixTime};

use crate::harness::{Participant, Server, reason, request};

#[tokio::test]
async fn two_participants_exchange_what_connects_them() {
    let server = Server::start(&[]).await;
    let profile = JoinRequest {
        display_name: "Ada".into(),
        capabilities: Some(PeerCapabilities { user_agent: "test/1".into(), features: vec!["fly".into()] }),
        identity_key: vec![7; 32],
        ..request("red")
    };
    let mut ada = Participant::join(server.client().await, profile.clone()).await.unwrap();
    assert_eq!(ada.welcome.self_.as_ref().unwrap().state(), ParticipantState::Waiting);
    assert_eq!((ada.welcome.resume_result(), ada.welcome.next_seq), (ResumeResult::New, 1));

    let mut bob = server.join("red").await;
    assert_eq!(bob.welcome.self_.as_ref().unwrap().state(), ParticipantState::Connected);
    let [seen] = bob.welcome.others.as_slice() else { panic!("{:?}", bob.welcome) };
    assert_eq!((seen.session_id.as_str(), seen.ordinal, seen.display_name.as_str()), (ada.id(), 1, "Ada"));
    assert_eq!((&seen.capabilities, &seen.identity_key), (&profile.capabilities, &profile.identity_key));
    let event = ada.next_event().await.participant.unwrap();
    assert_eq!((event.session_id.as_str(), event.ordinal), (bob.id(), 2));
    assert_eq!(event.state(), ParticipantState::Connected);

    let offer = Payload::Description(SessionDescription {
        r#type: SessionDescriptionType::Offer.into(),
        sdp: "v=0\r\n".repeat(1000),
    });
    bob.say(offer.clone()).await.unwrap();
    let candidate = IceCandidate { candidate: "candidate:1 …".into(), ..IceCandidate::default() };
    let candidates = Payload::Candidates(IceCandidates {
        candidates: vec![candidate],
        end_of_candidates: true,
        username_fragment: "u".into(),
    });
    let forged = PeerMessage {
        from_session_id: ada.id().into(),
        to_session_id: ada.id().into(),
        negotiation_id: "n".into(),
        payload: Some(candidates),
    };
    bob.send(forged.clone()).await.unwrap();
    let (seq, message) = ada.next_message().await;
    assert_eq!((seq, message.from_session_id.as_str(), message.payload), (2, bob.id(), Some(offer)));
    let (seq, message) = ada.next_message().await;
    assert_eq!((seq, message), (3, PeerMessage { from_session_id: bob.id().into(), ..forged }));

    ada.text("hello").await;
    assert_eq!(bob.next_text().await, "hello");
}

#[tokio::test]
async fn a_broken_stream_resumes_in_order_with_nothing_lost() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    for text in ["1", "2"] {
        ada.text(text).await;
    }
    assert_eq!(bob.next_text().await, "1");
    let id = bob.id().to_owned();
    let cut = bob.cut();
    for text in ["3", "4"] {
        ada.text(text).await;
    }
    let mut bob = cut.resume(1).await;
    assert_eq!(bob.id(), id);
    assert_eq!((bob.welcome.resume_result(), bob.welcome.next_seq), (ResumeResult::Resumed, 2));
    ada.text("5").await;
    for (text, seq) in [("2", 2), ("3", 3), ("4", 4), ("5", 5)] {
        let (found, message) = bob.next_message().await;
        assert_eq!((found, message.payload), (seq, Some(Payload::Text(text.into()))));
    }
}

#[tokio::test]
async fn what_was_acknowledged_and_is_asked_for_again_is_said_to_be_lost() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    for text in ["1", "2", "3"] {
        ada.text(text).await;
    }
    bob.call(Vec::new(), 2).await.unwrap();
    let mut bob = bob.resume(0).await;
    assert_eq!(bob.welcome.next_seq, 3);
    match bob.next().await.body {
        Some(Body::ResyncRequired(lost)) => assert_eq!(lost.next_seq, 3),
        other => panic!("{other:?}"),
    }
    assert_eq!(bob.next_text().await, "3");
}

#[tokio::test]
async fn the_newest_stream_supersedes_the_older_one() {
    let server = Server::start(&[]).await;
    let mut old = server.join("red").await;
    let mut new = old.resume(0).await;
    let status = old.end().await.unwrap_err();
    assert_eq!(reason(&status), (tonic::Code::Aborted, "SESSION_SUPERSEDED".into()));
    let mut bob = server.join("red").await;
    assert_eq!(new.next_event().await.participant.unwrap().session_id, bob.id());
    bob.text("still here").await;
    assert_eq!(new.next_text().await, "still here");
}

#[tokio::test]
async fn a_repeated_join_leaves_no_ghost() {
    let server = Server::start(&[]).await;
    let join = JoinRequest { request_id: "0123456789abcdef".into(), ..request("red") };
    let first = Participant::join(server.client().await, join.clone()).await.unwrap();
    let second = Participant::join(server.client().await, join).await.unwrap();
    assert_eq!(first.welcome.session_id, second.welcome.session_id);
    assert_eq!(first.welcome.resume_secret, second.welcome.resume_secret);
    assert!(second.welcome.others.is_empty());
    assert_eq!(server.join("red").await.welcome.others.len(), 1);
}

#[tokio::test]
async fn a_participant_that_stays_away_is_reconnecting_and_then_gone() {
    let server = Server::start(&["--presence-grace", "200ms", "--resume-window", "600ms"]).await;
    let mut ada = server.join("red").await;
    let bob = server.join("red").await;
    assert_eq!(ada.next_event().await.participant.unwrap().state(), ParticipantState::Connected);
    let cut = bob.cut();
    assert_eq!(ada.next_event().await.participant.unwrap().state(), ParticipantState::Reconnecting);
    let event = ada.next_event().await;
    assert_eq!(event.participant.as_ref().unwrap().state(), ParticipantState::Left);
    assert_eq!(event.reason(), LeaveReason::LeaseExpired);
    let bob = cut.resume(0).await;
    assert_eq!(bob.welcome.resume_result(), ResumeResult::ResyncRequired);
}

#[tokio::test]
async fn a_blip_shows_nothing() {
    let server = Server::start(&["--presence-grace", "30s"]).await;
    let mut ada = server.join("red").await;
    let bob = server.join("red").await;
    ada.next_event().await;
    let mut bob = bob.cut().resume(0).await;
    bob.text("back").await;
    assert_eq!(ada.next_text().await, "back");
}

#[tokio::test]
async fn who_leaves_ends_its_stream_and_makes_room() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    ada.next_event().await;
    bob.leave().await;
    bob.leave().await;
    bob.end().await.unwrap();
    let event = ada.next_event().await;
    assert_eq!(event.reason(), LeaveReason::Left);
    let carol = server.join("red").await;
    assert_eq!(carol.welcome.self_.unwrap().ordinal, 3);
}

#[tokio::test]
async fn a_silent_participant_is_told_to_come_back_and_may() {
    let server = Server::start(&["--heartbeat-interval", "100ms"]).await;
    let mut ada = server.join("red").await;
    assert_eq!(ada.welcome.heartbeat_interval.unwrap().nanos, 100_000_000);
    match ada.next().await.body {
        Some(Body::GoAway(away)) => assert_eq!(away.action().as_str_name(), "GO_AWAY_ACTION_RESUME"),
        other => panic!("{other:?}"),
    }
    ada.end().await.unwrap();
    assert_eq!(ada.resume(0).await.welcome.resume_result(), ResumeResult::Resumed);
}

#[tokio::test]
async fn another_server_knows_no_session_of_the_first() {
    let first = Server::start(&[]).await;
    let ada = first.join("red").await;
    drop(first);
    let second = Server::start(&[]).await;
    let again = Participant::join(second.client().await, ada.resumption(0)).await.unwrap();
    assert_eq!(again.welcome.resume_result(), ResumeResult::ResyncRequired);
    assert_ne!(again.id(), ada.id());
}

#[tokio::test]
async fn a_frame_for_nobody_is_reported() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let to_nobody = PeerMessage { to_session_id: "nobody".into(), ..PeerMessage::default() };
    let sent = ada.send(to_nobody).await.unwrap();
    assert_eq!(sent.last_client_seq, 1);
    let [undeliverable] = sent.undeliverable.as_slice() else { panic!("{sent:?}") };
    assert_eq!((undeliverable.client_seq, undeliverable.to_session_id.as_str()), (1, "nobody"));
}

#[tokio::test]
async fn turn_credentials_are_the_sessions_own_and_come_anew_before_they_expire() {
    let flags =
        ["--stun", "stun:s.example", "--turn", "turn:t.example?transport=udp", "--turn-secret", "north"];
    let server = Server::start(&[&flags[..], &["--turn-credential-ttl", "2s"]].concat()).await;
    let mut ada = server.join("red").await;
    let [stun, turn] = ada.welcome.ice_servers.as_slice() else { panic!("{:?}", ada.welcome) };
    assert_eq!((stun.urls.as_slice(), stun.username.as_str()), (&["stun:s.example".to_owned()][..], ""));
    let secret = AuthSecret::new("north").unwrap();
    let name = secret.verify(UnixTime(0), &turn.username, &turn.credential).unwrap();
    assert_eq!(name.session, ada.id());
    let first_expiry = turn.expire_time.unwrap().seconds;
    assert_eq!(u64::try_from(first_expiry).unwrap(), name.expires_at.0);

    let Some(Body::IceServers(update)) = ada.next().await.body else { panic!("no update") };
    assert!(update.ice_servers[1].expire_time.unwrap().seconds > first_expiry);

    let ask = GetIceServersRequest {
        session_id: ada.id().into(),
        resume_secret: ada.welcome.resume_secret.clone(),
    };
    let fresh = ada.client.get_ice_servers(ask).await.unwrap().into_inner().ice_servers;
    assert!(secret.verify(UnixTime(0), &fresh[1].username, &fresh[1].credential).is_ok());
}
