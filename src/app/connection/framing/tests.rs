//! The bounds found here against those that actix itself finds.

use proptest::prelude::*;

use super::against_actix::{ends_of_actix, ends_of_pieces};

const REQUESTS: &str = "\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /analyze HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:   5\t\r\nTE: trailers\r\n\r\nhello\
    POST /a HTTP/1.0\nContent-Length: 00\n\n\
    PUT /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
    5;name=\"a b\"\r\nhello\r\n0A \r\n0123456789\r\n0\r\nTrailer: \r\nX: y\r\n\r\n\
    PUT /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n000\r\n\r\n\
    GET /last HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc";

#[test]
fn requests_are_bounded_wherever_their_bytes_are_cut() {
    let expected = ends_of_actix(REQUESTS.as_bytes());
    assert_eq!(expected.iter().map(|end| end.1).collect::<Vec<_>>(), [0, 5, 0, 15, 0, 3]);
    assert_eq!(expected[5].0, REQUESTS.len());
    for first in 0..REQUESTS.len() {
        for second in first..REQUESTS.len().min(first + 4) {
            assert_eq!(ends_of_pieces(REQUESTS.as_bytes(), &[first, second]), (expected.clone(), true));
        }
    }
    assert_eq!(ends_of_pieces(REQUESTS.as_bytes(), &(0..REQUESTS.len()).collect::<Vec<_>>()), (expected, true));
}

#[test]
fn a_body_that_only_the_connection_ends_has_no_end() {
    for head in ["CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\r\n"] {
        let bytes = [head, REQUESTS].concat();
        assert_eq!(ends_of_pieces(bytes.as_bytes(), &[9]), (vec![], true), "{head}");
        assert_eq!(ends_of_actix(bytes.as_bytes()), vec![], "{head}");
    }
}

#[test]
fn what_is_not_plain_is_refused() {
    let padded = format!("Content-Length:{}5", " ".repeat(60));
    for header in [
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: ",
        "Content-Length: 18446744073709551615",
        "Content-Length: 99999999999999999999",
        "Content-Length: 5\r\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        &padded,
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\nhello");
        assert_eq!(ends_of_pieces(head.as_bytes(), &[]), (vec![], false), "{header}");
    }
    for chunks in ["\r\n", "x\r\n", "1\n", "1\r\nab", "11111111111111111\r\n", "0\r\n\r\r"] {
        let body = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(ends_of_pieces(body.as_bytes(), &[]), (vec![], false), "{chunks:?}");
    }
}

fn request() -> impl Strategy<Value = String> {
    let headers =
        prop::collection::vec("((X|Content|T|u|c)[a-z-]{0,70}:[ \t]{0,3}[ -~]{0,90}|Upgrade: [a-z, ]{0,30})", 0..6);
    let body = prop_oneof![
        Just(("X: ".to_owned(), String::new())),
        "[ -~\r\n]{0,200}".prop_map(|body| (format!("CONTENT-length: {}", body.len()), body)),
        (prop::collection::vec("[ -~\r\n]{1,40}", 0..5), "([A-Z]: [a-z]{0,9}\r\n){0,2}", "(;[a-z]{1,3})?").prop_map(
            |(chunks, trailers, extension)| {
                let chunks: Vec<_> =
                    chunks.iter().map(|data| format!("{:x}{extension}\r\n{data}\r\n", data.len())).collect();
                ("transfer-encoding: chunked".to_owned(), format!("{}0\r\n{trailers}\r\n", chunks.concat()))
            }
        ),
    ];
    ("(\r?\n){0,2}(GET|POST|PUT) /[a-z?=]{0,20} HTTP/1[.]1", headers, body, "\r?\n").prop_map(
        |(line, headers, body, end)| {
            let head = [vec![line, "Host: a".to_owned()], headers, vec![body.0]].concat().join(&end);
            format!("{head}{end}{end}{}", body.1)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn plain_requests_end_where_actix_ends_them(
        requests in prop::collection::vec(request(), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let bytes = requests.concat();
        let expected = ends_of_actix(bytes.as_bytes());
        let (found, _) = ends_of_pieces(bytes.as_bytes(), &cuts);
        prop_assert_eq!(&found[..found.len().min(expected.len())], &expected[..], "{:?}", bytes);
    }

    /// Where the two do not agree, a client could send what is neither counted nor timed.
    #[test]
    fn changed_requests_end_where_actix_ends_them_or_are_refused(
        requests in prop::collection::vec(request(), 1..3),
        changes in prop::collection::vec((any::<usize>(), "[ -~\r\n\t]"), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let mut bytes = requests.concat().into_bytes();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte.as_bytes()[0];
        }
        let expected = ends_of_actix(&bytes);
        let (found, is_clear) = ends_of_pieces(&bytes, &cuts);
        let common = found.len().min(expected.len());
        prop_assert_eq!(&found[..common], &expected[..common], "{:?}", String::from_utf8_lossy(&bytes));
        prop_assert!(!is_clear || found.len() >= expected.len(), "{:?}", String::from_utf8_lossy(&bytes));
    }
}
