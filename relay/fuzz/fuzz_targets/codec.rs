//! See `farcall_relay_fuzz::codec`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| farcall_relay_fuzz::codec::run(bytes));
