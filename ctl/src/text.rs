//! Words, times and colours for people: pure functions over a [`View`].

use jiff::Timestamp;
pub(crate) use sternway_proto::name::clean_text as clean;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How text is shown: everything that rendering depends on apart from the message itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) colour: bool,
    /// Columns of the terminal; none: lines are as long as they are.
    pub(crate) width: Option<u16>,
    /// Unix milliseconds, for relative times.
    pub(crate) now_ms: i64,
}

impl View {
    /// No colour, no width.
    #[cfg(test)]
    pub(crate) fn plain(now_ms: i64) -> Self {
        Self {
            colour: false,
            width: None,
            now_ms,
        }
    }
}

/// What a text says of the state of things. Never the only sign of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Warn,
    Dim,
    Strong,
}

/// The text in the colour of its tone, where colour is wanted.
pub(crate) fn paint(view: View, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Bad => "31",
        Tone::Warn => "33",
        Tone::Dim => "2",
        Tone::Strong => "1",
    };
    if view.colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// How many columns of a terminal a text takes: an ideogram takes two, an accent of its own none.
pub(crate) fn columns(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

fn columns_of(letter: char) -> usize {
    UnicodeWidthChar::width(letter).unwrap_or(0)
}

/// As many of the first letters as fit in so many columns.
pub(crate) fn beginning(text: &str, limit: usize) -> &str {
    let mut taken = 0;
    let fits = |(_, letter): &(usize, char)| {
        taken += columns_of(*letter);
        taken > limit
    };
    let end = text.char_indices().find(fits);
    text.get(..end.map_or(text.len(), |(at, _)| at))
        .unwrap_or(text)
}

/// As many of the last letters as fit in so many columns.
fn ending(text: &str, limit: usize) -> &str {
    let mut taken = 0;
    let fits = |(_, letter): &(usize, char)| {
        taken += columns_of(*letter);
        taken <= limit
    };
    let begin = text.char_indices().rev().take_while(fits).last();
    text.get(begin.map_or(text.len(), |(at, _)| at)..)
        .unwrap_or_default()
}

/// Cleaned, its ids short, and cut to so many columns.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    let text = prose(text);
    if columns(&text) <= limit {
        return text;
    }
    format!("{}…", beginning(&text, limit.saturating_sub(1)))
}

/// Cut to so many columns in the middle: names differ at their ends.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if columns(text) <= limit {
        return text.to_owned();
    }
    let kept = limit.saturating_sub(1);
    let tail = kept / 2;
    format!("{}…{}", beginning(text, kept - tail), ending(text, tail))
}

/// `1 step`, `3 steps`.
pub(crate) fn counted<N: TryInto<u64>>(number: N, one: &str, several: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {}", if number == 1 { one } else { several })
}

