//! Fuzzes the configuration file and the environment.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    centiloc_bridge_fuzz::configuration(bytes);
});
