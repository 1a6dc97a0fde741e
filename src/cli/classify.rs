//! `classify`: the same analysis as `POST /analyze`, for texts from arguments, a file or standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::Failure;
use crate::analysis::Settings;
use crate::api::native::AnalyzeReply;
use crate::api::request::is_blank;
use crate::cache::LogitsCache;
use crate::classifier::{Classifier, Query, TextInput};
use crate::config::ModelArgs;
use crate::logging::{self, LogFormat};
use crate::metrics::Metrics;
use crate::model::{LongText, Role, TruncationSide};
use crate::residency::{Residency, UnloadCause, Wanted, Watchdog};

/// Texts that are classified together.
const TEXTS_AT_ONCE: usize = 64;

/// Bytes of input that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Longest time for one such group.
const GROUP_PATIENCE: Duration = Duration::from_secs(600);

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line a text: emotion, score, text.
    Text,
    /// One JSON object a line, as `POST /analyze` gives it, with the text.
    Json,
}

/// Arguments of `classify`.
#[derive(Debug, Args)]
pub(super) struct ClassifyArgs {
    /// Texts to classify; without any, one a line from --input or standard input
    #[arg(conflicts_with = "input")]
    texts: Vec<String>,

    /// File with one text a line
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// How results are written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    models: ModelArgs,
}

pub(super) fn run(arguments: &ClassifyArgs) -> Result<(), Failure> {
    logging::start_quiet(LogFormat::Text);
    if let Some(blank) = arguments.texts.iter().position(|text| is_blank(text)) {
        return Err(Failure::Usage(format!("text {} is empty; give a text to read", blank + 1)));
    }
    let input = if arguments.texts.is_empty() { Some(open(arguments.input.as_deref())?) } else { None };
    let settings = arguments.models.residency_settings()?;
    let metrics = Arc::new(Metrics::new());
    let cache = Arc::new(LogitsCache::new(arguments.models.cache_mb << 20));
    let residency = Residency::new(settings, Arc::clone(&cache), Arc::clone(&metrics));
    let _watchdog = Watchdog::start(Arc::clone(&residency)).map_err(|error| Failure::failed(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| Failure::failed(&error))?;
    let mut lines = Lines {
        classifier: Classifier::new(Arc::clone(&residency), cache, metrics),
        runtime,
        format: arguments.format,
        output: BufWriter::new(io::stdout().lock()),
    };
    let result = match input {
        Some(input) => classify_lines(input, &mut lines),
        None => classify_arguments(&arguments.texts, &mut lines),
    };
    for role in Role::ALL {
        residency.unload(role, UnloadCause::Shutdown);
    }
    match result {
        // Who reads the output, such as `head`, has seen enough.
        Err(Stop::NobodyReads) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

/// Why no more texts are classified.
enum Stop {
    NobodyReads,
    Failed(Failure),
}

impl Stop {
    fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(Failure::failed(error))
    }
}

fn open(path: Option<&Path>) -> Result<BufReader<Box<dyn Read>>, Failure> {
    let reader: Box<dyn Read> = match path {
        Some(path) => Box::new(
            File::open(path)
                .map_err(|error| Failure::Usage(format!("--input: cannot read {}: {error}", path.display())))?,
        ),
        None => Box::new(io::stdin()),
    };
    Ok(BufReader::with_capacity(READ_BYTES, reader))
}

fn classify_arguments(texts: &[String], lines: &mut Lines<'_>) -> Result<(), Stop> {
    for group in texts.chunks(TEXTS_AT_ONCE) {
        lines.write(&group.iter().map(|text| text.as_str().into()).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// One text a line; blank lines are passed over.
fn classify_lines(mut input: BufReader<Box<dyn Read>>, lines: &mut Lines<'_>) -> Result<(), Stop> {
    let mut group: Vec<Arc<str>> = Vec::with_capacity(TEXTS_AT_ONCE);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = input.read_until(b'\n', &mut line);
        let is_end =
            read.map_err(|error| Stop::Failed(Failure::Failed(format!("cannot read line {number}: {error}"))))? == 0;
        let text = std::str::from_utf8(&line).map(|text| text.trim_start_matches('\u{feff}').trim_end());
        if let Ok(text) = text
            && !is_blank(text)
        {
            group.push(text.into());
        }
        // What has come in together is answered together, and a pipe that stays open gets its answers.
        if !group.is_empty() && (group.len() == TEXTS_AT_ONCE || is_end || text.is_err() || input.buffer().is_empty()) {
            lines.write(&group)?;
            group.clear();
        }
        if text.is_err() {
            let what = format!("line {number} is not UTF-8; convert the texts to UTF-8, for instance with iconv");
            return Err(Stop::Failed(Failure::Failed(what)));
        }
        if is_end {
            break;
        }
    }
    Ok(())
}

/// Where texts go in and lines come out.
struct Lines<'a> {
    classifier: Classifier,
    runtime: tokio::runtime::Runtime,
    format: Format,
    output: BufWriter<io::StdoutLock<'a>>,
}

impl Lines<'_> {
    fn write(&mut self, texts: &[Arc<str>]) -> Result<(), Stop> {
        let query = Query {
            texts: texts.iter().map(|text| TextInput::Single(Arc::clone(text))).collect(),
            wanted: Wanted::Auto,
            long_text: LongText::Truncate,
            truncation_side: TruncationSide::Right,
            deadline: Instant::now() + GROUP_PATIENCE,
        };
        let answers = self.runtime.block_on(self.classifier.classify(query)).map_err(|error| Stop::failed(&error))?;
        for (text, answer) in texts.iter().zip(answers) {
            let reply = AnalyzeReply::new(text, answer, &Settings::default());
            let line = match self.format {
                Format::Text => {
                    let analysis = reply.analysis();
                    format!("{}\t{:.4}\t{}", analysis.emotion, analysis.confidence, one_line(text))
                }
                Format::Json => {
                    serde_json::to_string(&WithText { text, reply }).map_err(|error| Stop::failed(&error))?
                }
            };
            writeln!(self.output, "{line}").map_err(|error| write_failed(&error))?;
        }
        self.output.flush().map_err(|error| write_failed(&error))
    }
}

fn write_failed(error: &io::Error) -> Stop {
    if error.kind() == io::ErrorKind::BrokenPipe { Stop::NobodyReads } else { Stop::failed(error) }
}

/// The text without what would start a new line or column.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[derive(serde::Serialize)]
struct WithText<'a> {
    text: &'a str,
    #[serde(flatten)]
    reply: AnalyzeReply,
}
