//! What a container says of itself may quote its environment, its command and its checks, and leaves the host as
//! evidence: the values of the environment's variables are blanked in it, and those words of the others that may be
//! secret.

use std::cmp::Reverse;

use serde_json::Value;

use super::words;
use crate::targets::docker::normalise::list;

/// A value this short is no secret, and blanking it would only make what was said unreadable.
pub(super) const SHORTEST: usize = 5;

/// What is looked at of a text, bytes. More of it is never shown.
pub(in crate::targets::docker) const LOOKED_AT: usize = 16 * 1024;

const BLANK: &str = "***";

/// The private values of a container in the forms in which they are found in texts, the longest first, so
/// that none is torn by a shorter one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::targets::docker) struct Private(Vec<Form>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Form {
    text: String,
    /// It may stand as a part of a longer word.
    ordinary: bool,
}

impl Private {
    /// Of a container, as the engine shows it.
    pub(super) fn of(inspect: &Value) -> Self {
        Self::of_all([inspect])
    }

    /// Of all these: each with the `Config` and `HostConfig` of a container, as the engine or a record has it.
    pub(in crate::targets::docker) fn of_all<'a>(
        containers: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for container in containers {
            let config = &container["Config"];
            let variables = list(&config["Env"]).iter().filter_map(Value::as_str);
            for (name, value) in variables.filter_map(|variable| variable.split_once('=')) {
                pairs.push((name.to_owned(), value.to_owned()));
                words::within(value, &mut pairs);
            }
            pairs.extend(words::of(config));
            pairs.extend(words::of_drivers(&container["HostConfig"]));
        }
        let mut forms: Vec<Form> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            // A key in several lines is also quoted line by line.
            .flat_map(|(name, value)| value.lines().chain([value]).map(move |one| (name, one)))
            .map(|(name, value)| (name, value.trim()))
            .filter(|(_, value)| value.len() >= SHORTEST)
            .flat_map(|(name, value)| {
                let ordinary = is_ordinary(value) && !names_a_secret(name);
                [value.to_owned(), json(value), url(value)].map(|text| Form { text, ordinary })
            })
            .collect();
        // Of two with the same text the stricter one stands.
        let order = |form: &Form| (Reverse(form.text.len()), form.text.clone(), form.ordinary);
        forms.sort_by_cached_key(order);
        forms.dedup_by(|a, b| a.text == b.text);
        Self(forms)
    }

    /// At most `shown` characters of a text, without any of the values, nor the beginning of one that was cut off.
    pub(in crate::targets::docker) fn blank(&self, text: &[u8], shown: usize) -> String {
        let cut = text.len() > LOOKED_AT;
        let text = text.get(..LOOKED_AT).unwrap_or(text);
        let mut said = String::from_utf8_lossy(text).trim().to_owned();
        for form in &self.0 {
            if said.contains(form.text.as_str()) {
                said = blanked(&said, form);
            }
        }
        // Whoever read it may have cut it before.
        if cut || text.len() == LOOKED_AT {
            self.blank_end(&mut said);
        }
        said.chars().take(shown).collect()
    }

    fn blank_end(&self, said: &mut String) {
        let begins = |form: &Form| {
            let value = &form.text;
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

/// The text without the value, wherever it stands: but an ordinary word stays where it only is a part of another one
/// (`health` in `unhealthy`). Nobody can tell there that it is a value, and a torn word tells more.
fn blanked(said: &str, form: &Form) -> String {
    let value = form.text.as_str();
    let mut text = String::with_capacity(said.len());
    let mut rest = 0;
    for (at, _) in said.match_indices(value) {
        let (before, after) = (&said[..at], &said[at + value.len()..]);
        if form.ordinary && within_a_word(before, value, after) {
            continue;
        }
        text.push_str(&said[rest..at]);
        text.push_str(BLANK);
        rest = at + value.len();
    }
    text + &said[rest..]
}

/// Whether a variable's name says that its value is a secret: that one is blanked everywhere.
pub(super) fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    [
        "PASS", "PWD", "SECRET", "TOKEN", "KEY", "AUTH", "CRED", "PIN",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// A word as languages have them. Passwords of letters alone that are longer than this are none.
pub(super) fn is_ordinary(value: &str) -> bool {
    const LONGEST: usize = 10;
    let small = value.bytes().skip(1).all(|byte| byte.is_ascii_lowercase());
    value.len() <= LONGEST && small && value.starts_with(|it: char| it.is_ascii_alphabetic())
}

/// Whether what stands between these two is a part of a longer word. Only where that word stands by itself: in
/// `\nhunter`, `-phunter`, `%0Ahunter` and behind a colour's `m` the letters before are none of a word.
fn within_a_word(before: &str, value: &str, after: &str) -> bool {
    let letter = |it: char| it.is_ascii_alphabetic();
    let begin = before.trim_end_matches(letter);
    let end = after.trim_start_matches(letter);
    let (head, tail) = (&before[begin.len()..], &after[..after.len() - end.len()]);
    let small = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase());
    let word = match head.get(1..) {
        // Its first letter is the word's.
        None => small(tail),
        Some(head) => small(head) && small(value) && small(tail),
    };
    let alone = |it: Option<char>, beside: &str| {
        it.is_none_or(|it| it.is_whitespace() || beside.contains(it))
    };
    let longer = !head.is_empty() || !tail.is_empty();
    longer
        && word
        && alone(begin.chars().next_back(), "\"'(")
        && alone(end.chars().next(), "\"').,;:!?")
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn never_leaked_what_checks_and_commands_are_given_and_may_be_secret() {
        let private = Private::of(&json!({"Config": {
            "Cmd": ["serve", "--admin-token", "tiger", "--db=postgres://u:Pa55w0rd@db/x", "--verbose", "0.0.0.0:8080", "/etc/app.conf"],
            "Entrypoint": ["/bin/app"],
            "Healthcheck": {"Test": ["CMD-SHELL", "curl -u admin:h3althy-h3althy localhost || exit 1"]},
            "Labels": {
                "sternway.check.http": ":8080/health?token=hunter2&plain&verbose=full",
                "sternway.check.http.1": ":8080/ready?password=dragon",
                "sternway.check.command": r#"["/shop","check","--key","s3cr3t-argv","healthy"]"#,
                "sternway.check.tcp": ":8080",
                "other": "not-ours-at-all",
            },
        }}));
        for (said, shown) in [
            ("bad token hunter2 in /health", "bad token *** in /health"),
            ("/health?token=hunter2&plain", "/health?token=***&plain"),
            ("no dragon!", "no ***!"),
            (
                "unknown key s3cr3t-argv; not healthy",
                "unknown key ***; not healthy",
            ),
            ("tiger is no token", "*** is no token"),
            (
                "cannot reach postgres://u:Pa55w0rd@db/x",
                "cannot reach ***",
            ),
            ("wrong password Pa55w0rd", "wrong password ***"),
            ("admin:h3althy-h3althy", "***"),
            (
                "/bin/app: no /etc/app.conf, --verbose serve 0.0.0.0:8080, not-ours-at-all",
                "/bin/app: no /etc/app.conf, --verbose serve 0.0.0.0:8080, not-ours-at-all",
            ),
        ] {
            assert_eq!(private.blank(said.as_bytes(), 200), shown);
        }
    }

    #[test]
    fn never_leaked_what_stands_within_a_variable_or_an_option_of_a_driver() {
        let private = Private::of(&json!({
            "Config": {"Env": [
                "DATABASE_URL=postgres://shop:tiger-Pa55%40w0rd@db:5432/x?sslmode=require&sslpassword=dragon",
                "DSN=host=db user=shop password=hunter2",
                "ADO=Server=db,1433;User Id=shop;Password=s3cr3t;",
                "OTHER=Server=db;Password=lion,Pa55;",
                "QUERY=postgres://db/x?user=shop&password=p%40ssw0rd",
                "MODE=plain and simple",
            ]},
            "HostConfig": {
                "LogConfig": {"Config": {"splunk-token": "0123-4567", "max-file": "10", "tag": "shop-log"}},
                "Mounts": [{"VolumeOptions": {"DriverConfig": {"Options": {
                    "type": "cifs",
                    "device": "//nas/shop",
                    "o": "addr=10.0.0.1,username=shop,password=mounts3cret",
                }}}}],
            },
        }));
        for (said, shown) in [
            (
                "user shop, password tiger-Pa55%40w0rd",
                "user shop, password ***",
            ),
            (
                "no login with tiger-Pa55@w0rd at db",
                "no login with *** at db",
            ),
            ("cannot read key with dragon", "cannot read key with ***"),
            ("FATAL: hunter2 is wrong", "FATAL: *** is wrong"),
            (
                "login of shop with s3cr3t failed",
                "login of shop with *** failed",
            ),
            ("login with lion,Pa55 failed", "login with *** failed"),
            ("p@ssw0rd is wrong", "*** is wrong"),
            ("401 for 0123-4567", "401 for ***"),
            (
                "mount //nas/shop: bad mounts3cret",
                "mount //nas/shop: bad ***",
            ),
            (
                "shop-log of db on 10.0.0.1: simple",
                "shop-log of db on 10.0.0.1: simple",
            ),
        ] {
            assert_eq!(private.blank(said.as_bytes(), 200), shown);
        }
    }

    /// What is shown of a text that quotes the command of a container.
    fn shown(command: &[&str], said: &str) -> String {
        Private::of(&json!({"Config": {"Cmd": command}})).blank(said.as_bytes(), 200)
    }

    #[test]
    fn never_leaked_secrets_however_a_shell_or_a_flag_has_them() {
        for (command, secret) in [
            (
                &["app", "--token", "dGhpc2lzc2VjcmV0=="][..],
                "dGhpc2lzc2VjcmV0==",
            ),
            (
                &["app", "--token", "dGhpc2lzc2VjcmV0="],
                "dGhpc2lzc2VjcmV0=",
            ),
            (&["app", "dGhpc2lzc2VjcmV0=="], "dGhpc2lzc2VjcmV0=="),
            (&["app", "--token", "user=tiger"], "user=tiger"),
            (&["sh", "-c", "PGPASSWORD='hunter2pw' psql"], "hunter2pw"),
            (
                &["sh", "-c", "export PGPASSWORD=\"dragon\"; psql"],
                "dragon",
            ),
            (&["sh", "-c", "TOKEN=abc123; serve"], "abc123"),
            (&["sh", "-c", "TOKEN=dragon;serve"], "dragon"),
            (&["sh", "-c", "(TOKEN=abc123&&serve)"], "abc123"),
            (
                &["sh", "-c", "(cd / && TOKEN=abc123 serve --key tiger)"],
                "tiger",
            ),
            (&["sh", "-c", "x=$(login --key s3cr3t)"], "s3cr3t"),
            (&["sh", "-c", "x=`login --key s3cr3t`"], "s3cr3t"),
            (&["app", "TOKEN=ab;cdefg12"], "ab;cdefg12"),
            (&["app", "TOKEN=(abc123)"], "(abc123)"),
            (&["mysql", "-pS3cr3t"], "S3cr3t"),
            (&["sh", "-c", "mysql -uroot -p'S3cr3t' shop"], "S3cr3t"),
            (&["curl", "-u", "user:longpassword"], "longpassword"),
            (&["curl", "--user", "user:longpassword"], "longpassword"),
            (&["curl", "-uuser:longpassword"], "longpassword"),
            (
                &["sh", "-c", "curl -u 'user:longpassword' http://x"],
                "longpassword",
            ),
        ] {
            let told = shown(command, &format!("login with {secret} refused"));
            assert_eq!(told, "login with *** refused", "{command:?}");
        }
    }

    #[test]
    fn ordinary_words_of_commands_stay_as_they_are() {
        for command in [
            &[
                "sh",
                "-c",
                "if [ -f /etc/app.conf ]; then exec serve --port=8080; fi",
            ][..],
            &["sh", "-c", "(cd /srv && exec serve) || exit 1"],
            &["sh", "-c", "trap 'stop it' TERM; serve & wait"],
            &[
                "gosu",
                "-u",
                "www-data:www-data",
                "serve",
                "--user",
                "1000:1000",
            ],
            &["find", "/srv", "-name", "-print", "-prune", "-delete"],
            &[
                "serve",
                "-mode=production;",
                "--listen",
                "0.0.0.0:8080",
                "-p8080",
            ],
            &["serve", "a==b", "=", "-", "--", "-x", ";", "''"],
        ] {
            for said in command.iter().flat_map(|text| text.split_whitespace()) {
                let said = said.trim_matches(['\'', '"']);
                assert_eq!(shown(command, said), said, "{command:?}");
            }
        }
    }

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
    fn an_ordinary_word_is_not_torn_out_of_another_and_is_blanked_everywhere_else() {
        let private = private(&["CHECK=health", "NAME=hunter", "TOKEN=hunter2"]);
        for (said, shown) in [
            ("it is unhealthy.", "it is unhealthy."),
            ("health: Healthy (unhealthy)", "***: Healthy (unhealthy)"),
            ("hunter hunter2 hunters", "*** *** hunters"),
            (r"line\nhunter", r"line\n***"),
            ("mysql -phunter", "mysql -p***"),
            ("x=%0Ahunter&", "x=%0A***&"),
            ("\x1b[31mhunter\x1b[0m", "\x1b[31m***\x1b[0m"),
            ("xhunter2y", "x***y"),
            ("hunter_x hunter1 HUNTERhunter", "***_x ***1 HUNTER***"),
        ] {
            assert_eq!(private.blank(said.as_bytes(), 200), shown);
        }
    }

    #[test]
    fn never_leaked_a_word_whose_variable_says_that_it_is_a_secret() {
        let private = private(&["DB_PASSWORD=dragon", "MODE=dragon", "NAME=Summer"]);
        for (said, shown) in [
            ("login rootdragon failed", "login root*** failed"),
            ("dragons", "***s"),
            ("(PSummer) tokenSummer", "(P***) token***"),
            ("Summertime", "Summertime"),
        ] {
            assert_eq!(private.blank(said.as_bytes(), 200), shown);
        }
    }

    proptest! {
        /// A value with anything but letters in it never shows, whatever stands beside it.
        #[test]
        fn never_leaked_a_value_that_is_no_word(
            secret in "[a-zA-Z0-9_/+=.-]{4,20}[0-9_/+=.-]",
            parts in prop::collection::vec("[ -)+-~\n]{0,12}", 2..6),
        ) {
            let private = private(&[&format!("TOKEN={secret}")]);
            let said = parts.join(&secret);
            let shown = private.blank(said.as_bytes(), LOOKED_AT);
            prop_assert!(!shown.contains(&secret), "{shown}");
        }

        /// One that is a word shows only as a part of a longer word that stands by itself.
        #[test]
        fn never_leaked_a_word_that_stands_for_itself(
            secret in "[a-z]{5,10}",
            before in "[ -)+-~\n\x1b]{0,8}",
            after in "[ -)+-~\n\x1b]{0,8}",
        ) {
            let private = private(&[&format!("MODE={secret}")]);
            let shown = private.blank(format!("{before}{secret}{after}").as_bytes(), LOOKED_AT);
            for word in shown.split_whitespace().filter(|word| word.contains(&secret)) {
                let word = word.trim_matches(['"', '\'', '(', ')', '.', ',', ';', ':', '!', '?']);
                let word = word.split(['"', '\'', '(', ')', '.', ',', ';', ':', '!', '?']);
                for word in word.filter(|word| word.contains(&secret)) {
                    prop_assert!(word.len() > secret.len(), "{shown}");
                    prop_assert!(word.bytes().all(|byte| byte.is_ascii_alphabetic()), "{shown}");
                }
            }
        }

        /// No ordinary text is torn: each of its words is whole, or blanked.
        #[test]
        fn no_word_is_torn(
            words in prop::collection::vec("[a-c]{1,8}", 1..20),
            secret in "[a-c]{5,8}",
        ) {
            let private = private(&[&format!("MODE={secret}")]);
            let said = words.join(" ");
            let shown = private.blank(said.as_bytes(), LOOKED_AT);
            let whole: Vec<&str> = shown.split(' ').collect();
            let wanted: Vec<&str> = words
                .iter()
                .map(|word| if *word == secret { BLANK } else { word.as_str() })
                .collect();
            prop_assert_eq!(whole, wanted);
        }
    }

    #[test]
    fn what_is_no_text_or_very_long_is_no_crash() {
        let private = private(&["A=\u{e4}\u{f6}\u{fc}\u{e4}\u{f6}\u{fc}", "B=%%%%%%"]);
        let noise: Vec<u8> = (0..=255).cycle().take(3 * LOOKED_AT).collect();
        assert_eq!(private.blank(&noise, 10).chars().count(), 10);
        assert_eq!(Private::of(&Value::Null).blank(b" x ", 10), "x");
    }
}
