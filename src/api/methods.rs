//! Paths that say which methods they take to all others.

use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, guard, web};

use super::error::ApiError;

/// A path that takes GET, and HEAD, which some probes send.
pub(super) fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let readable = guard::Any(guard::Get()).or(guard::Head());
    refuse_others(web::resource(path).route(web::route().guard(readable).to(handler)), "GET, HEAD")
}

/// A path that takes POST.
pub(super) fn post<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    refuse_others(web::resource(path).route(web::post().to(handler)), "POST")
}

/// A path that takes GET (and HEAD) and POST.
pub(super) fn get_and_post<F, FArgs, G, GArgs>(path: &str, on_get: F, on_post: G) -> Resource
where
    F: Handler<FArgs>,
    FArgs: FromRequest + 'static,
    F::Output: Responder + 'static,
    G: Handler<GArgs>,
    GArgs: FromRequest + 'static,
    G::Output: Responder + 'static,
{
    let readable = guard::Any(guard::Get()).or(guard::Head());
    let resource = web::resource(path).route(web::route().guard(readable).to(on_get)).route(web::post().to(on_post));
    refuse_others(resource, "GET, HEAD, POST")
}

fn refuse_others(resource: Resource, allow: &'static str) -> Resource {
    resource.default_service(web::to(move |request: HttpRequest| {
        std::future::ready(Err::<&str, _>(ApiError::method_not_allowed(request.path(), allow)))
    }))
}
