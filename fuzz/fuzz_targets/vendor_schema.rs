//! Fuzzes the file of `decode.proto_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    centiloc_bridge_fuzz::vendor_schema(bytes);
});
