//! Generates the service's face from the same protobuf file as `farcall-proto`, whose messages it uses, all but two:
//! those that carry a `PeerMessage` keep it as bytes here (`src/wire.rs`), so that what this server does not know
//! passes through it unchanged. Lists the files of the page, which become part of the program.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const ROOT: &str = "../proto/proto";
const FILES: [&str; 2] = ["farcall/signaling/v1/signaling.proto", "farcall/signaling/v1/admin.proto"];
const PACKAGE: &str = ".farcall.signaling.v1";
const WEB: &str = "web";
/// What the page consists of; everything else there is for those who work on it.
const SERVED: [&str; 4] = ["html", "css", "js", "svg"];

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
    embed_page()
}

/// A table of `(name, bytes)`. Without the first line, cargo would not notice a new file.
fn embed_page() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={WEB}");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join(WEB);
    let mut files = Vec::new();
    list(&root, &mut files)?;
    files.sort();
    let mut table = String::from("/// The page: names and contents.\nstatic FILES: &[(&str, &[u8])] = &[\n");
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("a name that is no text")?;
        writeln!(table, "    ({name:?}, include_bytes!({file:?})),")?;
    }
    table.push_str("];\n");
    std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("web.rs"), table)?;
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_served =
            |path: &Path| path.extension().is_some_and(|found| SERVED.iter().any(|served| found == *served));
        if path.is_dir() {
            list(&path, files)?;
        } else if is_served(&path) {
            files.push(path);
        }
    }
    Ok(())
}
