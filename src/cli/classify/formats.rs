//! Which formats rows come in and go out, by flag or by a file's extension.

use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

/// How rows come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum InputFormat {
    /// Comma-separated, with a header.
    Csv,
    /// Tab-separated, with a header.
    Tsv,
    /// One JSON object a line.
    #[value(alias = "ndjson")]
    Jsonl,
    /// One text a line.
    Lines,
}

/// How rows go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum OutputFormat {
    /// One line a text: emotion, score, text.
    Text,
    /// One JSON object a line, as `POST /analyze` gives it, with the text.
    Json,
    /// The columns of the input and those of the emotions, comma-separated.
    Csv,
    /// The same, tab-separated.
    Tsv,
    /// The JSON object that came in, with what `POST /analyze` gives as `emotions`.
    #[value(alias = "ndjson")]
    Jsonl,
}

impl InputFormat {
    /// What the extension says; anything else holds one text a line.
    pub(super) fn of_path(path: &Path) -> Self {
        match extension(path).as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "jsonl" | "ndjson" => Self::Jsonl,
            _ => Self::Lines,
        }
    }

    /// What separates the columns of a table.
    pub(super) fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Jsonl | Self::Lines => None,
        }
    }

    /// How rows of this format go out unless something else is asked for.
    pub(super) fn same_output(self) -> OutputFormat {
        match self {
            Self::Csv => OutputFormat::Csv,
            Self::Tsv => OutputFormat::Tsv,
            Self::Jsonl => OutputFormat::Jsonl,
            Self::Lines => OutputFormat::Text,
        }
    }
}

impl OutputFormat {
    /// What the extension says, if anything.
    pub(super) fn of_path(path: &Path) -> Option<Self> {
        match extension(path).as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }

    /// What separates the columns of a table.
    pub(super) fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Text | Self::Json | Self::Jsonl => None,
        }
    }
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_tell_the_format_in_any_case() {
        let table = [
            ("a.csv", InputFormat::Csv, Some(OutputFormat::Csv)),
            ("a.b/c.TSV", InputFormat::Tsv, Some(OutputFormat::Tsv)),
            ("a.jsonl", InputFormat::Jsonl, Some(OutputFormat::Jsonl)),
            ("a.ndjson", InputFormat::Jsonl, Some(OutputFormat::Jsonl)),
            ("a.txt", InputFormat::Lines, None),
            ("csv", InputFormat::Lines, None),
        ];
        for (path, input, output) in table {
            assert_eq!(InputFormat::of_path(Path::new(path)), input, "{path}");
            assert_eq!(OutputFormat::of_path(Path::new(path)), output, "{path}");
        }
    }
}
