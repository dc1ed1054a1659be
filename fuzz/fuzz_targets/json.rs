//! Fuzzes JSON events.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    centiloc_bridge_fuzz::json(bytes);
});
