//! Rows of any input format, and the groups that they are classified in.

use std::io;
use std::sync::Arc;
use std::thread;

use csv::StringRecord;
use tokio::sync::mpsc::{Receiver, channel};

use super::formats::InputFormat;
use super::input::{Input, Position, RawLine};
use super::object::{Object, quoted};
use super::table::{Record, TableReader};
use crate::api::request::is_blank;
use crate::cli::Failure;
use crate::panics::MustFinish;

/// Why a row that is not UTF-8 is bad.
pub(super) const NOT_UTF_8: &str = "is not UTF-8; convert the texts to UTF-8, for instance with iconv";

/// Why a row without a text is bad.
const BLANK: &str = "has no text: there is nothing visible in it";

/// Rows that are classified together.
const ROWS_AT_ONCE: usize = 64;

/// Bytes of rows past which a group is full.
const GROUP_BYTES: usize = 256 << 10;

/// Groups that are read ahead.
const GROUPS_AHEAD: usize = 2;

/// How much of a bad row's start is kept for whoever looks at it.
const START_BYTES: usize = 500;

/// A row, or why it cannot be classified.
#[derive(Debug)]
pub(super) struct Row {
    /// Line that it begins on, from 1.
    pub(super) line: u64,
    /// The reason goes on from "line 3 …".
    pub(super) content: Result<Content, String>,
    /// What it begins with, as it came.
    pub(super) start: String,
}

/// A row that can be classified.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) text: Arc<str>,
    pub(super) kept: Kept,
}

/// What is written out again beside the text.
#[derive(Debug, PartialEq)]
pub(super) enum Kept {
    Nothing,
    /// As many fields as the header has.
    Fields(StringRecord),
    /// The line with the object.
    Object(String),
}

/// How rows are read.
#[derive(Debug, Clone)]
pub(super) struct RowSettings {
    pub(super) format: InputFormat,
    pub(super) text_column: String,
    pub(super) has_quotes: bool,
    pub(super) max_row_bytes: usize,
}

/// Rows that come next, and where the input is then.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) rows: Vec<Row>,
    pub(super) end: Position,
}

/// Reads rows.
pub(super) struct Rows {
    input: Input,
    parser: Parser,
    max_row_bytes: usize,
    /// Read to see whether it has the column.
    first: Option<Row>,
}

enum Parser {
    Given(std::iter::Enumerate<std::vec::IntoIter<String>>),
    Lines,
    Objects { text_field: String },
    Table { reader: Box<TableReader>, columns: Vec<String>, text: usize },
}

impl Rows {
    /// One row an argument.
    pub(super) fn of_arguments(texts: &[String]) -> io::Result<Self> {
        let texts = texts.to_vec();
        let parser = Parser::Given(texts.into_iter().enumerate());
        Ok(Self { input: Input::new(Box::new(io::empty()))?, parser, max_row_bytes: usize::MAX, first: None })
    }

    /// Reads as far as it takes to know the columns.
    ///
    /// # Errors
    /// The column is missing, or the input cannot be read.
    pub(super) fn open(mut input: Input, settings: &RowSettings) -> Result<Self, Failure> {
        let max_row_bytes = settings.max_row_bytes;
        let parser = match (settings.format, settings.format.delimiter()) {
            (InputFormat::Csv | InputFormat::Tsv, Some(delimiter)) => {
                let mut reader = TableReader::new(delimiter, settings.has_quotes, max_row_bytes, START_BYTES);
                let header = reader.read(&mut input).map_err(|error| cannot_read(&error))?;
                let columns = match header.map(|record| record.fields) {
                    None => Vec::new(),
                    Some(Ok(fields)) => fields.iter().map(str::to_owned).collect(),
                    Some(Err(why)) => return Err(Failure::Usage(format!("the header {why}"))),
                };
                let text = columns
                    .iter()
                    .position(|name| *name == settings.text_column)
                    .ok_or_else(|| no_such_column(&settings.text_column, columns.iter().map(String::as_str)))?;
                Parser::Table { reader: Box::new(reader), columns, text }
            }
            (InputFormat::Jsonl, _) => Parser::Objects { text_field: settings.text_column.clone() },
            (InputFormat::Lines | InputFormat::Csv | InputFormat::Tsv, _) => Parser::Lines,
        };
        let mut rows = Self { input, parser, max_row_bytes, first: None };
        if let Parser::Objects { text_field } = &rows.parser {
            rows.first = first_object(&mut rows.input, max_row_bytes, text_field)?;
        }
        Ok(rows)
    }

    /// The columns of a table.
    pub(super) fn columns(&self) -> Option<&[String]> {
        match &self.parser {
            Parser::Table { columns, .. } => Some(columns),
            Parser::Given(_) | Parser::Lines | Parser::Objects { .. } => None,
        }
    }

    /// Goes on from where another run was.
    ///
    /// # Errors
    /// The input is not the one that the other run read.
    pub(super) fn skip_to(&mut self, position: &Position) -> Result<(), Failure> {
        if position.bytes == 0 {
            return Ok(());
        }
        self.first = None;
        if self.input.skip_to(position).map_err(|error| cannot_read(&error))? {
            return Ok(());
        }
        let what = format!(
            "--resume: the first {} bytes of the input are not those that were read before; give the same input, or \
             begin again with --overwrite",
            position.bytes
        );
        Err(Failure::Usage(what))
    }

