//! The model: lists of what lives until when, and what each event must look like from outside.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::operation::Wish;
use super::{Effect, FORBIDDEN_AT_TIMES, FiveTuple, PEERS, SERVER};

/// All that lives.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) now: Duration,
    pub(super) allocations: Vec<Allocated>,
    pub(super) connections: Vec<Connection>,
    is_forbidden: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Allocated {
    pub(super) id: usize,
    pub(super) flow: FiveTuple,
    pub(super) user: usize,
    pub(super) is_tcp: bool,
    pub(super) is_v4: bool,
    pub(super) ends: Duration,
    pub(super) permissions: Vec<(IpAddr, Duration)>,
    pub(super) channels: Vec<(u16, SocketAddr, Duration)>,
}

#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) id: u32,
    pub(super) allocation: usize,
    peer: SocketAddr,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// This request of the client waits for its answer.
    Asked { transaction: [u8; 12], until: Duration },
    /// For the client to come.
    Waits { until: Duration },
    /// It came by this stream.
    Carried { by: FiveTuple },
}

impl Stage {
    pub(super) fn is_asked(self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Waits { .. })
    }
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) flow: FiveTuple,
    pub(super) user: usize,
    pub(super) transaction: [u8; 12],
}

impl Question {
    fn answer(&self, code: Option<u16>) -> Vec<Effect> {
        vec![answer(self.flow, self.transaction, code)]
    }

    fn yes(&self) -> Vec<Effect> {
        self.answer(None)
    }

    fn no(&self, code: u16) -> Vec<Effect> {
        self.answer(Some(code))
    }
}

fn answer(to: FiveTuple, transaction: [u8; 12], code: Option<u16>) -> Effect {
    Effect::Answered { to, transaction, code, connection: None }
}

impl Model {
    /// RFC 6062, section 5.1.
    pub(super) fn allocate(&mut self, question: Question, wish: Wish, id: Option<usize>) -> Vec<Effect> {
        if self.allocations.iter().any(|held| held.flow == question.flow) {
            return question.no(437);
        }
        match wish {
            Wish::Other => return question.no(442),
            Wish::TcpEvenPort | Wish::TcpHeldPort | Wish::TcpUnfragmented | Wish::TcpBothFamilies => {
                return question.no(400);
            }
            Wish::Tcp | Wish::TcpV6 | Wish::TcpMobile if !question.flow.transport.is_stream() => {
                return question.no(400);
            }
            Wish::Udp | Wish::Tcp | Wish::TcpV6 | Wish::TcpMobile => {}
        }
        self.allocations.push(Allocated {
            id: id.expect("an allocation"),
            flow: question.flow,
            user: question.user,
            is_tcp: wish != Wish::Udp,
            is_v4: wish != Wish::TcpV6,
            ends: self.now + Duration::from_secs(600),
            permissions: vec![],
            channels: vec![],
        });
        question.yes()
    }

    pub(super) fn refresh(&mut self, question: Question, seconds: u32) -> Vec<Effect> {
        let now = self.now;
        match self.held_by(question) {
            Err(code) => question.no(code),
            Ok(held) if seconds == 0 => {
                let id = held.id;
                [question.yes(), self.end_allocation(id)].concat()
            }
            Ok(held) => {
                held.ends = now + Duration::from_secs(seconds.clamp(600, 3600).into());
                question.yes()
            }
        }
    }

    pub(super) fn permit(&mut self, question: Question, peer: SocketAddr) -> Vec<Effect> {
        let (now, may) = (self.now, self.may_be_permitted(peer));
        match self.held_by(question) {
            Err(code) => question.no(code),
            Ok(held) if held.is_v4 != peer.is_ipv4() => question.no(443),
            Ok(_) if !may => question.no(403),
            Ok(held) => {
                held.permit(peer.ip(), now);
                question.yes()
            }
        }
    }

    pub(super) fn bind(&mut self, question: Question, channel: u16, peer: SocketAddr) -> Vec<Effect> {
        let (now, may) = (self.now, self.may_be_reached(peer));
        let conflicts = |(bound, to, _): &(u16, SocketAddr, Duration)| (*bound == channel) != (*to == peer);
        match self.held_by(question) {
            Err(code) => question.no(code),
            Ok(held) if held.is_v4 != peer.is_ipv4() => question.no(443),
            Ok(held) if held.is_tcp => question.no(400),
            Ok(_) if !may => question.no(403),
            Ok(held) if held.channels.iter().any(conflicts) => question.no(400),
            Ok(held) => {
                held.permit(peer.ip(), now);
                held.channels.retain(|(bound, _, _)| *bound != channel);
                held.channels.push((channel, peer, now + Duration::from_secs(600)));
                question.yes()
            }
        }
    }

