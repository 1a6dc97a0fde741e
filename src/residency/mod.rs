//! Decides which model is in memory: loads lazily and once, falls back, unloads under pressure.

mod admission;
mod container;
mod fields;
pub mod limits;
pub(crate) mod loader;
pub mod memory;
mod opening;
mod prepare_check;
mod process;
mod ready;
pub mod reclaim;
mod settings;
mod slot;
mod status;
mod unload;
mod watchdog;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::LogitsCache;
use crate::inference::headroom::Headroom;
use crate::metrics::Metrics;
use crate::model::Role;
use admission::Pending;
use limits::Level;
use memory::{Meter, Reading};
pub use ready::ReadyModel;
pub use settings::ResidencySettings;
pub use slot::{FallbackReason, MODEL_STATES};
use slot::{Slot, State};
pub use status::RoleStatus;
pub use unload::UnloadCause;
pub use watchdog::Watchdog;

/// How long a role that did not fit or failed is left alone before the next try.
const SHORT_BAR: Duration = Duration::from_secs(5);

/// What a client is told to wait when memory is over its bound with only the light model.
const OVER_BOUND_RETRY: Duration = Duration::from_secs(2);

/// What a request wants of the residency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The heavy model if it may run, else the light one.
    Auto,
    /// The heavy model; with `strict` no other.
    Heavy {
        /// Fail rather than fall back.
        strict: bool,
    },
    /// The light model.
    Light,
}

/// A model that may answer one request, with the reason when it is not the one wanted first.
#[derive(Clone)]
pub struct Lease {
    /// The model.
    pub model: Arc<ReadyModel>,
    /// The part it plays.
    pub role: Role,
    /// Why it answers instead of the heavy one.
    pub fallback: Option<FallbackReason>,
}

/// No model can answer now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Unavailable {
    /// What is the matter, for the client.
    pub what: String,
    /// When to try again.
    pub retry_after: Duration,
}

/// Keeps both roles' models in memory, or out of it.
pub struct Residency {
    settings: ResidencySettings,
    slots: [Slot; 2],
    meter: Mutex<Meter>,
    last: Mutex<(Reading, Level)>,
    pending: Mutex<Pending>,
    preparing: Mutex<()>,
    over_bound: AtomicBool,
    headroom: Arc<Headroom>,
    cache: Arc<LogitsCache>,
    metrics: Arc<Metrics>,
}

/// What a look at a role found.
enum Look {
    Ready(Arc<ReadyModel>),
    /// It is loading, or going in a moment.
    Changing {
        since: Instant,
    },
    Refused {
        reason: FallbackReason,
        retry_after: Duration,
    },
}

