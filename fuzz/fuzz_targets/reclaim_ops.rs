//! Lists of operations on a tree of memcgs and what reclaims from it; see `zspool_fuzz::reclaim_ops`.

#![no_main]

libfuzzer_sys::fuzz_target!(|run: zspool_fuzz::reclaim_ops::Run| zspool_fuzz::reclaim_ops::run(run).sum_up());
