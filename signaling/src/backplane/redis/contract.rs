//! The contract's lines again, word for word, with the rules as the server has them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::mpsc;

use redis::{Commands, Connection, ConnectionLike, PushInfo, PushKind};

use super::redis_server::RedisServer;
use super::tests::connection;
use super::*;
use crate::room::model::contract::contract;
use crate::room::model::world::{Core, LIMITS, World};

contract!(64, World::of(InServer::fresh()));

/// The functions on a server, called as the backplane calls them; every world has keys of its own.
struct InServer {
    connection: Rc<RefCell<Connection>>,
    library: Library,
    prefix: String,
    limits_text: String,
    now: Cell<Timestamp>,
    bells: mpsc::Receiver<PushInfo>,
}

impl InServer {
    fn fresh() -> Self {
        // One server for all worlds of a test; a thread runs one test.
        thread_local! {
            static SERVER: (RedisServer, Rc<RefCell<Connection>>) = {
                let server = RedisServer::start();
                let connection = Rc::new(RefCell::new(connection(&server)));
                let code = Library::new();
                let mut load = redis::cmd("FUNCTION");
                load.arg("LOAD").arg(code.code());
                connection.borrow_mut().req_command(&load).unwrap();
                (server, connection)
            };
        }
        let connection = SERVER.with(|(_, connection)| connection.clone());
        let (tell, bells) = mpsc::channel();
        connection.borrow_mut().set_push_sender(tell);
        connection.borrow_mut().subscribe_resp3(format!("farcall:bell:{NODE}")).unwrap();
        let prefix = format!("world-{:016x}", rand::random::<u64>());
        Self {
            connection,
            library: Library::new(),
            prefix,
            limits_text: reply::limits(&LIMITS),
            now: Cell::new(Timestamp(0)),
            bells,
        }
    }

    fn mutate(&self, function: Function, now: Timestamp, arguments: impl FnOnce(&mut Cmd)) -> Reply {
        self.now.set(now);
        self.call(function, |cmd| {
            cmd.arg(now.0).arg(&self.limits_text);
            arguments(cmd);
        })
    }

    fn call(&self, function: Function, arguments: impl FnOnce(&mut Cmd)) -> Reply {
        let mut call = redis::cmd(function.verb());
        // All rooms in one shard, as they are in one core.
        call.arg(self.library.function(function)).arg(1).arg(self.key(""));
        arguments(&mut call);
        Reply::new(self.connection.borrow_mut().req_command(&call).unwrap()).unwrap()
    }

    fn key(&self, below: &str) -> String {
        format!("{}:{{00}}:{below}", self.prefix)
    }
}

impl Core for InServer {
    fn handle_join(
        &mut self,
        now: Timestamp,
        join: Join,
        fresh: Fresh,
        vacancy: Vacancy,
    ) -> Result<Joined, Refusal> {
        let reply = self.mutate(Function::Join, now, |cmd| join_arguments(cmd, NODE, &join, &fresh, vacancy));
        good(reply.joined(&LIMITS)).map(|answer| answer.joined)
    }

    fn handle_send(
        &mut self,
        now: Timestamp,
        sender: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Refusal> {
        let reply = self.mutate(Function::Send, now, |cmd| send_arguments(cmd, sender, secret, &frames, ack));
        good(reply.sent(&frames, &LIMITS))
    }

    fn handle_leave(&mut self, now: Timestamp, session: &SessionId, secret: &[u8]) -> Result<(), Refusal> {
        let reply = self.mutate(Function::Leave, now, |cmd| {
            cmd.arg(session.as_str()).arg(secret);
        });
        good(reply.counted(&LIMITS)).map(drop)
    }

    fn handle_detach(&mut self, now: Timestamp, session: &SessionId, epoch: u64) {
        self.mutate(Function::Detach, now, |cmd| {
            cmd.arg(session.as_str()).arg(epoch);
        });
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.mutate(Function::Sweep, now, |_| ());
    }

    fn read(&self, session: &SessionId, epoch: u64, after: u64, max: usize) -> Result<Vec<Entry>, StreamEnd> {
        let now = self.now.get().0.to_string();
        let call = |cmd: &mut Cmd| read_arguments(cmd, &now, session, epoch, after, max);
        good(self.call(Function::Read, call).read())
    }

    fn rung(&mut self) -> HashSet<SessionId> {
        // Whatever was published before this is answered has been read with it.
        self.connection.borrow_mut().req_command(&redis::cmd("PING")).unwrap();
        let bells = std::iter::from_fn(|| self.bells.try_recv().ok());
        let rung = bells.filter(|info| info.kind == PushKind::Message).map(|mut info| {
            let Some(Value::BulkString(session)) = info.data.pop() else { panic!("{info:?}") };
            SessionId::from(std::str::from_utf8(&session).unwrap())
        });
        rung.collect()
    }

    fn log(&self, session: &SessionId) -> Option<(u64, Vec<Entry>)> {
        let mut connection = self.connection.borrow_mut();
        let key = self.key(&format!("s:{session}"));
        let fields: (Option<u64>, Option<u64>, Option<String>) =
            connection.hmget(&key, &["epoch", "acked", "line"]).unwrap();
        let (Some(epoch), Some(acked), Some(line)) = fields else { return None };
        drop(connection);
        // Only a stream may read, so this one has one while we look.
        let borrowed = |line: &str| {
            let _: () = self.connection.borrow_mut().hset(&key, "line", line).unwrap();
        };
        borrowed("a");
        let waiting = self.read(session, epoch, 0, usize::MAX).unwrap();
        borrowed(&line);
        Some((acked, waiting))
    }

    fn room_count(&self) -> usize {
        self.connection.borrow_mut().scard(self.key("rooms")).unwrap()
    }

    fn session_count(&self) -> usize {
        self.connection.borrow_mut().zcard(self.key("due")).unwrap()
    }
}

fn good<T>(answer: Result<T, Nonsense>) -> T {
    answer.unwrap()
}

const NODE: &str = "here";
