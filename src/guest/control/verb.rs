//! [`Verb`]: what can be asked, and [`Controlled`]: who does it.

/// A question or an order, as its line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// `status`: everything there is to know.
    Status,
    /// `out`: everything out of memory that can go, compressed, and to devices where there are any.
    Out,
    /// `in`: everything back that is out.
    In,
    /// `trim`: give back what nobody needs: staged pages are compressed, the pool is packed.
    Trim,
    /// `reclaim 64M`, `reclaim 64M source=anon`: as a write to `memory.reclaim`.
    Reclaim(String),
    /// `limit 256M`, `limit max`: as a write to `memory.max`.
    Limit(String),
    /// `high 200M`: as a write to `memory.high`.
    High(String),
}

impl Verb {
    /// From a line.
    ///
    /// # Errors
    /// A sentence with the word that is wrong, and what there is.
    pub fn parse(line: &str) -> Result<Verb, String> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let alone = |verb: Verb| match rest {
            "" => Ok(verb),
            _ => Err(format!("`{word}` takes nothing behind it, and {rest:?} is there: leave it out.")),
        };
        let with = |verb: fn(String) -> Verb, what: &str| match rest {
            "" => Err(format!("`{word}` needs {what} behind it.")),
            _ => Ok(verb(rest.to_owned())),
        };
        match word {
            "status" => alone(Verb::Status),
            "out" => alone(Verb::Out),
            "in" => alone(Verb::In),
            "trim" => alone(Verb::Trim),
            "reclaim" => with(Verb::Reclaim, "bytes, as in `reclaim 64M` or `reclaim 64M source=anon`,"),
            "limit" => with(Verb::Limit, "bytes or `max`, as in `limit 256M`,"),
            "high" => with(Verb::High, "bytes or `max`, as in `high 200M`,"),
            _ => Err(format!(
                "{word:?} is nothing that can be asked: use status, out, in, trim, reclaim BYTES [source=anon|zswap], limit BYTES|max or high BYTES|max."
            )),
        }
    }
}

/// Who answers.
pub trait Controlled: Send + Sync {
    /// Answer with one JSON object, without a line break.
    ///
    /// # Errors
    /// A sentence that says what to do.
    fn answer(&self, verb: Verb) -> Result<String, String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_verbs_or_sentences() {
        assert_eq!(Verb::parse("status\n"), Ok(Verb::Status));
        assert_eq!(Verb::parse(" out "), Ok(Verb::Out));
        assert_eq!(Verb::parse("in"), Ok(Verb::In));
        assert_eq!(Verb::parse("trim\r"), Ok(Verb::Trim));
        assert_eq!(Verb::parse("reclaim  64M source=anon"), Ok(Verb::Reclaim("64M source=anon".into())));
        assert_eq!(Verb::parse("limit max"), Ok(Verb::Limit("max".into())));
        assert_eq!(Verb::parse("high 1M"), Ok(Verb::High("1M".into())));
        for (line, word) in [("", "status"), ("fly", "fly"), ("out now", "now"), ("reclaim", "64M"), ("limit ", "256M")]
        {
            let refused = Verb::parse(line).unwrap_err();
            assert!(refused.contains(word) && refused.ends_with('.'), "{line:?}: {refused}");
        }
    }
}
