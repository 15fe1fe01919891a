//! A flood of Allocate requests, each from an address of its own, and what it leaves behind: nothing, or the run fails.
//!
//! 127.0.0.0/8 has sixteen million addresses, so that nothing needs to be forged to look forged. What comes is of
//! every kind that a stranger can make: without credentials, with invented ones, and with a nonce and even the right
//! password of somebody who was answered elsewhere. A client that was there before goes on meanwhile.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use farcall_relay::stun::{
    AttributeType, Class, IntegrityKey, Message, MessageWriter, Method, TransactionId,
};
use farcall_tests::Context;
use farcall_tests::clock::PATIENCE;
use farcall_tests::relay::USER;

use crate::load::{Load, Session};
use crate::relay::{Samples, float, microseconds};
use crate::servers::{Kind, Server};

/// So many that neither the server nor its socket's queue has a chance to hide anything.
const DATAGRAMS: u32 = 1_000_000;
/// A server that remembers every stranger would need gigabytes for as many.
const OF_WHO_REMEMBERS: u32 = 20_000;
/// What fits into the queue of the server's socket; then the client that was there before sends and is answered.
const BATCH: u32 = 1000;
/// How much the server may grow by all of them.
const TOLERATED_BYTES: u64 = 1 << 20;

/// Method of RFC 6062, for which there is nothing to connect to.
const CONNECTION_BIND: u16 = 11;

pub(crate) fn measure(ctx: &Context, kind: Kind) -> Result<Samples> {
    let server = Server::start_as_installed(ctx, kind)?;
    let datagrams = if kind == Kind::Farcall { DATAGRAMS } else { OF_WHO_REMEMBERS };
    let bystander = [Session::with_peer(&server, 160)?];
    let mut load = Load::new();
    let requests = requests(&server)?;
    // What a first stranger makes a server touch is not the flood's.
    flood(&server, &requests, 0..BATCH)?;
    ensure!(load.round(&bystander, 1) == 2, "the bystander is not served");
    let (bytes, descriptors) = (server.resident_bytes()?, server.descriptors()?);
    let before = server.cpu_time()?;
    for batch in (BATCH..BATCH + datagrams).step_by(BATCH as usize) {
        flood(&server, &requests, batch..batch + BATCH)?;
        ensure!(load.round(&bystander, 1) == 2, "the bystander is served no more after {batch} strangers");
    }
    let used = server.cpu_time()?.saturating_sub(before);
    let grown = server.resident_bytes()?.saturating_sub(bytes);
    let opened = server.descriptors()?.saturating_sub(descriptors);
    if kind == Kind::Farcall {
        ensure!(grown <= TOLERATED_BYTES, "{grown} bytes more after {datagrams} strangers");
        ensure!(opened == 0, "{opened} descriptors more after {datagrams} strangers");
    }
    Ok(vec![
        ("strangers", datagrams.into()),
        ("kB RSS before", float(bytes / 1024)),
        ("kB RSS more", float(grown / 1024)),
        ("descriptors more", float(opened)),
        ("µs CPU per stranger", microseconds(used) / f64::from(datagrams)),
    ])
}

/// Every request in turn, from addresses that nobody has used before.
fn flood(server: &Server, requests: &[Vec<u8>], strangers: std::ops::Range<u32>) -> Result<()> {
    for (stranger, request) in strangers.zip(requests.iter().cycle()) {
        // Odd steps around 127.0.0.0/8 meet every address once, and every prefix soon.
        let host = stranger.wrapping_mul(7_368_787) % (1 << 24);
        let address = Ipv4Addr::from_bits(0x7f00_0000 | host.clamp(2, 0xff_fffe));
        let socket = UdpSocket::bind((address, 0)).with_context(|| format!("binding {address}"))?;
        socket.send_to(request, server.udp)?;
    }
    Ok(())
}

/// What strangers say. None of it proves that they are where it comes from.
fn requests(server: &Server) -> Result<Vec<Vec<u8>>> {
    let bare = request(Method::ALLOCATE, |_| {})?;
    let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    elsewhere.set_read_timeout(Some(PATIENCE))?;
    elsewhere.send_to(&bare, server.udp)?;
    let mut challenge = vec![0; 2048];
    let length = elsewhere.recv(&mut challenge).context("waiting for a challenge")?;
    let challenge = Message::parse(challenge.get(..length).unwrap_or_default())?;
    let realm = challenge.find_text(AttributeType::REALM).context("no realm")?;
    let nonce = challenge.find_text(AttributeType::NONCE).context("no nonce")?;
    let invented = nonce.chars().rev().collect::<String>();
    let signed = |method, nonce: &str, password| {
        request(method, |writer| {
            writer
                .attribute(AttributeType::USERNAME, USER.0.as_bytes())
                .attribute(AttributeType::REALM, realm.as_bytes())
                .attribute(AttributeType::NONCE, nonce.as_bytes())
                .integrity(&IntegrityKey::long_term_md5(USER.0, realm, password));
        })
    };
    let bind = Method::new(CONNECTION_BIND).context("a method of RFC 6062")?;
    Ok(vec![
        signed(Method::ALLOCATE, &invented, "guess")?,
        signed(Method::ALLOCATE, &invented, USER.1)?,
        signed(Method::ALLOCATE, nonce, "guess")?,
        signed(Method::ALLOCATE, nonce, USER.1)?,
        request(Method::REFRESH, |writer| {
            writer.attribute(AttributeType::MOBILITY_TICKET, &[7; 24]);
        })?,
        signed(bind, nonce, USER.1)?,
        bare,
    ])
}

fn request(method: Method, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let id = TransactionId(rand::random());
    let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    attributes(&mut writer);
    writer.finish()?;
    Ok(bytes)
}
