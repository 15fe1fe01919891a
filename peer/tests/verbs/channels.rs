//! The library's face, against `echo`.

use std::collections::BTreeSet;
use std::time::Duration;

use farcall_peer::{ChannelOptions, Config, Message, Order, Peer as LibraryPeer, Reliability};
use tokio::time::timeout;

use super::super::{DEADLINE, Peer, Service};

#[tokio::test]
async fn channels_of_every_kind_carry_messages_both_ways() {
    let service = Service::start(2).await;
    let mut echo = Peer::spawn(&service, &["echo", "room"]);
    echo.until("joined", |_| true).await;
    let config =
        Config { bind: vec![[127, 0, 0, 1].into()], media: false, ..Config::new(service.url(), "room") };
    let mut peer = LibraryPeer::start(config).unwrap();
    let mut connections = peer.connections();
    let outgoing = peer.outgoing();
    let (text_back, mut texts) = tokio::sync::mpsc::channel(8);
    let events = tokio::spawn(async move {
        while let Some(event) = peer.event().await {
            if let farcall_peer::Event::Text { text } = event {
                text_back.send(text).await.unwrap();
                peer.hang_up("heard");
            }
        }
        peer.finish().await
    });
    let connection = timeout(DEADLINE, connections.next()).await.unwrap().unwrap();
    let kinds = [
        ChannelOptions::default(),
        ChannelOptions { order: Order::Any, ..ChannelOptions::reliable("any order") },
        ChannelOptions { reliability: Reliability::Milliseconds(500), ..ChannelOptions::default() },
        ChannelOptions::datagrams("datagrams"),
    ];
    let mut open = Vec::new();
    for (number, options) in kinds.iter().enumerate() {
        let label = format!("channel {number}");
        let channel = timeout(DEADLINE, connection.open(&label, options)).await.unwrap().unwrap();
        assert_eq!((channel.label(), channel.protocol()), (label.as_str(), options.protocol.as_str()));
        open.push(channel);
    }
    for (channel, options) in open.iter().zip(&kinds) {
        // So large that a sender is made to wait.
        let messages: Vec<Vec<u8>> = (0..64u8).map(|number| vec![number; 48 << 10]).collect();
        let few = if options.reliability == Reliability::Full { 64 } else { 4 };
        let sending = async {
            for message in &messages[..few] {
                channel.send(Message::Data(message.clone().into())).await.unwrap();
            }
        };
        let receiving = async {
            let mut seen = Vec::new();
            while seen.len() < few {
                let Some(Message::Data(data)) = channel.receive().await else { panic!("no data") };
                assert_eq!(data.len(), 48 << 10);
                seen.push(data[0]);
            }
            seen
        };
        let ((), seen) = timeout(DEADLINE, async { tokio::join!(sending, receiving) }).await.unwrap();
        if options.order == Order::Kept {
            assert!(seen.is_sorted(), "{options:?}: {seen:?}");
        }
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), few);
        timeout(DEADLINE, channel.drained()).await.unwrap();
        assert_eq!(channel.outstanding().await, 0);
    }
    let first = open.remove(0);
    first.close().await;
    assert_eq!(timeout(DEADLINE, first.receive()).await.unwrap(), None);
    assert!(first.send(Message::Text("too late".into())).await.is_err());

    outgoing.send(Message::Text("text too".into())).await.unwrap();
    assert_eq!(timeout(DEADLINE, texts.recv()).await.unwrap().unwrap(), "text too");
    timeout(DEADLINE, connection.closed()).await.unwrap();
    assert!(connection.accept().await.is_none());
    assert!(timeout(Duration::from_secs(20), connections.next()).await.unwrap().is_none());
    assert_eq!(events.await.unwrap(), Ok(()));
}
