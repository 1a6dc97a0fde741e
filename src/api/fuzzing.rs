//! What clients send, from the bytes of a body to what a contract reads.

use serde::de::IgnoredAny;

use super::body::Received;
use super::error::{ApiError, ErrorKind};
use super::ndjson::line::LineContent;
use super::{hugging_face, kserve_v1, native, open_inference, python_compat, root, tei};

const MAX_TEXTS: usize = 16;

/// Messages are short and for clients: whatever was sent, it is no defect of the server.
fn check<T>(read: Result<T, ApiError>) {
    if let Err(error) = read {
        assert!(error.kind != ErrorKind::Internal && error.message.len() < 700, "{error:?}");
    }
}

pub(crate) fn analyze(bytes: &[u8]) {
    check(native::read(Received::bare(bytes, MAX_TEXTS)));
}

pub(crate) fn analyze_lines(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(LineContent { text, input }) = LineContent::read(line) {
            assert!(!text.is_empty());
            // It goes into the reply as it is.
            let input = format!("{{{input}}}");
            assert!(serde_json::from_str::<IgnoredAny>(&input).is_ok(), "{input}");
        }
    }
}

pub(crate) fn hugging_face(bytes: &[u8]) {
    check(hugging_face::read(Received::bare(bytes, MAX_TEXTS)));
}

pub(crate) fn kserve_v1(bytes: &[u8]) {
    check(kserve_v1::read(Received::bare(bytes, MAX_TEXTS)));
}

pub(crate) fn open_inference(bytes: &[u8]) {
    check(open_inference::infer::read(Received::bare(bytes, MAX_TEXTS), None));
}

/// The first two bytes are the length of the JSON part, little-endian.
pub(crate) fn open_inference_binary(bytes: &[u8]) {
    if let Some((length, body)) = bytes.split_first_chunk::<2>() {
        let length = u16::from_le_bytes(*length).to_string();
        check(open_inference::infer::read(Received::bare(body, MAX_TEXTS), Some(&length)));
    }
}

pub(crate) fn open_inference_repository(bytes: &[u8]) {
    check(open_inference::repository::read(Received::bare(bytes, MAX_TEXTS)));
}

pub(crate) fn python_compat(bytes: &[u8]) {
    check(python_compat::read(Received::bare(bytes, MAX_TEXTS)));
}

pub(crate) fn root(bytes: &[u8]) {
    check(root::read(Received::bare(bytes, MAX_TEXTS)));
}

pub(crate) fn tei(bytes: &[u8]) {
    check(tei::read(Received::bare(bytes, MAX_TEXTS)));
}