    pub(super) fn send(&self, flow: FiveTuple, peer: SocketAddr) -> Vec<Effect> {
        let by = self.allocations.iter().find(|held| held.flow == flow && !held.is_tcp);
        let by = by.filter(|held| held.permits(peer.ip()) && self.may_be_reached(peer));
        by.map(|held| Effect::SentToPeer { from: held.id, peer }).into_iter().collect()
    }

    pub(super) fn receive(&self, relay: usize, peer: SocketAddr) -> Vec<Effect> {
        let to = self.allocations.iter().find(|held| held.id == relay && !held.is_tcp);
        let to = to.filter(|held| held.permits(peer.ip()));
        to.map(|held| Effect::SentToClient { to: held.flow }).into_iter().collect()
    }

    /// Section 5.2. Under which number is the machine's to say.
    pub(super) fn connect(
        &mut self,
        question: Question,
        peer: Option<SocketAddr>,
        drawn: Option<u32>,
    ) -> Vec<Effect> {
        let held = match self.held_by(question) {
            Err(code) => return question.no(code),
            Ok(held) if !held.is_tcp => return question.no(437),
            Ok(held) => held.clone(),
        };
        let Some(peer) = peer else { return question.no(400) };
        if held.is_v4 != peer.is_ipv4() {
            return question.no(443);
        }
        if !self.may_be_reached(peer) {
            return question.no(403);
        }
        if self.of(held.id).any(|other| other.peer == peer) {
            return question.no(446);
        }
        if !self.has_room(held.id) {
            return question.no(508);
        }
        let until = self.now + Duration::from_secs(30);
        let stage = Stage::Asked { transaction: question.transaction, until };
        let id = self.add(drawn, held.id, peer, stage);
        vec![Effect::Connecting { from: held.id, connection: id, peer }]
    }

    /// The peer took it, or did not.
    pub(super) fn went(&mut self, id: u32, is_connected: bool) -> Vec<Effect> {
        let Some(at) = self.connections.iter().position(|found| found.id == id) else { return vec![] };
        let Connection { allocation, stage, .. } = self.connections[at].clone();
        let Stage::Asked { transaction, .. } = stage else { return vec![] };
        let flow = self.flow_of(allocation);
        if !is_connected {
            self.connections.remove(at);
            return vec![answer(flow, transaction, Some(447))];
        }
        self.connections[at].stage = Stage::Waits { until: self.now + Duration::from_secs(30) };
        vec![Effect::Answered { to: flow, transaction, code: None, connection: Some(id) }]
    }

    /// Section 5.3.
    pub(super) fn knock(&mut self, relay: usize, peer: SocketAddr, drawn: Option<u32>) -> Vec<Effect> {
        let found = self.allocations.iter().find(|held| held.id == relay && held.is_tcp);
        let Some(held) = found.filter(|held| held.permits(peer.ip())).cloned() else { return vec![] };
        if !self.has_room(relay) {
            return vec![];
        }
        let stage = Stage::Waits { until: self.now + Duration::from_secs(30) };
        let connection = self.add(drawn, relay, peer, stage);
        vec![Effect::Attempted { to: held.flow, connection, peer }]
    }

    /// Section 5.4.
    pub(super) fn come(&mut self, question: Question, id: Option<u32>) -> Vec<Effect> {
        let is_taken = self.allocations.iter().any(|held| held.flow == question.flow);
        if !question.flow.transport.is_stream() || is_taken {
            return question.no(400);
        }
        let Some(at) = self.connections.iter().position(|found| Some(found.id) == id) else {
            return question.no(400);
        };
        let Connection { id, allocation, stage, .. } = self.connections[at].clone();
        let owner = self.allocations.iter().find(|held| held.id == allocation).expect("its allocation").user;
        if owner != question.user {
            return question.no(441);
        }
        if !stage.waits() {
            return question.no(400);
        }
        self.connections[at].stage = Stage::Carried { by: question.flow };
        [question.yes(), vec![Effect::Spliced { connection: id, with: question.flow }]].concat()
    }

    /// Either end is closed, which the other end is not told by the state machine.
    pub(super) fn end(&mut self, id: u32) {
        self.connections.retain(|found| found.id != id);
    }

    /// A client is gone, and with it all that it had. There is nobody to tell.
    pub(super) fn close(&mut self, flow: FiveTuple) -> Vec<Effect> {
        let Some(held) = self.allocations.iter().find(|held| held.flow == flow) else { return vec![] };
        let effects = self.end_allocation(held.id);
        effects.into_iter().filter(|effect| !matches!(effect, Effect::Answered { .. })).collect()
    }

