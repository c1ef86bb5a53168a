//! The words of a container's command, of its HEALTHCHECK and of its checks that may be secret: what stands behind a
//! name that says so, what stands in an address, and what is no word as languages or paths have them.

use serde_json::Value;

use super::private::{SHORTEST, is_ordinary, names_a_secret};
use crate::targets::docker::normalise::list;

/// What is looked at of one text, words.
const MOST: usize = 256;

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// A name that says that its value is a secret.
const PASSWORD: &str = "PASSWORD";

/// Names and values, as variables have them; where a word has no name, that is empty.
pub(super) fn of(config: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for key in ["Cmd", "Entrypoint"] {
        arguments(texts(&config[key]), &mut found);
    }
    arguments(texts(&config["Healthcheck"]["Test"]), &mut found);
    let labels = config["Labels"].as_object();
    for (key, value) in labels.into_iter().flatten() {
        let Some(value) = value.as_str() else {
            continue;
        };
        match key
            .strip_prefix("sternway.check.")
            .map(|rest| rest.split('.').next().unwrap_or_default())
        {
            Some("http") => query(value, &mut found),
            Some("command") => {
                let argv = serde_json::from_str(value).unwrap_or(Value::Null);
                arguments(texts(&argv), &mut found);
            }
            _ => {}
        }
    }
    found
}

/// The same of what is set for a container beside its `Config`: of the options of its log and volume drivers, which take
/// tokens and passwords.
pub(super) fn of_drivers(host: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mounts = list(&host["Mounts"]).iter();
    let mounts = mounts.map(|mount| &mount["VolumeOptions"]["DriverConfig"]["Options"]);
    let options = mounts.chain([&host["LogConfig"]["Config"]]);
    for (name, value) in options.filter_map(Value::as_object).flatten() {
        if let Some(value) = value.as_str() {
            add(name, value, &mut found);
            within(value, &mut found);
        }
    }
    found
}

/// What stands within the value of a variable or an option: an address, a list of options, the string of a connection.
pub(super) fn within(value: &str, found: &mut Vec<(String, String)>) {
    for word in value.split_whitespace().take(MOST) {
        query(word, found);
        // Each separator may as well be a part of the value: by one at a time, and by none.
        let parts = [';', ',', '&'].into_iter().flat_map(|by| word.split(by));
        for part in [word].into_iter().chain(parts).take(MOST) {
            if let Some((name, value)) = part.split_once('=') {
                add(name, value, found);
            }
        }
    }
}

/// A list of texts, or one; a text with spaces is a shell's.
fn texts(value: &Value) -> Vec<&str> {
    let one = value.as_str().into_iter();
    let all = list(value).iter().filter_map(Value::as_str).chain(one);
    all.flat_map(str::split_whitespace).take(MOST).collect()
}

fn arguments(words: Vec<&str>, found: &mut Vec<(String, String)>) {
    let mut flag = "";
    for word in words {
        let word = word.trim_matches(['"', '\'']);
        match word.split_once('=') {
            // The padding at the end of a value is none of a pair.
            Some((name, value)) if !value.trim_matches('=').is_empty() => {
                add(name, value, found);
                if names_a_secret(flag) {
                    add(flag, word, found);
                }
            }
            _ => add(flag, word, found),
        }
        attached(word, found);
        if matches!(flag, "-u" | "--user" | "--proxy-user") {
            user(word, found);
        }
        query(word, found);
        flag = if word.starts_with('-') { word } else { "" };
    }
}

/// What stands right behind a flag of one letter: `-pS3cr3t`.
fn attached(word: &str, found: &mut Vec<(String, String)>) {
    let Some(rest) = word.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
        return;
    };
    let mut letters = rest.chars();
    let letter = letters.next();
    let value = letters.as_str();
    // One with a name in it is a pair.
    if letter.is_some_and(|letter| letter.is_ascii_alphabetic()) && !value.contains('=') {
        add("", value, found);
        if letter == Some('u') {
            user(value, found);
        }
    }
}

/// A name and its password. `www-data:www-data` are a user and a group.
fn user(value: &str, found: &mut Vec<(String, String)>) {
    if let Some((name, password)) = value.split_once(':')
        && bare(password) != name
    {
        add(PASSWORD, password, found);
    }
}

/// What stands behind `?` in an address, and what stands before its `@`.
fn query(address: &str, found: &mut Vec<(String, String)>) {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some((user, _)) = authority.rsplit_once('@') {
        let password = user.split_once(':').map_or(user, |(_, password)| password);
        found.push((PASSWORD.to_owned(), password.to_owned()));
        found.push((PASSWORD.to_owned(), decoded(password)));
    }
    let Some((_, query)) = address.split_once(['?', '#']) else {
        return;
    };
    for pair in query.split(['&', ';', '#', '?']).take(MOST) {
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        add(name, value, found);
        add(name, &decoded(value), found);
    }
}

/// Without the `%` that an address needs around what is none of its own signs.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn add(name: &str, value: &str, found: &mut Vec<(String, String)>) {
    let value = value.trim_matches(QUOTES);
    let inner = value.trim_matches(is_sign);
    // What a shell has around a value, or has begun behind it, may as well be a part of it.
    for (form, judged) in [(value, inner), (inner, inner), (bare(inner), bare(inner))] {
        if form.len() >= SHORTEST && (names_a_secret(name) || !is_plain(judged)) {
            found.push((name.to_owned(), form.to_owned()));
        }
    }
}

/// A word without what a shell has around it, and without what it has begun behind it.
fn bare(word: &str) -> &str {
    let word = word.trim_matches(is_sign);
    let end = word.find([';', '&', '|']).unwrap_or(word.len());
    word[..end].trim_end_matches(is_sign)
}

fn is_sign(it: char) -> bool {
    QUOTES.contains(&it) || ";&|(){}<>".contains(it)
}

/// A word that says nothing to a stranger: of letters, a number, a flag, a path, the name of a file, an address.
fn is_plain(word: &str) -> bool {
    let same = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphabetic())
            || part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let flag = word.starts_with('-');
    let path = word.starts_with(['/', '.', ':']) && !word.contains(['?', '@']);
    let joined = word.split(['-', '_', '.', ',', ':', '/']).all(same);
    is_ordinary(word) || flag || path || joined
}
