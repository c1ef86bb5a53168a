//! What programs read: documents of our own, apart from the wire's messages, stable within a version.
//!
//! A field may be added within a version; none is renamed, removed or given another meaning.

#[cfg(test)]
mod docs;
pub(crate) mod error;
pub(crate) mod host;
pub(crate) mod record;
pub(crate) mod rollout;
pub(crate) mod target;

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use sternway_proto::name::steers;

use crate::text::absolute;

/// The version of every document.
pub(crate) const VERSION: u32 = 1;

#[derive(Serialize)]
struct Envelope<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// A whole document, indented, with its line end. `body` is a struct or map.
pub(crate) fn document<T: Serialize>(body: &T) -> String {
    write(body, Safe(PrettyFormatter::new()))
}

/// One line of a stream of events, with its line end. `body` is a struct or map.
pub(crate) fn line<T: Serialize>(body: &T) -> String {
    write(body, Safe(CompactFormatter))
}

fn write<T: Serialize, F: Formatter>(body: &T, formatter: F) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    let envelope = Envelope {
        version: VERSION,
        body,
    };
    // Structs of strings and numbers into memory: nothing here can fail; if it did, an empty answer
    // is no valid JSON and a program sees that.
    if envelope.serialize(&mut serializer).is_err() {
        return String::new();
    }
    bytes.push(b'\n');
    String::from_utf8(bytes).unwrap_or_default()
}

/// A time on the wire as RFC 3339, none where it never was.
pub(crate) fn time(at_ms: i64) -> Option<String> {
    absolute(at_ms)
}

/// None for an empty string.
pub(crate) fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Escapes, on top of what JSON demands, every character that steers a terminal: the strings stay
/// what they were, and `ctl -o json` in a terminal is harmless.
struct Safe<F>(F);

impl<F: Formatter> Formatter for Safe<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if steers(c) {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            } else {
                writer.write_all(c.encode_utf8(&mut [0; 4]).as_bytes())?;
            }
        }
        Ok(())
    }
    fn begin_array<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }
    fn end_array<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, f: bool) -> io::Result<()> {
        self.0.begin_array_value(w, f)
    }
    fn end_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }
    fn begin_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, f: bool) -> io::Result<()> {
        self.0.begin_object_key(w, f)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Body {
        name: String,
    }

    #[test]
    fn strings_survive_whole_and_steer_no_terminal() {
        let name = "a\x1b[31m\u{9b}1m\u{202e}\u{61c}\u{200b}\u{2060}\u{feff}\"\\\nü".to_owned();
        let text = line(&Body { name: name.clone() });
        assert_eq!(text.lines().count(), 1);
        let json = text.trim_end();
        assert!(!json.chars().any(steers), "{json:?}");
        let back: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(back["name"], name);
        assert_eq!(back["version"], VERSION);
    }
}
