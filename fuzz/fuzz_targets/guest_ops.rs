//! Lists of operations on guest memory over userfaultfd; see `zspool_fuzz::guest_ops`.

#![no_main]

libfuzzer_sys::fuzz_target!(|run: zspool_fuzz::guest_ops::Run| zspool_fuzz::guest_ops::run(run).sum_up());
