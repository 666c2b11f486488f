//! [`Settings`]: what `zspool run` tells the library that it preloads, as the value of one variable of the environment.
//!
//! ```text
//!   ZSPOOL_RUN="pid=4711
//!   memory-max=268435456
//!   swapfile=file 1073741824 0 swap /var/tmp/swap"       a line each; bytes that are not printed, spaces and % as %20
//! ```
//!
//! The process with that number takes part, also after it has become another program (shells' `exec`, shims): its children are
//! told the same, and see that they are not meant.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The variable's name.
pub const VARIABLE: &str = "ZSPOOL_RUN";

/// The note by which the launcher knows the library's file: a name of 7 bytes with its zero, nothing behind it, of kind 1.
pub const LIBRARY_NOTE: [u8; 20] = *b"\x07\0\0\0\0\0\0\0\x01\0\0\0zspool\0\0";

/// What a device for cold pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapKind {
    /// A file of that name.
    File,
    /// A file without a name in that folder.
    Unnamed,
    /// A block device.
    Block,
    /// A block device, whatever is on it.
    BlockOverwrite,
}

/// A device for cold pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapSettings {
    /// What it is.
    pub kind: SwapKind,
    /// Bytes; none for all of a block device.
    pub size: Option<u64>,
    /// Higher ones are used first.
    pub priority: i16,
    /// The tier's name.
    pub tier: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What the library is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The process that is meant.
    pub pid: u32,
    /// Whether its children are meant too, each for itself.
    pub children: bool,
    /// `memory.max` in bytes.
    pub memory_max: Option<u64>,
    /// `memory.high` in bytes.
    pub memory_high: Option<u64>,
    /// Bytes of the pool's frames.
    pub pool_limit: Option<u64>,
    /// The codec's name.
    pub codec: Option<String>,
    /// What was not touched for so long goes out, limit or not.
    pub evict_cold_after: Option<Duration>,
    /// The smallest mapping that is registered, in bytes.
    pub least: Option<u64>,
    /// Pages go to devices with a checksum instead of a cipher.
    pub plain_devices: bool,
    /// Devices for cold pages.
    pub swapfiles: Vec<SwapSettings>,
    /// The folder of the control socket.
    pub place: PathBuf,
}

// === impl Settings ===

impl Settings {
    /// The process that a value means, without reading the rest: most processes learn that it is not them.
    pub fn pid_of(value: &[u8]) -> Option<u32> {
        let line = value.strip_prefix(b"pid=")?.split(|byte| *byte == b'\n').next()?;
        std::str::from_utf8(line).ok()?.parse().ok()
    }

    /// The variable's value.
    pub fn encode(&self) -> String {
        let mut text = format!("pid={}", self.pid);
        let mut line = |key: &str, value: &str| text += &format!("\n{key}={value}");
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        line("children", if self.children { "1" } else { "0" });
        let after = self.evict_cold_after.map(|time| time.as_millis() as u64);
        for (key, value) in [
            ("memory-max", number(self.memory_max)),
            ("memory-high", number(self.memory_high)),
            ("pool-limit", number(self.pool_limit)),
            ("codec", self.codec.as_ref().map(|name| escaped(name.as_bytes()))),
            ("evict-cold-after-ms", number(after)),
            ("least", number(self.least)),
            ("plain-devices", self.plain_devices.then(|| "1".to_owned())),
        ] {
            if let Some(value) = value {
                line(key, &value);
            }
        }
        for swap in &self.swapfiles {
            let SwapSettings { kind, size, priority, tier, path } = swap;
            let kind = match kind {
                SwapKind::File => "file",
                SwapKind::Unnamed => "unnamed",
                SwapKind::Block => "block",
                SwapKind::BlockOverwrite => "block-overwrite",
            };
            let size = size.map_or("all".to_owned(), |size| size.to_string());
            let tier = escaped(tier.as_bytes());
            line("swapfile", &format!("{kind} {size} {priority} {tier} {}", escaped_path(path)));
        }
        line("place", &escaped_path(&self.place));
        text
    }

