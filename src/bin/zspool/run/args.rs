//! The command line of `run`.

use crate::args::{Swapfiles, seconds};
use crate::size;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const AFTER_RUN: &str = "\
The program is started as it is, with a library preloaded that registers its large private memory (heap, malloc's mappings, its
own) with userfaultfd: what is over the limit leaves, compressed, and comes back when it is touched. The limit counts what is in
memory and what the compressed pages take. Small mappings, stacks, code and files are left alone.

Programs that are linked statically or get other rights (setuid) cannot be preloaded. Serving the kernel's own accesses needs
root, `sysctl vm.unprivileged_userfaultfd=1`, or access to /dev/userfaultfd. PROGRAM's children are not limited, unless --children
says so; then each has the limits for itself.

Examples:
  zspool run --memory-max 256M -- python3 -c 'x = list(range(10**7)); print(sum(x))'
  zspool run --memory-max 1G --swapfile /var/tmp/swap,size=4G --stat stat.json -- qemu-system-x86_64 -m 2G ...
  zspool top                                      what runs, in another shell
  zspool ctl 4711 reclaim 64M                     have process 4711 give up 64 MiB more

Exit status: the program's own, also when a signal ended it; 125 if it could not be put under a limit, 126 if it cannot be
executed, 127 if there is none.";

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// memory.max of the program: bytes of its memory in RAM, with what the compressed pages take
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) memory_max: Option<u64>,

    /// memory.high: above it pages are taken out in the background
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) memory_high: Option<u64>,

    #[command(flatten)]
    pub(crate) swapfiles: Swapfiles,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Most memory compressed pages may have, in frames [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// Take out what was not touched for so long, whatever the limits are
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, value_parser = seconds)]
    pub(crate) evict_cold_after: Option<Duration>,

    /// Smallest mapping to be registered [default: 256K]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) least: Option<u64>,

    /// Put programs that PROGRAM starts under the same limits, each for itself
    #[arg(long)]
    pub(crate) children: bool,

    /// Write numbers as JSON at the end; with -, to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) stat: Option<PathBuf>,

    /// The library to preload [default: libzspool_preload.so beside this program, or in ../lib]
    #[arg(long, value_name = "PATH")]
    pub(crate) preload: Option<PathBuf>,

    /// What to run
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM [ARGS]")]
    pub(crate) program: Vec<OsString>,
}
