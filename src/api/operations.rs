//! For those who run the server: health, readiness, models, metrics.

use std::future::{Ready, ready};
use std::sync::atomic::Ordering;
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorKind};
use super::error_docs::{AdminErrors, GuardErrors};
use super::guard::require_admin;
use super::{exposition, methods, request};
use crate::model::Role;
use crate::residency::limits;
use crate::residency::{Residency, RoleStatus};

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::get("/livez", live))
        .service(methods::get("/readyz", readiness))
        .service(methods::get("/health", health))
        .service(methods::get("/models", models))
        .service(methods::get("/metrics", exposition::metrics))
        .service(methods::post("/admin/models/{role}/load", load))
        .service(methods::post("/admin/models/{role}/unload", unload));
}

/// The process answers.
#[utoipa::path(
    get, path = "/livez", tag = "operations", responses((status = 200, description = "The process answers.", body = Live), GuardErrors)
)]
pub(super) fn live() -> Ready<HttpResponse> {
    ready(HttpResponse::Ok().json(Live { live: true }))
}

/// Requests can be answered.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", responses((status = 200, description = "Requests can be answered.", body = Readiness), GuardErrors, (status = 503, description = "They cannot", body = Readiness))
)]
pub(super) fn readiness(state: web::Data<ApiState>) -> Ready<HttpResponse> {
    let is_ready = state.is_ready();
    let mut reply = if is_ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    ready(reply.json(Readiness { ready: is_ready }))
}

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessLive)]
pub(super) struct Live {
    live: bool,
}

/// Whether requests should be sent here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
}

/// The state of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`, `degraded` or `draining`.
    status: &'static str,
    version: &'static str,
    uptime_seconds: f64,
    roles: Roles,
    memory: MemoryStatus,
    queued_texts: usize,
    cache: CacheStatus,
}

/// What the cache of answers has done since the start, and holds now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CacheStatus {
    /// Texts answered from it.
    hits: u64,
    /// Texts not found in it.
    misses: u64,
    bytes: u64,
}

impl CacheStatus {
    fn of(state: &ApiState) -> Self {
        let (hits, misses) = state.metrics.cache_lookups();
        Self { hits, misses, bytes: state.classifier.cache_bytes() }
    }
}

/// The models by the part they play.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Roles {
    heavy: RoleStatus,
    light: RoleStatus,
}

impl Roles {
    fn of([heavy, light]: [RoleStatus; 2]) -> Self {
        Self { heavy, light }
    }
}

/// The models and their memory.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    models: [RoleStatus; 2],
    memory: MemoryStatus,
}

/// Memory as operators see it, in bytes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryStatus {
    resident_bytes: u64,
    anonymous_bytes: u64,
    file_bytes: u64,
    unreclaimable_bytes: u64,
    limit_bytes: Option<u64>,
    unreclaimable_limit_bytes: Option<u64>,
    container_limit_bytes: Option<u64>,
    container_usage_bytes: Option<u64>,
    /// What the nearest limit is one of: `cgroup`, `memory.high` of one, or `machine`.
    limit_from: Option<&'static str>,
    container_kills: Option<u64>,
    major_faults: u64,
    used_share: f64,
    level: &'static str,
    /// Time since all of it was read.
    age_seconds: Option<f64>,
    /// Whether some of it could not be read since, and is that old.
    stale: bool,
}

impl MemoryStatus {
    fn new(residency: &Residency) -> Self {
        let (reading, level) = residency.last();
        let bounds = residency.settings().limits;
        let nearest = limits::nearest(&reading);
        Self {
            resident_bytes: reading.resident_bytes,
            anonymous_bytes: reading.anonymous_bytes,
            file_bytes: reading.file_bytes,
            unreclaimable_bytes: nearest.map_or(reading.unreclaimable_bytes, |nearest| nearest.unreclaimable_bytes),
            limit_bytes: bounds.resident_bytes,
            unreclaimable_limit_bytes: nearest.map(|nearest| nearest.unreclaimable_limit_bytes),
            container_limit_bytes: nearest.map(|nearest| nearest.limit.limit_bytes),
            container_usage_bytes: nearest.map(|nearest| nearest.limit.usage_bytes),
            limit_from: nearest.map(|nearest| nearest.limit.from.as_str()),
            container_kills: reading.container_kills,
            major_faults: reading.major_faults,
            used_share: (bounds.used_share(&reading) * 1000.0).round() / 1000.0,
            level: level.as_str(),
            age_seconds: reading.read_at.map(|at| at.elapsed().as_secs_f64()),
            stale: reading.is_stale,
        }
    }
}

