//! See `farcall_relay_fuzz::dtls`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| farcall_relay_fuzz::dtls::run(bytes));
