//! Sizes as text: `0`, `4096`, `64K`, `10M`, `2G`, `1T`; the suffix, in either case, multiplies by a power of 1024.

/// A word that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// It does not begin with a digit.
    #[error("{word:?} does not begin with a digit; write bytes as digits with an optional K, M, G or T")]
    NoDigits {
        /// The word.
        word: String,
    },
    /// What follows the digits is no suffix.
    #[error("{suffix:?} in {word:?} is no unit; the units are K, M, G and T")]
    BadSuffix {
        /// The word.
        word: String,
        /// What follows the digits.
        suffix: String,
    },
    /// It does not fit 64 bits.
    #[error("{word} is more than 2^64 - 1 bytes; write a smaller size, or \"max\" where that is possible")]
    TooLarge {
        /// The word.
        word: String,
    },
}

/// The bytes that a word such as `10M` names.
///
/// # Errors
/// When it is not digits with an optional `K`, `M`, `G` or `T`, or the bytes do not fit 64 bits.
///
/// ```
/// use zspool::memcg::parse_size;
/// assert_eq!(parse_size("10M"), Ok(10 << 20));
/// let refused = parse_size("10MB").unwrap_err();
/// assert_eq!(refused.to_string(), "\"MB\" in \"10MB\" is no unit; the units are K, M, G and T");
/// ```
pub fn parse_size(word: &str) -> Result<u64, SizeError> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = word.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NoDigits { word: word.to_owned() });
    }
    let shift = match suffix {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(SizeError::BadSuffix { word: word.to_owned(), suffix: suffix.to_owned() }),
    };
    let number = number.parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| SizeError::TooLarge { word: word.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_at_the_edges() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("007k"), Ok(7 << 10));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
        let too_large = |word: &str| Err(SizeError::TooLarge { word: word.to_owned() });
        assert_eq!(parse_size("18446744073709551616"), too_large("18446744073709551616"));
        assert_eq!(parse_size("16777216T"), too_large("16777216T"));
    }

    #[test]
    fn what_is_no_size_is_named() {
        for word in ["", "K", "-1", "+1", "max", "0x10", "1KB", "1.5M", "1 K", "\u{661}", "1\u{b5}"] {
            let error = parse_size(word).unwrap_err();
            assert!(error.to_string().contains(&format!("{word:?}")), "{error}");
        }
    }
}
