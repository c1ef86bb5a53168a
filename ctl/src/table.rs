//! Tables without borders, no wider than the terminal. Cells are cleaned here, whatever they hold.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::text::{Tone, View, beginning, clip, columns, prose, shorten, wrap};

/// The longest cell on a terminal, columns: one hostile label shall not fill a screen.
const CELL: usize = 160;

/// The gap between two columns.
const GAP: usize = 2;

/// Below this width a column of sentences is no pleasure to read, and an id with its comma is torn in it: others go first.
const SENTENCE: usize = 37;

/// No column gets narrower than this while another can.
const NARROW: usize = 8;

/// The rows of a table, each cell with its tone.
pub(crate) struct Rows {
    columns: Vec<Column>,
    body: Vec<Vec<(String, Tone)>>,
    /// Headings of columns that a narrow terminal does without, the first to go first.
    spare: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
struct Column {
    heading: &'static str,
    kind: Kind,
}

/// What becomes of a cell that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its middle is left out, as names differ at their ends; down to that width before columns are spared.
    Name(usize),
    /// It goes on in the next line; from that width on before columns are spared.
    Sentence(usize),
    /// So many of its first characters do.
    Id(usize),
}

impl Rows {
    /// A table with those headings.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| Column {
            heading,
            kind: Kind::Name(usize::MAX),
        };
        Self {
            columns: headings.iter().map(column).collect(),
            body: Vec::new(),
            spare: &[],
        }
    }

    /// With the columns that a narrow terminal does without, the first to go first.
    pub(crate) fn spare(self, spare: &'static [&'static str]) -> Self {
        Self { spare, ..self }
    }

    /// With a column of sentences.
    pub(crate) fn sentence(self, heading: &str) -> Self {
        self.of_kind(heading, Kind::Sentence(SENTENCE))
    }

    /// With a column of a few words, which go over several lines from that width on.
    pub(crate) fn words(self, heading: &str, least: usize) -> Self {
        self.of_kind(heading, Kind::Sentence(least))
    }

    /// With a column of names that are as good at that width.
    pub(crate) fn names(self, heading: &str, least: usize) -> Self {
        self.of_kind(heading, Kind::Name(least))
    }

    /// With a column of ids, of which so many characters are enough on a narrow terminal.
    pub(crate) fn id(self, heading: &str, enough: usize) -> Self {
        self.of_kind(heading, Kind::Id(enough))
    }

    fn of_kind(mut self, heading: &str, kind: Kind) -> Self {
        let mut columns = self.columns.iter_mut();
        if let Some(column) = columns.find(|column| column.heading == heading) {
            column.kind = kind;
        }
        self
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.body.push(cells.into());
    }

    /// The table as text with its last line end; `empty` where it has no row.
    pub(crate) fn render(&self, view: View, empty: &str) -> String {
        if self.body.is_empty() {
            return format!("{empty}\n");
        }
        let cells = |row: &Vec<(String, Tone)>| {
            let cell = |(text, tone): &(String, Tone)| {
                let text = match view.width {
                    Some(_) => clip(text, CELL),
                    None => prose(text),
                };
                (text, *tone)
            };
            row.iter().map(cell).collect()
        };
        let rows: Vec<Vec<(String, Tone)>> = self.body.iter().map(cells).collect();
        let width = view.width.map_or(usize::MAX, usize::from);
        let layout = self.layout(&rows, width);
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if view.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(layout.iter().map(|it| shorten(it.column.heading, it.width)));
        for row in &rows {
            let shown = layout.iter().filter_map(|it| {
                let (text, tone) = row.get(it.index)?;
                Some(painted(&it.column.fit(text, it.width), *tone))
            });
            table.add_row(shown);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }

    /// The columns that are shown, and how wide: the whole table where there is room, else with ids shortened,
    /// then without what can be spared, then with the widest names shortened.
    fn layout(&self, rows: &[Vec<(String, Tone)>], room: usize) -> Vec<Placed> {
        let mut placed: Vec<Placed> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let cells = rows.iter().filter_map(|row| row.get(index));
                let longest = cells.map(|(text, _)| columns(text)).max().unwrap_or(0);
                Placed {
                    column: *column,
                    index,
                    width: longest.max(columns(column.heading)),
                }
            })
            .collect();
        if needed(&placed) <= room {
            return placed;
        }
        for it in &mut placed {
            if let Kind::Id(enough) = it.column.kind {
                it.width = it.width.min(enough);
            }
        }
        for heading in self.spare {
            if bearable(&placed) <= room {
                break;
            }
            placed.retain(|it| it.column.heading != *heading);
        }
        shrink(&mut placed, room, |it| it.column.least());
        shrink(&mut placed, room, |_| NARROW);
        shrink(&mut placed, room, |_| 1);
        placed
    }
}

/// A column that is shown.
struct Placed {
    column: Column,
    index: usize,
    width: usize,
}

