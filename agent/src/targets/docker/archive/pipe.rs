//! Between the engine's streams and what reads and writes archives on threads of its own. A thread that waits here
//! ends as soon as the other side is given up: nothing of it holds up the agent's end.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Pieces under way, at most: some MiB, for the engine's pieces are small.
const PIECES: usize = 32;

/// How much is gathered before it is sent on, bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// What flows to a [`Source`].
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// All was sent. Without it, the end of the channel is a broken stream.
    End,
}

/// Reads what is sent to it.
#[derive(Debug)]
pub(super) struct Source {
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    ended: bool,
}

/// What is sent, and where it is read.
pub(super) fn source() -> (mpsc::Sender<Piece>, Source) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let source = Source {
        pieces,
        rest: Bytes::new(),
        ended: false,
    };
    (sender, source)
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.rest = bytes,
                Some(Piece::End) => self.ended = true,
                None => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    return Err(io::Error::new(kind, "it was cut off"));
                }
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Sends on what is written to it; what is written last, with [`Write::flush`].
#[derive(Debug)]
pub(super) struct Sink {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
}

/// Where it is written, and what comes of it.
pub(super) fn sink() -> (Sink, mpsc::Receiver<io::Result<Bytes>>) {
    let (pieces, receiver) = mpsc::channel(PIECES);
    let sink = Sink {
        pieces,
        gathered: Vec::with_capacity(PIECE_BYTES),
    };
    (sink, receiver)
}

impl Sink {
    /// Tells the reader that what it has is not the whole.
    pub(super) fn broken(self, why: &str) {
        // A reader that is gone has no use for it.
        drop(self.pieces.blocking_send(Err(io::Error::other(why))));
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        if self.gathered.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = Bytes::copy_from_slice(&self.gathered);
        self.gathered.clear();
        self.pieces
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_whole_is_not_read_as_whole() {
        let (sender, mut source) = source();
        let send = |piece| sender.blocking_send(piece).expect("there is room");
        send(Piece::Bytes(Bytes::from_static(b"ab")));
        send(Piece::Bytes(Bytes::new()));
        send(Piece::Bytes(Bytes::from_static(b"c")));
        send(Piece::End);
        drop(sender);
        let mut text = String::new();
        source.read_to_string(&mut text).expect("whole");
        assert_eq!(text, "abc");

        let (sender, mut source) = super::source();
        sender
            .blocking_send(Piece::Bytes(Bytes::from_static(b"ab")))
            .expect("there is room");
        drop(sender);
        let cut = source.read_to_string(&mut text).expect_err("cut off");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_written_comes_out_in_pieces_and_a_reader_that_is_gone_ends_the_writer() {
        let (mut sink, mut pieces) = sink();
        let bytes: Vec<u8> = (0..=250).cycle().take(PIECE_BYTES + 5).collect();
        sink.write_all(&bytes).expect("written");
        sink.flush().expect("sent");
        sink.broken("a blob is damaged");
        let mut read = Vec::new();
        let mut broken = None;
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Ok(piece) => read.extend_from_slice(&piece),
                Err(error) => broken = Some(error.to_string()),
            }
        }
        assert!(read == bytes);
        assert_eq!(broken.as_deref(), Some("a blob is damaged"));

        let (mut sink, pieces) = super::sink();
        drop(pieces);
        let error = sink.write_all(&bytes).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
