//! The only place that wires the parts together: build, port, run until stopped, drain.

mod capacity;
pub(crate) mod connection;
mod found;
mod http_server;
pub(crate) mod stop;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::Server;
use actix_web::web;

use crate::api::body::BodyLimits;
use crate::api::{ApiSettings, ApiState};
use crate::cache::LogitsCache;
use crate::classifier::Classifier;
use crate::cli::Failure;
use crate::config::{ConfigError, Preload, ServeArgs, http_workers};
use crate::exit::end_process;
use crate::host::{self, threads};
use crate::inference::runtime;
use crate::metrics::Metrics;
use crate::model::Role;
use crate::panics::MustFinish;
use capacity::Capacity;
use stop::StopSignals;

use crate::residency::{Residency, UnloadCause, Watchdog};

/// Time at the end of `SHUTDOWN_TIMEOUT` that is kept for unloading the models.
const UNLOAD_PATIENCE: Duration = Duration::from_millis(500);

/// Threads that are needed beside those that serve HTTP: the watchdog, and what it takes to load a model
/// and to answer with it.
const THREADS_FOR_MODELS: usize = 4;

/// A server that listens and is ready to run.
pub struct Application {
    server: Server,
    port: u16,
    state: web::Data<ApiState>,
    stop: StopSignals,
    drain: Duration,
    stop_within: Duration,
    residency: Arc<Residency>,
    _watchdog: Watchdog,
}

impl Application {
    /// Binds the port and starts everything but the models.
    ///
    /// # Errors
    /// A setting that cannot be used, a port that is taken, or a missing ONNX Runtime library.
    pub(crate) fn build(arguments: &ServeArgs) -> Result<Self, Failure> {
        let settings = arguments.models.residency_settings()?;
        let (guard, time_to_finish) = (arguments.guard.guard(arguments.max_texts)?, arguments.time_to_finish()?);
        let stop = StopSignals::new().map_err(|error| Failure::Failed(format!("no signals: {error}")))?;
        // Without the library nothing can ever be answered: better to say so now.
        runtime::environment(settings.onnxruntime_library.as_deref()).map_err(|error| {
            match settings.onnxruntime_library {
                Some(_) => ConfigError { setting: "ONNXRUNTIME_LIBRARY", what: error.to_string() }.into(),
                None => Failure::Failed(error.to_string()),
            }
        })?;
        host::raise_open_files_limit();
        threads::check(http_server::most_threads() + THREADS_FOR_MODELS)
            .map_err(|error| Failure::Failed(format!("{}: {error}", threads::REFUSED)))?;
        let listener = http_server::bind(arguments)?;
        let port = listener.local_addr().map_err(|error| Failure::Failed(error.to_string()))?.port();
        let metrics = Arc::new(Metrics::new());
        let cache = Arc::new(LogitsCache::new(arguments.models.cache_mb << 20));
        let residency = Residency::new(settings, Arc::clone(&cache), Arc::clone(&metrics));
        let watchdog = Watchdog::start(Arc::clone(&residency))
            .map_err(|error| Failure::Failed(format!("no watchdog: {error}")))?;
        let state = web::Data::new(ApiState {
            classifier: Classifier::new(Arc::clone(&residency), cache, Arc::clone(&metrics), http_workers()),
            settings: ApiSettings {
                request_timeout: Duration::from_millis(arguments.request_timeout_ms),
                max_texts: arguments.max_texts as usize,
                access_log: arguments.guard.access_log,
            },
            guard,
            metrics,
            started: Instant::now(),
            preloaded: AtomicBool::new(arguments.preload_models == Preload::None),
            draining: AtomicBool::new(false),
        });
        preload(arguments.preload_models, &residency, &state);
        let limits = BodyLimits::new(
            usize::try_from(arguments.max_body_bytes).unwrap_or(usize::MAX),
            arguments.max_texts as usize,
            Duration::from_secs(arguments.body_timeout_seconds),
        );
        let limits_bytes = [residency.last().0.memory_limit_bytes(), residency.settings().limits.resident_bytes];
        let memory_bytes = limits_bytes.into_iter().flatten().min();
        let capacity = Capacity::new(arguments.max_connections, memory_bytes, host::open_files_limit(), http_workers());
        let server = http_server::start(listener, arguments, capacity, time_to_finish, state.clone(), limits)
            .map_err(|error| Failure::Failed(format!("cannot listen: {error}")))?;
        found::log(arguments, port, capacity, &residency, &state.guard);
        log::info!("listening on {}:{port}", arguments.host);
        Ok(Self {
            server,
            port,
            state,
            stop,
            drain: Duration::from_secs(arguments.drain_seconds),
            stop_within: Duration::from_secs(arguments.shutdown_timeout),
            residency,
            _watchdog: watchdog,
        })
    }

