//! `pipe`: stdin to the other side's stdout, and the other way round; or both to a port that the other side forwards.
//!
//! Each side opens a channel for its own input. Whoever takes it ends its own direction of that channel when everything
//! is written out, so that nobody leaves before that. With `--to` one channel carries both, as `forward` does it.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::meeting::{config, meet};
use super::session;
use crate::channel::{
    Channel, ChannelClosed, ChannelOptions, Connection, LARGEST_MESSAGE, Stream, StreamError, StreamReader,
    StreamWriter,
};
use crate::cli::{self, Common};
use crate::failure::{Failure, Reason};
use crate::forward;
use crate::peer::Config;
use crate::report::Reporter;

/// Runs until both directions have ended, somebody interrupts, or it fails.
pub async fn run(common: &Common, pipe: &cli::Pipe, reporter: &Reporter) -> Result<(), Failure> {
    let joining = &pipe.joining;
    let config = Config { media: false, ..config(common, &joining.manner)? };
    let peer = meet(config, joining.room.as_deref(), "pipe CODE", reporter).await?;
    let mut connections = peer.connections();
    let work = async {
        let Some(connection) = connections.next().await else {
            // The peer has ended, and says why.
            return std::future::pending().await;
        };
        match &pipe.to {
            Some(target) => to_port(&connection, target).await,
            None => tokio::try_join!(outward(&connection), inward(&connection)).map(|((), ())| ()),
        }
    };
    let done = session::run(peer, reporter, work).await?;
    done.ok_or_else(|| Failure::new(Reason::Cancelled, "it ended before both directions did"))
}

async fn to_port(connection: &Connection, target: &forward::Target) -> Result<(), Failure> {
    let options = forward::options(target.network, forward::FORWARD);
    let channel = connection.open(&target.to_string(), &options).await.map_err(lost)?;
    forward::answer(&channel).await.map_err(|why| {
        Failure::new(Reason::Refused, format!("the other side does not connect to {target}: {why}"))
    })?;
    let (reader, writer) = Stream::new(channel).split();
    tokio::try_join!(input(writer), output(reader)).map(|((), _)| ())
}

/// Until the other side has written everything out.
async fn outward(connection: &Connection) -> Result<(), Failure> {
    let channel = connection.open("pipe", &ChannelOptions::reliable(PROTOCOL)).await.map_err(lost)?;
    let (mut reader, writer) = Stream::new(channel).split();
    let sending = input(writer);
    tokio::pin!(sending);
    let answer = tokio::select! {
        sent = &mut sending => {
            sent?;
            reader.read().await
        }
        answer = reader.read() => answer,
    };
    match answer {
        // Or it takes no more, as `head` does.
        Ok(_) | Err(StreamError::Reset(_)) => Ok(()),
        Err(StreamError::Closed) => Err(lost(ChannelClosed)),
    }
}

async fn inward(connection: &Connection) -> Result<(), Failure> {
    let (reader, writer) = Stream::new(accept(connection).await?).split();
    if output(reader).await? == Output::Written {
        writer.finish().await.map_err(lost)?;
    }
    Ok(())
}

async fn accept(connection: &Connection) -> Result<Channel, Failure> {
    loop {
        let channel = connection.accept().await.ok_or_else(|| lost(ChannelClosed))?;
        if channel.protocol() == PROTOCOL {
            return Ok(channel);
        }
        channel.close().await;
    }
}

async fn input(mut writer: StreamWriter) -> Result<(), Failure> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = BytesMut::with_capacity(LARGEST_MESSAGE);
    loop {
        buffer.reserve(LARGEST_MESSAGE);
        let read = stdin.read_buf(&mut buffer).await;
        if read.map_err(|error| Failure::new(Reason::NoInput, format!("stdin: {error}")))? == 0 {
            return writer.finish().await.map_err(lost);
        }
        writer.write(buffer.split().freeze()).await.map_err(lost)?;
    }
}

/// What became of what came.
#[derive(Debug, PartialEq, Eq)]
enum Output {
    Written,
    /// Whoever reads our stdout does not any more.
    Unwanted,
}

async fn output(mut reader: StreamReader) -> Result<Output, Failure> {
    let mut stdout = tokio::io::stdout();
    loop {
        let bytes = match reader.read().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                close_stdout();
                return Ok(Output::Written);
            }
            Err(error) => return Err(Failure::new(Reason::Cancelled, error.to_string())),
        };
        let written = async {
            stdout.write_all(&bytes).await?;
            stdout.flush().await
        };
        if let Err(error) = written.await {
            reader.reset("nobody reads it").await;
            return if error.kind() == std::io::ErrorKind::BrokenPipe {
                Ok(Output::Unwanted)
            } else {
                Err(Failure::new(Reason::CannotWrite, format!("stdout: {error}")))
            };
        }
    }
}

/// So that whoever reads it sees the end now, although the other direction goes on.
fn close_stdout() {
    let nothing = std::fs::OpenOptions::new().write(true).open("/dev/null");
    if let Err(error) = nothing.and_then(|nothing| Ok(rustix::stdio::dup2_stdout(nothing)?)) {
        tracing::debug!(%error, "Stdout stays open");
    }
}

fn lost(_: ChannelClosed) -> Failure {
    Failure::new(Reason::Cancelled, "the connection was lost")
}

const PROTOCOL: &str = "farcall.pipe.v1";