impl Residency {
    /// Nothing loaded yet. The cache is emptied under memory pressure.
    #[must_use]
    pub fn new(settings: ResidencySettings, cache: Arc<LogitsCache>, metrics: Arc<Metrics>) -> Arc<Self> {
        let slot = |role, (directory, name): &(PathBuf, String)| Slot::new(role, directory.clone(), name.clone());
        let mut meter = Meter::new();
        let reading = meter.read();
        let headroom = Headroom::default();
        headroom.update(settings.limits.free_bytes(&reading), limits::spare_bytes(&reading));
        Arc::new(Self {
            slots: [slot(Role::Heavy, &settings.heavy), slot(Role::Light, &settings.light)],
            last: Mutex::new((reading.clone(), settings.limits.level(&reading))),
            meter: Mutex::new(meter),
            pending: Mutex::default(),
            preparing: Mutex::default(),
            over_bound: AtomicBool::new(false),
            headroom: Arc::new(headroom),
            settings,
            cache,
            metrics,
        })
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &ResidencySettings {
        &self.settings
    }

    /// Memory that may still be taken.
    pub(crate) fn headroom(&self) -> &Arc<Headroom> {
        &self.headroom
    }

    /// The role that a model's name stands for.
    #[must_use]
    pub fn role_of(&self, name: &str) -> Option<Role> {
        self.slots.iter().find(|slot| slot.name == name).map(|slot| slot.role)
    }

    /// Name of the model that plays `role`.
    #[must_use]
    pub fn name_of(&self, role: Role) -> &str {
        &self.slot(role).name
    }

    /// A model that may answer. The first request for a role starts its load; all wait for that one
    /// load, at most `MODEL_LOAD_TIMEOUT` after its start and not past `deadline`.
    ///
    /// # Errors
    /// [`Unavailable`] when neither the wanted model nor a fallback may answer now.
    pub async fn acquire(self: &Arc<Self>, wanted: Wanted, deadline: Instant) -> Result<Lease, Unavailable> {
        if self.over_bound.load(Ordering::Relaxed) {
            return Err(Unavailable {
                what: "memory is at its limit even without the heavy model; try again shortly".to_owned(),
                retry_after: OVER_BOUND_RETRY,
            });
        }
        let wants_heavy = match wanted {
            Wanted::Light => None,
            Wanted::Auto => Some(false),
            Wanted::Heavy { strict } => Some(strict),
        };
        let Some(strict) = wants_heavy else {
            return self.acquire_light(None, deadline).await;
        };
        let refused = if self.settings.use_light_model {
            (FallbackReason::UseLightModel, self.settings.heavy_retry_max)
        } else {
            match self.wait_for(Role::Heavy, deadline).await {
                Ok(model) => return Ok(Lease { model, role: Role::Heavy, fallback: None }),
                Err(refused) => refused,
            }
        };
        if strict {
            return Err(self.unavailable(Role::Heavy, refused));
        }
        self.acquire_light(Some(refused.0), deadline).await
    }

    async fn acquire_light(
        self: &Arc<Self>,
        fallback: Option<FallbackReason>,
        deadline: Instant,
    ) -> Result<Lease, Unavailable> {
        match self.wait_for(Role::Light, deadline).await {
            Ok(model) => Ok(Lease { model, role: Role::Light, fallback }),
            Err(refused) => Err(self.unavailable(Role::Light, refused)),
        }
    }

    fn unavailable(&self, role: Role, (reason, retry_after): (FallbackReason, Duration)) -> Unavailable {
        let slot = self.slot(role);
        let why = match reason {
            FallbackReason::MemoryLimit => "was unloaded because memory ran short",
            FallbackReason::DoesNotFit => "does not fit into the memory that is left",
            FallbackReason::LoadTimeout => "is still loading",
            FallbackReason::LoadFailed => "cannot be loaded; the log and GET /models say why",
            FallbackReason::Thrashing => "was unloaded because its pages did not stay in memory",
            FallbackReason::Barred => "was unloaded by hand",
            FallbackReason::UseLightModel => "is switched off by USE_LIGHT_MODEL",
        };
        Unavailable {
            what: format!("the {role} model {} {why}", slot.name),
            retry_after: retry_after.max(Duration::from_secs(1)),
        }
    }

    async fn wait_for(
        self: &Arc<Self>,
        role: Role,
        deadline: Instant,
    ) -> Result<Arc<ReadyModel>, (FallbackReason, Duration)> {
        let mut changed = self.slot(role).subscribe();
        loop {
            changed.mark_unchanged();
            if role == Role::Light {
                self.wait_for_room(deadline).await;
            }
            match self.look(role) {
                Look::Ready(model) => {
                    model.touch();
                    return Ok(model);
                }
                Look::Refused { reason, retry_after } => return Err((reason, retry_after)),
                Look::Changing { since } => {
                    let until = deadline.min(since + self.settings.load_timeout);
                    if tokio::time::timeout_at(until.into(), changed.changed()).await.is_err() {
                        return Err((FallbackReason::LoadTimeout, SHORT_BAR));
                    }
                }
            }
        }
    }

    /// While the heavy model drains, a load of the light one would not find room: it waits for it.
    async fn wait_for_room(&self, deadline: Instant) {
        let heavy = self.slot(Role::Heavy);
        let mut changed = heavy.subscribe();
        loop {
            changed.mark_unchanged();
            let is_draining = matches!(heavy.lock().state, State::Draining { .. });
            if !is_draining || self.loaded(Role::Light).is_some() {
                return;
            }
            if tokio::time::timeout_at(deadline.into(), changed.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Stops the role's load, if there is one; it ends in `barred` for want of memory.
    fn stop_load(&self, role: Role) -> bool {
        match &self.slot(role).lock().state {
            State::Loading(stop) => {
                stop.stop();
                true
            }
            State::Absent | State::Ready(_) | State::Draining { .. } | State::Barred { .. } => false,
        }
    }

    /// The role's state as a request sees it; starts the load when there is none.
    fn look(self: &Arc<Self>, role: Role) -> Look {
        let slot = self.slot(role);
        let mut state = slot.lock();
        match &state.state {
            State::Ready(model) => Look::Ready(Arc::clone(model)),
            State::Loading(_) | State::Draining { reason: None } => Look::Changing { since: state.since },
            State::Draining { reason: Some(reason) } => {
                Look::Refused { reason: *reason, retry_after: self.settings.heavy_retry }
            }
            State::Barred { until: None, reason } => {
                Look::Refused { reason: *reason, retry_after: self.settings.heavy_retry_max }
            }
            State::Barred { until: Some(until), reason } => {
                let left = until.saturating_duration_since(Instant::now());
                let evicted = matches!(reason, FallbackReason::MemoryLimit | FallbackReason::Thrashing);
                if !left.is_zero() || (evicted && !self.settings.limits.allows_return(&self.last_reading())) {
                    return Look::Refused { reason: *reason, retry_after: left.max(Duration::from_secs(1)) };
                }
                let why = if evicted { "memory allows it again" } else { "trying again" };
                self.start_load(slot, &mut state, why);
                self.look_after_start(&state)
            }
            State::Absent => {
                self.start_load(slot, &mut state, "first request");
                self.look_after_start(&state)
            }
        }
    }

    fn look_after_start(&self, state: &slot::SlotState) -> Look {
        match &state.state {
            State::Loading(_) => Look::Changing { since: state.since },
            State::Absent | State::Ready(_) | State::Draining { .. } | State::Barred { .. } => {
                Look::Refused { reason: FallbackReason::LoadFailed, retry_after: SHORT_BAR }
            }
        }
    }

    /// Loads a role that is not loaded, whatever bars it, and returns at once; `false` when it is
    /// loaded or loading already.
    pub fn load(self: &Arc<Self>, role: Role, why: &'static str) -> bool {
        let slot = self.slot(role);
        let mut state = slot.lock();
        match &state.state {
            State::Ready(_) | State::Loading(_) | State::Draining { .. } => false,
            State::Absent | State::Barred { .. } => {
                self.start_load(slot, &mut state, why);
                true
            }
        }
    }

    /// Waits until the role is neither loading nor draining, at most until `deadline`; tells
    /// whether it is ready.
    pub async fn settled(&self, role: Role, deadline: Instant) -> bool {
        let slot = self.slot(role);
        let mut changed = slot.subscribe();
        loop {
            changed.mark_unchanged();
            match &slot.lock().state {
                State::Ready(_) => return true,
                State::Absent | State::Barred { .. } => return false,
                State::Loading(_) | State::Draining { .. } => {}
            }
            if tokio::time::timeout_at(deadline.into(), changed.changed()).await.is_err() {
                return false;
            }
        }
    }

    /// Whether the role is loaded, or would be tried at the next request.
    #[must_use]
    pub fn may_answer(&self, role: Role) -> bool {
        if self.over_bound.load(Ordering::Relaxed) || (role == Role::Heavy && self.settings.use_light_model) {
            return false;
        }
        match &self.slot(role).lock().state {
            State::Ready(_) | State::Loading(_) | State::Absent => true,
            State::Draining { reason } => reason.is_none(),
            State::Barred { until, .. } => until.is_some_and(|until| until <= Instant::now()),
        }
    }

    /// The role's model, if it is loaded now; does not count as use.
    #[must_use]
    pub fn loaded(&self, role: Role) -> Option<Arc<ReadyModel>> {
        self.slot(role).ready()
    }

    /// The last reading and its level.
    #[must_use]
    pub fn last(&self) -> (Reading, Level) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last_reading(&self) -> Reading {
        self.last().0
    }

    /// Reads memory now, and takes the figures over for everything that is decided from them.
    pub fn read_memory(&self) -> (Reading, Level) {
        self.take_over(Meter::read)
    }

    /// The same, several times a second.
    fn read_memory_cheaply(&self) -> (Reading, Level) {
        self.take_over(Meter::read_cheaply)
    }

    fn take_over(&self, read: fn(&mut Meter) -> Reading) -> (Reading, Level) {
        let reading = read(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner));
        let level = self.settings.limits.level(&reading);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (reading.clone(), level);
        self.headroom.update(self.settings.limits.free_bytes(&reading), limits::spare_bytes(&reading));
        (reading, level)
    }

    fn slot(&self, role: Role) -> &Slot {
        match role {
            Role::Heavy => &self.slots[0],
            Role::Light => &self.slots[1],
        }
    }
}