/// In lines of at most so many columns, broken between words where there are any. A sign stays with its word.
pub(crate) fn wrap(text: &str, limit: usize) -> String {
    let limit = limit.max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut sign = String::new();
    for word in text.split(' ') {
        if sign.is_empty() && !word.is_empty() && word.chars().all(is_sign) {
            sign = format!("{word} ");
            continue;
        }
        let word = &(std::mem::take(&mut sign) + word);
        if let Some(line) = lines.last_mut()
            && columns(line) + 1 + columns(word) <= limit
        {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        let mut rest = word.as_str();
        loop {
            // A letter that is wider than the line has to stand somewhere.
            let first = rest.chars().next().map_or(0, char::len_utf8);
            let piece = beginning(rest, limit).len().max(first);
            let (line, more) = rest.split_at(piece);
            lines.push(line.to_owned());
            if more.is_empty() {
                break;
            }
            rest = more;
        }
    }
    lines.extend((!sign.is_empty()).then(|| sign.trim_end().to_owned()));
    lines.join("\n")
}

fn is_sign(letter: char) -> bool {
    !letter.is_ascii() && !letter.is_alphanumeric()
}

/// A line of ours, with its colours, cut to the width of the terminal, where there is one.
pub(crate) fn one_line(view: View, text: &str) -> String {
    let Some(width) = view.width.map(usize::from) else {
        return text.to_owned();
    };
    let mut cut = String::with_capacity(text.len());
    let (mut shown, mut in_colour, mut rest) = (0, false, text.chars());
    while let Some(letter) = rest.next() {
        if letter == '\x1b' {
            in_colour = true;
        } else if !in_colour {
            let wide = columns_of(letter);
            if shown + wide >= width && shown + wide + visible(rest.as_str()) > width {
                cut.push('…');
                if view.colour {
                    cut.push_str("\x1b[0m");
                }
                return cut;
            }
            shown += wide;
        }
        cut.push(letter);
        if in_colour && letter == 'm' {
            in_colour = false;
        }
    }
    cut
}

/// The columns of what is no part of a colour.
fn visible(text: &str) -> usize {
    let mut in_colour = false;
    let seen = text.chars().filter(|letter| {
        in_colour |= *letter == '\x1b';
        let seen = !in_colour;
        in_colour &= *letter != 'm';
        seen
    });
    seen.map(columns_of).sum()
}

/// An id as people see it: its first twelve characters.
pub(crate) fn short_id(id: &str) -> String {
    let id = clean(id);
    let id = id.strip_prefix("sha256:").unwrap_or(&id);
    id.chars().take(12).collect()
}

/// Cleaned, and every id of 64 digits cut to its first twelve: enough for people, and for `docker`. What
/// stands behind an `@` stays whole: it is meant to be pulled.
pub(crate) fn prose(text: &str) -> String {
    const WHOLE: usize = 64;
    let text = clean(text);
    let mut short = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(begin) = rest.find(|it: char| it.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(begin);
        let length = from
            .find(|it: char| !it.is_ascii_hexdigit())
            .unwrap_or(from.len());
        let (digits, after) = from.split_at(length);
        short.push_str(before);
        let pulled = short.ends_with("@sha256:");
        short.push_str(if length == WHOLE && !pulled {
            digits.get(..12).unwrap_or(digits)
        } else {
            digits
        });
        rest = after;
    }
    short + rest
}

/// `3 min ago`, `in 2 h`; a zero is a time that never was.
pub(crate) fn relative(view: View, at_ms: i64) -> String {
    if at_ms == 0 {
        return "never".to_owned();
    }
    let away = view.now_ms.saturating_sub(at_ms);
    let span = coarse(away.unsigned_abs());
    match away {
        -999..=999 => "now".to_owned(),
        1000.. => format!("{span} ago"),
        _ => format!("in {span}"),
    }
}

fn coarse(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// A length of time: `850 ms`, `4.2 s`, `3 min 5 s`.
pub(crate) fn duration(ms: i64) -> String {
    match ms.max(0) {
        ms @ 0..=999 => format!("{ms} ms"),
        ms @ 1000..=119_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// RFC 3339 in UTC with milliseconds; none for a zero or a time out of range.
pub(crate) fn absolute(at_ms: i64) -> Option<String> {
    let at = Timestamp::from_millisecond(at_ms).ok()?;
    (at_ms != 0).then(|| format!("{at:.3}"))
}

/// The time of day in UTC, and that it is: `22:43:48Z`.
pub(crate) fn moment(at_ms: i64) -> String {
    format!("{}Z", time_of_day(at_ms))
}

/// The time of day in UTC, `22:43:48`.
fn time_of_day(at_ms: i64) -> String {
    let second = at_ms.div_euclid(1000).rem_euclid(86_400);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{hour:02}:{minute:02}:{:02}", second % 60)
}

/// A time to come, as people wait for it: `14:05:00 UTC (in 10 min)`, with its day where that is not today.
pub(crate) fn until(view: View, at_ms: i64) -> String {
    let today = view.now_ms.div_euclid(86_400_000) == at_ms.div_euclid(86_400_000);
    let time = match absolute(at_ms) {
        Some(at) if !today => format!("{} {}", at.get(..10).unwrap_or(&at), time_of_day(at_ms)),
        _ => time_of_day(at_ms),
    };
    format!("{time} UTC ({})", relative(view, at_ms))
}

/// `3 min ago (2026-11-20T22:43:48.123Z)`.
pub(crate) fn relative_and_absolute(view: View, at_ms: i64) -> String {
    match absolute(at_ms) {
        Some(at) => format!("{} ({at})", relative(view, at_ms)),
        None => relative(view, at_ms),
    }
}

/// A revision as people name it: `#12`, or its short id where it has no number.
pub(crate) fn revision_name(number: u32, id: &str) -> String {
    match (number, id.is_empty()) {
        (0, true) => "nothing".to_owned(),
        (0, false) => short_id(id),
        (number, _) => format!("#{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_for_people_and_absolute_for_programs() {
        let view = View::plain(1_763_678_628_123);
        assert_eq!(relative(view, 0), "never");
        assert_eq!(relative(view, view.now_ms), "now");
        assert_eq!(relative(view, view.now_ms - 90_000), "90 s ago");
        assert_eq!(relative(view, view.now_ms - 3_600_000), "60 min ago");
        assert_eq!(relative(view, view.now_ms + 3 * 3_600_000), "in 3 h");
        assert_eq!(relative(view, i64::MIN), "106751991167 days ago");
        assert_eq!(
            absolute(view.now_ms).as_deref(),
            Some("2025-11-20T22:43:48.123Z")
        );
        assert_eq!(absolute(i64::MAX), None);
        assert_eq!(moment(view.now_ms), "22:43:48Z");
        assert_eq!(
            until(view, view.now_ms + 600_000),
            "22:53:48 UTC (in 10 min)"
        );
        assert_eq!(
            until(view, view.now_ms + 7_200_000),
            "2025-11-21 00:43:48 UTC (in 2 h)"
        );
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(850), "850 ms");
        assert_eq!(duration(4_250), "4.2 s");
        assert_eq!(duration(185_000), "3 min 5 s");
        assert_eq!(duration(-5), "0 ms");
    }

    #[test]
    fn clipping_counts_characters_after_cleaning() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüß", 3), "äö…");
        assert_eq!(clip("\x1b[31m", 20), "\\u{1b}[31m");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn what_is_too_long_is_shortened_in_the_middle_wrapped_or_cut() {
        assert_eq!(shorten("registry.example/shop:12", 12), "regist…op:12");
        assert_eq!(shorten("shop", 4), "shop");
        assert_eq!(wrap("the image is gone", 9), "the image\nis gone");
        assert_eq!(wrap("0123456789 x", 4), "0123\n4567\n89 x");
        assert_eq!(wrap("", 4), "");
        assert_eq!(wrap("✔ good, ✖ bad ✖", 9), "✔ good,\n✖ bad\n✖");
        let view = View {
            colour: true,
            width: Some(6),
            now_ms: 0,
        };
        assert_eq!(
            one_line(view, "\x1b[31mabcdef\x1b[0m"),
            "\x1b[31mabcdef\x1b[0m"
        );
        assert_eq!(
            one_line(view, "\x1b[31mabcdefg\x1b[0m"),
            "\x1b[31mabcde…\x1b[0m"
        );
        assert_eq!(one_line(View::plain(0), "abcdefg"), "abcdefg");
    }

    #[test]
    fn what_takes_two_columns_counts_for_two() {
        assert_eq!(columns("店-1"), 4);
        assert_eq!(clip("店店店", 6), "店店店");
        assert_eq!(clip("店店店", 5), "店店…");
        assert_eq!(clip("店店店", 4), "店…");
        assert_eq!(shorten("店店店店店", 7), "店…店");
        assert_eq!(wrap("店店店 x", 4), "店店\n店 x");
        assert_eq!(wrap("店", 1), "店");
        let view = View {
            width: Some(5),
            ..View::plain(0)
        };
        assert_eq!(one_line(view, "店店x"), "店店x");
        assert_eq!(one_line(view, "店店店"), "店店…");
        assert_eq!(one_line(view, "x店店店"), "x店…");
    }

    #[test]
    fn ids_in_prose_are_short_and_digests_that_are_pulled_are_whole() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(
            prose(&format!("container {id} of sha256:{id}.")),
            "container 0123456789ab of sha256:0123456789ab."
        );
        let pulled = format!("docker pull shop@sha256:{id}");
        assert_eq!(prose(&pulled), pulled);
        assert_eq!(prose(&format!("{id}0")), format!("{id}0"));
        assert_eq!(prose("deadbeef, #12, \x1b[0m"), "deadbeef, #12, \\u{1b}[0m");
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let plain = View::plain(0);
        assert_eq!(paint(plain, Tone::Bad, "x"), "x");
        let colour = View {
            colour: true,
            ..plain
        };
        assert_eq!(paint(colour, Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
