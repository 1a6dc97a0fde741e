//! Why a connection is ended before actix has a request of it, and what its client is told.

use std::time::Duration;

use serde_json::json;

use super::{MAX_HEAD_BYTES, TURN_BYTES};

/// What was wrong with a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    HeadTooLarge,
    TooManyLargeHeads,
    /// It was not there within this time.
    HeadTimeout(Duration),
}

impl Refusal {
    /// The label of its metric.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyLargeHeads => "too_many_large_heads",
            Self::HeadTimeout(_) => "head_timeout",
        }
    }

    /// The whole reply.
    pub(super) fn reply(self) -> String {
        let (status, error) = match self {
            Self::HeadTooLarge => (
                "431 Request Header Fields Too Large",
                format!("the request's head is over {MAX_HEAD_BYTES} bytes; send fewer or shorter headers"),
            ),
            Self::TooManyLargeHeads => (
                "431 Request Header Fields Too Large",
                format!("too many requests have a head over {TURN_BYTES} bytes; send a smaller one, or try again"),
            ),
            Self::HeadTimeout(time) => {
                ("408 Request Timeout", format!("the request's head did not arrive within {} s", time.as_secs()))
            }
        };
        let body = json!({"error": error, "error_type": self.reason()}).to_string();
        let headers = "content-type: application/json\r\nconnection: close\r\nx-content-type-options: nosniff";
        format!("HTTP/1.1 {status}\r\n{headers}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }
}
