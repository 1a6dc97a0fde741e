//! `classify`: the same analysis as `POST /analyze`, for texts from arguments, a file or standard
//! input, one or millions of them.
//!
//! A thread of its own reads rows and hands them on in groups; each group is classified, written and
//! counted before the next. No more than a few groups are ever in memory.

mod bar;
mod bulk;
mod files;
mod formats;
mod input;
mod object;
mod progress;
mod render;
mod rows;
mod table;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use self::bar::Bar;
use self::bulk::{Bulk, Question, Stop};
use self::files::{OutputFile, Sink, identity, refuse_existing, refuse_same, stdin_file};
use self::formats::{InputFormat, OutputFormat};
use self::input::Input;
use self::progress::{Progress, ProgressFile};
use self::render::Renderer;
use self::rows::{RowSettings, Rows};
use super::Failure;
use crate::analysis::Settings;
use crate::api::request::{MAX_COUNT, is_blank, known_models_of, wanted_of};
use crate::app::stop::{StopSignal, StopSignals};
use crate::cache::LogitsCache;
use crate::classifier::Classifier;
use crate::config::ModelArgs;
use crate::host::cpu_quota;
use crate::logging::{self, LogFormat};
use crate::metrics::Metrics;
use crate::model::{Bundle, BundleError, LongText, Role};
use crate::residency::loader::chain;
use crate::residency::{Residency, ResidencySettings, UnloadCause, Watchdog};

/// What the exit code tells, for `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    every row was classified
  1    it failed; what was written is good up to there
  2    finished, but some rows were bad
  64   an argument or setting is wrong, or a column is missing
  65   a model's files are damaged
  70   a defect of the program; what was written is good up to there
  130  stopped by Ctrl-C, 143 by SIGTERM; with --output, --resume goes on from there";

/// What stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Arguments of `classify`.
#[derive(Debug, Args)]
pub(super) struct ClassifyArgs {
    /// Texts to classify; without any, the rows of --input or standard input
    #[arg(conflicts_with_all = ["input", "input_format", "text_column", "no_quotes", "resume"])]
    texts: Vec<String>,

    /// File with the rows; - or none is standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// How rows come in [default: by the extension of --input; lines for anything but .csv, .tsv, .jsonl and .ndjson]
    #[arg(long, value_enum)]
    input_format: Option<InputFormat>,

    /// Column or JSON field that holds the text [default: text]
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,

    /// Take quotes in CSV and TSV for a part of the text
    #[arg(long)]
    no_quotes: bool,

    /// Longest row in bytes, 1024 to 67108864; longer ones are bad
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    max_row_bytes: u32,

    /// File for the results, which --resume can go on with [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// How results are written [default: by the extension of --output, else as the rows come in; text for lines]
    #[arg(long, value_enum, alias = "format")]
    output_format: Option<OutputFormat>,

    /// Go on with an output that was not finished, or begin it
    #[arg(long, requires = "output", conflicts_with = "overwrite")]
    resume: bool,

    /// Begin again where --output or --rejects exist
    #[arg(long)]
    overwrite: bool,

    /// File for bad rows: one JSON object a line with the line's number, the reason and the row's start
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,

    /// Fail after more than N bad rows [default: any number; 0 for plain lines]
    #[arg(long, value_name = "N")]
    max_bad: Option<u64>,

    /// auto (heavy if it may run, else light), heavy, light, or a model's name
    #[arg(long, value_name = "MODEL", default_value = "auto")]
    model: String,

    /// With the heavy model: fail rather than fall back to the light one
    #[arg(long)]
    strict: bool,

    /// Least score of a significant emotion, 0 to 1
    #[arg(long, value_name = "SCORE", default_value_t = Settings::default().threshold, value_parser = score)]
    threshold: f32,

    /// How many significant emotions to list at most, 0 to 1000000
    #[arg(long, value_name = "N", default_value_t = Settings::default().top_k as u32, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_COUNT)))]
    top_k: u32,

    /// What to do with a text over the model's length
    #[arg(long, value_enum, default_value = "truncate")]
    long_text: LongText,

    #[command(flatten)]
    models: ModelArgs,
}

