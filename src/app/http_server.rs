//! The HTTP server: binds the port, starts the workers, and hands each connection to the routes.

use std::future::ready;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_service::{ServiceFactoryExt, apply_fn_factory, fn_service, map_config};
use actix_web::dev::{AppConfig, Server};
use actix_web::middleware::{Condition, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, web};
use socket2::SockRef;
use tokio::sync::Semaphore;

use super::capacity::Capacity;
use super::connection::{self, Connection, Connections, REPLY_PIECE_BYTES};

use crate::api::body::BodyLimits;
use crate::api::guard::Origins;
use crate::api::{self, ApiState, error_shape};
use crate::cli::Failure;
use crate::config::{ConfigError, ServeArgs, http_workers};

/// Threads of each HTTP worker that tokenize.
const TOKENIZER_THREADS_PER_WORKER: usize = 1;

/// Bytes of a reply that the system keeps for a client that does not read. By itself it would keep up to 4 MB
/// for each connection, in the container's memory.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// How long a client may leave its reply unread before the system closes the connection.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take to close its side, once its connection is to end.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// Share of the connections that is kept for new ones.
const SPARE_SHARE: usize = 8;

/// Threads that it takes at most: those that serve, those that tokenize, and the one that accepts.
pub(super) fn most_threads() -> usize {
    http_workers() * (1 + TOKENIZER_THREADS_PER_WORKER) + 1
}

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
    let socket = SockRef::from(&listener);
    if let Err(error) = socket.set_tcp_user_timeout(Some(UNREAD_PATIENCE)) {
        log::warn!("clients that do not read their replies are not cut off: {error}");
    }
    if let Err(error) = socket.set_send_buffer_size(SEND_BUFFER_BYTES) {
        log::warn!("the system may keep much for clients that do not read their replies: {error}");
    }
    // A long reply goes out in pieces, none of which should wait for the last one's receipt.
    if let Err(error) = socket.set_tcp_nodelay(true) {
        log::warn!("long replies may be held up: {error}");
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
    capacity: Capacity,
    time_to_finish: Duration,
    state: web::Data<ApiState>,
    limits: BodyLimits,
) -> io::Result<Server> {
    let address = listener.local_addr()?;
    let server = Server::build();
    let (workers, stopping) = (http_workers(), server.graceful_shutdown_signal());
    let connections_per_worker = capacity.connections.div_ceil(workers);
    // Above these, connections that wait for their clients make room, so that a client can always
    // be heard; only when all are being answered does one wait to be taken.
    let most = connections_per_worker - (connections_per_worker / SPARE_SHARE).max(1);
    let large_heads = Arc::new(Semaphore::new(capacity.large_heads));
    let keep_alive = Duration::from_secs(arguments.keep_alive_seconds);
    let header_timeout = Duration::from_secs(arguments.header_timeout_seconds);
    let origins = arguments.guard.cors_origins.clone();
    // Made once in each worker.
    let services = move || {
        let (state, limits, stopping) = (state.clone(), limits.clone(), stopping.clone());
        let metrics = Arc::clone(&state.metrics);
        let connections = Connections::new(most, Arc::clone(&large_heads), header_timeout, metrics);
        // The last one is asked first: whoever is refused is written down, and a browser's
        // question about CORS carries no key.
        let routes = App::new()
            .wrap(from_fn(api::hold_reply))
            .wrap(from_fn(api::admit))
            .wrap(from_fn(error_shape::of_contract))
            .wrap(Condition::new(origins.is_some(), Origins::middleware(origins.as_ref())))
            .wrap(from_fn(api::observe))
            .configure(move |config| api::configure(config, state, limits));
        let routes = apply_fn_factory(map_config(routes, |()| AppConfig::default()), connection::serve);
        let http = HttpService::build()
            .keep_alive(keep_alive)
            // The stream times heads.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(DISCONNECT_PATIENCE)
            .h1_write_buffer_size(REPLY_PIECE_BYTES)
            .local_addr(address)
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .on_connect_ext(|connection: &Connection, data| {
                data.insert(Rc::clone(connection.exchange()));
            })
            .h1(routes);
        fn_service(move |stream: TcpStream| {
            let peer = stream.peer_addr().ok();
            ready(Ok::<_, DispatchError>((Connection::new(stream, Rc::clone(&connections)), peer)))
        })
        .and_then(http)
    };
    let server = server
        .workers(workers)
        .worker_max_blocking_threads(TOKENIZER_THREADS_PER_WORKER)
        .max_concurrent_connections(connections_per_worker)
        .disable_signals()
        .shutdown_timeout(time_to_finish.as_secs())
        .listen("http", listener, services)?;
    Ok(server.run())
}
