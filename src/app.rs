//! The only place that wires the parts together: build, port, run until stopped, drain.

pub(crate) mod stop;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::Server;
use actix_web::middleware::{Condition, from_fn};
use actix_web::{App, HttpServer, web};
use socket2::SockRef;

use crate::api::body::BodyLimits;
use crate::api::guard::Origins;
use crate::api::{self, ApiSettings, ApiState, error_shape};
use crate::cache::LogitsCache;
use crate::classifier::Classifier;
use crate::cli::Failure;
use crate::config::{ConfigError, Preload, ServeArgs, cpu_quota};
use crate::inference::runtime;
use crate::metrics::Metrics;
use crate::model::Role;
use stop::StopSignals;

use crate::residency::{Residency, UnloadCause, Watchdog};

/// Threads of each HTTP worker that tokenize.
const TOKENIZER_THREADS_PER_WORKER: usize = 1;

/// Time at the end of `SHUTDOWN_TIMEOUT` that is kept for unloading the models.
const UNLOAD_PATIENCE: Duration = Duration::from_millis(500);

/// How long a client may leave its reply unread before the system closes the connection.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);

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
        let (guard, time_to_finish) = (arguments.guard.guard()?, arguments.time_to_finish()?);
        let stop = StopSignals::new().map_err(|error| Failure::Failed(format!("no signals: {error}")))?;
        // Without the library nothing can ever be answered: better to say so now.
        runtime::environment(settings.onnxruntime_library.as_deref()).map_err(|error| {
            match settings.onnxruntime_library {
                Some(_) => ConfigError { setting: "ONNXRUNTIME_LIBRARY", what: error.to_string() }.into(),
                None => Failure::Failed(error.to_string()),
            }
        })?;
        let listener = bind(arguments)?;
        let port = listener.local_addr().map_err(|error| Failure::Failed(error.to_string()))?.port();
        let metrics = Arc::new(Metrics::new());
        let cache = Arc::new(LogitsCache::new(arguments.models.cache_mb << 20));
        let residency = Residency::new(settings, Arc::clone(&cache), Arc::clone(&metrics));
        let watchdog = Watchdog::start(Arc::clone(&residency))
            .map_err(|error| Failure::Failed(format!("no watchdog: {error}")))?;
        let state = web::Data::new(ApiState {
            classifier: Classifier::new(Arc::clone(&residency), cache, Arc::clone(&metrics)),
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
            Duration::from_secs(arguments.body_timeout_seconds),
        );
        let (of_workers, origins) = (state.clone(), arguments.guard.cors_origins.clone());
        let server = HttpServer::new(move || {
            let (state, limits) = (of_workers.clone(), limits.clone());
            // The last one is asked first: whoever is refused is written down, and a browser's
            // question about CORS carries no key.
            App::new()
                .wrap(from_fn(api::admit))
                .wrap(from_fn(error_shape::of_contract))
                .wrap(Condition::new(origins.is_some(), Origins::middleware(origins.as_ref())))
                .wrap(from_fn(api::observe))
                .configure(move |config| api::configure(config, state, limits))
        })
        .workers(cpu_quota())
        .worker_max_blocking_threads(TOKENIZER_THREADS_PER_WORKER)
        .max_connections((arguments.max_connections as usize).div_ceil(cpu_quota()))
        .keep_alive(Duration::from_secs(arguments.keep_alive_seconds))
        .client_request_timeout(Duration::from_secs(arguments.header_timeout_seconds))
        .disable_signals()
        .shutdown_timeout(time_to_finish.as_secs())
        .h1_allow_half_closed(false)
        .listen(listener)
        .map_err(|error| Failure::Failed(format!("cannot listen: {error}")))?
        .run();
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
            let again = stop.next().await;
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
        let unloading = tokio::task::spawn_blocking(move || {
            for role in Role::ALL {
                residency.unload(role, UnloadCause::Shutdown);
            }
        });
        if tokio::time::timeout_at(until.into(), unloading).await.is_err() || cut > 0 {
            log::warn!("stopped without waiting for runs that take longer");
            stop::end_process(0);
        }
        log::info!("stopped");
        Ok(())
    }
}

fn bind(arguments: &ServeArgs) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind((arguments.host.as_str(), arguments.port)).map_err(|error| {
        let what = format!("cannot listen on {}:{}: {error}", arguments.host, arguments.port);
        Failure::from(ConfigError { setting: "HOST, PORT", what })
    })?;
    // Inherited by the connections.
    if let Err(error) = SockRef::from(&listener).set_tcp_user_timeout(Some(UNREAD_PATIENCE)) {
        log::warn!("clients that do not read their replies are not cut off: {error}");
    }
    Ok(listener)
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
