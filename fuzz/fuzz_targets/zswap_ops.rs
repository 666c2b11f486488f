//! Lists of operations on a whole instance; see `zspool_fuzz::zswap_ops`.

#![no_main]

libfuzzer_sys::fuzz_target!(|run: zspool_fuzz::zswap_ops::Run| zspool_fuzz::zswap_ops::run(run).sum_up());