    /// Section 5.5: no connection outlives its allocation.
    pub(super) fn end_allocation(&mut self, id: usize) -> Vec<Effect> {
        let ids: Vec<_> = self.of(id).map(|found| found.id).collect();
        let mut effects: Vec<_> = ids.into_iter().flat_map(|id| self.disconnect(id)).collect();
        self.allocations.retain(|held| held.id != id);
        effects.push(Effect::RelayClosed { relay: id });
        effects
    }

    pub(super) fn forbid(&mut self, is_forbidden: bool) -> Vec<Effect> {
        self.is_forbidden = is_forbidden;
        if !is_forbidden {
            return vec![];
        }
        let ip = ip(FORBIDDEN_AT_TIMES);
        for held in &mut self.allocations {
            held.permissions.retain(|(permitted, _)| *permitted != ip);
        }
        let to_it = self.connections.iter().filter(|found| found.peer.ip() == ip).map(|found| found.id);
        to_it.collect::<Vec<_>>().into_iter().flat_map(|id| self.disconnect(id)).collect()
    }

    pub(super) fn wait(&mut self, by: Duration) -> Vec<Effect> {
        self.now += by;
        let now = self.now;
        let late = self.connections.iter().filter(|found| match found.stage {
            Stage::Asked { until, .. } | Stage::Waits { until } => until <= now,
            Stage::Carried { .. } => false,
        });
        let late: Vec<_> = late.map(|found| found.id).collect();
        let mut effects: Vec<_> = late.into_iter().flat_map(|id| self.disconnect(id)).collect();
        let over = self.allocations.iter().filter(|held| held.ends <= now).map(|held| held.id);
        for id in over.collect::<Vec<_>>() {
            effects.extend(self.end_allocation(id));
        }
        for held in &mut self.allocations {
            held.permissions.retain(|(_, ends)| *ends > now);
            held.channels.retain(|(_, _, ends)| *ends > now);
        }
        effects
    }

    /// Which connection a stream is for, if it is for one: nobody reads messages from it then.
    pub(super) fn carried_by(&self, flow: FiveTuple) -> Option<u32> {
        self.connections.iter().find(|found| found.stage == Stage::Carried { by: flow }).map(|found| found.id)
    }

    fn disconnect(&mut self, id: u32) -> Vec<Effect> {
        let at = self.connections.iter().position(|found| found.id == id).unwrap();
        let Connection { allocation, stage, .. } = self.connections.remove(at);
        let told = match stage {
            // A request is answered, whatever becomes of what it asked for.
            Stage::Asked { transaction, .. } => {
                vec![answer(self.flow_of(allocation), transaction, Some(447))]
            }
            Stage::Waits { .. } | Stage::Carried { .. } => vec![],
        };
        [told, vec![Effect::Disconnected { connection: id }]].concat()
    }

    fn add(&mut self, drawn: Option<u32>, allocation: usize, peer: SocketAddr, stage: Stage) -> u32 {
        let id = drawn.expect("a connection");
        assert!(self.connections.iter().all(|other| other.id != id), "one number for two");
        self.connections.push(Connection { id, allocation, peer, stage });
        id
    }

    pub(super) fn of(&self, allocation: usize) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |found| found.allocation == allocation)
    }

    /// 128 at a time, 32 of them without their client.
    fn has_room(&self, allocation: usize) -> bool {
        let carried =
            self.of(allocation).filter(|found| matches!(found.stage, Stage::Carried { .. })).count();
        let all = self.of(allocation).count();
        all < 128 && all - carried < 32
    }

    fn flow_of(&self, allocation: usize) -> FiveTuple {
        self.allocations.iter().find(|held| held.id == allocation).expect("its allocation").flow
    }

    fn held_by(&mut self, question: Question) -> Result<&mut Allocated, u16> {
        let held = self.allocations.iter_mut().find(|held| held.flow == question.flow).ok_or(437u16)?;
        if held.user == question.user { Ok(held) } else { Err(441) }
    }

    fn may_be_permitted(&self, peer: SocketAddr) -> bool {
        let is_forbidden = self.is_forbidden && peer.ip() == ip(FORBIDDEN_AT_TIMES);
        let is_private = peer.ip() == ip("10.0.0.1:5000");
        !is_forbidden && !is_private
    }

    fn may_be_reached(&self, peer: SocketAddr) -> bool {
        self.may_be_permitted(peer) && peer.port() != 0 && peer.to_string() != SERVER
    }
}

impl Allocated {
    fn permits(&self, ip: IpAddr) -> bool {
        self.permissions.iter().any(|(permitted, _)| *permitted == ip)
    }

    fn permit(&mut self, ip: IpAddr, now: Duration) {
        self.permissions.retain(|(permitted, _)| *permitted != ip);
        self.permissions.push((ip, now + Duration::from_secs(300)));
    }
}

fn ip(peer: &str) -> IpAddr {
    assert!(PEERS.contains(&peer));
    peer.parse::<SocketAddr>().unwrap().ip()
}