fn score(given: &str) -> Result<f32, String> {
    let score = given.parse::<f32>().ok().filter(|score| (0.0..=1.0).contains(score));
    score.ok_or_else(|| "it must be a number from 0 to 1".to_owned())
}

pub(super) fn run(arguments: &ClassifyArgs) -> Result<(), Failure> {
    logging::start_quiet(LogFormat::Text);
    if let Some(blank) = arguments.texts.iter().position(|text| is_blank(text)) {
        return Err(Failure::Usage(format!("text {} is empty; give a text to read", blank + 1)));
    }
    let settings = arguments.models.residency_settings()?;
    let metrics = Arc::new(Metrics::new());
    let cache = Arc::new(LogitsCache::new(arguments.models.cache_mb << 20));
    let residency = Residency::new(settings, Arc::clone(&cache), Arc::clone(&metrics));
    let wanted = wanted_of(&arguments.model, arguments.strict, &residency).ok_or_else(|| {
        let known = known_models_of(&residency);
        Failure::Usage(format!("--model: there is no model {:?}; it may be {known}", arguments.model))
    })?;
    let analysis = Settings { threshold: arguments.threshold, top_k: arguments.top_k as usize };
    let question = Question { wanted, long_text: arguments.long_text, analysis };
    let mut plan = Plan::of(arguments, residency.settings())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| Failure::failed(&error))?;
    let _watchdog = Watchdog::start(Arc::clone(&residency)).map_err(|error| Failure::failed(&error))?;
    // Without a file to finish, a signal ends the process at once, as it always does.
    let stop = match plan.output {
        Sink::File(_) => runtime.block_on(async { stop_signal() }).map_err(|error| Failure::failed(&error))?,
        Sink::Stdout(_) => watch::channel(None).1,
    };
    let rows = plan.progress.as_ref().map(|(_, progress)| progress.rows).unwrap_or_default();
    if let Some((_, progress)) = &plan.progress {
        plan.bar.start_from(rows, progress.input.bytes);
    }
    let groups = plan.rows.into_groups().map_err(|error| Failure::failed(&error))?;
    let mut bulk = Bulk {
        classifier: Classifier::new(Arc::clone(&residency), cache, metrics, cpu_quota()),
        question,
        renderer: plan.renderer,
        output: plan.output,
        rejects: plan.rejects,
        progress: plan.progress,
        rows,
        max_bad: plan.max_bad,
        bar: plan.bar,
        stop,
    };
    let result = runtime.block_on(bulk.run(groups));
    for role in Role::ALL {
        residency.unload(role, UnloadCause::Shutdown);
    }
    conclude(arguments, &bulk, result, residency.settings())
}

/// What the run comes to, for the exit code and whoever reads standard error.
fn conclude(
    arguments: &ClassifyArgs,
    bulk: &Bulk,
    result: Result<(), Stop>,
    settings: &ResidencySettings,
) -> Result<(), Failure> {
    if let Some(output) = &arguments.output {
        logging::tell(bulk.bar.summary(bulk.rows, &output.display().to_string()));
    }
    let go_on = if bulk.progress.is_some() { "; the same command with --resume goes on from there" } else { "" };
    match result {
        Err(Stop::NobodyReads) => Ok(()),
        Err(Stop::Signal(signal)) => Err(Failure::Stopped(signal, format!("stopped by {}{go_on}", signal.name()))),
        Err(Stop::Model(error)) => Err(match damaged_file(settings) {
            Some(damage) => Failure::Damaged(chain(&damage)),
            None => Failure::Failed(format!("{}{go_on}", chain(&error))),
        }),
        Err(Stop::Failed(Failure::Failed(what))) => Err(Failure::Failed(format!("{what}{go_on}"))),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(()) if bulk.rows.bad > 0 => {
            let (bad, read) = (bulk.rows.bad, bulk.rows.read);
            let kept = if bulk.rejects.is_some() { "" } else { "; --rejects FILE keeps them apart" };
            Err(Failure::BadRows(format!("{bad} of {read} rows were bad{kept}")))
        }
        Ok(()) => Ok(()),
    }
}

