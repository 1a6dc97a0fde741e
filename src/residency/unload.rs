//! Unloads a model: drains it, drops its sessions, trims the allocator and measures what came back.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::slot::{SlotState, State};
use super::{FallbackReason, Residency, ResidencySettings, reclaim};
use crate::model::Role;
use crate::panics::MustFinish;

/// How long runs in flight may take before they are ended.
const RUN_PATIENCE: Duration = Duration::from_secs(5);

/// How long requests that are just tokenizing may hold on to the model.
const HOLDER_PATIENCE: Duration = Duration::from_secs(1);

/// At most one unload by hand at a time, because each starts a thread.
static BY_HAND: Semaphore = Semaphore::const_new(1);

/// Why a model is unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnloadCause {
    /// Memory reached a bound.
    MemoryLimit,
    /// Its pages did not stay in memory.
    Thrashing,
    /// Somebody asked for it; it is barred until somebody loads it.
    Admin,
    /// Nobody asked for the model for `MODEL_IDLE_SECONDS`.
    Idle,
    /// The server stops.
    Shutdown,
}

impl UnloadCause {
    /// The cause's name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryLimit => "memory_limit",
            Self::Thrashing => "thrashing",
            Self::Admin => "admin",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
        }
    }
}

impl Residency {
    /// Unloads the role's model and waits until it is gone. Runs in flight finish; texts that wait
    /// for it are sent on. Returns the bytes given back, or `None` when it was not loaded. An unload
    /// by hand bars the role also when nothing was loaded.
    pub fn unload(self: &Arc<Self>, role: Role, cause: UnloadCause) -> Option<u64> {
        // Half an unload leaves a role that never answers again.
        let _must = MustFinish("an unload");
        let slot = self.slot(role);
        let (before, _) = self.read_memory();
        let (model, ready_for) = {
            let mut state = slot.lock();
            let State::Ready(model) = &state.state else {
                if cause == UnloadCause::Admin && matches!(state.state, State::Absent | State::Barred { .. }) {
                    slot.enter(
                        &mut state,
                        State::Barred { until: None, reason: FallbackReason::Barred },
                        cause.as_str(),
                    );
                }
                return None;
            };
            let model = Arc::clone(model);
            let ready_for = state.since.elapsed();
            let reason = match cause {
                UnloadCause::Thrashing => Some(FallbackReason::Thrashing),
                UnloadCause::Admin => Some(FallbackReason::Barred),
                UnloadCause::MemoryLimit => Some(FallbackReason::MemoryLimit),
                UnloadCause::Idle | UnloadCause::Shutdown => None,
            };
            slot.enter(&mut state, State::Draining { reason }, cause.as_str());
            (model, ready_for)
        };
        let sent_on = model.pool.stop(RUN_PATIENCE);
        let until = Instant::now() + HOLDER_PATIENCE;
        while Arc::strong_count(&model) > 1 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        drop(model);
        self.cache.clear_role(role);
        reclaim::trim();
        let (after, level) = self.read_memory();
        let given_back = before.resident_bytes.saturating_sub(after.resident_bytes);
        self.metrics.unload(role, cause.as_str(), given_back);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        log::info!(
            "{role} model {} unloaded ({}): resident {:.1} -> {:.1} MB, unreclaimable {:.1} -> {:.1} MB, level {}, {sent_on} waiting texts sent on",
            slot.name,
            cause.as_str(),
            mib(before.resident_bytes),
            mib(after.resident_bytes),
            mib(before.unreclaimable_bytes),
            mib(after.unreclaimable_bytes),
            level.as_str(),
        );
        let mut state = slot.lock();
        let next = match cause {
            UnloadCause::MemoryLimit | UnloadCause::Thrashing => {
                let bar = state.next_bar(ready_for, &self.settings);
                let reason = if cause == UnloadCause::Thrashing {
                    FallbackReason::Thrashing
                } else {
                    FallbackReason::MemoryLimit
                };
                State::Barred { until: Some(Instant::now() + bar), reason }
            }
            UnloadCause::Admin => State::Barred { until: None, reason: FallbackReason::Barred },
            UnloadCause::Idle | UnloadCause::Shutdown => State::Absent,
        };
        slot.enter(&mut state, next, cause.as_str());
        drop(state);
        Some(given_back)
    }

    /// Unloads the role's model because somebody asked for it, and bars it. Waits for runs to end on
    /// a thread of its own, where nobody else's work stands behind it; goes on when the caller is gone.
    ///
    /// # Errors
    /// When the system gives no thread, or the unload ended with a panic.
    pub async fn unload_by_hand(self: &Arc<Self>, role: Role) -> io::Result<()> {
        // Never closed.
        let turn = BY_HAND.acquire().await.ok();
        let (done, gone) = oneshot::channel();
        let residency = Arc::clone(self);
        thread::Builder::new().name(format!("unload-{role}")).spawn(move || {
            residency.unload(role, UnloadCause::Admin);
            drop(turn);
            let _caller_gone = done.send(());
        })?;
        gone.await.map_err(io::Error::other)
    }

    /// Unloads the heavy model because it must go, and sees to it that the light one answers: it is
    /// loaded first when there is still room for both, afterwards when there is not.
    pub(super) fn evict(self: &Arc<Self>, cause: UnloadCause) {
        let light_fits_beside = cause == UnloadCause::Thrashing;
        if light_fits_beside && self.loaded(Role::Light).is_none() {
            self.load(Role::Light, "the heavy model is about to go");
            let until = Instant::now() + RUN_PATIENCE;
            while self.loaded(Role::Light).is_none() && Instant::now() < until {
                thread::sleep(Duration::from_millis(10));
            }
        }
        if self.unload(Role::Heavy, cause).is_some() {
            match self.loaded(Role::Light) {
                Some(light) => light.pool.give_arenas_back(),
                None => {
                    self.load(Role::Light, "the heavy model was unloaded");
                }
            }
        }
    }
}

impl SlotState {
    /// How long a model that had to go after `held` stays away.
    pub(super) fn next_bar(&mut self, held: Duration, settings: &ResidencySettings) -> Duration {
        self.last_bar = next_bar(self.last_bar, held, settings.heavy_retry, settings.heavy_retry_max);
        self.last_bar
    }
}

/// Doubles the bar of a model that has to go again within four times its last bar.
fn next_bar(last: Duration, ready_for: Duration, first: Duration, longest: Duration) -> Duration {
    let again_soon = !last.is_zero() && ready_for < last * 4;
    (if again_soon { last * 2 } else { first }).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_doubles_while_evictions_follow_soon_and_starts_anew_after_a_quiet_time() {
        let s = Duration::from_secs;
        let next = |last, ready_for| next_bar(s(last), s(ready_for), s(60), s(900));
        assert_eq!(next(0, 5), s(60));
        assert_eq!(next(60, 5), s(120));
        assert_eq!(next(120, 479), s(240));
        assert_eq!(next(600, 5), s(900));
        assert_eq!(next(900, 3600), s(60));
    }
}
