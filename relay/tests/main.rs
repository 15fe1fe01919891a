//! The real binary over real sockets: our own client, Debian's coturn tools, and whoever means harm.

#[cfg(test)]
mod authentication;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod corpora;
#[cfg(test)]
mod coturn;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod icmp;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod mobility;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod relaying;
#[cfg(test)]
mod secure;
#[cfg(test)]
mod support;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod webhook;

// The bodies of the fuzz targets, whose own crate needs a fuzzer to build.
#[cfg(test)]
#[expect(unreachable_pub, reason = "the face of a library, seen from inside a test")]
#[path = "../fuzz/src/codec.rs"]
mod codec;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the face of a library, seen from inside a test")]
#[path = "../fuzz/src/dtls.rs"]
mod dtls;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the face of a library, seen from inside a test")]
#[path = "../fuzz/src/seeds.rs"]
mod seeds;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the face of a library, seen from inside a test")]
#[path = "../fuzz/src/sequence.rs"]
mod sequence;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the face of a library, seen from inside a test")]
#[path = "../fuzz/src/streams.rs"]
mod streams;
