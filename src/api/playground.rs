//! The page for people who want to see what the server does: at `/`, for browsers.

use std::future::{Ready, ready};

use actix_web::http::header::{Accept, Quality};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};

use super::error::{self, ApiError};
use super::methods;
use super::pages::PageFile;

static PAGE: PageFile = PageFile::new("index.html", include_str!("playground/index.html"));

/// `base.css`, `theme.js` and `icon.svg` are those of `/docs` too.
static FILES: [PageFile; 12] = [
    PageFile::new("base.css", include_str!("playground/base.css")),
    PageFile::new("playground.css", include_str!("playground/playground.css")),
    PageFile::new("reading.css", include_str!("playground/reading.css")),
    PageFile::new("icon.svg", include_str!("playground/icon.svg")),
    PageFile::new("theme.js", include_str!("playground/theme.js")),
    PageFile::new("main.js", include_str!("playground/main.js")),
    PageFile::new("api.js", include_str!("playground/api.js")),
    PageFile::new("words.js", include_str!("playground/words.js")),
    PageFile::new("dom.js", include_str!("playground/dom.js")),
    PageFile::new("reading.js", include_str!("playground/reading.js")),
    PageFile::new("request.js", include_str!("playground/request.js")),
    PageFile::new("server.js", include_str!("playground/server.js")),
];

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::get("/playground/{file}", file));
}

fn file(http: HttpRequest) -> Ready<Result<HttpResponse, ApiError>> {
    let name = http.match_info().get("file").unwrap_or_default();
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => ready(Ok(file.reply(&http))),
        None => error::not_found(http),
    }
}

/// The page.
pub(super) fn page(http: &HttpRequest) -> HttpResponse {
    PAGE.reply(http)
}

/// Whether a page is what the client wants. Only those that name it do: what takes anything is a
/// program.
pub(super) fn is_wanted(http: &HttpRequest) -> bool {
    let Some(accept) = http.get_header::<Accept>() else { return false };
    let quality = |kind: &str| {
        let of_kind = accept.iter().filter(|wanted| wanted.item.essence_str() == kind);
        of_kind.map(|wanted| wanted.quality).max().unwrap_or(Quality::ZERO)
    };
    let page = quality("text/html");
    page > Quality::ZERO && page >= quality("application/json")
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn who_names_a_page_gets_one_and_others_do_not() {
        for (accept, expected) in [
            ("text/html", true),
            ("Text/HTML;charset=utf-8", true),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", true),
            ("application/json;q=0.5, text/html", true),
            ("text/html, application/json", true),
            ("", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("text/html;q=0, */*", false),
            ("text/html;q=0.5, application/json", false),
            ("not a type", false),
        ] {
            let request = TestRequest::get().insert_header(("accept", accept)).to_http_request();
            assert_eq!(is_wanted(&request), expected, "{accept:?}");
        }
        assert!(!is_wanted(&TestRequest::get().to_http_request()));
    }
}
