//! Fuzzes protobuf events by a vendor's schema.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    centiloc_bridge_fuzz::vendor_message(bytes);
});
