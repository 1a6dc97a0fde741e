//! Files of the pages for people. They are part of the program, and pages ask nothing of any other
//! place, so that they work with no network.

use std::sync::OnceLock;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, EntityTag, HeaderValue, IfNoneMatch};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder};
use sha2::{Digest, Sha256};

/// Pages load only what stands in files of this server, and may not be framed.
pub(super) const PAGE_HEADERS: [(&str, &str); 3] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
];

/// Kept by browsers but asked for each time, with 304 for an answer until the server is another.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Hexadecimal digits of a file's hash in its entity tag.
const TAG_DIGITS: usize = 16;

/// A file inside the program.
pub(super) struct PageFile {
    /// The last part of its path.
    pub name: &'static str,
    content: &'static str,
    tag: OnceLock<EntityTag>,
}

impl PageFile {
    /// A file of one of the kinds that pages are made of.
    pub const fn new(name: &'static str, content: &'static str) -> Self {
        Self { name, content, tag: OnceLock::new() }
    }

    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        })
    }

    fn tag(&self) -> &EntityTag {
        self.tag.get_or_init(|| {
            let digest = Sha256::digest(self.content);
            let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            EntityTag::new_strong(digits[..TAG_DIGITS].to_owned())
        })
    }

    /// The file, or 304 where the browser has it.
    pub fn reply(&self, http: &HttpRequest) -> HttpResponse {
        let is_known = http.get_header::<IfNoneMatch>().is_some_and(|known| match known {
            IfNoneMatch::Any => true,
            IfNoneMatch::Items(tags) => tags.iter().any(|tag| tag.weak_eq(self.tag())),
        });
        let marked = |mut reply: HttpResponseBuilder| {
            reply.insert_header((CACHE_CONTROL, REVALIDATE)).insert_header((ETAG, self.tag().to_string()));
            reply
        };
        if is_known {
            marked(HttpResponse::NotModified()).finish()
        } else {
            marked(HttpResponse::Ok()).insert_header((CONTENT_TYPE, self.content_type())).body(self.content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_type_of_its_name_and_a_tag_of_its_content() {
        let of = |name| PageFile::new(name, "").content_type();
        assert_eq!(of("a.css"), "text/css; charset=utf-8");
        assert_eq!(of("a.js"), "text/javascript; charset=utf-8");
        assert_eq!(of("a.svg"), "image/svg+xml");
        assert_eq!(of("index.html"), "text/html; charset=utf-8");
        let [one, same, other] = ["x", "x", "y"].map(|content| PageFile::new("a.js", content).tag().clone());
        assert!(one.strong_eq(&same) && !one.strong_eq(&other), "{one} {same} {other}");
    }
}
