//! Who may ask, how often and from where: checked before any handler runs.

pub mod address;
pub mod keys;
pub mod rate;

use std::net::IpAddr;
use std::str::FromStr;

use actix_cors::Cors;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, Uri};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, web};

use super::error::{ApiError, ErrorKind};
use super::{ApiState, routed_path};
use address::TrustedProxies;
use keys::{Keys, sent_key};
use rate::{Client, Excess, RateLimit};

/// How long a browser may remember what CORS allows.
const CORS_MAX_AGE_SECONDS: usize = 3600;

/// Paths that say whether the server is up: those who ask, such as a kubelet, have no key.
const ALWAYS_OPEN: [&str; 2] = ["/livez", "/readyz"];

/// What the administrative paths answer where no key for them is set.
pub(super) const ADMIN_IS_OFF: &str =
    "loading and unloading by request is off; set ADMIN_KEY or ADMIN_KEY_FILE and start the server again to turn it on";

/// Files of pages.
const PAGE_FOLDERS: [&str; 2] = ["/docs/", "/playground/"];

/// Which paths need no key beside those that never do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenPaths {
    health: bool,
    metrics: bool,
    pages: bool,
}

impl FromStr for OpenPaths {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut open = Self::default();
        for name in list.split(',').map(str::trim) {
            match name {
                "health" => open.health = true,
                "metrics" => open.metrics = true,
                "pages" => open.pages = true,
                "" | "none" => {}
                _ => return Err(format!("there is no {name:?}; health, metrics, pages and none may be listed")),
            }
        }
        Ok(open)
    }
}

impl OpenPaths {
    /// Whether a request needs no key. Only what reads is open: POST of an open path may be another
    /// matter altogether.
    fn holds(self, method: &Method, path: &str) -> bool {
        matches!(*method, Method::GET | Method::HEAD)
            && match path {
                "/health" => self.health,
                "/metrics" => self.metrics,
                "/" | "/docs" | "/openapi.json" => self.pages,
                _ => self.holds_file(method, path),
            }
    }

    /// Whether it is for a file of an open page.
    fn holds_file(self, method: &Method, path: &str) -> bool {
        self.pages
            && matches!(*method, Method::GET | Method::HEAD)
            && PAGE_FOLDERS.iter().any(|folder| path.starts_with(folder))
    }
}

/// Origins whose pages may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Any.
    All,
    /// These.
    These(Vec<String>),
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let origins: Vec<&str> = list.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
        if origins.contains(&"*") {
            return Ok(Self::All);
        }
        let checked = |origin: &str| {
            let uri = origin.parse::<Uri>().ok().filter(|uri| {
                uri.scheme().is_some() && uri.authority().is_some() && uri.path() == "/" && !origin.ends_with('/')
            });
            uri.map(|_| origin.to_ascii_lowercase()).ok_or_else(|| {
                format!("{origin:?} is not an origin such as https://app.example or http://localhost:3000")
            })
        };
        origins.into_iter().map(checked).collect::<Result<_, _>>().map(Self::These)
    }
}

impl Origins {
    /// Answers preflight requests and marks replies for these origins. Requests of others get their
    /// answer unmarked: their browsers keep it from the page.
    pub fn middleware(origins: Option<&Self>) -> Cors {
        let cors = Cors::default()
            .block_on_origin_mismatch(false)
            .allowed_methods([Method::GET, Method::POST])
            .allow_any_header()
            .expose_any_header()
            .max_age(CORS_MAX_AGE_SECONDS);
        match origins {
            None => cors,
            Some(Self::All) => cors.allow_any_origin().send_wildcard(),
            Some(Self::These(origins)) => origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin)),
        }
    }
}

/// All rules for who may ask.
pub struct Guard {
    /// Keys that open everything but the administrative paths; empty: open to all.
    pub keys: Keys,
    /// Keys that open the administrative paths too; empty: these are off.
    pub admin: Keys,
    /// What needs no key.
    pub open: OpenPaths,
    /// How often one client may ask.
    pub rate: Option<RateLimit>,
    /// How many texts one client may send.
    pub text_rate: Option<RateLimit>,
    /// Whose word is taken for where a request came from.
    pub proxies: TrustedProxies,
}

