//! What a container says of itself may quote its environment, and leaves the host as evidence: the values of the
//! environment's variables are blanked in it.

use std::cmp::Reverse;

use serde_json::Value;

/// A value this short is no secret, and blanking it would only make what was said unreadable.
const SHORTEST: usize = 5;

/// What is looked at of a text, bytes. More of it is never shown.
pub(in crate::targets::docker) const LOOKED_AT: usize = 16 * 1024;

const BLANK: &str = "***";

/// The values of a container's environment in the forms in which they are found in texts, the longest first, so
/// that none is torn by a shorter one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::targets::docker) struct Private(Vec<String>);

impl Private {
    /// Of a container, as the engine shows it.
    pub(super) fn of(inspect: &Value) -> Self {
        Self::of_all([&inspect["Config"]["Env"]])
    }

    /// Of these lists of variables.
    pub(in crate::targets::docker) fn of_all<'a>(
        lists: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        let values = lists
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(|variable| Some(variable.as_str()?.split_once('=')?.1));
        let mut forms: Vec<String> = values
            // A key in several lines is also quoted line by line.
            .flat_map(|value| value.lines().chain([value]))
            .map(str::trim)
            .filter(|value| value.len() >= SHORTEST)
            .flat_map(|value| [value.to_owned(), json(value), url(value)])
            .collect();
        forms.sort_unstable_by(|a, b| (Reverse(a.len()), a).cmp(&(Reverse(b.len()), b)));
        forms.dedup();
        Self(forms)
    }

    /// At most `shown` characters of a text, without any of the values, nor the beginning of one that was cut off.
    pub(in crate::targets::docker) fn blank(&self, text: &[u8], shown: usize) -> String {
        let cut = text.len() > LOOKED_AT;
        let text = text.get(..LOOKED_AT).unwrap_or(text);
        let mut said = String::from_utf8_lossy(text).trim().to_owned();
        for value in &self.0 {
            if said.contains(value.as_str()) {
                said = said.replace(value.as_str(), BLANK);
            }
        }
        // Whoever read it may have cut it before.
        if cut || text.len() == LOOKED_AT {
            self.blank_end(&mut said);
        }
        said.chars().take(shown).collect()
    }

    fn blank_end(&self, said: &mut String) {
        let begins = |value: &String| {
            value
                .char_indices()
                .map(|(at, _)| at)
                .filter(|at| *at >= SHORTEST)
                .rfind(|at| said.ends_with(&value[..*at]))
        };
        if let Some(length) = self.0.iter().filter_map(begins).max() {
            said.truncate(said.len() - length);
            said.push_str(BLANK);
        }
    }
}

/// As it stands within quotes in JSON.
fn json(value: &str) -> String {
    let quoted = Value::from(value).to_string();
    quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(&quoted)
        .to_owned()
}

/// As it stands in an address.
fn url(value: &str) -> String {
    use std::fmt::Write as _;
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn private(variables: &[&str]) -> Private {
        Private::of(&json!({"Config": {"Env": variables}}))
    }

    #[test]
    fn never_leaked_values_of_the_environment_are_blanked_in_every_form() {
        let private = private(&[
            "PASSWORD=hunter2",
            "URL=postgres://u:p@ss/w\"rd",
            "KEY=-----BEGIN-----\nabcdef\n-----END-----",
            "LONGER=hunter2-and-more",
            "DEBUG=1",
            "EMPTY=",
            "ODD",
        ]);
        for (said, shown) in [
            ("no hunter2 here, hunter2!", "no *** here, ***!"),
            ("hunter2-and-more", "***"),
            (r#"{"url":"postgres://u:p@ss/w\"rd"}"#, r#"{"url":"***"}"#),
            ("?u=postgres%3A%2F%2Fu%3Ap%40ss%2Fw%22rd&x=1", "?u=***&x=1"),
            ("at abcdef:", "at ***:"),
            (r"-----BEGIN-----\nabcdef\n-----END-----", "***"),
            ("1 of 1 failed", "1 of 1 failed"),
        ] {
            assert_eq!(private.blank(said.as_bytes(), 200), shown);
        }
    }

    #[test]
    fn never_leaked_a_value_that_is_cut_does_not_show_its_beginning() {
        let secret = "s3cr3t-s3cr3t-s3cr3t";
        let private = private(&[&format!("TOKEN={secret}")]);
        // Cut by what is shown.
        let said = format!("{}{secret}", "x".repeat(190));
        assert_eq!(
            private.blank(said.as_bytes(), 200),
            format!("{}***", "x".repeat(190))
        );
        // Cut by what is looked at, and brought into sight by what was blanked before.
        let many = secret.len() * (LOOKED_AT / secret.len());
        let said = format!("{}{secret}", secret.repeat(many / secret.len()));
        let shown = private.blank(said.as_bytes(), LOOKED_AT);
        assert!(!shown.contains("s3cr3t"), "{}", &shown[shown.len() - 40..]);
    }

    #[test]
    fn what_is_no_text_or_very_long_is_no_crash() {
        let private = private(&["A=\u{e4}\u{f6}\u{fc}\u{e4}\u{f6}\u{fc}", "B=%%%%%%"]);
        let noise: Vec<u8> = (0..=255).cycle().take(3 * LOOKED_AT).collect();
        assert_eq!(private.blank(&noise, 10).chars().count(), 10);
        assert_eq!(Private::of(&Value::Null).blank(b" x ", 10), "x");
    }
}
