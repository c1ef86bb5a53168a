//! The edge to the terminal: data to stdout, progress and prompts to stderr, answers from stdin.

use std::io::{self, IsTerminal as _, Write};

use crate::{
    error::{CtlError, Kind},
    text::View,
};

/// What stdout carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences for people; not stable
    Text,
    /// Documents for programs: stable, with a version
    Json,
}

/// The terminal and what is known of it.
pub(crate) struct Ui {
    /// None: its reader has gone away.
    out: Option<Box<dyn Write + Send>>,
    err: Box<dyn Write + Send>,
    pub(crate) format: Format,
    /// How to render for stdout.
    pub(crate) view: View,
    /// How to render for stderr.
    pub(crate) err_view: View,
    /// Somebody is there to answer.
    pub(crate) interactive: bool,
    /// Stderr is a terminal: progress may be redrawn.
    pub(crate) live: bool,
    /// A question stands on the terminal's last line, without an answer.
    asking: bool,
}

/// A terminal that nobody told its size (a serial console, `ssh -tt` without one) says that it has no columns.
fn some_columns(width: u16) -> u16 {
    if width == 0 { 80 } else { width }
}

impl Ui {
    /// The process's own terminal. `now_ms` is the time that relative times refer to.
    pub(crate) fn of_process(format: Format, no_color: bool, now_ms: i64) -> Self {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let (out_tty, err_tty) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let width = out_tty
            .then(|| comfy_table::Table::new().width().map(some_columns))
            .flatten();
        Self {
            out: Some(Box::new(io::stdout())),
            err: Box::new(io::stderr()),
            format,
            view: View {
                colour: wanted && !dumb && out_tty,
                width,
                now_ms,
            },
            err_view: View {
                colour: wanted && !dumb && err_tty,
                width: None,
                now_ms,
            },
            interactive: io::stdin().is_terminal(),
            live: err_tty && !dumb,
            asking: false,
        }
    }

    /// Whether programs read stdout.
    pub(crate) fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// How to render a line of progress: as wide as the terminal is at this moment.
    pub(crate) fn progress_view(&self) -> View {
        let width = || {
            comfy_table::Table::new()
                .use_stderr()
                .width()
                .map(some_columns)
        };
        View {
            width: self.live.then(width).flatten(),
            ..self.err_view
        }
    }

    /// Whether stdout is a terminal.
    pub(crate) fn person_reads_data(&self) -> bool {
        self.view.width.is_some()
    }

    /// Writes data to stdout. A reader that has gone away is no error: nothing more is written.
    pub(crate) fn data(&mut self, text: &str) -> Result<(), CtlError> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.out = None;
                Ok(())
            }
            Err(error) => {
                Err(CtlError::new(Kind::Error, "cannot write to stdout").because_of(&error))
            }
        }
    }

    /// Whether the reader of stdout has gone away.
    pub(crate) fn closed(&self) -> bool {
        self.out.is_none()
    }

    /// Writes a line for the person to stderr. Where stderr is gone there is nobody to tell.
    pub(crate) fn note(&mut self, text: &str) {
        // An answer ends its line itself; Ctrl-C and the end of the input do not.
        let begin = if std::mem::take(&mut self.asking) {
            "\n"
        } else {
            ""
        };
        let _ = writeln!(self.err, "{begin}{}", text.trim_end_matches('\n'));
    }

    /// Says that the controller left parts of its answer out, where it did.
    pub(crate) fn thinned(&mut self, thinned: bool) {
        if thinned {
            self.note(
                "The whole answer would have been too long for one message: details are left out, and of many hosts \
                 the revoked ones. Ask for less at a time: for one host, for one target, or with a lower --limit.",
            );
        }
    }

    /// Whether a question waits for its answer.
    pub(crate) fn asking(&self) -> bool {
        self.asking
    }

    /// Asks on stderr and reads one line from stdin. None: the end of the input.
    pub(crate) async fn ask(&mut self, question: &str) -> Option<String> {
        let _ = write!(self.err, "{question}");
        let _ = self.err.flush();
        self.asking = true;
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin()
                .read_line(&mut line)
                .map(|length| (length, line))
        });
        match read.await {
            Ok(Ok((length, line))) if length > 0 => {
                self.asking = !line.ends_with('\n');
                Some(line.trim().to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_without_a_size_is_as_wide_as_most() {
        assert_eq!((some_columns(0), some_columns(132)), (80, 132));
    }

    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let mut ui = Ui::of_process(Format::Text, true, 0);
        ui.out = Some(Box::new(Gone));
        assert!(ui.data("x\n").is_ok());
        assert!(ui.closed());
        assert!(ui.data("y\n").is_ok());
    }
}
