//! Rows with their emotions, in the format that they go out in.

use std::borrow::Cow;

use csv::{QuoteStyle, WriterBuilder};
use serde::Serialize;
use serde_json::Value;

use super::formats::OutputFormat;
use super::object::Object;
use super::rows::{Content, Kept};
use crate::api::native::AnalyzeReply;

/// Columns that a table gets, in this order.
const EMOTION_COLUMNS: [&str; 14] = [
    "emotion",
    "confidence",
    "basic_emotion",
    "labels",
    "significant_emotions",
    "mixed_type",
    "has_conflict",
    "has_confusion",
    "complexity",
    "valence",
    "emotional_state",
    "model",
    "fallback",
    "truncated",
];

/// The field that a JSON object gets.
const EMOTIONS_FIELD: &str = "emotions";

/// Put before a name that the input has already.
const TAKEN_PREFIX: &str = "emotion_";

/// What texts that come without a column are called in a table.
const TEXT_COLUMN: &str = "text";

/// Writes rows in one format.
pub(super) struct Renderer {
    format: OutputFormat,
    has_quotes: bool,
    /// Of a table's input columns; for objects those of the first one.
    columns: Option<Vec<String>>,
    is_begun: bool,
}

impl Renderer {
    /// `columns` are those of a table that comes in.
    pub(super) fn new(format: OutputFormat, has_quotes: bool, columns: Option<Vec<String>>) -> Self {
        Self { format, has_quotes, columns, is_begun: false }
    }

    /// Goes on where the header was written already.
    pub(super) fn go_on(&mut self, columns: Option<Vec<String>>) {
        self.columns = columns;
        self.is_begun = true;
    }

    /// The input columns that the header was written with.
    pub(super) fn columns(&self) -> Option<&Vec<String>> {
        self.columns.as_ref()
    }

    /// Adds a row to `out`.
    ///
    /// # Errors
    /// Why this row does not fit the format; the reason goes on from "line 3 …".
    pub(super) fn row(&mut self, content: &Content, reply: &AnalyzeReply, out: &mut Vec<u8>) -> Result<(), String> {
        let text = &*content.text;
        match self.format {
            OutputFormat::Text => {
                let analysis = reply.analysis();
                let line = format!("{}\t{:.4}\t{}\n", analysis.emotion, analysis.confidence, one_line(text));
                out.extend_from_slice(line.as_bytes());
                Ok(())
            }
            OutputFormat::Json => {
                let line = json(&WithText { text, reply })?;
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
                Ok(())
            }
            OutputFormat::Jsonl => {
                let line = match (&content.kept, &self.columns) {
                    (Kept::Object(line), _) => line.clone(),
                    (Kept::Fields(fields), Some(columns)) => {
                        let fields = columns.iter().cloned().zip(fields.iter().map(Value::from));
                        json(&fields.collect::<serde_json::Map<_, _>>())?
                    }
                    (Kept::Fields(_) | Kept::Nothing, _) => json(&serde_json::json!({ TEXT_COLUMN: text }))?,
                };
                out.extend_from_slice(with_emotions(&line, reply)?.as_bytes());
                out.push(b'\n');
                Ok(())
            }
            OutputFormat::Csv | OutputFormat::Tsv => self.table_row(content, reply, out),
        }
    }

