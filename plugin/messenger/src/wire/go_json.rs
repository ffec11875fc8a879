//! JSON as Go's encoding/json writes it, for readers that compare bytes with the messages of a Go service.
//!
//! It differs from `serde_json`'s compact form in five characters of strings, which it escapes so that they are safe in
//! HTML and JavaScript: `<`, `>`, `&`, U+2028 and U+2029.

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io;

/// `value` as JSON without white space. It has no maps, so there is no key that could fail.
pub(crate) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(256);
    value
        .serialize(&mut Serializer::with_formatter(&mut json, Go))
        .expect("a struct of numbers and texts has a JSON form, and memory takes it");
    json
}

struct Go;

impl Formatter for Go {
    // Control characters, quotes and backslashes are not part of a fragment: the default escapes them as Go does.
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
