//! Where the corpora begin: the RFCs' messages, what real clients send, and scripts that reach every step.

use farcall_relay::stun::Method;

use crate::dtls;
use crate::sequence::Step;

/// Name and bytes.
pub type Seed = (String, Vec<u8>);

const VECTORS: [(&str, &str); 7] = [
    ("rfc5769-request", include_str!("../../tests/vectors/rfc5769-2.1-request.hex")),
    ("rfc5769-ipv4-response", include_str!("../../tests/vectors/rfc5769-2.2-ipv4-response.hex")),
    ("rfc5769-ipv6-response", include_str!("../../tests/vectors/rfc5769-2.3-ipv6-response.hex")),
    ("rfc5769-long-term", include_str!("../../tests/vectors/rfc5769-2.4-long-term-request.hex")),
    ("rfc8489-userhash", include_str!("../../tests/vectors/rfc8489-b.1-userhash-sha256.hex")),
    ("uclient-allocate", include_str!("../../tests/vectors/coturn-uclient-allocate.hex")),
    ("stunclient-binding", include_str!("../../tests/vectors/coturn-stunclient-binding.hex")),
];

/// Seeds of the codec target.
pub fn codec() -> Vec<Seed> {
    let vectors = VECTORS.iter().map(|(name, text)| ((*name).to_owned(), bytes_of(text)));
    let channel = ("channel-data".to_owned(), vec![0x40, 0x00, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);
    let classic = ("classic-binding".to_owned(), [&[0, 1, 0, 0][..], &[7; 16]].concat());
    let algorithm = ("password-algorithm".to_owned(), vec![0, 2, 0, 0]);
    let token = ("access-token".to_owned(), [&[0, 12][..], &[7; 12], &[9; 50]].concat());
    vectors.chain([channel, classic, algorithm, token]).collect()
}

/// Seeds of the streams target: the length of the pieces, then a connection.
pub fn streams() -> Vec<Seed> {
    let frames: Vec<_> = VECTORS.iter().flat_map(|(_, text)| bytes_of(text)).collect();
    let channel = [0x40, 0x00, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let ipv4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x0d, 0x96, 4, 0, 1, 0];
    let proxied = [&[5][..], signature, &[0x21, 0x11, 0, 16], &ipv4, &channel].concat();
    let ipv6 = [&[13][..], signature, &[0x21, 0x21, 0, 36], &[1; 36], &frames].concat();
    let local = [&[1][..], signature, &[0x20, 0, 0, 0], &channel].concat();
    let http = [&[3][..], b"GET / HTTP/1.1\r\n\r\n"].concat();
    let plain = [&[7][..], &frames, &channel, &frames].concat();
    [("proxied", proxied), ("proxied-ipv6", ipv6), ("plain", plain), ("local", local), ("http", http)]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
}

/// Seeds of the dtls target.
pub fn dtls() -> Vec<Seed> {
    // In the second, the rest of the hello never comes.
    let hellos = dtls::hellos(|sequence, cookie| hello(sequence, cookie, 0));
    let fragment = dtls::hellos(|sequence, cookie| hello(sequence, cookie, sequence * 200));
    let mut old = hello(0, &[], 0);
    old[26] = 255;
    let record = [23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4];
    let after = [hellos.clone(), dtls::framed(&record), hellos.clone()].concat();
    [("hellos", hellos), ("fragment", fragment), ("old", dtls::framed(&old)), ("record-too-early", after)]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
}

/// A ClientHello with what a handshake needs; `whole` is how long it claims to be, if longer than it is.
fn hello(sequence: u8, cookie: &[u8], whole: u8) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("a short hello");
    // Extended master secret, groups, their points, signatures.
    let extensions: [u8; 30] =
        [0, 23, 0, 0, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3, 0, 22, 0, 0];
    let suites = [0, 2, 0xc0, 0x2b, 1, 0, 0, length(&extensions)];
    let parts: [&[u8]; 6] = [&[254, 253], &[7; 32], &[0, length(cookie)], cookie, &suites, &extensions];
    let body = parts.concat();
    let header = [1, 0, 0, whole.max(length(&body)), 0, sequence, 0, 0, 0, 0, 0, length(&body)];
    let record = [22, 254, 255, 0, 0, 0, 0, 0, 0, 0, sequence, 0, length(&body) + 12];
    [&record[..], &header, &body].concat()
}

