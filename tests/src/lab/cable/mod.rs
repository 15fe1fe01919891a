//! A cable with a character: delay, jitter, loss, reordering, duplication and a rate, each direction its own, and
//! changed while it runs. It is a thread between two interfaces, since not every kernel has `netem`.
//!
//! ```text
//!   place ── wan ═ inner ┤ Line →  ├ outer ═ name ── upstream
//!                        ┤  ← Line ├
//! ```
//!
//! A cut at the upstream end is not seen at the other: the cable is like a modem, which stays on while the line is dead.

mod line;
mod packet;
pub mod self_test;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

pub use self::line::{Counted, HELD_BACK, Line, Rate, Traits};
use self::packet::{HEADER, LONGEST, Packets};
use super::internet::Internet;
use super::namespace::Namespace;
use crate::clock;

/// A cable that runs until it is dropped.
#[derive(Debug)]
pub struct Cable {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
    _place: Namespace,
}

/// A direction, as seen from whom the cable belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the internet.
    Up,
    /// From the internet.
    Down,
}

enum Order {
    Become(Way, Traits),
    Tell(Sender<[Counted; 2]>),
    End,
}

impl Internet {
    /// Replaces the cable to what is called `name` by one that does as `traits` say, both ways. What `seed` makes it
    /// lose, it loses in every run. Losses that the attachment was told of before are forgotten.
    pub fn splice(&self, name: &str, traits: Traits, seed: u64) -> Result<Cable> {
        traits.check()?;
        let link = self.link(name)?;
        let (upstream, place) = (&link.upstream, Namespace::new()?);
        let routes = upstream.list_ip(&["-6", "route", "show", "dev", name])?;
        let routes: String = routes
            .lines()
            .filter_map(|line| {
                let (to, rest) = line.split_once(" via ")?;
                Some(format!("route add {to} via {} dev {name}\n", rest.split_whitespace().next()?))
            })
            .collect();
        // Nobody speaks on the way.
        place.set("ipv6/conf/default/disable_ipv6", "1")?;
        let (v4, v6) = link.prefix_lengths;
        upstream.ip(&format!(
            "link set dev {name} down\n\
             link set dev {name} netns {}\n\
             link add name {name} type veth peer name outer netns {}\n\
             link set dev {name} gso_max_segs 1 up\n\
             address add {}/{v4} dev {name}\n\
             address add {}/{v6} dev {name} nodad\n{routes}",
            place.path(),
            place.path(),
            link.gateways.v4,
            link.gateways.v6
        ))?;
        place.ip(&format!("link set dev {name} name inner\n"))?;
        let ends = place.within(|| Ok([Packets::open("inner")?, Packets::open("outer")?]))?;
        place.ip("link set dev inner up\nlink set dev outer up\n")?;
        Cable::run(place, ends, traits, seed)
    }
}

impl Cable {
    fn run(place: Namespace, ends: [Packets; 2], traits: Traits, seed: u64) -> Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("making an eventfd")?;
        let bell = Arc::new(bell);
        let (orders, ordered) = channel();
        let heard = Arc::clone(&bell);
        let lines = [Line::new(traits, seed), Line::new(traits, !seed)];
        let carrier = Carrier { ends, lines, ordered, bell: heard, buffer: vec![0; LONGEST] };
        let thread = std::thread::Builder::new().name("cable".to_owned()).spawn(move || carrier.carry())?;
        Ok(Self { orders, bell, thread: Some(thread), _place: place })
    }

    /// Changes what it does one way, from now on.
    pub fn set(&self, way: Way, traits: Traits) -> Result<()> {
        traits.check()?;
        self.order(Order::Become(way, traits))
    }

    /// The same both ways.
    pub fn set_both(&self, traits: Traits) -> Result<()> {
        self.set(Way::Up, traits)?;
        self.set(Way::Down, traits)
    }

    /// What became of everything so far, up and down.
    pub fn counted(&self) -> Result<[Counted; 2]> {
        let (tell, told) = channel();
        self.order(Order::Tell(tell))?;
        told.recv().context("the cable's thread has ended")
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| anyhow!("the cable's thread has ended"))?;
        rustix::io::write(&*self.bell, &1_u64.to_ne_bytes()).context("waking the cable's thread")?;
        Ok(())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // One that has ended already needs no order.
        let _ = self.order(Order::End);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the thread has.
struct Carrier {
    /// Of the owner, and of the internet.
    ends: [Packets; 2],
    /// Up, and down.
    lines: [Line<Box<[u8]>>; 2],
    ordered: Receiver<Order>,
    bell: Arc<OwnedFd>,
    buffer: Vec<u8>,
}

impl Carrier {
    fn carry(mut self) -> Result<()> {
        loop {
            self.wait()?;
            // The count of rings does not matter: every order is taken.
            let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
            while let Ok(order) = self.ordered.try_recv() {
                let [up, down] = &mut self.lines;
                match order {
                    Order::Become(Way::Up, traits) => up.become_like(clock::now(), traits),
                    Order::Become(Way::Down, traits) => down.become_like(clock::now(), traits),
                    // Whoever asked may have gone.
                    Order::Tell(to) => drop(to.send([up.counted(), down.counted()])),
                    Order::End => return Ok(()),
                }
            }
            let [inner, outer] = &self.ends;
            let [up, down] = &mut self.lines;
            take(inner, up, &mut self.buffer)?;
            take(outer, down, &mut self.buffer)?;
            let now = clock::now();
            give(now, up, outer);
            give(now, down, inner);
        }
    }

    /// Until a frame comes, one is due, or an order is given.
    fn wait(&self) -> Result<()> {
        let [inner, outer] = &self.ends;
        let due = self.lines.iter().filter_map(Line::poll_timeout).min();
        let left = due.map(|due| due.saturating_duration_since(clock::now()));
        let left = left.map(Timespec::try_from).transpose().context("a deadline too far away")?;
        let mut watched = [inner.as_fd(), outer.as_fd(), self.bell.as_fd()]
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
        match poll(&mut watched, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("waiting for frames"),
        }
    }
}

/// No more than this at once, so that one direction does not starve the other.
const BATCH: usize = 64;

fn take(from: &Packets, line: &mut Line<Box<[u8]>>, buffer: &mut [u8]) -> Result<()> {
    for _ in 0..BATCH {
        let Some(frame) = from.receive(buffer)? else { return Ok(()) };
        line.handle_frame(clock::now(), frame.len().saturating_sub(HEADER), frame.into());
    }
    Ok(())
}

fn give(now: Instant, line: &mut Line<Box<[u8]>>, to: &Packets) {
    line.handle_timeout(now);
    while let Some(frame) = line.poll_frame(now) {
        // An end that is down takes nothing, as a socket in the wall that is not connected.
        let _ = to.send(&frame);
    }
}
