//! The connection to the store: one, for calls and bells alike, made anew whenever it breaks.
//!
//! While there is none every call fails at once, so that nobody waits for a store that is away.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, TlsCertificates, Value,
};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{debug, info};

use super::Owned;
use super::functions::Library;
use crate::backplane::Unavailable;

/// How to reach the store. Holds a password, perhaps.
#[derive(Clone)]
pub struct Address(Arc<ConnectionInfo>);

impl Address {
    /// Reads a URL: `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS, `redis+unix:///path`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let info = redis::IntoConnectionInfo::into_connection_info(url).map_err(|error| error.to_string())?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self(Arc::new(info.set_redis_settings(settings))))
    }

    /// With certificates of one's own instead of the machine's authorities and of nothing to show.
    pub fn with(self, Certificates { authorities, own }: Certificates) -> Result<Self, String> {
        let own = own.map(|(chain, key)| ClientTlsConfig { client_cert: chain, client_key: key });
        let certificates = TlsCertificates { client_tls: own, root_cert: authorities };
        let client = Client::build_with_tls(ConnectionInfo::clone(&self.0), certificates);
        let client = client.map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(client.get_connection_info().clone())))
    }
}

/// What a connection over TLS trusts and shows, in PEM.
#[derive(Default)]
pub struct Certificates {
    /// Whom the store's certificate must come from.
    pub authorities: Option<Vec<u8>>,
    /// A chain and its key, for a store that asks for one.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates(redacted)")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.0.addr())
    }
}

/// The connection, if there is one.
pub(super) struct Link {
    state: watch::Receiver<State>,
    breaks: Arc<Breaks>,
    library: Arc<Library>,
    _keeper: Owned,
}

#[derive(Clone)]
enum State {
    Starting,
    Down(Arc<str>),
    Up { number: u64, connection: MultiplexedConnection },
}

impl Link {
    /// Connects, listens to `channel`, and keeps it so. Returns after the first attempt, whatever it came to.
    pub(super) async fn start(
        address: Address,
        library: Library,
        channel: String,
        heard: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Self {
        let (tell, mut state) = watch::channel(State::Starting);
        let (breaks, library) = (Arc::new(Breaks::default()), Arc::new(library));
        let keeper = Keeper {
            address,
            library: library.clone(),
            channel,
            heard: Arc::new(heard),
            breaks: breaks.clone(),
            tell,
        };
        let keeper = Owned(tokio::spawn(keeper.keep()));
        // The sender lives as long as the keeper.
        let _ = state.wait_for(|state| !matches!(state, State::Starting)).await;
        Self { state, breaks, library, _keeper: keeper }
    }

    /// Calls one of the library's functions.
    pub(super) async fn call(
        &self,
        function: Function,
        key: &str,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Value, Unavailable> {
        let (number, mut connection) = match &*self.state.borrow() {
            State::Up { number, connection } => (*number, connection.clone()),
            State::Starting => return Err(Unavailable("it has not been reached yet".into())),
            State::Down(why) => return Err(Unavailable(why.as_ref().into())),
        };
        let mut call = redis::cmd(function.verb());
        call.arg(self.library.function(function)).arg(1).arg(key);
        arguments(&mut call);
        let mut answer = call.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(is_function_missing) {
            // The server restarted without its memory, or another took its place.
            load(&mut connection, &self.library).await.map_err(|error| Unavailable(error.into()))?;
            answer = call.query_async(&mut connection).await;
        }
        answer.map_err(|error| {
            if breaks_connection(&error) {
                self.breaks.note(number);
            }
            Unavailable(error.into())
        })
    }

    /// Counts connections: whoever saw an earlier one may have missed bells.
    pub(super) fn number(&self) -> Option<u64> {
        match &*self.state.borrow() {
            State::Up { number, .. } => Some(*number),
            State::Starting | State::Down(_) => None,
        }
    }
}

/// The functions of `functions.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Join,
    Send,
    Leave,
    Detach,
    Sweep,
    Remove,
    Close,
    View,
    Read,
    News,
    Rooms,
}

impl Function {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Send => "send",
            Self::Leave => "leave",
            Self::Detach => "detach",
            Self::Sweep => "sweep",
            Self::Remove => "remove",
            Self::Close => "close",
            Self::View => "view",
            Self::Read => "read",
            Self::News => "news",
            Self::Rooms => "rooms",
        }
    }

    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Join
            | Self::Send
            | Self::Leave
            | Self::Detach
            | Self::Sweep
            | Self::Remove
            | Self::Close
            | Self::View => "FCALL",
            Self::Read | Self::News | Self::Rooms => "FCALL_RO",
        }
    }
}

/// Whether the newest connection is known to be broken.
#[derive(Default)]
struct Breaks {
    newest: AtomicU64,
    told: Notify,
}

impl Breaks {
    fn note(&self, number: u64) {
        self.newest.fetch_max(number, Ordering::Relaxed);
        self.told.notify_one();
    }

    async fn of(&self, number: u64) {
        while self.newest.load(Ordering::Relaxed) < number {
            self.told.notified().await;
        }
    }
}

struct Keeper<H> {
    address: Address,
    library: Arc<Library>,
    channel: String,
    heard: Arc<H>,
    breaks: Arc<Breaks>,
    tell: watch::Sender<State>,
}

impl<H: Fn(&[u8]) + Send + Sync + 'static> Keeper<H> {
    async fn keep(self) {
        let mut pause = FIRST_PAUSE;
        for number in 1.. {
            match self.connect(number).await {
                Ok(connection) => {
                    info!(address = ?self.address, "Connected to the backplane");
                    pause = FIRST_PAUSE;
                    self.tell.send_replace(State::Up { number, connection });
                    self.breaks.of(number).await;
                    self.tell.send_replace(State::Down("the connection broke".into()));
                }
                Err(error) => {
                    debug!(address = ?self.address, %error, "No connection to the backplane");
                    self.tell.send_replace(State::Down(format!("{:?}: {error}", self.address).into()));
                }
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn connect(&self, number: u64) -> Result<MultiplexedConnection, RedisError> {
        let (heard, breaks) = (self.heard.clone(), self.breaks.clone());
        let push = move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                breaks.note(number);
            } else if info.kind == PushKind::Message
                && let Some(Value::BulkString(payload)) = info.data.last()
            {
                heard(payload);
            }
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER))
            .set_pipeline_buffer_size(CALLS_AT_ONCE)
            .set_push_sender(push);
        let client = Client::open(ConnectionInfo::clone(&self.address.0))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        load(&mut connection, &self.library).await?;
        connection.subscribe(&self.channel).await?;
        Ok(connection)
    }
}

/// Gives the server our functions, unless it has them.
async fn load(connection: &mut MultiplexedConnection, library: &Library) -> Result<(), RedisError> {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg(library.code());
    match load.query_async::<()>(connection).await {
        Ok(()) => Ok(()),
        Err(error) if says(&error, "already exists") => Ok(()),
        Err(error) if says(&error, "unknown command") => {
            let older = "the server knows no functions: Redis 7, Valkey or newer is needed";
            Err(RedisError::from((redis::ErrorKind::InvalidClientConfig, older)))
        }
        Err(error) => Err(error),
    }
}

fn is_function_missing(error: &RedisError) -> bool {
    says(error, "Function not found")
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words)) || error.to_string().contains(words)
}

/// Whether to try another connection: this one is dead, or leads to a server that does not serve any more.
fn breaks_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH"))
}

/// How long the store may take to be connected to, and then to answer.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Calls that may wait to be written.
const CALLS_AT_ONCE: usize = 1024;
