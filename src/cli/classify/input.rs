//! The bytes of the input: counted, hashed, and taken up to where a row ends.
//!
//! The hash of what was taken is what makes a run resumable: whoever goes on reads the same bytes
//! again and compares. That works for files and pipes alike and needs no seeking; next to the models
//! it costs nothing.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// What UTF-8 files of some programs begin with; it is no part of their first line.
const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";

/// What UTF-16 files begin with.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A place between two rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Bytes before it, the mark of UTF-8 left out.
    pub(super) bytes: u64,
    /// SHA-256 of those bytes.
    pub(super) sha256: String,
}

/// Where rows are read from.
pub(super) struct Input {
    reader: BufReader<Box<dyn Read + Send>>,
    hash: Sha256,
    bytes: u64,
    line: u64,
    last_byte: u8,
    has_ended: bool,
}

/// Bytes of one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawLine {
    /// Counted from 1.
    pub(super) number: u64,
    /// Without the line's end, and no more than the limit.
    pub(super) bytes: Vec<u8>,
    pub(super) is_too_long: bool,
}

impl Input {
    /// # Errors
    /// What the system says, or that the input is UTF-16.
    pub(super) fn new(mut reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let start = start_of(&mut reader)?;
        if UTF_16_MARKS.contains(&start.as_slice()) {
            let what = "it is UTF-16; convert it to UTF-8, for instance with iconv -f UTF-16 -t UTF-8";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let start = if start == UTF_8_MARK { Vec::new() } else { start };
        let reader: Box<dyn Read + Send> = Box::new(Cursor::new(start).chain(reader));
        Ok(Self {
            reader: BufReader::with_capacity(READ_BYTES, reader),
            hash: Sha256::new(),
            bytes: 0,
            line: 1,
            last_byte: 0,
            has_ended: false,
        })
    }

    /// Bytes that come next, at least one until the input ends.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        // A terminal that has said it ends is not asked again.
        while !self.has_ended {
            match self.reader.fill_buf() {
                Ok(bytes) => {
                    self.has_ended = bytes.is_empty();
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.reader.buffer())
    }

    /// Takes the first `count` of the bytes that [`Self::fill`] gave.
    pub(super) fn take(&mut self, count: usize) {
        let bytes = &self.reader.buffer()[..count];
        self.hash.update(bytes);
        for byte in bytes {
            // A line ends with LF, CR LF, or CR alone.
            if *byte == b'\r' || (*byte == b'\n' && self.last_byte != b'\r') {
                self.line += 1;
            }
            self.last_byte = *byte;
        }
        self.bytes += count as u64;
        self.reader.consume(count);
    }

    /// Number of the line that comes next, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Whether nothing that has come in is left to take.
    pub(super) fn is_drained(&self) -> bool {
        self.reader.buffer().is_empty()
    }

    /// What was taken until now.
    pub(super) fn position(&self) -> Position {
        Position { bytes: self.bytes, sha256: format!("{:x}", self.hash.clone().finalize()) }
    }

    /// Takes everything up to `position`; tells whether it is the same that came before it then.
    pub(super) fn skip_to(&mut self, position: &Position) -> io::Result<bool> {
        while self.bytes < position.bytes {
            let available = self.fill()?.len();
            if available == 0 {
                return Ok(false);
            }
            let left = usize::try_from(position.bytes - self.bytes).unwrap_or(usize::MAX);
            self.take(available.min(left));
        }
        Ok(self.position() == *position)
    }

    /// The next line; of one over `limit_bytes` only its start is kept.
    pub(super) fn read_line(&mut self, limit_bytes: usize) -> io::Result<Option<RawLine>> {
        let mut line = RawLine { number: self.line, bytes: Vec::new(), is_too_long: false };
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Ok((!line.bytes.is_empty()).then_some(line));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let piece = &chunk[..end.unwrap_or(chunk.len())];
            let room = limit_bytes - line.bytes.len();
            line.is_too_long |= piece.len() > room;
            line.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            let taken = piece.len() + usize::from(end.is_some());
            self.take(taken);
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}

/// As many bytes of the start as it takes to see whether there is a mark.
fn start_of(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let is_open = |start: &[u8]| {
        let of = |mark: &[u8]| mark.len() > start.len() && mark.starts_with(start);
        of(UTF_8_MARK) || UTF_16_MARKS.into_iter().any(of)
    };
    let mut start = Vec::with_capacity(UTF_8_MARK.len());
    while is_open(&start) {
        let mut byte = [0];
        match reader.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => start.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(start)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Gives its bytes a few at a time, as pipes do.
    pub(in super::super) struct Drip(pub(in super::super) Vec<u8>, pub(in super::super) usize);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    pub(in super::super) fn input(bytes: &[u8], at_once: usize) -> Input {
        Input::new(Box::new(Drip(bytes.to_vec(), at_once))).unwrap()
    }

    fn lines(bytes: &[u8], at_once: usize, limit_bytes: usize) -> Vec<(u64, String, bool)> {
        let mut input = input(bytes, at_once);
        std::iter::from_fn(|| input.read_line(limit_bytes).unwrap())
            .map(|line| (line.number, String::from_utf8(line.bytes).unwrap(), line.is_too_long))
            .collect()
    }

    #[test]
    fn lines_are_the_same_however_they_come_in() {
        for at_once in [1, 2, 3, 100] {
            let found = lines(b"\xef\xbb\xbfone\r\n\nthree\nlast", at_once, 100);
            let expected = [(1, "one\r"), (2, ""), (3, "three"), (4, "last")];
            assert_eq!(found, expected.map(|(number, text)| (number, text.to_owned(), false)), "{at_once} at once");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_cut_and_the_next_one_is_whole() {
        for at_once in [1, 4, 100] {
            let found = lines(b"abcde\nabcd\nabcdefghij\nx", at_once, 4);
            let expected = [(1, "abcd", true), (2, "abcd", false), (3, "abcd", true), (4, "x", false)];
            assert_eq!(
                found,
                expected.map(|(number, text, long)| (number, text.to_owned(), long)),
                "{at_once} at once"
            );
        }
    }

    #[test]
    fn a_mark_that_is_cut_short_is_a_part_of_the_text() {
        assert_eq!(input(b"\xef\xbb", 1).read_line(9).unwrap().unwrap().bytes, b"\xef\xbb");
        assert!(input(b"\xef\xbb\xbf", 1).read_line(9).unwrap().is_none());
    }

    #[test]
    fn utf_16_is_refused_with_what_to_do() {
        for start in [b"\xff\xfea\0", b"\xfe\xff\0a"] {
            let error = Input::new(Box::new(Cursor::new(start))).err().unwrap();
            assert!(error.to_string().contains("iconv -f UTF-16"), "{error}");
        }
    }

    #[test]
    fn all_three_line_ends_count_as_one_line_each() {
        let mut input = input(b"a\nb\r\nc\rd", 1);
        while let count @ 1.. = input.fill().unwrap().len() {
            input.take(count);
        }
        assert_eq!(input.line(), 4);
    }

    #[test]
    fn skipping_goes_on_only_behind_the_same_bytes() {
        let mut first = input(b"one\ntwo\nthree\n", 100);
        first.read_line(9).unwrap();
        first.read_line(9).unwrap();
        let position = first.position();
        for (bytes, is_same) in [
            (&b"one\ntwo\nthree\nand more"[..], true),
            (b"one\ntwo\n", true),
            (b"one\nTwo\nthree\n", false),
            (b"one", false),
        ] {
            let mut again = input(bytes, 3);
            assert_eq!(again.skip_to(&position).unwrap(), is_same, "{bytes:?}");
        }
        let mut again = input(b"one\ntwo\nthree\n", 3);
        again.skip_to(&position).unwrap();
        let line = again.read_line(9).unwrap().unwrap();
        assert_eq!((line.number, line.bytes.as_slice()), (3, &b"three"[..]));
    }
}