/// The state of the server, its models and its memory.
#[utoipa::path(
    get, path = "/health", tag = "operations", responses((status = 200, description = "The state of the server, its models and its memory.", body = Health), GuardErrors)
)]
pub(super) fn health(state: web::Data<ApiState>) -> Ready<HttpResponse> {
    let residency = state.classifier.residency();
    let roles = residency.status();
    let queued: usize = roles.iter().map(|role| role.queued_texts).sum();
    let status = match (state.is_ready(), state.draining.load(Ordering::Relaxed)) {
        (_, true) => "draining",
        (true, false) => "ok",
        (false, false) => "degraded",
    };
    ready(HttpResponse::Ok().json(Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.started.elapsed().as_secs_f64().round(),
        roles: Roles::of(roles),
        memory: MemoryStatus::new(residency),
        queued_texts: queued,
        cache: CacheStatus::of(&state),
    }))
}

/// The state of the models and of memory.
#[utoipa::path(
    get, path = "/models", tag = "operations", responses((status = 200, description = "The state of the models and of memory.", body = Models), GuardErrors)
)]
pub(super) fn models(state: web::Data<ApiState>) -> Ready<HttpResponse> {
    let residency = state.classifier.residency();
    ready(HttpResponse::Ok().json(Models { models: residency.status(), memory: MemoryStatus::new(residency) }))
}

/// Loads a model, whatever bars it.
#[utoipa::path(
    post, path = "/admin/models/{role}/load", tag = "operations", params(("role" = String, Path, description = "The role")),
    responses((status = 200, description = "Loads a model, whatever bars it.", body = RoleStatus), AdminErrors)
)]
pub(super) async fn load(
    http: HttpRequest,
    state: web::Data<ApiState>,
    role: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let role = load_by_hand(&http, &state, || role_of(&role)).await?;
    Ok(status_reply(&state, role))
}

/// For administrators: loads the model that `role_of` finds, whatever bars it, and waits until it is
/// ready.
pub(super) async fn load_by_hand(
    http: &HttpRequest,
    state: &ApiState,
    role_of: impl FnOnce() -> Result<Role, ApiError>,
) -> Result<Role, ApiError> {
    require_admin(http, state)?;
    let (role, deadline) = (role_of()?, request::deadline(http, state)?);
    let residency = state.classifier.residency();
    residency.load(role, "loaded by hand");
    if residency.settled(role, deadline).await {
        return Ok(role);
    }
    let why = residency.status()[usize::from(role == Role::Light)].error.clone();
    let what = why.unwrap_or_else(|| "it is still loading; GET /models tells when it is ready".to_owned());
    Err(ApiError::new(ErrorKind::Unavailable, format!("the {role} model was not loaded: {what}")))
}

/// Unloads a model and keeps it away until it is loaded.
#[utoipa::path(
    post, path = "/admin/models/{role}/unload", tag = "operations", params(("role" = String, Path, description = "The role")),
    responses((status = 200, description = "Unloads a model and keeps it away until it is loaded.", body = RoleStatus), AdminErrors)
)]
pub(super) async fn unload(
    http: HttpRequest,
    state: web::Data<ApiState>,
    role: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let role = unload_by_hand(&http, &state, || role_of(&role)).await?;
    Ok(status_reply(&state, role))
}

/// For administrators: unloads the model that `role_of` finds, and bars it until it is loaded by hand.
pub(super) async fn unload_by_hand(
    http: &HttpRequest,
    state: &ApiState,
    role_of: impl FnOnce() -> Result<Role, ApiError>,
) -> Result<Role, ApiError> {
    require_admin(http, state)?;
    let (role, deadline) = (role_of()?, request::deadline(http, state)?);
    let residency = state.classifier.residency();
    // A load under way is let finish: what it has taken can only be given back after it.
    residency.settled(role, deadline.min(Instant::now() + residency.settings().load_timeout)).await;
    residency
        .unload_by_hand(role)
        .await
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("the {role} model was not unloaded: {error}")))?;
    Ok(role)
}

fn status_reply(state: &ApiState, role: Role) -> HttpResponse {
    let status = state.classifier.residency().status().into_iter().find(|status| status.role == role);
    HttpResponse::Ok().json(status)
}

fn role_of(name: &str) -> Result<Role, ApiError> {
    Role::ALL.into_iter().find(|role| role.as_str() == name).ok_or_else(|| {
        ApiError::new(ErrorKind::NotFound, format!("there is no role {name:?}; roles are heavy and light"))
    })
}