    /// The port that the server listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until SIGTERM or SIGINT. From then on `/readyz` says 503; new requests are answered
    /// for `DRAIN_SECONDS`, those in flight finish, and the models are unloaded, all within
    /// `SHUTDOWN_TIMEOUT`. A second signal ends the process at once.
    ///
    /// # Errors
    /// When the server's event loop fails.
    pub async fn run_until_stopped(self) -> std::io::Result<()> {
        let Self { server, state, mut stop, drain, stop_within, residency, .. } = self;
        let handle = server.handle();
        let mut serving = actix_web::rt::spawn(server);
        let signal = tokio::select! {
            ended = &mut serving => return ended.map_err(std::io::Error::other)?,
            signal = stop.next() => signal,
        };
        let until = Instant::now() + stop_within;
        state.draining.store(true, Ordering::Relaxed);
        log::info!("{}: stopping; new requests are answered for {} s", signal.name(), drain.as_secs());
        actix_web::rt::spawn(async move {
            let _must = MustFinish("the wait for a second signal");
            let again = stop.next_after(signal).await;
            log::warn!("{} again: ending at once", again.name());
            again.end_process();
        });
        tokio::time::sleep(drain).await;
        // A run that cannot be cut short must not keep the process past its time.
        let finished = tokio::time::timeout_at((until - UNLOAD_PATIENCE).into(), handle.stop(true)).await;
        let cut = state.metrics.requests_in_flight();
        if cut > 0 || finished.is_err() {
            log::warn!("{cut} requests were cut: they took longer than SHUTDOWN_TIMEOUT, {} s", stop_within.as_secs());
        }
        let unloading = threads::run_blocking(move || {
            for role in Role::ALL {
                residency.unload(role, UnloadCause::Shutdown);
            }
        });
        let unloaded = matches!(tokio::time::timeout_at(until.into(), unloading).await, Ok(Ok(())));
        if !unloaded || cut > 0 {
            log::warn!("stopped without waiting for runs that take longer");
            end_process(0);
        }
        log::info!("stopped");
        Ok(())
    }
}

/// Starts the loads that were asked for; `/readyz` waits until they, or their fallbacks, are there.
fn preload(preload: Preload, residency: &Arc<Residency>, state: &web::Data<ApiState>) {
    let roles: &[Role] = match preload {
        Preload::None => return,
        Preload::Light => &[Role::Light],
        Preload::Heavy => &[Role::Heavy],
        Preload::Both => &[Role::Heavy, Role::Light],
    };
    for role in roles {
        residency.load(*role, "preloaded");
    }
    let (residency, state) = (Arc::clone(residency), state.clone());
    actix_web::rt::spawn(async move {
        let _must = MustFinish("preloading");
        let until = Instant::now() + residency.settings().load_timeout;
        let mut any = false;
        for role in roles {
            any |= residency.settled(*role, until).await;
        }
        if !any {
            residency.load(Role::Light, "the heavy model could not be preloaded");
            residency.settled(Role::Light, Instant::now() + residency.settings().load_timeout).await;
        }
        state.preloaded.store(true, Ordering::Relaxed);
    });
}