    /// The next row; blank lines are none.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        match self.first.take() {
            Some(row) => Ok(Some(row)),
            None => self.read(),
        }
    }

    fn read(&mut self) -> io::Result<Option<Row>> {
        match &mut self.parser {
            Parser::Given(texts) => {
                let row = |(index, text): (usize, String)| Row {
                    line: index as u64 + 1,
                    start: text.clone(),
                    content: content(text, Kept::Nothing),
                };
                Ok(texts.next().map(row))
            }
            Parser::Table { reader, columns, text } => {
                Ok(reader.read(&mut self.input)?.map(|record| table_row(record, columns.len(), *text)))
            }
            Parser::Lines | Parser::Objects { .. } => {
                while let Some(line) = self.input.read_line(self.max_row_bytes)? {
                    let row = match &self.parser {
                        Parser::Objects { text_field } => line_row(line, self.max_row_bytes, Some(text_field)),
                        Parser::Given(_) | Parser::Lines | Parser::Table { .. } => {
                            line_row(line, self.max_row_bytes, None)
                        }
                    };
                    if row.is_some() {
                        return Ok(row);
                    }
                }
                Ok(None)
            }
        }
    }

    /// Whether the next row has not come in yet, so that those before it should be answered now.
    fn is_waiting(&self) -> bool {
        !matches!(self.parser, Parser::Given(_)) && self.first.is_none() && self.input.is_drained()
    }

    /// Reads groups on a thread of its own, a few ahead, so that a pipe that stays open keeps
    /// nobody from stopping.
    pub(super) fn into_groups(mut self) -> io::Result<Receiver<io::Result<Group>>> {
        let (sender, receiver) = channel(GROUPS_AHEAD);
        thread::Builder::new().name("rows".to_owned()).spawn(move || {
            // Without it, the rest would seem not to be there.
            let _must = MustFinish("reading rows");
            loop {
                let (group, has_ended) = self.next_group();
                if !group.rows.is_empty() && sender.blocking_send(Ok(group)).is_err() {
                    return;
                }
                match has_ended {
                    Ok(false) => {}
                    Ok(true) => return,
                    Err(error) => {
                        // Nobody waits for it any more, then.
                        let _gone = sender.blocking_send(Err(error));
                        return;
                    }
                }
            }
        })?;
        Ok(receiver)
    }

    /// What has come in together, within bounds; and whether that was all.
    fn next_group(&mut self) -> (Group, io::Result<bool>) {
        let mut rows = Vec::with_capacity(ROWS_AT_ONCE);
        let mut bytes = 0;
        let has_ended = loop {
            match self.next() {
                Ok(Some(row)) => {
                    bytes += row.bytes();
                    rows.push(row);
                }
                Ok(None) => break Ok(true),
                Err(error) => break Err(error),
            }
            if rows.len() == ROWS_AT_ONCE || bytes >= GROUP_BYTES || self.is_waiting() {
                break Ok(false);
            }
        };
        (Group { rows, end: self.input.position() }, has_ended)
    }
}

impl Row {
    fn bytes(&self) -> usize {
        self.content.as_ref().map_or(0, |content| {
            content.text.len()
                + match &content.kept {
                    Kept::Nothing => 0,
                    Kept::Fields(fields) => fields.as_byte_record().as_slice().len(),
                    Kept::Object(line) => line.len(),
                }
        })
    }
}

fn content(text: String, kept: Kept) -> Result<Content, String> {
    if is_blank(&text) { Err(BLANK.to_owned()) } else { Ok(Content { text: text.into(), kept }) }
}

fn table_row(record: Record, columns: usize, text: usize) -> Row {
    let content = record.fields.and_then(|mut fields| {
        if fields.len() > columns {
            return Err(format!("has {} fields, but the header has {columns}", fields.len()));
        }
        // Some programs leave empty cells at the end out.
        while fields.len() < columns {
            fields.push_field("");
        }
        content(fields[text].to_owned(), Kept::Fields(fields))
    });
    Row { line: record.line, content, start: start_of(&record.start) }
}

fn start_of(row: &[u8]) -> String {
    String::from_utf8_lossy(row).trim_end().to_owned()
}

/// A blank line is no row.
fn line_row(line: RawLine, limit_bytes: usize, text_field: Option<&str>) -> Option<Row> {
    let start = start_of(&line.bytes[..line.bytes.len().min(START_BYTES)]);
    let content = if line.is_too_long {
        Err(format!("is over {limit_bytes} bytes; shorten it or raise --max-row-bytes"))
    } else {
        match String::from_utf8(line.bytes) {
            Err(_) => Err(NOT_UTF_8.to_owned()),
            Ok(line) => {
                let line = line.trim_start_matches('\u{feff}').trim_end();
                if is_blank(line) {
                    return None;
                }
                match text_field {
                    None => content(line.to_owned(), Kept::Nothing),
                    Some(field) => Object::parse(line)
                        .and_then(|object| object.text(field))
                        .and_then(|text| content(text, Kept::Object(line.trim_start().to_owned()))),
                }
            }
        }
    };
    Some(Row { line: line.number, content, start })
}

/// The first row. An object without the field means that the field has another name everywhere.
fn first_object(input: &mut Input, limit_bytes: usize, text_field: &str) -> Result<Option<Row>, Failure> {
    while let Some(line) = input.read_line(limit_bytes).map_err(|error| cannot_read(&error))? {
        if let Ok(text) = std::str::from_utf8(&line.bytes)
            && let Ok(object) = Object::parse(text)
            && object.get(text_field).is_none()
        {
            return Err(no_such_column(text_field, object.names()));
        }
        if let Some(row) = line_row(line, limit_bytes, Some(text_field)) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

fn cannot_read(error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot read the input: {error}"))
}

fn no_such_column<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> Failure {
    Failure::Usage(format!("--text-column: the input has no column {wanted:?}; it has {}", quoted(names)))
}
