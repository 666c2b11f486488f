//! [`Json`]: an object written out as it comes: what a process that must not allocate much needs of JSON.
//!
//! ```text
//!   json.number("pid", 7).list("vms", |vms| vms.object(|vm| vm.text("name", "a")))
//!   {"pid":7,"vms":[{"name":"a"}]}
//! ```

use std::fmt::Write as _;

/// An object or a list that is being written.
#[derive(Debug)]
pub struct Json {
    text: String,
    /// Nothing was written yet since the last bracket.
    first: bool,
}

impl Json {
    /// An object: what `write` puts into it.
    pub fn build(write: impl FnOnce(&mut Json)) -> String {
        let mut json = Json { text: String::with_capacity(1024), first: true };
        json.within('{', '}', write);
        json.text
    }

    /// An object with the one key `error`.
    pub fn error(sentence: &str) -> String {
        Json::build(|json| {
            json.text("error", sentence);
        })
    }

    fn within(&mut self, open: char, close: char, write: impl FnOnce(&mut Json)) {
        self.text.push(open);
        self.first = true;
        write(self);
        self.text.push(close);
        self.first = false;
    }

    fn next(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.text.push(',');
        }
    }

    fn key(&mut self, key: &str) {
        self.next();
        self.quote(key);
        self.text.push(':');
    }

    fn quote(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                '\n' => self.text.push_str("\\n"),
                c if c < ' ' => {
                    let _ = write!(self.text, "\\u{:04x}", c as u32);
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }

    /// A whole number.
    pub fn number(&mut self, key: &str, number: u64) -> &mut Self {
        self.key(key);
        let _ = write!(self.text, "{number}");
        self
    }

    /// Several of them.
    pub fn numbers(&mut self, numbers: &[(&str, u64)]) -> &mut Self {
        for &(key, number) in numbers {
            self.number(key, number);
        }
        self
    }

    /// A whole number, or null.
    pub fn perhaps(&mut self, key: &str, number: Option<u64>) -> &mut Self {
        match number {
            Some(number) => self.number(key, number),
            None => {
                self.key(key);
                self.text.push_str("null");
                self
            }
        }
    }

    /// Text.
    pub fn text(&mut self, key: &str, text: &str) -> &mut Self {
        self.key(key);
        self.quote(text);
        self
    }

    /// True or false.
    pub fn flag(&mut self, key: &str, yes: bool) -> &mut Self {
        self.key(key);
        self.text.push_str(if yes { "true" } else { "false" });
        self
    }

    /// An object within this one.
    pub fn map(&mut self, key: &str, write: impl FnOnce(&mut Json)) -> &mut Self {
        self.key(key);
        self.within('{', '}', write);
        self
    }

    /// A list: of what [`object`](Self::object) and [`item`](Self::item) put into it.
    pub fn list(&mut self, key: &str, write: impl FnOnce(&mut Json)) -> &mut Self {
        self.key(key);
        self.within('[', ']', write);
        self
    }

    /// An object in a list.
    pub fn object(&mut self, write: impl FnOnce(&mut Json)) -> &mut Self {
        self.next();
        self.within('{', '}', write);
        self
    }

    /// A number in a list.
    pub fn item(&mut self, number: u64) -> &mut Self {
        self.next();
        let _ = write!(self.text, "{number}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json_on_one_line() {
        let text = Json::build(|json| {
            json.number("n", u64::MAX).perhaps("none", None).flag("yes", true).text("t", "a\"\\\n\u{1}\u{e9}");
            json.list("empty", |_| ()).list("l", |list| {
                list.item(1).item(2);
            });
            json.list("o", |list| {
                list.object(|o| {
                    o.number("a", 1);
                })
                .object(|_| ());
            });
            json.map("m", |m| {
                m.number("x", 0);
            });
        });
        assert!(!text.contains('\n'), "a line is an answer: {text}");
        let expected = r#"{"n":18446744073709551615,"none":null,"yes":true,"t":"a\"\\\n\u0001é","empty":[],"l":[1,2],"o":[{"a":1},{}],"m":{"x":0}}"#;
        assert_eq!(text, expected);
        assert_eq!(Json::error("no"), r#"{"error":"no"}"#);
    }
}
