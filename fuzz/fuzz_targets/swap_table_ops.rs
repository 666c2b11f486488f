//! Lists of operations on slots and devices; see `zspool_fuzz::swap_table_ops`.

#![no_main]

libfuzzer_sys::fuzz_target!(|run: zspool_fuzz::swap_table_ops::Run| zspool_fuzz::swap_table_ops::run(run).sum_up());
