//! The fuzz bodies over their committed corpora, and over random bytes, on a stable compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use crate::{codec, dtls, seeds, sequence, streams};

#[test]
fn the_codec_corpus_replays() {
    replay("codec", seeds::codec(), codec::run);
}

#[test]
fn the_sequence_corpus_replays() {
    replay("sequence", seeds::sequence(), sequence::run);
}

#[test]
fn the_streams_corpus_replays() {
    replay("streams", seeds::streams(), streams::run);
}

#[test]
fn the_dtls_corpus_replays() {
    replay("dtls", seeds::dtls(), dtls::run);
}

/// Every file of the corpus goes through the body, and every seed is among the files.
fn replay(target: &str, seeds: Vec<seeds::Seed>, run: fn(&[u8])) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect();
    if std::env::var_os("FARCALL_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in &seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let files: BTreeMap<_, _> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    for (name, bytes) in &seeds {
        assert_eq!(files.get(name), Some(bytes), "{name} is not as committed; see fuzz/README.md");
    }
    for bytes in files.values() {
        run(bytes);
    }
}

/// Scripts that are mostly sense, so that random ones get somewhere.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds::sequence();
    let piece = prop_oneof![
        (0..seeds.len()).prop_map(move |at| seeds[at].1.clone()),
        proptest::collection::vec(any::<u8>(), 0..24),
        (0u8..18, 0u8..4, any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(step, a, b, c, d)| vec![step, a, b, c, d]),
    ];
    proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_not_shake_the_codec(bytes: Vec<u8>) {
        codec::run(&bytes);
    }

    #[test]
    fn mutated_messages_do_not_shake_the_codec(at in 0usize..11, flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)) {
        let mut bytes = seeds::codec().swap_remove(at).1;
        for (position, value) in flips {
            let length = bytes.len();
            bytes[position % length] = value;
        }
        codec::run(&bytes);
    }

    #[test]
    fn pieces_of_a_connection_are_the_connection(length: u8, at in 0usize..3, tail: Vec<u8>, cut in 0usize..40) {
        let mut bytes = seeds::streams().swap_remove(at).1;
        bytes[0] = length;
        bytes.truncate(bytes.len() - cut.min(bytes.len() - 1));
        bytes.extend(tail);
        streams::run(&bytes);
    }

    #[test]
    fn random_scripts_do_not_shake_the_state_machine(script in script()) {
        sequence::run(&script);
    }
}

proptest! {
    // Each may begin a handshake, which takes its time.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_hellos_do_not_shake_the_dtls_listener(flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4)) {
        let mut bytes = seeds::dtls().swap_remove(0).1;
        for (position, value) in flips {
            let length = bytes.len();
            bytes[position % length] = value;
        }
        dtls::run(&bytes);
    }
}
