//! What the fuzz targets do with bytes, callable from anywhere: `tests/corpora.rs` replays the committed corpora
//! through it on a stable compiler.

pub mod codec;
pub mod dtls;
pub mod seeds;
pub mod sequence;
pub mod streams;
