//! Reads memory at a fixed interval and acts on it: relieves pressure, evicts, unloads idle models.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::limits::{self, Level};
use super::memory::Reading;
use super::unload::UnloadCause;
use super::{Residency, reclaim};
use crate::model::Role;
use crate::panics::supervise;

/// Time between two reliefs while pressure lasts.
const RELIEF_INTERVAL: Duration = Duration::from_secs(10);

/// Part of the heavy model's weights that its average run reads from disk again when too little of
/// them stays in memory. Counted in bytes, because how much one page fault reads ahead differs a
/// thousandfold between disks.
const THRASHING_SHARE: f64 = 0.25;

/// Window of the check for thrashing, and the least number of runs in it.
const THRASHING_TIME: Duration = Duration::from_secs(15);
const THRASHING_RUNS: u64 = 8;

/// Multiple of the bound above which work is refused when only the light model is left: a little
/// above it serving goes on, because the bound leaves room for the pages of the heavy one.
const OVER_BOUND_SHARE: f64 = 1.10;

/// How long memory may be above that: one long text goes above it for a moment.
const OVER_BOUND_TIME: Duration = Duration::from_secs(2);

/// Above this multiple of the bound work is refused at once.
const OVER_BOUND_AT_ONCE: f64 = 1.14;

/// The thread that watches. Stops when dropped.
pub struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts watching.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(residency: Arc<Residency>) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut watch = Watch::new(&residency);
            supervise("the watchdog", || {
                if wait(&stopped, residency.settings.check_interval) {
                    return ControlFlow::Break(());
                }
                watch.look(&residency);
                ControlFlow::Continue(())
            });
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the watchdog ended with a panic");
        }
    }
}

/// Waits for `time` or until told to stop; tells whether to stop.
fn wait(stop: &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (stopped, _) =
        stop.1.wait_timeout_while(stopped, time, |stopped| !*stopped).unwrap_or_else(PoisonError::into_inner);
    *stopped
}

struct Watch {
    level: Level,
    relieved_at: Option<Instant>,
    arenas_given_back: u64,
    over_since: Option<Instant>,
    window: Window,
}

/// What the heavy model had done and read when the present window of time began.
struct Window {
    at: Instant,
    runs: u64,
    read_bytes: u64,
}

impl Watch {
    fn new(residency: &Residency) -> Self {
        let (reading, _) = residency.last();
        Self {
            level: Level::Normal,
            relieved_at: None,
            arenas_given_back: 0,
            over_since: None,
            window: Window { at: Instant::now(), runs: 0, read_bytes: reading.disk_read_bytes },
        }
    }

    fn look(&mut self, residency: &Arc<Residency>) {
        let (reading, level) = residency.read_memory_cheaply();
        if level != self.level {
            log_level(residency, self.level, level, &reading);
            for model in Role::ALL.iter().filter_map(|role| residency.loaded(*role)) {
                model.pool.set_pressure(level != Level::Normal);
            }
            self.level = level;
        }
        if level != Level::Normal && self.relieved_at.is_none_or(|at| at.elapsed() >= RELIEF_INTERVAL) {
            self.relieved_at = Some(Instant::now());
            residency.cache.clear();
            reclaim::trim();
        }
        self.trim_after_work(residency);
        let heavy_is_loaded = residency.loaded(Role::Heavy).is_some();
        if level == Level::Evict && heavy_is_loaded {
            residency.evict(UnloadCause::MemoryLimit);
        } else if level == Level::Evict && residency.stop_load(Role::Heavy) {
            return;
        } else if self.is_thrashing(residency, &reading) {
            residency.evict(UnloadCause::Thrashing);
        }
        self.refuse_work_over_the_bound(residency);
        unload_idle(residency);
    }

    /// Workers that have just become idle gave their arenas back; what else their runs took lies free
    /// in the heap.
    fn trim_after_work(&mut self, residency: &Residency) {
        let models = Role::ALL.iter().filter_map(|role| residency.loaded(*role));
        let given_back = models.map(|model| model.pool.arenas_given_back()).sum();
        if std::mem::replace(&mut self.arenas_given_back, given_back) != given_back {
            reclaim::trim();
        }
    }

