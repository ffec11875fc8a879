//! JSON as Go's `encoding/json` writes it, for readers that compare bytes with the messages of a Go service.
//!
//! It differs from `serde_json`'s compact form in five characters, which it escapes in strings to make them safe in
//! HTML and JavaScript: `<`, `>`, `&`, U+2028 and U+2029.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// `value` as JSON without white space. The value must have no maps, since a key of a map could fail.
pub(crate) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(256);
    value
        .serialize(&mut Serializer::with_formatter(&mut json, Go))
        .expect("a struct of numbers and texts has a JSON form, and memory takes it");
    json
}

struct Go;

impl Formatter for Go {
    // Fragments have no control characters, quotes or backslashes. The default formatter escapes these as Go does.
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, found) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = found.chars();
            if let Some(special) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(special))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}