    /// From the variable's value.
    ///
    /// # Errors
    /// The line that is none of ours: launcher and library are of different versions.
    pub fn decode(value: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        for line in value.lines() {
            settings.take(line).ok_or_else(|| {
                format!("{VARIABLE} has a line that this library does not know, {line:?}: `zspool` and the library are of different versions; build both anew.")
            })?;
        }
        Ok(settings)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        let number = || value.parse::<u64>().ok();
        match key {
            "pid" => self.pid = value.parse().ok()?,
            "children" => self.children = value == "1",
            "memory-max" => self.memory_max = Some(number()?),
            "memory-high" => self.memory_high = Some(number()?),
            "pool-limit" => self.pool_limit = Some(number()?),
            "codec" => self.codec = Some(word_of(value)?),
            "evict-cold-after-ms" => self.evict_cold_after = Some(Duration::from_millis(number()?)),
            "least" => self.least = Some(number()?),
            "plain-devices" => self.plain_devices = value == "1",
            "place" => self.place = path_of(value)?,
            "swapfile" => {
                let mut words = value.split(' ');
                let mut word = || words.next();
                self.swapfiles.push(SwapSettings {
                    kind: match word()? {
                        "file" => SwapKind::File,
                        "unnamed" => SwapKind::Unnamed,
                        "block" => SwapKind::Block,
                        "block-overwrite" => SwapKind::BlockOverwrite,
                        _ => return None,
                    },
                    size: match word()? {
                        "all" => None,
                        size => Some(size.parse().ok()?),
                    },
                    priority: word()?.parse().ok()?,
                    tier: word_of(word()?)?,
                    path: path_of(word()?)?,
                });
            }
            _ => return None,
        }
        Some(())
    }
}

/// These bytes as one word of printed ASCII: a path may be anything, and no text at all.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'%' => text += "%25",
            byte if byte.is_ascii_graphic() => text.push(byte.into()),
            byte => write!(text, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    text
}

fn escaped_path(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// What [`escaped`] was given.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (vec![], text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match byte {
            b'%' => {
                let (digits, behind) = rest.split_first_chunk::<2>()?;
                rest = behind;
                u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

fn word_of(text: &str) -> Option<String> {
    String::from_utf8(bytes_of(text)?).ok()
}

fn path_of(text: &str) -> Option<PathBuf> {
    Some(OsString::from_vec(bytes_of(text)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_understood() {
        let bare = Settings { pid: 7, place: "/run/x".into(), ..Settings::default() };
        let swap =
            |kind, path: &str| SwapSettings { kind, size: Some(5), priority: -3, tier: "t".into(), path: path.into() };
        let full = Settings {
            pid: 4711,
            children: true,
            memory_max: Some(u64::MAX),
            memory_high: Some(0),
            pool_limit: Some(1),
            codec: Some("lz4".into()),
            evict_cold_after: Some(Duration::from_millis(1500)),
            least: Some(4096),
            plain_devices: true,
            swapfiles: vec![
                swap(SwapKind::File, "/a b/100%0A\nx=y"),
                SwapSettings { size: None, ..swap(SwapKind::Block, "/dev/x") },
                swap(SwapKind::Unnamed, "/tmp"),
                swap(SwapKind::BlockOverwrite, "/dev/y"),
            ],
            place: "/tmp/z".into(),
        };
        for settings in [bare, full] {
            let text = settings.encode();
            assert_eq!(Settings::pid_of(text.as_bytes()), Some(settings.pid));
            assert_eq!(Settings::decode(&text), Ok(settings));
        }
        assert_eq!(Settings::pid_of(b"pid=x"), None);
        for damaged in ["place=/a%", "place=/a%2", "place=/a%zz", "place=/a%\u{e4}", "swapfile=file 1 0 t", "codec=%FF"] {
            assert!(Settings::decode(damaged).unwrap_err().contains("different versions"), "{damaged}");
        }
    }

    #[test]
    fn any_path_comes_through() {
        let all: Vec<u8> = (1..=255).collect();
        for path in [&b"/run/\xff\xfe"[..], b"/a\r", b"/a\n", b"/a\r\nplace=/b", b" /a  b ", b"%", b"/%0A%25%", b"", &all] {
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            let swap = SwapSettings {
                kind: SwapKind::File,
                size: None,
                priority: 0,
                tier: "a b".into(),
                path: path.clone(),
            };
            let settings = Settings { pid: 7, place: path, swapfiles: vec![swap; 2], ..Settings::default() };
            let text = settings.encode();
            // What the system does to a variable's value, and who shows it, is all the same then.
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || b" \n".contains(&byte)), "{text:?}");
            assert_eq!(Settings::decode(&text), Ok(settings), "{text}");
        }
        assert!(Settings::decode("pid=1\nwings=2").unwrap_err().contains("wings"));
    }
}
