//! The real engine, without anybody at the other end.

use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

async fn connection(happenings: &mpsc::UnboundedSender<(LinkId, Happening)>) -> Connection {
    let config = Config {
        policy: IcePolicy::default(),
        addresses: BindAddresses::Given(vec![std::net::Ipv4Addr::LOCALHOST.into()]),
        trust: Trust::default(),
        eagerness: Eagerness::AtOnce,
        feeds: Feeds::default(),
        tones: Arc::new(tokio::sync::Mutex::new(mpsc::channel(1).1)),
        media: true,
        record: None,
        ends: Ends {
            outgoing: Arc::new(tokio::sync::Mutex::new(mpsc::channel(1).1)),
            texts: mpsc::channel(1).0,
            data: mpsc::channel(1).0,
        },
        happenings: happenings.clone(),
    };
    Connection::open(&config, LinkId(1), UsableServers::default()).await.unwrap()
}

#[tokio::test]
async fn an_offer_has_both_kinds_of_media_and_the_channel() {
    let (happenings, _kept) = mpsc::unbounded_channel();
    let connection = connection(&happenings).await;
    assert!(connection.needs_negotiation().await);
    let LinkEvent::OfferMade { sdp } = connection.create_offer(false).await else { panic!("no offer") };
    for line in [
        "m=audio",
        "m=video",
        "m=application",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:111 opus/48000/2",
        "a=rtpmap:110 telephone-event/48000",
    ] {
        assert!(sdp.contains(line), "{line} is not in {sdp}");
    }
    assert!(!connection.needs_negotiation().await);
    connection.close().await;
}

#[tokio::test]
async fn whoever_began_the_handshake_stays_who_began_it() {
    let (happenings, _kept) = mpsc::unbounded_channel();
    let (first, second) = (connection(&happenings).await, connection(&happenings).await);
    // Each offers in turn, the first one twice in the end; the one who answered first has begun.
    for (round, (offering, answering)) in
        [(&first, &second), (&second, &first), (&first, &second), (&second, &first)].into_iter().enumerate()
    {
        let LinkEvent::OfferMade { sdp } = offering.create_offer(false).await else { panic!("no offer") };
        assert_eq!(answering.set_remote_offer(sdp).await, LinkEvent::RemoteSet);
        let LinkEvent::AnswerMade { sdp } = answering.create_answer().await else { panic!("no answer") };
        let (says, not) = if round % 2 == 0 { ("active", "passive") } else { ("passive", "active") };
        assert!(sdp.contains(&format!("a=setup:{says}")), "{round}: {sdp}");
        assert!(!sdp.contains(&format!("a=setup:{not}")), "{round}: {sdp}");
        assert_eq!(offering.set_remote_answer(sdp).await, LinkEvent::RemoteSet);
    }
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn an_own_offer_is_taken_back_for_another() {
    let (happenings, _kept) = mpsc::unbounded_channel();
    let (polite, other) = (connection(&happenings).await, connection(&happenings).await);
    let LinkEvent::OfferMade { sdp } = other.create_offer(false).await else { panic!("no offer") };
    assert!(matches!(polite.create_offer(false).await, LinkEvent::OfferMade { .. }));
    // What makes the explicit step necessary.
    assert!(matches!(polite.set_remote_offer(sdp.clone()).await, LinkEvent::StepFailed { .. }));
    assert_eq!(polite.roll_back().await, LinkEvent::RolledBack);
    assert_eq!(polite.set_remote_offer(sdp).await, LinkEvent::RemoteSet);
    assert!(matches!(polite.create_answer().await, LinkEvent::AnswerMade { .. }));
    polite.close().await;
    other.close().await;
}

/// Lines dropped, doubled, swapped, cut off and with other numbers in them. Prints its seed when it fails.
#[tokio::test]
async fn no_description_and_no_candidate_of_the_other_side_panics() {
    let (happenings, _kept) = mpsc::unbounded_channel();
    let good = connection(&happenings).await;
    let LinkEvent::OfferMade { sdp } = good.create_offer(false).await else { panic!("no offer") };
    good.close().await;
    for seed in 0..150 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut lines: Vec<String> = sdp.lines().map(str::to_owned).collect();
        for _ in 0..rng.random_range(1..6) {
            let index = (0..lines.len()).choose(&mut rng).unwrap();
            match rng.random_range(0..5) {
                0 => drop(lines.remove(index)),
                1 => lines.insert(index, lines[index].clone()),
                2 => {
                    let end = rng.random_range(0..=lines[index].len());
                    lines[index].truncate(end);
                }
                3 => {
                    let digits = ["-1", "99999999999999999999", "0", "x"][rng.random_range(0..4)];
                    lines[index] = lines[index].replace(|char: char| char.is_ascii_digit(), digits);
                }
                _ => {
                    let to = rng.random_range(0..lines.len());
                    lines.swap(index, to);
                }
            }
        }
        let bad = lines.join("\r\n") + "\r\n";
        let mut connection = connection(&happenings).await;
        let event = connection.set_remote_offer(bad.clone()).await;
        if event == LinkEvent::RemoteSet {
            let answer = connection.create_answer().await;
            let known = matches!(answer, LinkEvent::AnswerMade { .. } | LinkEvent::StepFailed { .. });
            assert!(known, "seed {seed}: {answer:?}");
            let line = format!("candidate:1 1 udp {seed} 192.0.2.1 {seed} typ {bad:.20}");
            let candidate = Candidate { line, mid: Some("9".into()), m_line_index: Some(9), url: None };
            connection.add_candidate(candidate).await;
        }
        connection.close().await;
    }
}
