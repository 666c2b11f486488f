//! The numbers at the end, as JSON.

use super::watch::{Ended, How};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::time::Duration;

/// What a program came to.
pub(crate) fn report(program: &[OsString], ended: &Ended) -> Value {
    let seconds = |time: Duration| time.as_secs_f64();
    let (code, signal) = match ended.how {
        How::Exited(code) => (Some(code), None),
        How::Signal(signal) => (None, Some(signal)),
    };
    let sample = ended.sample.as_ref();
    let status = sample.and_then(|sample| serde_json::from_str::<Value>(&sample.status).ok());
    json!({
        "program": program.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>(),
        "pid": ended.pid,
        "exit_code": code,
        "exit_signal": signal,
        "wall_seconds": seconds(ended.wall),
        "user_seconds": seconds(ended.user),
        "system_seconds": seconds(ended.system),
        "peak_rss_bytes": ended.peak_rss_bytes,
        // 0: the library's last word. Else the program ended without one (_exit, a signal), and this is how old the numbers are.
        "status_is_seconds_old": sample.map(|sample| seconds(sample.age)),
        "status": status,
    })
}
