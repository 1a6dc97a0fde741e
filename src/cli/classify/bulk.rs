//! The run: groups of rows in, results out, and every so often a state to go on from.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;

use super::bar::Bar;
use super::files::{OutputFile, Sink};
use super::input::Position;
use super::progress::{Counts, Progress, ProgressFile};
use super::render::Renderer;
use super::rows::{Content, Group, Row};
use crate::analysis::Settings;
use crate::api::native::AnalyzeReply;
use crate::app::stop::StopSignal;
use crate::classifier::{Answer, Classifier, ClassifyError, ClientId, Flow, Query, TextInput};
use crate::cli::Failure;
use crate::model::{LongText, TruncationSide};
use crate::residency::Wanted;

/// Longest time for one group, waiting for a model included.
const GROUP_PATIENCE: Duration = Duration::from_secs(600);

/// How much work is lost at most when the process is killed.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Bad rows that are told one by one where nothing keeps them apart.
const MOST_TOLD: u64 = 20;

/// What is asked of the models.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) wanted: Wanted,
    pub(super) long_text: LongText,
    pub(super) analysis: Settings,
}

/// Why no more texts are classified.
pub(super) enum Stop {
    /// Who reads the output, such as `head`, has seen enough.
    NobodyReads,
    Signal(StopSignal),
    /// The models failed, maybe because their files are damaged.
    Model(ClassifyError),
    Failed(Failure),
}

/// A run.
pub(super) struct Bulk {
    pub(super) classifier: Classifier,
    pub(super) question: Question,
    pub(super) renderer: Renderer,
    pub(super) output: Sink,
    pub(super) rejects: Option<OutputFile>,
    /// With the state that the output is in at the start.
    pub(super) progress: Option<(ProgressFile, Progress)>,
    pub(super) rows: Counts,
    /// Bad rows past which the run fails.
    pub(super) max_bad: u64,
    pub(super) bar: Bar,
    /// Holds the signal to stop, once it has come.
    pub(super) stop: watch::Receiver<Option<StopSignal>>,
}

impl Bulk {
    /// Until the input ends, or something stops it.
    pub(super) async fn run(&mut self, groups: Receiver<io::Result<Group>>) -> Result<(), Stop> {
        let result = self.classify_groups(groups).await;
        self.bar.clear();
        result
    }

    async fn classify_groups(&mut self, mut groups: Receiver<io::Result<Group>>) -> Result<(), Stop> {
        let mut stop = self.stop.clone();
        let mut done: Option<Position> = None;
        let mut checkpoint_at = Instant::now() + CHECKPOINT_EVERY;
        loop {
            let group = tokio::select! {
                biased;
                signal = stopped(&mut stop) => {
                    self.checkpoint(done.take())?;
                    return Err(Stop::Signal(signal));
                }
                () = tokio::time::sleep_until(checkpoint_at.into()), if done.is_some() => {
                    self.checkpoint(done.take())?;
                    checkpoint_at = Instant::now() + CHECKPOINT_EVERY;
                    continue;
                }
                group = groups.recv() => group,
            };
            match group {
                None => break,
                Some(Ok(Group { rows, end })) => {
                    self.classify_group(rows).await?;
                    self.bar.update(self.rows, end.bytes);
                    done = Some(end);
                }
                Some(Err(error)) => {
                    self.checkpoint(done.take())?;
                    return Err(Stop::Failed(Failure::Failed(format!("cannot read the input: {error}"))));
                }
            }
        }
        let mut end = Vec::new();
        self.renderer.finish(&mut end).map_err(|what| Stop::Failed(Failure::Failed(what)))?;
        self.write(&end)?;
        self.finish()
    }

    /// Classifies rows and writes them, or what is wrong with them.
    async fn classify_group(&mut self, rows: Vec<Row>) -> Result<(), Stop> {
        let texts: Vec<Arc<str>> =
            rows.iter().filter_map(|row| row.content.as_ref().ok()).map(|content| Arc::clone(&content.text)).collect();
        let mut answers = self.answers(&texts).await?.into_iter();
        let (mut out, mut rejected) = (Vec::new(), Vec::new());
        let mut too_many = None;
        for row in rows {
            self.rows.read += 1;
            let result = match row.content {
                Err(why) => Err(why),
                Ok(content) => match answers.next() {
                    Some(Ok(answer)) => self.render(&content, answer, &mut out),
                    Some(Err(why)) => Err(why),
                    None => return Err(Stop::Model(ClassifyError::Internal)),
                },
            };
            let Err(reason) = result else {
                self.rows.written += 1;
                continue;
            };
            self.rows.bad += 1;
            let reject = Reject { line: row.line, reason: &reason, row: &row.start };
            serde_json::to_writer(&mut rejected, &reject).map_err(|error| failed(&error))?;
            rejected.push(b'\n');
            if self.rows.bad > self.max_bad {
                let what = match self.max_bad {
                    0 => format!("line {} {reason}", row.line),
                    most => format!("line {} {reason}; that is more than {most} bad rows (--max-bad)", row.line),
                };
                too_many = Some(Failure::Failed(what));
                break;
            }
            self.tell(row.line, &reason);
        }
        self.write(&out)?;
        if let Some(rejects) = &mut self.rejects {
            rejects.write(&rejected).map_err(|error| cannot_write(rejects, &error))?;
        }
        too_many.map_or(Ok(()), |failure| Err(Stop::Failed(failure)))
    }

