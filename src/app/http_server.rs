//! The HTTP server: binds the port, starts the workers, and hands each connection to the routes.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::{Condition, from_fn};
use actix_web::{App, HttpServer, web};
use socket2::SockRef;

use crate::api::body::BodyLimits;
use crate::api::guard::Origins;
use crate::api::{self, ApiState, error_shape};
use crate::cli::Failure;
use crate::config::{ConfigError, ServeArgs, cpu_quota};

/// Threads of each HTTP worker that tokenize.
const TOKENIZER_THREADS_PER_WORKER: usize = 1;

/// How long a client may leave its reply unread before the system closes the connection.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);

/// Binds the port.
///
/// # Errors
/// An address that is taken or not this machine's.
pub(super) fn bind(arguments: &ServeArgs) -> Result<TcpListener, Failure> {
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

/// Starts to serve. What is in flight when a stop is asked for has `time_to_finish`.
///
/// # Errors
/// When the listener cannot be used.
pub(super) fn start(
    listener: TcpListener,
    arguments: &ServeArgs,
    time_to_finish: Duration,
    state: web::Data<ApiState>,
    limits: BodyLimits,
) -> io::Result<Server> {
    let origins = arguments.guard.cors_origins.clone();
    let server = HttpServer::new(move || {
        let (state, limits) = (state.clone(), limits.clone());
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
    .listen(listener)?
    .run();
    Ok(server)
}
