//! The real binary over real sockets: our own client, Debian's coturn tools, and whoever means harm.

mod corpora;
mod coturn;
mod hostile;
mod lifecycle;
mod relaying;
mod support;
