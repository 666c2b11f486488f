//! Lists of operations on the allocator; see `zspool_fuzz::pool_ops`.

#![no_main]

libfuzzer_sys::fuzz_target!(|run: zspool_fuzz::pool_ops::Run| zspool_fuzz::pool_ops::run(run).sum_up());
