//! JSON bodies: read once, and when that fails read again for a message that names the field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::error::{ApiError, ErrorKind};

/// Some editors and shells put this before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What serde calls its types, in the words of JSON.
const WORDS: [(&str, &str); 9] = [
    ("expected f64", "expected a number"),
    ("expected f32", "expected a number"),
    ("expected usize", "expected a whole number from 0"),
    ("expected u64", "expected a whole number from 0"),
    ("expected u32", "expected a whole number from 0"),
    ("expected a sequence", "expected an array"),
    ("invalid type: sequence", "invalid type: array"),
    ("invalid type: map", "invalid type: object"),
    ("expected struct", "expected an object for"),
];

/// A JSON object inside of a body; serde would take an array for the fields of a struct in their order.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads `body` as a JSON object.
///
/// # Errors
/// 400 for what is empty or not JSON, 422 for JSON that is another thing than a `T`; the message
/// names the field and says what would be right.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body).trim_ascii_start();
    if body.is_empty() {
        return Err(ApiError::new(ErrorKind::Empty, "the body is empty; send a JSON object"));
    }
    // serde would take an array for the fields of a struct in their order.
    if body[0] != b'{' {
        return Err(match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => {
                let what = format!("the body is {}, but it must be a JSON object", kind(body[0]));
                ApiError::new(ErrorKind::Unprocessable, what)
            }
            Err(error) => syntax_error(&error),
        });
    }
    serde_json::from_slice(body)
        .map_err(|error| if error.is_data() { data_error::<T>(body) } else { syntax_error(&error) })
}

fn kind(first: u8) -> &'static str {
    match first {
        b'[' => "a JSON array",
        b'"' => "a JSON string",
        b'n' => "null",
        b't' | b'f' => "a JSON boolean",
        _ => "a JSON number",
    }
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, format!("the body is not JSON in UTF-8: {error}"))
}

/// Reads the body once more, slower, to find out which field it was.
fn data_error<T: DeserializeOwned>(body: &[u8]) -> ApiError {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let what = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => "the body cannot be read as this request".to_owned(),
        Err(error) => {
            let path = error.path().to_string();
            let what = in_words(&error.into_inner().to_string());
            if path == "." || what.starts_with("unknown field") { what } else { format!("{path}: {what}") }
        }
    };
    ApiError::new(ErrorKind::Unprocessable, what)
}

fn in_words(message: &str) -> String {
    WORDS.iter().fold(message.to_owned(), |message, (of_serde, of_json)| message.replace(of_serde, of_json))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read from JSON")]
    struct Request {
        texts: Vec<String>,
        #[serde(default)]
        share: f64,
        #[serde(default)]
        most: usize,
    }

    fn error(body: &str) -> (u16, String) {
        let error = read::<Request>(body.as_bytes()).unwrap_err();
        (error.kind.status().as_u16(), error.message)
    }

    #[test]
    fn the_field_that_is_wrong_is_named_with_what_it_must_be() {
        for (body, field, right) in [
            (r#"{"texts": ["a", 5]}"#, "texts[1]: ", "expected a string"),
            (r#"{"texts": "a"}"#, "texts: ", "expected an array"),
            (r#"{"texts": [], "share": "x"}"#, "share: ", "expected a number"),
            (r#"{"texts": [], "most": -1}"#, "most: ", "expected a whole number from 0"),
            (r#"{"texts": [], "most": 1.5}"#, "most: ", "expected a whole number from 0"),
            (r#"{"text": "a"}"#, "unknown field `text`", "expected one of `texts`, `share`, `most`"),
            (r#"{"texts": [], "texts": []}"#, "", "duplicate field `texts`"),
            (r"{}", "", "missing field `texts`"),
        ] {
            let (status, message) = error(body);
            assert_eq!(status, 422, "{body}: {message}");
            assert!(message.starts_with(field) && message.contains(right), "{body}: {message}");
        }
    }

    #[test]
    fn an_object_inside_is_not_taken_from_an_array() {
        assert_eq!(serde_json::from_str::<Object<Request>>(r#"{"texts": ["a"]}"#).unwrap().0.texts, ["a"]);
        let error = serde_json::from_str::<Object<Request>>(r#"[["a"], 0, 0]"#).unwrap_err();
        assert!(error.to_string().contains("expected an object"), "{error}");
    }

    #[test]
    fn what_is_no_object_is_called_by_its_kind() {
        for (body, kind) in [
            ("[[\"a\"]]", "a JSON array"),
            ("\"a\"", "a JSON string"),
            ("null", "null"),
            ("true", "a JSON boolean"),
            ("-1", "a JSON number"),
        ] {
            assert_eq!(error(body), (422, format!("the body is {kind}, but it must be a JSON object")));
        }
    }

    #[test]
    fn what_is_not_json_is_400() {
        for body in ["", " \n", "texts", "[1", "{'texts': []}", "{\"texts\": []} and more", "\u{feff}"] {
            assert_eq!(error(body).0, 400, "{body:?}: {}", error(body).1);
        }
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert!(read::<Request>("\u{feff} {\"texts\": []}".as_bytes()).is_ok());
    }
}
