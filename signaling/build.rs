//! Generates the service's face from the same protobuf file as `farcall-proto`, whose messages it uses, all but two:
//! those that carry a `PeerMessage` keep it as bytes here (`src/wire.rs`), so that what this server does not know
//! passes through it unchanged.

use std::error::Error;

const ROOT: &str = "../proto/proto";
const FILES: [&str; 1] = ["farcall/signaling/v1/signaling.proto"];
const PACKAGE: &str = ".farcall.signaling.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(FILES, [ROOT])?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(PACKAGE, "::farcall_proto::signaling::v1")
        .extern_path(format!("{PACKAGE}.JoinResponse"), "crate::wire::JoinResponse")
        .extern_path(format!("{PACKAGE}.SendRequest"), "crate::wire::SendRequest")
        .codec_path("crate::wire::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
