//! Fuzzes protobuf events with the assumed numbers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    centiloc_bridge_fuzz::protobuf(bytes);
});