/// Seeds of the sequence target.
pub fn sequence() -> Vec<Seed> {
    let datagrams = VECTORS.iter().flat_map(|(_, text)| datagram(1, &bytes_of(text))).collect();
    let scripts: [(&str, Vec<u8>); 11] = [
        ("vectors", datagrams),
        (
            "call",
            [
                allocate(1),
                bind(1, 0x4000, 0),
                channel_data(1),
                from_peer(0, 0),
                wait(299),
                bind(1, 0x4000, 0),
                wait(301),
                from_peer(0, 0),
                refresh(1, 0),
            ]
            .concat(),
        ),
        (
            "indications",
            [allocate(1), permit(1, 2), send(1, 2), from_peer(0, 2), wait(300), send(1, 2)].concat(),
        ),
        (
            "relay-to-relay",
            [allocate(1), allocate(2), bind(1, 0x4000, 5), permit(2, 5), channel_data(1), from_peer(1, 5)]
                .concat(),
        ),
        (
            "refusals",
            [
                allocate(1),
                bind(1, 0x4000, 3),
                bind(1, 0x4000, 6),
                permit(1, 7),
                permit(1, 4),
                bind(1, 0x5000, 0),
                allocate(1),
                send(1, 3),
            ]
            .concat(),
        ),
        (
            "no-relay",
            [
                vec![Step::NextRelay as u8, 2],
                allocate(1),
                vec![Step::NextRelay as u8, 1],
                allocate(1),
                vec![Step::NextRelay as u8, 0],
                allocate(1),
            ]
            .concat(),
        ),
        (
            "families",
            [
                allocate_as(1, 0b100),
                bind(1, 0x4000, 0),
                bind(1, 0x4000, 4),
                bind(1, 0x4001, 4),
                channel_data(1),
                from_peer(1, 4),
                refresh(1, 0),
            ]
            .concat(),
        ),
        (
            "held-port",
            [allocate_as(1, 0b1_0000), claim(2, 0), permit(2, 0), from_peer(1, 0), wait(30), claim(3, 0)]
                .concat(),
        ),
        (
            "moves",
            [
                allocate_as(1, 0b10_0100),
                bind(1, 0x4000, 0),
                moves(2, 0, 600),
                channel_data(1),
                channel_data(2),
                moves(3, 1, 600),
                vec![Step::CloseFlow as u8, 2],
                from_peer(0, 0),
                moves(3, 0, 0),
            ]
            .concat(),
        ),
        (
            "stream",
            [
                allocate(0x81),
                bind(0x81, 0x4001, 1),
                from_peer(0, 1),
                vec![Step::CloseFlow as u8, 0x81],
                allocate(0x81),
            ]
            .concat(),
        ),
        (
            "connections",
            [
                vec![Step::AllocateTcp as u8, 0x81, 0],
                vec![Step::Connect as u8, 0x81, 0],
                vec![Step::Connected as u8, 0, 0],
                vec![Step::ConnectionBind as u8, 0x82, 0],
                permit(0x81, 2),
                vec![Step::Incoming as u8, 0, 2],
                wait(29),
                vec![Step::ConnectionBind as u8, 0xc3, 1],
                vec![Step::EndConnection as u8, 0],
                vec![Step::Connect as u8, 0x81, 1],
                refresh(0x81, 0),
            ]
            .concat(),
        ),
    ];
    scripts.map(|(name, script)| (name.to_owned(), script)).into()
}

fn datagram(client: u8, bytes: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(bytes.len()).expect("a short vector").to_be_bytes();
    [&[Step::Datagram as u8, client, high, low], bytes].concat()
}

fn request(client: u8, method: Method, attributes: &[&[u8]]) -> Vec<u8> {
    let [_, method] = method.number().to_be_bytes();
    let count = u8::try_from(attributes.len()).expect("few attributes");
    [&[Step::Request as u8, client, method, count], &attributes.concat()[..]].concat()
}

fn allocate(client: u8) -> Vec<u8> {
    request(client, Method::ALLOCATE, &[&[0x00, 0x19, 4, 17, 0, 0, 0]])
}

fn allocate_as(client: u8, wish: u8) -> Vec<u8> {
    vec![Step::Allocate as u8, client, wish]
}

fn claim(client: u8, token: u8) -> Vec<u8> {
    vec![Step::Claim as u8, client, token]
}

fn moves(client: u8, ticket: u8, seconds: u16) -> Vec<u8> {
    let [high, low] = seconds.to_be_bytes();
    vec![Step::Move as u8, client, ticket, high, low]
}

fn refresh(client: u8, seconds: u8) -> Vec<u8> {
    request(client, Method::REFRESH, &[&[0x00, 0x0d, 4, 0, 0, 0, seconds]])
}

fn bind(client: u8, channel: u16, peer: u8) -> Vec<u8> {
    let [high, low] = channel.to_be_bytes();
    vec![Step::ChannelBind as u8, client, high, low, peer]
}

fn permit(client: u8, peer: u8) -> Vec<u8> {
    vec![Step::CreatePermission as u8, client, peer]
}

fn send(client: u8, peer: u8) -> Vec<u8> {
    vec![Step::Send as u8, client, peer, 3, 1, 2, 3]
}

fn channel_data(client: u8) -> Vec<u8> {
    datagram(client, &[0x40, 0, 0, 3, 1, 2, 3])
}

fn from_peer(allocation: u8, peer: u8) -> Vec<u8> {
    vec![Step::FromPeer as u8, allocation, peer, 0, 3, 1, 2, 3]
}

fn wait(seconds: u16) -> Vec<u8> {
    let [high, low] = seconds.to_be_bytes();
    vec![Step::Wait as u8, high, low]
}

fn bytes_of(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect()
}