    /// With nothing left to unload, new work is refused until memory is below the bound again.
    fn refuse_work_over_the_bound(&mut self, residency: &Residency) {
        let (reading, _) = residency.last();
        let share = residency.settings.limits.used_share(&reading);
        let over = if share >= OVER_BOUND_SHARE && residency.loaded(Role::Heavy).is_none() {
            share >= OVER_BOUND_AT_ONCE || self.over_since.get_or_insert_with(Instant::now).elapsed() >= OVER_BOUND_TIME
        } else {
            self.over_since = None;
            false
        };
        if residency.over_bound.swap(over, Ordering::Relaxed) != over {
            if over {
                log::error!("memory is over its bound without the heavy model; refusing work until it falls");
            } else {
                log::info!("memory is below its bound again; taking work");
            }
        }
    }

    /// Looks once in a while at how much of its weights each run of the heavy model reads again. A
    /// window in which it was loaded does not count: reading is what a load does.
    fn is_thrashing(&mut self, residency: &Residency, reading: &Reading) -> bool {
        let Some(heavy) = residency.loaded(Role::Heavy) else {
            self.window = Window { at: Instant::now(), runs: 0, read_bytes: reading.disk_read_bytes };
            return false;
        };
        if self.window.at.elapsed() < THRASHING_TIME {
            return false;
        }
        let now = Window { at: Instant::now(), runs: heavy.pool.runs(), read_bytes: reading.disk_read_bytes };
        let runs = now.runs.saturating_sub(self.window.runs);
        let read_bytes = now.read_bytes.saturating_sub(self.window.read_bytes);
        let was_loaded_in_it = self.window.runs == 0;
        self.window = now;
        let weights_bytes = heavy.bundle.memory.prepared.mapped_bytes;
        let each_run_bytes = read_bytes as f64 / runs.max(1) as f64;
        !was_loaded_in_it && runs >= THRASHING_RUNS && each_run_bytes > weights_bytes as f64 * THRASHING_SHARE
    }
}

fn log_level(residency: &Residency, from: Level, to: Level, reading: &Reading) {
    let urgency = if to == Level::Evict { log::Level::Warn } else { log::Level::Info };
    log::log!(
        urgency,
        "memory level {} -> {}: {:.0} % of the nearest bound, resident {} MB, unreclaimable {} MB",
        from.as_str(),
        to.as_str(),
        residency.settings.limits.used_share(reading) * 100.0,
        reading.resident_bytes >> 20,
        limits::nearest(reading).map_or(reading.unreclaimable_bytes, |nearest| nearest.unreclaimable_bytes) >> 20,
    );
}

fn unload_idle(residency: &Arc<Residency>) {
    let Some(idle) = residency.settings.idle else { return };
    for role in Role::ALL {
        let Some(model) = residency.loaded(role) else { continue };
        // The slot and this look hold it; a request that is being answered would be a third.
        let is_held = Arc::strong_count(&model) > 2;
        if !is_held && model.idle() >= idle {
            drop(model);
            residency.unload(role, UnloadCause::Idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache;
    use crate::inference::pool::PoolSettings;
    use crate::inference::prepared::PreparedStore;
    use crate::inference::queue::QueueLimits;
    use crate::metrics::Metrics;
    use crate::model::bundle::Precision;
    use crate::residency::ResidencySettings;
    use crate::residency::limits::Limits;

    /// No models, and a bound on the resident memory of this test's process.
    fn bounded(resident_bytes: Option<u64>) -> ResidencySettings {
        let minute = Duration::from_secs(60);
        ResidencySettings {
            heavy: ("no-such-folder".into(), "heavy".to_owned()),
            light: ("no-such-folder".into(), "light".to_owned()),
            precision: Precision::Int8,
            use_light_model: false,
            load_timeout: minute,
            limits: Limits { resident_bytes },
            workers: 1,
            pool: PoolSettings {
                max_batch_tokens: 512,
                kept_arena_bytes: 0,
                queue: QueueLimits { max_texts: 1, max_tokens: 1 },
            },
            prepared: PreparedStore::new("no-such-folder".into()),
            prepare_program: "no-such-program".into(),
            heavy_retry: minute,
            heavy_retry_max: minute,
            check_interval: minute,
            idle: None,
            onnxruntime_library: None,
        }
    }

    #[test]
    fn pressure_empties_the_cache_and_nothing_else_does() {
        for (bound, is_kept) in [(None, true), (Some(1), false)] {
            let cache = Arc::new(cache::tests::of_one_text());
            let residency = Residency::new(bounded(bound), Arc::clone(&cache), Arc::new(Metrics::new()));
            Watch::new(&residency).look(&residency);
            assert_eq!(cache.bytes() > 0, is_kept, "with a bound of {bound:?} bytes");
        }
    }
}