impl Guard {
    /// Counts the request and looks for its key.
    fn check(&self, method: &Method, path: &str, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<(), ApiError> {
        // A page needs many files at once, which cost next to nothing: they are not counted.
        if ALWAYS_OPEN.contains(&path) || self.open.holds_file(method, path) {
            return Ok(());
        }
        let sent = if self.keys.is_empty() && self.admin.is_empty() { None } else { sent_key(headers) };
        let key = sent.and_then(|sent| self.keys.position(sent));
        let is_admin = sent.is_some_and(|sent| self.admin.position(sent).is_some());
        if let (Some(rate), false) = (&self.rate, is_admin) {
            rate.count(self.client(key, headers, peer), 1).map_err(|excess| refusal(rate, "requests", excess))?;
        }
        if self.keys.is_empty() || key.is_some() || is_admin || self.open.holds(method, path) {
            return Ok(());
        }
        let what = match sent {
            Some(_) => "the key that was sent is not one of the server's; send one as a Bearer token or in X-API-Key",
            None => "this server needs a key; send it as a Bearer token or in X-API-Key",
        };
        Err(ApiError::new(ErrorKind::Unauthorized, what))
    }

    /// Who shares one allowance with this request: those with the same key, else those at its address.
    fn client(&self, key: Option<usize>, headers: &HeaderMap, peer: Option<IpAddr>) -> Client {
        let by_address = || peer.map_or(Client::Others, |peer| Client::at(self.proxies.client(peer, headers)));
        key.map_or_else(by_address, Client::Key)
    }

    /// The client whose texts are counted, if these are.
    pub(super) fn counted_client(&self, http: &HttpRequest) -> Option<Client> {
        let sent = sent_key(http.headers());
        let is_admin = sent.is_some_and(|sent| self.admin.position(sent).is_some());
        let key = sent.and_then(|sent| self.keys.position(sent));
        (self.text_rate.is_some() && !is_admin).then(|| self.client(key, http.headers(), peer_of(http)))
    }

    /// Counts the texts of a request.
    pub(super) fn count_texts(&self, http: &HttpRequest, texts: usize) -> Result<(), ApiError> {
        let (Some(rate), Some(client)) = (&self.text_rate, self.counted_client(http)) else { return Ok(()) };
        rate.count(client, texts).map_err(|excess| refusal(rate, "texts", excess))
    }

    /// Waits until a stream's client may send one more text, and counts it.
    pub(super) async fn wait_for_a_text(&self, client: Option<Client>) {
        let (Some(rate), Some(client)) = (&self.text_rate, client) else { return };
        // One text is never more than may come at once.
        while let Err(Excess::ForNow { wait }) = rate.count(client, 1) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Lets through who sends `ADMIN_KEY`. An address is no proof: a proxy on this machine makes
    /// every client look local.
    fn check_admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.admin.is_empty() {
            return Err(ApiError::new(ErrorKind::Forbidden, ADMIN_IS_OFF));
        }
        if sent_key(headers).is_some_and(|sent| self.admin.position(sent).is_some()) {
            return Ok(());
        }
        let what = "this path needs ADMIN_KEY as a Bearer token or in X-API-Key";
        Err(ApiError::new(ErrorKind::Unauthorized, what))
    }
}

/// The answer to a client that sent too many `things`.
fn refusal(rate: &RateLimit, things: &str, excess: Excess) -> ApiError {
    match excess {
        Excess::ForNow { wait } => {
            let what = format!("rate limit exceeded: {} {things} per second per client", rate.per_second());
            ApiError::new(ErrorKind::Overloaded, what).retry_after(wait)
        }
        Excess::ForEver => {
            let what = format!(
                "the rate limit lets a client send {} {things} at once; send no more than that in one request",
                rate.burst()
            );
            ApiError::new(ErrorKind::TooLarge, what)
        }
    }
}

/// Refuses who may not go on. The path's contract gives the refusal its shape.
///
/// # Errors
/// Those of the handlers behind it.
pub(crate) async fn admit<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let checked = match request.app_data::<web::Data<ApiState>>() {
        Some(state) => {
            state.guard.check(request.method(), routed_path(&request), request.headers(), peer_of(request.request()))
        }
        None => Err(ApiError::new(ErrorKind::Internal, "the server has no rules for who may ask")),
    };
    match checked {
        Ok(()) => next.call(request).await.map(ServiceResponse::map_into_left_body),
        Err(refusal) => {
            // As an answer, not as an error: what stands around this one adds its headers.
            Ok(request.error_response(refusal).map_into_right_body())
        }
    }
}

/// Lets through who may load and unload models.
pub(super) fn require_admin(http: &HttpRequest, state: &ApiState) -> Result<(), ApiError> {
    state.guard.check_admin(http.headers())
}

/// The client that a request belongs to.
pub(super) fn client_of(http: &HttpRequest, state: &ApiState) -> Client {
    let guard = &state.guard;
    let key = sent_key(http.headers()).and_then(|sent| guard.keys.position(sent));
    guard.client(key, http.headers(), peer_of(http))
}

fn peer_of(http: &HttpRequest) -> Option<IpAddr> {
    http.peer_addr().map(|peer| peer.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_origin_is_named() {
        for wrong in ["app.example", "https://app.example/", "https://app.example/path", "https://"] {
            assert!(wrong.parse::<Origins>().unwrap_err().contains(wrong));
        }
        let two = "https://a.example, HTTP://localhost:3000".parse();
        assert_eq!(two, Ok(Origins::These(vec!["https://a.example".into(), "http://localhost:3000".into()])));
        assert_eq!("https://a.example,*".parse(), Ok(Origins::All));
    }

    #[test]
    fn a_wrong_name_among_the_open_paths_is_named() {
        assert!("health,docs".parse::<OpenPaths>().unwrap_err().contains("\"docs\""));
        assert_eq!("none".parse(), Ok(OpenPaths::default()));
    }
}
