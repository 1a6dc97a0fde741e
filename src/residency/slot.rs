//! The state machine of one role: `absent -> loading -> ready -> draining -> absent`, and `barred`
//! after an eviction, a failed load or an unload by hand. Every change is logged with its reason.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::ready::ReadyModel;
use crate::inference::session::LoadStop;
use crate::model::Role;

/// Why the heavy model does not answer a request that it could have answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackReason {
    /// It was unloaded because memory ran short, or a run of it found no memory.
    MemoryLimit,
    /// It would not fit beside what is held now.
    DoesNotFit,
    /// Its load takes longer than `MODEL_LOAD_TIMEOUT`.
    LoadTimeout,
    /// Its load failed.
    LoadFailed,
    /// Its pages did not stay in memory.
    Thrashing,
    /// It was unloaded by hand.
    Barred,
    /// `USE_LIGHT_MODEL` is set.
    UseLightModel,
}

impl FallbackReason {
    /// The reason's name on the wire, in logs and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryLimit => "memory_limit",
            Self::DoesNotFit => "does_not_fit",
            Self::LoadTimeout => "load_timeout",
            Self::LoadFailed => "load_failed",
            Self::Thrashing => "thrashing",
            Self::Barred => "barred",
            Self::UseLightModel => "use_light_model",
        }
    }
}

/// Names of all states that a role can be in.
pub const MODEL_STATES: [&str; 5] = ["absent", "loading", "ready", "draining", "barred"];

/// Where a role's model is in its life.
pub(super) enum State {
    Absent,
    Loading(Arc<LoadStop>),
    Ready(Arc<ReadyModel>),
    /// With a reason others answer meanwhile; without one it is over in a moment and worth waiting for.
    Draining {
        reason: Option<FallbackReason>,
    },
    /// Not to be loaded before `until`; without one, not before it is loaded by hand.
    Barred {
        until: Option<Instant>,
        reason: FallbackReason,
    },
}

impl State {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Loading(_) => "loading",
            Self::Ready(_) => "ready",
            Self::Draining { .. } => "draining",
            Self::Barred { .. } => "barred",
        }
    }
}

pub(super) struct SlotState {
    pub state: State,
    pub since: Instant,
    pub last_reason: &'static str,
    pub last_error: Option<String>,
    /// How long the model was barred last; doubles when it has to go again soon.
    pub last_bar: Duration,
}

/// One role with the model that plays it.
pub(super) struct Slot {
    pub role: Role,
    pub directory: PathBuf,
    /// The folder's name, or the bundle's own once it was read.
    pub name: String,
    state: Mutex<SlotState>,
    changed: watch::Sender<()>,
}

impl Slot {
    pub(super) fn new(role: Role, directory: PathBuf, name: String) -> Self {
        let state = SlotState {
            state: State::Absent,
            since: Instant::now(),
            last_reason: "not asked for yet",
            last_error: None,
            last_bar: Duration::ZERO,
        };
        Self { role, directory, name, state: Mutex::new(state), changed: watch::Sender::new(()) }
    }

    /// Changes made under the lock are single assignments, so a panic elsewhere leaves it whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Enters a state, logs it and wakes who waits for it.
    pub(super) fn enter(&self, slot: &mut SlotState, state: State, reason: &'static str) {
        let held = slot.since.elapsed();
        log::info!(
            "{} model {}: {} -> {} ({reason}; was {} for {:.1} s)",
            self.role,
            self.name,
            slot.state.as_str(),
            state.as_str(),
            slot.state.as_str(),
            held.as_secs_f64()
        );
        slot.state = state;
        slot.since = Instant::now();
        slot.last_reason = reason;
        self.changed.send_replace(());
    }

    pub(super) fn ready(&self) -> Option<Arc<ReadyModel>> {
        match &self.lock().state {
            State::Ready(model) => Some(Arc::clone(model)),
            State::Absent | State::Loading(_) | State::Draining { .. } | State::Barred { .. } => None,
        }
    }
}
