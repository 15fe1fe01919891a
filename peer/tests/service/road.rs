//! The way to a service, which may break without a word.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes bytes on until it goes out of scope.
pub(crate) struct Road {
    address: SocketAddr,
    /// Grows with every break.
    breaks: watch::Sender<u64>,
    _passing: JoinSet<()>,
}

impl Road {
    pub(crate) async fn to(service: &super::Service) -> Self {
        let target: SocketAddr = service.url().trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (breaks, broken) = watch::channel(0);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut broken = broken.clone();
                broken.mark_unchanged();
                streams.spawn(async move {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    let is_broken = tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => false,
                        changed = broken.changed() => changed.is_ok(),
                    };
                    if is_broken {
                        // Both are there, and hear nothing.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, breaks, _passing: passing }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nothing passes any more on the connections that there are; others may be made.
    pub(crate) fn break_silently(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }
}
