//! Opens a model's sessions: the first ones side by side before it answers, the others while it does.

use std::sync::{Arc, Weak};
use std::thread;

use ort::environment::Environment;

use super::admission::Admitted;
use super::limits::Level;
use super::loader::{LoadError, chain};
use super::{ReadyModel, Residency};
use crate::inference::runtime;
use crate::inference::session::{InferenceSession, LoadStop, SessionError, Weights};
use crate::model::bundle::LoadedBytes;
use crate::model::{Bundle, LongText, Role, TextTokenizer, TruncationSide};

/// Memory of a tokenizer for each byte of its file, measured: vocabulary and merges in hash tables.
const TOKENIZER_BYTES_PER_FILE_BYTE: u64 = 12;

/// Sessions that a model is opened with, side by side. The others join it while it answers.
const SESSIONS_AT_FIRST: usize = 4;

/// Read by a model that brings no probes of its own, to see that it answers at all.
const SMOKE_TEXT: &str = "I did not expect that, but I am glad it happened.";

/// What a model answers with at first.
pub(super) struct Opened {
    pub(super) sessions: Vec<InferenceSession>,
    /// How many sessions it may have in all.
    pub(super) count: usize,
    pub(super) tokenizer: TextTokenizer,
    pub(super) weights: Weights,
    pub(super) admitted: Admitted,
}

/// Sessions that are still to be opened.
pub(super) struct More {
    pub(super) bundle: Arc<Bundle>,
    pub(super) weights: Weights,
    pub(super) count: usize,
    /// Their memory counts as taken until they are there.
    pub(super) _admitted: Admitted,
}

/// Runs `one` on a thread of its own while `other` runs on this one.
fn beside<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (Result<A, LoadError>, B) {
    thread::scope(|scope| {
        let one = thread::Builder::new().name("load-beside".to_owned()).spawn_scoped(scope, one);
        let other = other();
        (one.map_err(LoadError::Thread).and_then(|one| one.join().map_err(|_| LoadError::Panic)), other)
    })
}

/// Opens so many sessions, each on a thread of its own.
fn side_by_side(
    count: usize,
    load: impl Fn() -> Result<InferenceSession, SessionError> + Sync,
) -> Result<Vec<InferenceSession>, LoadError> {
    thread::scope(|scope| {
        let name = |number| format!("load-beside-{number}");
        let start = |number| thread::Builder::new().name(name(number)).spawn_scoped(scope, &load);
        let opening: Vec<_> = (0..count).map(start).collect();
        let opened = |thread: std::io::Result<thread::ScopedJoinHandle<'_, _>>| {
            Ok(thread.map_err(LoadError::Thread)?.join().map_err(|_| LoadError::Panic)??)
        };
        opening.into_iter().map(opened).collect()
    })
}

impl Residency {
    /// The first of as many sessions as are wanted and fit; one of them is probed.
    pub(super) fn open_sessions(
        self: &Arc<Self>,
        environment: &Environment,
        role: Role,
        bundle: &Bundle,
        weights: &Weights,
        stop: &LoadStop,
    ) -> Result<Opened, LoadError> {
        let need = match weights {
            Weights::Packed(_) => needed(bundle, bundle.memory.packed()),
            Weights::Prepacked(_) => needed(bundle, bundle.memory.prepared),
            Weights::Plain => needed(bundle, bundle.memory.plain),
        };
        let Some((count, admitted)) =
            (1..=self.settings.workers).rev().find_map(|count| Some((count, self.admit(role, &need, count)?)))
        else {
            return Err(LoadError::DoesNotFit { needed_mb: (need.unreclaimable_bytes(1) + need.mapped_bytes) >> 20 });
        };
        let load = || InferenceSession::load(environment, bundle, weights, stop);
        // The first answer waits for all of this, so what does not need the other is done beside it.
        let (tokenizer, first) = beside(|| TextTokenizer::load(&bundle.tokenizer_path(), bundle.max_length), load);
        let (tokenizer, mut first) = (tokenizer??, first?);
        let others = || side_by_side(count.min(SESSIONS_AT_FIRST) - 1, load);
        let (others, probed) = beside(others, || probe(&mut first, &tokenizer, bundle));
        probed?;
        let mut sessions = vec![first];
        sessions.extend(others??);
        Ok(Opened { sessions, count, tokenizer, weights: weights.clone(), admitted })
    }

    /// Opens the sessions that were not there at first, and lets each join the model as a worker. Ends
    /// early where the model has gone or memory is short.
    pub(super) fn open_more(&self, role: Role, model: &Weak<ReadyModel>, more: &More) {
        let open = || -> Result<(), LoadError> {
            let environment = runtime::environment(self.settings.onnxruntime_library.as_deref())?;
            let mut left = more.count;
            while left > 0 && model.strong_count() > 0 && self.last().1 == Level::Normal {
                let some = left.min(SESSIONS_AT_FIRST);
                let load = || InferenceSession::load(environment, &more.bundle, &more.weights, &LoadStop::default());
                for session in side_by_side(some, load)? {
                    let Some(model) = model.upgrade() else { return Ok(()) };
                    model.pool.add(session).map_err(LoadError::Thread)?;
                }
                left -= some;
            }
            Ok(())
        };
        if let Err(error) = open() {
            log::warn!("the {role} model answers with fewer workers than it may have: {}", chain(&error));
        }
    }
}

/// What sessions need, with the tables of the tokenizer that they share.
pub(super) fn needed(bundle: &Bundle, sessions: LoadedBytes) -> LoadedBytes {
    let tokenizer = std::fs::metadata(bundle.tokenizer_path()).map_or(0, |file| file.len());
    let first_session_bytes = sessions.first_session_bytes + tokenizer * TOKENIZER_BYTES_PER_FILE_BYTE;
    LoadedBytes { first_session_bytes, ..sessions }
}

/// Compares the logits of the bundle's probe texts with those that it must give.
fn probe(session: &mut InferenceSession, tokenizer: &TextTokenizer, bundle: &Bundle) -> Result<(), LoadError> {
    if bundle.probes.is_empty() {
        let encoded = tokenizer.encode(SMOKE_TEXT, LongText::Truncate, TruncationSide::Right)?;
        session.run(&[&encoded.windows[0]], false)?;
    }
    for probe in &bundle.probes {
        let encoded = tokenizer.encode(&probe.text, LongText::Truncate, TruncationSide::Right)?;
        let logits = session.run(&[&encoded.windows[0]], false)?;
        let difference = logits.iter().zip(&probe.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if difference > bundle.probe_tolerance {
            return Err(LoadError::Probe { text: probe.text.clone(), difference, tolerance: bundle.probe_tolerance });
        }
    }
    Ok(())
}
