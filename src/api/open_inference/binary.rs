//! The binary extension: raw tensors behind the JSON part of a body.
//!
//! An FP32 element is four bytes, little-endian; a BYTES element is a little-endian u32 with its
//! length, then its bytes.

use super::json::Elements;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::json::Text;
use crate::api::request;

/// Says where the JSON part of a body ends, in requests and in replies.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// The JSON part of a body and the raw part behind it.
pub(super) fn split<'a>(body: &'a [u8], header: Option<&str>) -> Result<(&'a [u8], &'a [u8]), ApiError> {
    let Some(header) = header else {
        return Ok((body, &[]));
    };
    let length: usize = header
        .trim()
        .parse()
        .map_err(|_| bad(format!("Inference-Header-Content-Length is {header:?}; it must be a number of bytes")))?;
    body.split_at_checked(length).ok_or_else(|| {
        bad(format!(
            "Inference-Header-Content-Length is {length}, but the body has only {} bytes; it must be the length of the JSON part",
            body.len()
        ))
    })
}

/// Takes the next `size` bytes off the raw part.
pub(super) fn take<'a>(raw: &mut &'a [u8], size: usize, input: &str) -> Result<&'a [u8], ApiError> {
    let (tensor, rest) = raw.split_at_checked(size).ok_or_else(|| {
        bad(format!(
            "binary_data_size of the input {input:?} is {size}, but only {} bytes are left behind the JSON part",
            raw.len()
        ))
    })?;
    *raw = rest;
    Ok(tensor)
}

/// The texts of a BYTES tensor, at most `most`.
pub(super) fn texts(mut tensor: &[u8], input: &str, most: usize) -> Result<Vec<Text>, ApiError> {
    let mut texts = Vec::new();
    while !tensor.is_empty() {
        request::count(texts.len() + 1, most)?;
        let cut_short = || {
            let what = "each element must be its length as four bytes, little-endian, and as many bytes";
            bad(format!("element {} of the input {input:?} is cut short: {what}", texts.len()))
        };
        let (length, rest) = tensor.split_first_chunk::<4>().ok_or_else(cut_short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (text, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        let text = std::str::from_utf8(text)
            .map_err(|error| bad(format!("element {} of the input {input:?} is not UTF-8: {error}", texts.len())))?;
        texts.push(Text(text.into()));
        tensor = rest;
    }
    Ok(texts)
}

/// Appends the elements of an output; returns how many bytes they take.
pub(super) fn append(elements: &Elements, raw: &mut Vec<u8>) -> usize {
    let start = raw.len();
    match elements {
        Elements::Fp32(numbers) => raw.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Elements::Bytes(texts) => {
            for text in texts {
                // Labels of a model's own configuration: far under four gigabytes.
                raw.extend((text.len() as u32).to_le_bytes());
                raw.extend(text.as_bytes());
            }
        }
    }
    raw.len() - start
}

fn bad(what: String) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(written: Vec<String>) {
            let mut raw = Vec::new();
            let size = append(&Elements::Bytes(written.clone()), &mut raw);
            prop_assert_eq!(size, raw.len());
            let read = texts(&raw, "text", usize::MAX).unwrap();
            prop_assert_eq!(read.iter().map(|Text(text)| text.to_string()).collect::<Vec<_>>(), written);
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_refused_in_words(tensor: Vec<u8>) {
            if let Err(error) = texts(&tensor, "text", usize::MAX) {
                prop_assert!(error.message.contains("element"), "{}", error.message);
            }
        }
    }

    #[test]
    fn a_length_past_the_end_is_refused() {
        for tensor in [&b"\x01"[..], b"\x05\0\0\0abc", b"\xff\xff\xff\xffabc", b"\x01\0\0\0a\x01\0"] {
            let error = texts(tensor, "text", usize::MAX).unwrap_err();
            assert!(error.message.contains("is cut short"), "{}", error.message);
        }
        let error = texts(b"\x01\0\0\0\xff", "text", usize::MAX).unwrap_err();
        assert!(error.message.contains("element 0") && error.message.contains("not UTF-8"), "{}", error.message);
    }

    #[test]
    fn numbers_are_little_endian() {
        let mut raw = vec![9];
        assert_eq!(append(&Elements::Fp32(vec![1.0, -2.0]), &mut raw), 8);
        assert_eq!(raw, [9, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    }
}
