//! A TCP connection as a stream on a channel.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::channel::{Channel, LARGEST_MESSAGE, Stream};

/// Carries both directions until both have ended, or one breaks. Each ends by itself.
pub(crate) async fn splice(channel: Channel, mut connection: TcpStream) {
    // What a program writes at once should not wait for what it writes next.
    let _ = connection.set_nodelay(true);
    let (mut reader, mut writer) = Stream::new(channel.clone()).split();
    let (mut from_program, mut to_program) = connection.split();
    let outward = async {
        let mut buffer = BytesMut::with_capacity(LARGEST_MESSAGE);
        loop {
            buffer.reserve(LARGEST_MESSAGE);
            if from_program.read_buf(&mut buffer).await? == 0 {
                return writer.finish().await.map_err(io::Error::other);
            }
            writer.write(buffer.split().freeze()).await.map_err(io::Error::other)?;
        }
    };
    let inward = async {
        while let Some(bytes) = reader.read().await.map_err(io::Error::other)? {
            to_program.write_all(&Bytes::clone(&bytes)).await?;
        }
        to_program.shutdown().await
    };
    let result: io::Result<((), ())> = tokio::try_join!(outward, inward);
    if let Err(error) = result {
        tracing::debug!(%error, "Forwarded connection broken off");
        // The program must not take this for an orderly end.
        let _ = connection.set_zero_linger();
    }
    channel.close().await;
}
