//! [`look`]: what every engine says of itself at one time.

use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use zspool::guest::control::{Client, sockets};

/// A program that is stopped is left out.
const PATIENCE: Duration = Duration::from_millis(500);

/// What one process said.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) pid: u64,
    pub(crate) when: Instant,
    pub(crate) status: Value,
}

/// Ask all of them.
pub(crate) fn look() -> Vec<Look> {
    let ask = |pid, path: &Path| Client::connect(path)?.of(pid)?.patience(PATIENCE).ask("status");
    let looks = sockets().into_iter().filter_map(|(pid, path)| {
        let status = serde_json::from_str(&ask(pid, &path).ok()?).ok()?;
        Some(Look { pid: pid.into(), when: Instant::now(), status })
    });
    looks.collect()
}