    /// Adds what an output without rows has to hold.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        if self.is_begun || self.format.delimiter().is_none() {
            return Ok(());
        }
        let columns = self.columns.get_or_insert_default().clone();
        self.header(&columns, out)
    }

    fn table_row(&mut self, content: &Content, reply: &AnalyzeReply, out: &mut Vec<u8>) -> Result<(), String> {
        let object = match &content.kept {
            Kept::Object(line) => Some(Object::parse(line)?),
            Kept::Fields(_) | Kept::Nothing => None,
        };
        let columns = match (&self.columns, &object) {
            (Some(columns), _) => columns.clone(),
            (None, None) => vec![TEXT_COLUMN.to_owned()],
            (None, Some(object)) => unique(object.names()),
        };
        if let Some(other) = object.iter().flat_map(Object::names).find(|name| !columns.iter().any(|of| of == name)) {
            return Err(format!(
                "has the field {other:?}, which the first row does not have, so that there is no column for it; write \
                 --output-format jsonl"
            ));
        }
        let mut cells: Vec<Cow<'_, str>> = match (&content.kept, &object) {
            (Kept::Fields(fields), _) => fields.iter().map(Cow::Borrowed).collect(),
            (_, Some(object)) => {
                columns.iter().map(|name| object.cell(name).map(Cow::Owned)).collect::<Result<_, _>>()?
            }
            (Kept::Nothing | Kept::Object(_), None) => vec![Cow::Borrowed(&*content.text)],
        };
        let reply = serde_json::to_value(reply).map_err(|error| not_written(&error))?;
        cells.extend(EMOTION_COLUMNS.iter().map(|name| Cow::Owned(emotion_cell(name, &reply))));
        if !self.is_begun {
            self.header(&columns, out)?;
            self.columns = Some(columns);
        }
        self.record(&cells, out)
    }

    fn header(&mut self, columns: &[String], out: &mut Vec<u8>) -> Result<(), String> {
        self.is_begun = true;
        let mut names: Vec<Cow<'_, str>> = columns.iter().map(|name| Cow::Borrowed(name.as_str())).collect();
        for name in EMOTION_COLUMNS {
            let free = free_name(name, |name| names.iter().any(|taken| taken == name));
            names.push(Cow::Owned(free));
        }
        self.record(&names, out)
    }

    fn record(&self, cells: &[Cow<'_, str>], out: &mut Vec<u8>) -> Result<(), String> {
        let quoting = if self.has_quotes { QuoteStyle::Necessary } else { QuoteStyle::Never };
        let mut writer = WriterBuilder::new()
            .delimiter(self.format.delimiter().unwrap_or(b','))
            .quote_style(quoting)
            .buffer_capacity(1 << 10)
            .from_writer(out);
        writer
            .write_record(cells.iter().map(|cell| cell.as_bytes()))
            .and_then(|()| writer.flush().map_err(csv::Error::from))
            .map_err(|error| not_written(&error))
    }
}

/// The text without what would start a new line or column.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn unique<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        if !found.iter().any(|of| of == name) {
            found.push(name.to_owned());
        }
    }
    found
}

/// The name, with a prefix for as long as it is taken.
fn free_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut free = name.to_owned();
    while is_taken(&free) {
        free.insert_str(0, TAKEN_PREFIX);
    }
    free
}

/// The object with one field more; all others stay as they were written.
fn with_emotions(line: &str, reply: &AnalyzeReply) -> Result<String, String> {
    let object = Object::parse(line)?;
    let name = free_name(EMOTIONS_FIELD, |name| object.get(name).is_some());
    let open = line.trim_end().strip_suffix('}').unwrap_or(line).trim_end();
    Ok(format!("{open},{}:{}}}", json(&name)?, json(reply)?))
}

/// What a reply says, as one cell of a table.
fn emotion_cell(column: &str, reply: &Value) -> String {
    match (column, &reply[column]) {
        ("valence", valence) => plain(&valence["overall"]),
        ("model", model) => plain(&model["name"]),
        ("fallback", fallback) => plain(&fallback["reason"]),
        ("significant_emotions", Value::Array(scored)) => {
            let pairs = scored.iter().map(|of| format!("{}:{}", plain(&of["label"]), plain(&of["confidence"])));
            pairs.collect::<Vec<_>>().join(";")
        }
        (_, Value::Array(labels)) => labels.iter().map(plain).collect::<Vec<_>>().join(";"),
        (_, value) => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| not_written(&error))
}

fn not_written(error: &dyn std::error::Error) -> String {
    format!("cannot be written: {error}")
}

#[derive(Serialize)]
struct WithText<'a> {
    text: &'a str,
    #[serde(flatten)]
    reply: &'a AnalyzeReply,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_gets_a_prefix_until_it_is_free() {
        let taken = ["emotion", "model", "emotion_model"];
        let is_taken = |name: &str| taken.contains(&name);
        for (name, free) in [("labels", "labels"), ("emotion", "emotion_emotion"), ("model", "emotion_emotion_model")] {
            assert_eq!(free_name(name, is_taken), free);
        }
    }

    #[test]
    fn a_reply_fits_into_cells() {
        let reply = serde_json::json!({
            "confidence": 0.753, "labels": ["grief", "sadness"], "has_conflict": true, "fallback": null,
            "significant_emotions": [{"label": "sadness", "confidence": 0.753}, {"label": "grief", "confidence": 0.2}],
            "valence": {"overall": "negative"}, "model": {"name": "goemotions"},
        });
        for (column, cell) in [
            ("confidence", "0.753"),
            ("labels", "grief;sadness"),
            ("has_conflict", "true"),
            ("fallback", ""),
            ("significant_emotions", "sadness:0.753;grief:0.2"),
            ("valence", "negative"),
            ("model", "goemotions"),
        ] {
            assert_eq!(emotion_cell(column, &reply), cell, "{column}");
        }
    }
}
