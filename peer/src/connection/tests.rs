//! The real engine, without anybody at the other end.

use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::net::IceServer;

async fn connection(happenings: &mpsc::UnboundedSender<(LinkId, Happening)>) -> Connection {
    connection_with(happenings, UsableServers::default()).await
}

async fn connection_with(
    happenings: &mpsc::UnboundedSender<(LinkId, Happening)>,
    servers: UsableServers,
) -> Connection {
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
    Connection::open(&config, LinkId(1), servers).await.unwrap()
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

#[tokio::test]
async fn who_offers_uses_renewed_credentials_from_the_next_restart_on() {
    renewed_credentials_are_for_the_next_allocation(true).await;
}

#[tokio::test]
async fn who_answers_uses_renewed_credentials_from_the_next_restart_on() {
    renewed_credentials_are_for_the_next_allocation(false).await;
}

/// What the server hears from whom: negotiation alone changes nothing, and a restart gives back what was lent in the
/// name that it was lent to.
async fn renewed_credentials_are_for_the_next_allocation(offers: bool) {
    let (url, mut heard) = turn_server().await;
    let named = |name: &str| {
        let server =
            IceServer { urls: vec![url.clone()], username: name.to_owned(), credential: "x".to_owned() };
        UsableServers::select(&[server], IcePolicy::default())
    };
    let (happenings, mut happened) = mpsc::unbounded_channel();
    let (ignored, _kept) = mpsc::unbounded_channel();
    let ours = connection_with(&happenings, named("old")).await;
    let theirs = connection(&ignored).await;
    let (offerer, answerer) = if offers { (&ours, &theirs) } else { (&theirs, &ours) };

    negotiate(offerer, answerer, false).await;
    let first = (ALLOCATE, "old".to_owned(), None);
    assert_eq!(next(&mut heard).await, first);
    let is_relayed = |happening: &Happening| matches!(happening, Happening::Link(LinkEvent::LocalCandidate(found)) if found.line.contains("typ relay"));
    while !is_relayed(&next(&mut happened).await.1) {}

    ours.renew_servers(named("new"), IcePolicy::default());
    negotiate(offerer, answerer, false).await;
    negotiate(offerer, answerer, true).await;
    // On a busy machine a request is sent again before its answer is looked at.
    let mut last = first;
    for expected in [(REFRESH, "old".to_owned(), Some(0)), (ALLOCATE, "new".to_owned(), None)] {
        let mut other = next(&mut heard).await;
        while other == last {
            other = next(&mut heard).await;
        }
        assert_eq!(other, expected);
        last = other;
    }
    ours.close().await;
    theirs.close().await;
}

async fn negotiate(offerer: &Connection, answerer: &Connection, restart: bool) {
    let LinkEvent::OfferMade { sdp } = offerer.create_offer(restart).await else { panic!("no offer") };
    assert_eq!(answerer.set_remote_offer(sdp).await, LinkEvent::RemoteSet);
    let LinkEvent::AnswerMade { sdp } = answerer.create_answer().await else { panic!("no answer") };
    assert_eq!(offerer.set_remote_answer(sdp).await, LinkEvent::RemoteSet);
}

async fn next<T>(queue: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), queue.recv()).await.expect("in time").expect("something")
}

/// Method, name, and the lifetime asked for.
type Heard = (u16, String, Option<u32>);

/// Lends an address to whoever has a name, and tells what it hears from these.
async fn turn_server() -> (String, mpsc::UnboundedReceiver<Heard>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("turn:{}", socket.local_addr().unwrap());
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let request = &buffer[..length];
            let method = u16::from_be_bytes([request[0], request[1]]);
            if ![ALLOCATE, REFRESH].contains(&method) {
                continue;
            }
            let lifetime =
                attribute(request, 0x000d).map(|value| u32::from_be_bytes(value.try_into().unwrap()));
            // An address of IPv4, exclusive-ored with the cookie.
            let lent = [0, 1, 0x80, 0x12, 127 ^ 0x21, 0x12, 0xa4, 1 ^ 0x42];
            let granted = lifetime.unwrap_or(600).to_be_bytes();
            let (class, attributes): (u16, Vec<(u16, &[u8])>) = match attribute(request, 0x0006) {
                None => (0x0110, vec![(0x0009, &[0, 0, 4, 1]), (0x0014, b"here"), (0x0015, b"once")]),
                Some(name) => {
                    let name = String::from_utf8(name.to_vec()).unwrap();
                    if tell.send((method, name, lifetime)).is_err() {
                        return;
                    }
                    (0x0100, vec![(0x0016, &lent), (0x0020, &lent), (0x000d, &granted)])
                }
            };
            let body: Vec<u8> = attributes
                .iter()
                .flat_map(|(kind, value)| {
                    let length = u16::try_from(value.len()).unwrap();
                    [&kind.to_be_bytes(), &length.to_be_bytes(), *value].concat()
                })
                .collect();
            let mut answer = (method | class).to_be_bytes().to_vec();
            answer.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            answer.extend(&request[4..20]);
            answer.extend(body);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (url, heard)
}

fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = &message[20..];
    while rest.len() >= 4 {
        let (kind, length) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
        let length = usize::from(length);
        if kind == wanted {
            return Some(&rest[4..4 + length]);
        }
        rest = &rest[4 + length.next_multiple_of(4)..];
    }
    None
}

const ALLOCATE: u16 = 0x0003;
const REFRESH: u16 = 0x0004;
