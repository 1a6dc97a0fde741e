//! CSV and TSV: records of any size in bounded memory.

use std::io;

use csv::StringRecord;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::input::Input;

/// Room for a record's bytes and field ends at first; both grow with the records.
const FIRST_BYTES: usize = 4 << 10;
const FIRST_FIELDS: usize = 32;

/// A record, or what is wrong with it.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    /// Line that it begins on, from 1.
    pub(super) line: u64,
    pub(super) fields: Result<StringRecord, String>,
    /// What it begins with, as it came.
    pub(super) start: Vec<u8>,
}

/// Cuts the input into records.
pub(super) struct TableReader {
    core: Reader,
    limit_bytes: usize,
    start_bytes: usize,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TableReader {
    /// `start_bytes` is how much of a record's start is kept.
    pub(super) fn new(delimiter: u8, has_quotes: bool, limit_bytes: usize, start_bytes: usize) -> Self {
        Self {
            core: ReaderBuilder::new().delimiter(delimiter).quoting(has_quotes).build(),
            limit_bytes,
            start_bytes,
            bytes: vec![0; FIRST_BYTES],
            ends: vec![0; FIRST_FIELDS],
        }
    }

    /// The next record; blank lines are none.
    pub(super) fn read(&mut self, input: &mut Input) -> io::Result<Option<Record>> {
        skip_blank_lines(input)?;
        let line = input.line();
        let (mut bytes, mut ends, mut raw_bytes) = (0, 0, 0);
        let (mut is_too_long, mut is_open) = (false, false);
        let mut start = Vec::new();
        loop {
            let chunk = input.fill()?;
            let is_end = chunk.is_empty();
            if is_end && raw_bytes == 0 {
                return Ok(None);
            }
            // A last line without an end is given one: if that does not end the record, a quote is open.
            let chunk = if is_end { b"\n" } else { chunk };
            let (result, taken, written, ended) =
                self.core.read_record(chunk, &mut self.bytes[bytes..], &mut self.ends[ends..]);
            if !is_end {
                let kept = taken.min(self.start_bytes - start.len());
                start.extend_from_slice(&chunk[..kept]);
                input.take(taken);
                raw_bytes += taken;
            }
            bytes += written;
            ends += ended;
            is_too_long |= raw_bytes > self.limit_bytes;
            if is_too_long {
                // The rest is read to find where it ends, and forgotten.
                (bytes, ends) = (0, 0);
            }
            match result {
                ReadRecordResult::InputEmpty if is_end => {
                    is_open = true;
                    self.core.reset();
                    break;
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if !is_too_long => self.bytes.resize(2 * self.bytes.len(), 0),
                ReadRecordResult::OutputEndsFull if !is_too_long => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {}
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
        }
        // The second half of CR LF belongs to this record, or a pipe seems to hold more than it does.
        if !input.is_drained() && input.fill()?[0] == b'\n' {
            input.take(1);
        }
        let fields = if is_open {
            Err("opens a quote that is never closed; close it, or say --no-quotes if quotes are part of the text"
                .to_owned())
        } else if is_too_long {
            Err(format!("is over {} bytes; shorten it or raise --max-row-bytes", self.limit_bytes))
        } else {
            self.fields(ends)
        };
        Ok(Some(Record { line, fields, start }))
    }

    fn fields(&self, count: usize) -> Result<StringRecord, String> {
        let mut record = StringRecord::new();
        let mut start = 0;
        for end in &self.ends[..count] {
            let field = std::str::from_utf8(&self.bytes[start..*end]);
            record.push_field(field.map_err(|_| super::rows::NOT_UTF_8.to_owned())?);
            start = *end;
        }
        Ok(record)
    }
}

fn skip_blank_lines(input: &mut Input) -> io::Result<()> {
    loop {
        let chunk = input.fill()?;
        let (available, count) = (chunk.len(), chunk.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count());
        input.take(count);
        if count < available || available == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::input::tests::input;
    use super::*;

    fn records(bytes: &[u8], at_once: usize, limit_bytes: usize, has_quotes: bool) -> Vec<Record> {
        let mut input = input(bytes, at_once);
        let mut reader = TableReader::new(b',', has_quotes, limit_bytes, 4);
        std::iter::from_fn(|| reader.read(&mut input).unwrap()).collect()
    }

    fn fields(records: &[Record]) -> Vec<(u64, Vec<&str>)> {
        records.iter().map(|record| (record.line, record.fields.as_ref().unwrap().iter().collect())).collect()
    }

    #[test]
    fn records_know_the_line_they_begin_on() {
        let text = b"a,b\r\n\"two\nlines \"\"quoted\"\"\",2\r\n\r\n3\n,\n\"\"\nlast,x";
        let expected = [
            (1, vec!["a", "b"]),
            (2, vec!["two\nlines \"quoted\"", "2"]),
            (5, vec!["3"]),
            (6, vec!["", ""]),
            (7, vec![""]),
            (8, vec!["last", "x"]),
        ];
        for at_once in [1, 2, 5, 1000] {
            assert_eq!(fields(&records(text, at_once, 100, true)), expected, "{at_once} at once");
        }
    }

    #[test]
    fn without_quoting_quotes_are_text() {
        let found = records(b"\"a,b\"\n5\" x,\"\n", 3, 100, false);
        assert_eq!(fields(&found), [(1, vec!["\"a", "b\""]), (2, vec!["5\" x", "\""])]);
    }

    #[test]
    fn a_record_over_the_limit_is_named_and_the_next_one_is_read() {
        for at_once in [1, 7, 100_000] {
            let long = format!("first,1\n\"{}\n\",2\nthird,3\n", "x,".repeat(20_000));
            let found = records(long.as_bytes(), at_once, 1000, true);
            assert_eq!(found.len(), 3);
            let why = found[1].fields.as_ref().unwrap_err();
            assert!(why.contains("over 1000 bytes") && why.contains("--max-row-bytes"), "{why}");
            assert_eq!(found[1].start, b"\"x,x");
            assert_eq!((found[1].line, found[2].line), (2, 4));
            assert_eq!(found[2].fields, Ok(StringRecord::from(vec!["third", "3"])));
        }
    }

    #[test]
    fn a_record_may_hold_more_than_there_is_room_for_at_first() {
        let long = format!("{}\n", "field,".repeat(3000));
        let found = records(long.as_bytes(), 1000, 1 << 20, true);
        assert_eq!(found[0].fields.as_ref().unwrap().len(), 3001);
    }

    #[test]
    fn a_quote_that_is_never_closed_is_no_text() {
        let found = records(b"a\n\"rest\nof\nall\n", 3, 100, true);
        assert_eq!(found.len(), 2);
        assert!(found[1].fields.as_ref().unwrap_err().contains("never closed"), "{found:?}");
        for fine in [&b"a\n\"closed\""[..], b"a\n5\" disk", b"a\n\"x\"\"\""] {
            let found = records(fine, 3, 100, true);
            assert!(found.len() == 2 && found[1].fields.is_ok(), "{found:?}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_named() {
        let found = records(b"a,caf\xe9\nb,c\n", 100, 100, true);
        assert!(found[0].fields.as_ref().unwrap_err().contains("not UTF-8"), "{found:?}");
        assert!(found[1].fields.is_ok());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(
            rows in prop::collection::vec(prop::collection::vec("[ab,\"\r\n\t é]{0,6}", 2), 0..6), at_once in 1_usize..9
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let found = records(&writer.into_inner().unwrap(), at_once, 1000, true);
            let found: Vec<Vec<_>> = fields(&found).into_iter().map(|(_, fields)| fields).collect();
            prop_assert_eq!(found, rows);
        }
    }
}