/// A file that is not what its bundle says, among those of the models that may answer.
fn damaged_file(settings: &ResidencySettings) -> Option<BundleError> {
    let heavy = (!settings.use_light_model).then_some(&settings.heavy.0);
    heavy.into_iter().chain([&settings.light.0]).find_map(|folder| {
        let checked = Bundle::open(folder, settings.precision).and_then(|bundle| bundle.verify_hashes());
        checked.err().filter(|error| matches!(error, BundleError::Size { .. } | BundleError::Hash { .. }))
    })
}

/// The first signal is told; a second one ends the process.
fn stop_signal() -> io::Result<watch::Receiver<Option<StopSignal>>> {
    let mut signals = StopSignals::new()?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let signal = signals.next().await;
        logging::tell(format_args!("{}: stopping after the rows at hand; once more to stop at once", signal.name()));
        sender.send_replace(Some(signal));
        signals.next_after(signal).await.end_process();
    });
    Ok(receiver)
}

/// What is read and where it goes, with every file open and every column found.
struct Plan {
    rows: Rows,
    renderer: Renderer,
    output: Sink,
    rejects: Option<OutputFile>,
    progress: Option<(ProgressFile, Progress)>,
    max_bad: u64,
    bar: Bar,
}

impl Plan {
    /// Nothing is written before all of it is known to be right.
    fn of(arguments: &ClassifyArgs, models: &ResidencySettings) -> Result<Self, Failure> {
        let path = arguments.input.as_deref().filter(|path| *path != Path::new(STANDARD_INPUT));
        let format = arguments.input_format.unwrap_or_else(|| path.map_or(InputFormat::Lines, InputFormat::of_path));
        if format == InputFormat::Lines && arguments.text_column.is_some() {
            let what = "--text-column: plain lines have no columns; --input-format csv, tsv or jsonl has";
            return Err(Failure::Usage(what.to_owned()));
        }
        let row_settings = RowSettings {
            format,
            text_column: arguments.text_column.clone().unwrap_or_else(|| "text".to_owned()),
            has_quotes: !arguments.no_quotes,
            max_row_bytes: arguments.max_row_bytes as usize,
        };
        let output_format = arguments
            .output_format
            .or_else(|| arguments.output.as_deref().and_then(OutputFormat::of_path))
            .unwrap_or(format.same_output());
        let before = begun(arguments)?;
        let is_file_input = arguments.texts.is_empty();
        let stdin = if is_file_input && path.is_none() { stdin_file() } else { None };
        refuse_same(&[
            ("the input", path.map_or(stdin.map(|(identity, _)| identity), identity)),
            ("--output", arguments.output.as_deref().and_then(identity)),
            ("--rejects", arguments.rejects.as_deref().and_then(identity)),
        ])?;

        let mut rows = if is_file_input {
            Rows::open(open_input(path)?, &row_settings)?
        } else {
            Rows::of_arguments(&arguments.texts).map_err(|error| Failure::failed(&error))?
        };
        let columns = rows.columns().map(<[String]>::to_vec);
        if output_format == OutputFormat::Jsonl {
            refuse_twice(columns.as_deref().unwrap_or_default())?;
        }
        // Where no cell can need quotes, none are added.
        let keeps_no_quotes = arguments.no_quotes && format.delimiter() == output_format.delimiter();
        let mut renderer = Renderer::new(output_format, !keeps_no_quotes, columns);
        let options = options(arguments, &row_settings, output_format, models);
        if let Some(before) = &before {
            before.check_options(&options)?;
            rows.skip_to(&before.input)?;
            if before.output_bytes > 0 {
                renderer.go_on(before.columns.clone());
            }
        }

        let mut rejects = arguments.rejects.as_deref().map(|path| OutputFile::open("--rejects", path)).transpose()?;
        if let (Some(output), Some(rejects)) = (&arguments.output, &rejects) {
            // Two names of a file that was not there before.
            refuse_same(&[("--output", identity(output)), ("--rejects", identity(rejects.path()))])?;
        }
        let mut output = arguments.output.as_deref().map(|path| OutputFile::open("--output", path)).transpose()?;
        let progress = before.unwrap_or_else(|| Progress::new(options));
        let progress_file = arguments.output.as_deref().map(ProgressFile::of);
        if let Some(file) = &progress_file {
            file.save(&progress)
                .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", file.path().display())))?;
        }
        if let Some(output) = &mut output {
            output.cut(progress.output_bytes)?;
        }
        if let Some(rejects) = &mut rejects {
            rejects.cut(progress.rejects_bytes)?;
        }
        // A pipe has no length, also where it has a name.
        let length_of = |path: &Path| path.metadata().ok().filter(fs::Metadata::is_file).map(|file| file.len());
        let length = path.map_or(stdin.map(|(_, length)| length), length_of);
        // A bar would be drawn between what is typed, or what comes out.
        let is_typed = path.is_none() && io::stdin().is_terminal();
        let is_shown = is_file_input && !is_typed && (output.is_some() || !io::stdout().is_terminal());
        Ok(Self {
            rows,
            renderer,
            output: output.map_or_else(|| Sink::Stdout(io::stdout()), Sink::File),
            rejects,
            progress: progress_file.map(|file| (file, progress)),
            // Plain lines have nothing that could be wrong but their encoding, and that is then wrong everywhere.
            max_bad: arguments.max_bad.unwrap_or(if format == InputFormat::Lines { 0 } else { u64::MAX }),
            bar: Bar::new(length, is_shown),
        })
    }
}

