//! A robot without a head: whoever comes into its room gets its position ten times a second, as datagrams of which the
//! latest counts, and may send it commands on a reliable channel, each of which it answers.
//!
//! `cargo run --example robot -- http://127.0.0.1:8080 "our room"`; stop it with Ctrl-C.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to its reader")]

use std::time::Duration;

use farcall_peer::{Channel, ChannelOptions, Config, Connection, Event, Failure, Message, Peer};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [server, room] = words.as_slice() else {
        eprintln!("usage: robot SIGNALING ROOM");
        return Ok(());
    };
    let mut peer = Peer::start(Config { media: false, ..Config::new(server, room) })?;
    let mut connections = peer.connections();
    let work = tokio::spawn(async move {
        // One after the other: a room has two places.
        while let Some(connection) = connections.next().await {
            tokio::join!(tell(&connection), obey(&connection));
        }
    });
    loop {
        tokio::select! {
            // The events must be taken, or the peer waits for them to be.
            event = peer.event() => match event {
                Some(Event::Connected { local, remote, .. }) => println!("connected, {local} to {remote}"),
                Some(_) => {}
                None => break,
            },
            Ok(()) = tokio::signal::ctrl_c() => peer.hang_up("switched off"),
        }
    }
    work.abort();
    peer.finish().await
}

/// Where it is, until the connection is over.
async fn tell(connection: &Connection) {
    let Ok(channel) = connection.open("position", &ChannelOptions::datagrams("example.position")).await
    else {
        return;
    };
    let mut angle: f64 = 0.0;
    loop {
        angle += 0.1;
        let position = format!("{:.3} {:.3}", angle.cos(), angle.sin());
        if channel.send(Message::Text(position)).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Takes what the other side opens, until the connection is over.
async fn obey(connection: &Connection) {
    while let Some(channel) = connection.accept().await {
        tokio::spawn(answer(channel));
    }
}

async fn answer(channel: Channel) {
    while let Some(Message::Text(command)) = channel.receive().await {
        if channel.send(Message::Text(format!("done: {command}"))).await.is_err() {
            return;
        }
    }
}