    fn render(&mut self, content: &Content, answer: Answer, out: &mut Vec<u8>) -> Result<(), String> {
        let whole_rows = out.len();
        let reply = AnalyzeReply::new(&content.text, answer, &self.question.analysis);
        self.renderer.row(content, &reply, out).inspect_err(|_| out.truncate(whole_rows))
    }

    fn tell(&self, line: u64, reason: &str) {
        if self.rejects.is_some() || self.rows.bad > MOST_TOLD {
            return;
        }
        self.bar.tell(&format!("line {line} {reason}"));
        if self.rows.bad == MOST_TOLD {
            self.bar.tell("further bad rows are only counted; --rejects FILE keeps all of them");
        }
    }

    /// One answer a text, or why that text has none.
    async fn answers(&mut self, texts: &[Arc<str>]) -> Result<Vec<Result<Answer, String>>, Stop> {
        let deadline = Instant::now() + GROUP_PATIENCE;
        let mut answers: Vec<Option<Result<Answer, String>>> = texts.iter().map(|_| None).collect();
        loop {
            let open: Vec<usize> = (0..texts.len()).filter(|index| answers[*index].is_none()).collect();
            if open.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            let query = Query {
                texts: open.iter().map(|index| TextInput::Single(Arc::clone(&texts[*index]))).collect(),
                wanted: self.question.wanted,
                long_text: self.question.long_text,
                truncation_side: TruncationSide::Right,
                deadline,
                flow: Flow::of(ClientId::of(&())),
            };
            match self.classifier.classify(query).await {
                Ok(some) => {
                    for (index, answer) in open.into_iter().zip(some) {
                        answers[index] = Some(Ok(answer));
                    }
                }
                Err(ClassifyError::Text { index, what }) => {
                    answers[open[index]] = Some(Err(format!("has a text that is not read: {what}")));
                }
                // A run that has gone well so far outlives a shortage of memory.
                Err(ClassifyError::Unavailable(unavailable))
                    if self.rows.written > 0 && Instant::now() + unavailable.retry_after < deadline =>
                {
                    log::warn!("{}; trying again in {} s", unavailable.what, unavailable.retry_after.as_secs());
                    let mut stop = self.stop.clone();
                    tokio::select! {
                        signal = stopped(&mut stop) => return Err(Stop::Signal(signal)),
                        () = tokio::time::sleep(unavailable.retry_after) => {}
                    }
                }
                Err(error) => return Err(Stop::Model(error)),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.output.write(bytes).map_err(|error| match &self.output {
            Sink::Stdout(_) if error.kind() == io::ErrorKind::BrokenPipe => Stop::NobodyReads,
            Sink::Stdout(_) => failed(&error),
            Sink::File(output) => cannot_write(output, &error),
        })
    }

    /// Makes what was written up to `done` safe, and remembers it.
    fn checkpoint(&mut self, done: Option<Position>) -> Result<(), Stop> {
        let (Some(done), Some((file, progress)), Sink::File(output)) = (done, &mut self.progress, &self.output) else {
            return Ok(());
        };
        sync(output)?;
        if let Some(rejects) = &self.rejects {
            sync(rejects)?;
        }
        progress.input = done;
        progress.rows = self.rows;
        progress.output_bytes = output.bytes();
        progress.rejects_bytes = self.rejects.as_ref().map_or(0, OutputFile::bytes);
        progress.columns = self.renderer.columns().cloned();
        file.save(progress).map_err(|error| cannot_save(file, &error))
    }

    /// Makes everything safe; from then on there is nothing to go on with.
    fn finish(&mut self) -> Result<(), Stop> {
        if let Sink::File(output) = &self.output {
            sync(output)?;
        }
        if let Some(rejects) = &self.rejects {
            sync(rejects)?;
        }
        match &self.progress {
            Some((file, _)) => file.remove().map_err(|error| cannot_save(file, &error)),
            None => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct Reject<'a> {
    line: u64,
    reason: &'a str,
    row: &'a str,
}

/// The signal to stop; never, where nobody listens for one.
async fn stopped(stop: &mut watch::Receiver<Option<StopSignal>>) -> StopSignal {
    loop {
        if let Some(signal) = *stop.borrow_and_update() {
            return signal;
        }
        if stop.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn sync(file: &OutputFile) -> Result<(), Stop> {
    file.sync().map_err(|error| cannot_write(file, &error))
}

fn failed(error: &dyn std::error::Error) -> Stop {
    Stop::Failed(Failure::failed(error))
}

fn cannot_write(file: &OutputFile, error: &io::Error) -> Stop {
    Stop::Failed(Failure::Failed(format!("cannot write {}: {error}", file.path().display())))
}

fn cannot_save(file: &ProgressFile, error: &io::Error) -> Stop {
    Stop::Failed(Failure::Failed(format!("cannot write {}: {error}", file.path().display())))
}
