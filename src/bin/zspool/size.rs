//! Sizes as people write and read them: `512`, `64K`, `10M`, `2G`, `1T`, in steps of 1024.

/// A size that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// No number, or an unknown suffix.
    #[error("{0:?} is no size; write a whole number of bytes, or one with K, M, G or T behind it, as in 64M.")]
    NotASize(String),
    /// More than 64 bits hold.
    #[error("{0} is too large a size; the largest is 16777215T.")]
    TooLarge(String),
}

/// The bytes that `text` says.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let not_a_size = || SizeError::NotASize(text.to_owned());
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(not_a_size()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_a_size());
    }
    let too_large = || SizeError::TooLarge(text.to_owned());
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    number.checked_mul(1 << shift).ok_or_else(too_large)
}

/// `bytes` with three digits or so: `0`, `812`, `1.5K`, `63.9M`, `118G`.
pub(crate) fn human(bytes: i128) -> String {
    let magnitude = bytes.unsigned_abs() as f64;
    let mut scaled = magnitude;
    let mut unit = "";
    for next in ["K", "M", "G", "T"] {
        // 1023.5 and more would be shown as 1024.
        if scaled < 1023.5 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    let sign = if bytes < 0 { "-" } else { "" };
    if unit.is_empty() || scaled >= 99.95 {
        format!("{sign}{scaled:.0}{unit}")
    } else {
        format!("{sign}{scaled:.1}{unit}")
    }
}

/// `nanoseconds` with a unit: `850 ns`, `5.9 us`, `12 ms`.
pub(crate) fn human_ns(nanoseconds: u64) -> String {
    let ns = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..100_000 => format!("{:.1} us", ns / 1e3),
        100_000..1_000_000 => format!("{:.0} us", ns / 1e3),
        1_000_000..100_000_000 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in
            [("0", 0), ("1", 1), ("4096", 4096), ("64k", 65536), ("10M", 10 << 20), ("2GiB", 2 << 30), ("3T", 3 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse("16777215T"), Ok(16777215 << 40));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1", "1.5G", "10X", "10 M", "0x10", "1K1", "ten", "\u{663}"] {
            assert_eq!(parse(text), Err(SizeError::NotASize(text.to_owned())), "{text}");
        }
        for text in ["16777216T", "18446744073709551616"] {
            assert_eq!(parse(text), Err(SizeError::TooLarge(text.to_owned())));
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0"),
            (812, "812"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (67_004_006, "63.9M"),
            (123 << 30, "123G"),
            ((1 << 20) - 1, "1.0M"),
            (-1536, "-1.5K"),
        ] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(human_ns(850), "850 ns");
        assert_eq!(human_ns(5_949), "5.9 us");
    }
}