impl Column {
    /// The width that it may be narrowed to before columns are spared.
    fn least(self) -> usize {
        match self.kind {
            Kind::Name(least) | Kind::Sentence(least) => least,
            Kind::Id(_) => usize::MAX,
        }
    }

    fn fit(self, text: &str, width: usize) -> String {
        match self.kind {
            Kind::Name(_) => shorten(text, width),
            Kind::Sentence(_) => wrap(text, width),
            Kind::Id(_) => beginning(text, width).to_owned(),
        }
    }
}

fn with_gaps(widths: impl Iterator<Item = usize>) -> usize {
    widths
        .map(|width| width + GAP)
        .sum::<usize>()
        .saturating_sub(GAP)
}

fn needed(placed: &[Placed]) -> usize {
    with_gaps(placed.iter().map(|it| it.width))
}

/// What is needed where sentences go over several lines.
fn bearable(placed: &[Placed]) -> usize {
    with_gaps(placed.iter().map(|it| it.width.min(it.column.least())))
}

/// Narrows the widest column again and again, none below its least width, until the table fits.
fn shrink(placed: &mut [Placed], room: usize, least: impl Fn(&Placed) -> usize) {
    while needed(placed) > room {
        let can = placed.iter_mut().filter(|it| it.width > least(it));
        let Some(widest) = can.max_by_key(|it| it.width) else {
            return;
        };
        widest.width -= 1;
    }
}

/// A cell without a tone.
pub(crate) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

fn painted(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain | Tone::Strong => cell,
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Dim => cell.fg(Color::DarkGrey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::new(&["HOST", "ID", "STATE", "AGE", "WHY"])
            .spare(&["AGE"])
            .id("ID", 4)
            .sentence("WHY");
        rows.push([
            plain("web-1"),
            plain("0198a1b2"),
            ("✔ online".into(), Tone::Good),
            plain("3 h"),
            plain("a long sentence that has to go somewhere"),
        ]);
        rows.push([
            plain("we\x1b]0;owned\x07b\n-2"),
            plain("0198a1b3"),
            ("✖ offline".into(), Tone::Bad),
            plain("12 h"),
            plain(""),
        ]);
        rows
    }

    #[test]
    fn a_table_without_a_terminal_is_not_wrapped_and_never_hostile() {
        insta::assert_snapshot!(rows().render(View::plain(0), "none"), @r"
        HOST                        ID        STATE      AGE   WHY
        web-1                       0198a1b2  ✔ online   3 h   a long sentence that has to go somewhere
        we\u{1b}]0;owned\u{7}b\n-2  0198a1b3  ✖ offline  12 h
        ");
    }

    fn at(width: u16) -> String {
        let view = View {
            width: Some(width),
            ..View::plain(0)
        };
        rows().render(view, "none")
    }

    #[test]
    fn a_narrow_table_shortens_ids_then_drops_what_can_be_spared_then_shortens_names() {
        insta::assert_snapshot!(at(90), @r"
        HOST                        ID    STATE      AGE   WHY
        web-1                       0198  ✔ online   3 h   a long sentence that has to go
                                                           somewhere
        we\u{1b}]0;owned\u{7}b\n-2  0198  ✖ offline  12 h
        ");
        insta::assert_snapshot!(at(75), @r"
        HOST                        ID    STATE      WHY
        web-1                       0198  ✔ online   a long sentence that has to go
                                                     somewhere
        we\u{1b}]0;owned\u{7}b\n-2  0198  ✖ offline
        ");
        insta::assert_snapshot!(at(50), @r"
        HOST              ID    STATE      WHY
        web-1             0198  ✔ online   a long sentence
                                           that has to go
                                           somewhere
        we\u{1b}…7}b\n-2  0198  ✖ offline
        ");
    }

    #[test]
    fn a_table_is_never_wider_than_its_terminal() {
        for width in 20..130 {
            let text = at(width);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(width)), "{width}:\n{text}");
        }
    }

    #[test]
    fn a_table_of_wide_letters_is_no_wider_than_its_terminal() {
        let mut rows = Rows::new(&["HOST", "WHY"]).sentence("WHY");
        rows.push([
            plain("店".repeat(30)),
            plain("この画像はもうありません".repeat(3)),
        ]);
        for width in 20..100 {
            let view = View {
                width: Some(width),
                ..View::plain(0)
            };
            let text = rows.render(view, "none");
            let widest = text.lines().map(columns).max();
            assert!(widest <= Some(usize::from(width)), "{width}:\n{text}");
        }
    }

    #[test]
    fn colour_never_stands_alone() {
        let view = View {
            colour: true,
            ..View::plain(0)
        };
        let text = rows().render(view, "none");
        assert!(text.contains("\x1b[38;5;2m✔ online"), "{text:?}");
        assert!(!text.contains("\x1b]0;"));
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(
            Rows::new(&["A"]).render(View::plain(0), "no hosts"),
            "no hosts\n"
        );
    }
}
