//! Hostile headers and hostile blocks; see `zspool_fuzz::swapfile_bytes`.

#![no_main]

libfuzzer_sys::fuzz_target!(|run: zspool_fuzz::swapfile_bytes::Run| zspool_fuzz::swapfile_bytes::run(run).sum_up());