/// Where an earlier run was, if this one goes on with it. Refuses to write over anything otherwise.
fn begun(arguments: &ClassifyArgs) -> Result<Option<Progress>, Failure> {
    let files = [("--output", &arguments.output), ("--rejects", &arguments.rejects)];
    if arguments.resume
        && let Some(output) = &arguments.output
        && let Some(progress) = ProgressFile::of(output).load()?
    {
        return Ok(Some(progress));
    }
    if !arguments.overwrite {
        for (flag, path) in files {
            path.as_deref().map_or(Ok(()), |path| refuse_existing(flag, path))?;
        }
    }
    Ok(None)
}

fn open_input(path: Option<&Path>) -> Result<Input, Failure> {
    let reader: Box<dyn Read + Send> = match path {
        Some(path) => Box::new(
            File::open(path)
                .map_err(|error| Failure::Usage(format!("--input: cannot read {}: {error}", path.display())))?,
        ),
        None => Box::new(io::stdin()),
    };
    Input::new(reader).map_err(|error| {
        let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        Failure::Usage(format!("--input: cannot read {name}: {error}"))
    })
}

/// A JSON object cannot have two fields of one name.
fn refuse_twice(columns: &[String]) -> Result<(), Failure> {
    match columns.iter().enumerate().find(|(index, name)| columns[..*index].contains(name)) {
        None => Ok(()),
        Some((_, name)) => {
            let what = format!("the header has {name:?} twice, but JSON needs a name for each field; write csv or tsv");
            Err(Failure::Usage(what))
        }
    }
}

/// Everything that the output depends on beside the input.
fn options(
    arguments: &ClassifyArgs,
    rows: &RowSettings,
    output_format: OutputFormat,
    models: &ResidencySettings,
) -> Map<String, Value> {
    let revision =
        |folder: &Path| Bundle::open(folder, models.precision).ok().map(|bundle| bundle.revision().to_owned());
    let options = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "input_format": rows.format,
        "text_column": rows.text_column,
        "no_quotes": !rows.has_quotes,
        "max_row_bytes": rows.max_row_bytes,
        "output_format": output_format,
        "rejects": arguments.rejects.is_some(),
        "model": arguments.model,
        "strict": arguments.strict,
        "threshold": arguments.threshold,
        "top_k": arguments.top_k,
        "long_text": arguments.long_text,
        "heavy_model": models.heavy.1,
        "heavy_revision": revision(&models.heavy.0),
        "light_model": models.light.1,
        "light_revision": revision(&models.light.0),
        "model_precision": models.precision,
        "use_light_model": models.use_light_model,
    });
    if let Value::Object(options) = options { options } else { Map::new() }
}
