//! Compiles `proto/` without protoc, and keeps the descriptor set that reflection serves.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const ROOT: &str = "proto";
const FILES: &[&str] = &[
    "farcall/signaling/v1/signaling.proto",
    "farcall/signaling/v1/admin.proto",
    "farcall/relay/v1/admin.proto",
    "farcall/peer/v1/transfer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(FILES, [ROOT])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
