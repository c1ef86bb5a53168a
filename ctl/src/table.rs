//! Tables without borders, as wide as the terminal. Cells are cleaned here, whatever they hold.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::text::{Tone, View, clip};

/// The longest cell, characters: one hostile label shall not fill a screen.
const CELL: usize = 160;

/// The rows of a table, each cell with its tone.
pub(crate) struct Rows {
    header: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Rows {
    /// A table with those headings.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.rows.push(cells.into());
    }

    /// The table as text with its last line end; `empty` where it has no row.
    pub(crate) fn render(&self, view: View, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if view.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if let Some(width) = view.width {
            table.set_width(width);
        }
        table.set_header(self.header.iter().map(Cell::new));
        for row in &self.rows {
            table.add_row(row.iter().map(|(text, tone)| cell(text, *tone)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }
}

/// A cell without a tone.
pub(crate) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(clip(text, CELL));
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
        let mut rows = Rows::new(&["HOST", "STATE", "WHY"]);
        rows.push([
            plain("web-1"),
            ("✔ online".into(), Tone::Good),
            plain("a long sentence that has to go somewhere"),
        ]);
        rows.push([
            plain("we\x1b]0;owned\x07b\n-2"),
            ("✖ offline".into(), Tone::Bad),
            plain(""),
        ]);
        rows
    }

    #[test]
    fn a_table_without_a_terminal_is_not_wrapped_and_never_hostile() {
        insta::assert_snapshot!(rows().render(View::plain(0), "none"), @r"
        HOST                        STATE      WHY
        web-1                       ✔ online   a long sentence that has to go somewhere
        we\u{1b}]0;owned\u{7}b\n-2  ✖ offline
        ");
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let view = View {
            width: Some(50),
            ..View::plain(0)
        };
        let text = rows().render(view, "none");
        assert!(
            text.lines().all(|line| line.chars().count() <= 50),
            "{text}"
        );
        insta::assert_snapshot!(text, @r"
        HOST                STATE      WHY
        web-1               ✔ online   a long sentence
                                       that has to go
                                       somewhere
        we\u{1b}]0;owned\u  ✖ offline
        {7}b\n-2
        ");
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
