//! JSON bodies: read once, within bounds, with a message that names the field that is wrong.
//!
//! Nothing of a body is kept but what a contract asks for: no free tree, no second copy of a text.

mod bounded;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use bounded::Reading;

use super::error::{ApiError, ErrorKind};

/// Some editors and shells put this before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Longest [`Name`].
const MOST_NAME_BYTES: usize = 1024;

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

/// A text of a request, unescaped once into the form that it keeps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text(pub Arc<str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(StringVisitor { most_bytes: usize::MAX }).map(Self)
    }
}

/// The name of a model, a tensor or a request: it comes back in replies and messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name(pub Arc<str>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(StringVisitor { most_bytes: MOST_NAME_BYTES }).map(Self)
    }
}

struct StringVisitor {
    most_bytes: usize,
}

impl Visitor<'_> for StringVisitor {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Arc<str>, E> {
        if text.len() > self.most_bytes {
            let what = format!("the string has {} bytes, but it may have at most {}", text.len(), self.most_bytes);
            return Err(E::custom(what));
        }
        Ok(text.into())
    }
}

/// Elements that all lists of a request of `max_texts` texts may have together: a pair is a list of
/// two, a tensor may hold each text in a list of its own, and there are a few names.
fn most_elements(max_texts: usize) -> usize {
    max_texts.saturating_mul(4).saturating_add(64)
}

/// Reads `body` as a JSON object.
///
/// # Errors
/// 400 for what is empty or not JSON, 413 for far more than `max_texts` texts, 422 for JSON that is
/// another thing than a `T`; the message names the field and says what would be right.
pub(super) fn read<'de, T: Deserialize<'de>>(body: &'de [u8], max_texts: usize) -> Result<T, ApiError> {
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
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let reading = Reading::new(most_elements(max_texts));
    let read = T::deserialize(reading.bound(&mut deserializer));
    read.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        if reading.has_too_many() {
            too_many(max_texts)
        } else if error.is_data() {
            data_error(&reading.path(), &error)
        } else {
            syntax_error(&error)
        }
    })
}

/// The answer to a request that was not even read to its end, as it holds far too many texts.
fn too_many(max_texts: usize) -> ApiError {
    let what = format!("there are more texts than the {max_texts} that one request may hold; send them in parts");
    ApiError::new(ErrorKind::TooLarge, what)
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

fn data_error(path: &str, error: &serde_json::Error) -> ApiError {
    let what = in_words(&error.to_string());
    let what = match what.split_once(", expected ") {
        // A sentence of its own says more than what was found.
        Some((_, sentence)) if sentence.contains(" must be ") => sentence.to_owned(),
        _ if path.is_empty() || what.starts_with("unknown field") => what,
        _ => format!("{path}: {what}"),
    };
    ApiError::new(ErrorKind::Unprocessable, what)
}

fn in_words(message: &str) -> String {
    WORDS.iter().fold(message.to_owned(), |message, (of_serde, of_json)| message.replace(of_serde, of_json))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::Value;

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
        #[serde(default)]
        way: crate::model::LongText,
    }

    fn error(body: &str) -> (u16, String) {
        let error = read::<Request>(body.as_bytes(), 10).unwrap_err();
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
            (r#"{"text": "a"}"#, "unknown field `text`", "expected one of `texts`, `share`, `most`, `way`"),
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
    fn more_elements_than_the_texts_need_are_not_read() {
        let most = most_elements(10);
        let list = |texts: usize| format!(r#"{{"texts": [{}"#, vec!["\"a\""; texts].join(","));
        assert_eq!(read::<Request>(format!("{}]}}", list(most)).as_bytes(), 10).unwrap().texts.len(), most);
        // What follows is not even JSON.
        assert_eq!(error(&format!("{} no JSON", list(most + 1))), (413, too_many(10).message));
    }

    #[test]
    fn a_long_string_is_not_quoted_in_full() {
        let long = "\u{7f}".repeat(100_000);
        for body in [
            format!(r#"{{"texts": "{long}"}}"#),
            format!(r#"{{"texts": [], "share": "{long}"}}"#),
            format!(r#"{{"texts": [], "way": "{long}"}}"#),
            format!(r#"{{"{long}": 1}}"#),
        ] {
            let reading = Reading::new(10);
            let mut json = serde_json::Deserializer::from_str(&body);
            let message = Request::deserialize(reading.bound(&mut json)).unwrap_err().to_string();
            assert!(message.len() < 800, "{message}");
        }
    }

    #[test]
    fn of_a_deep_body_the_first_value_of_another_shape_is_named() {
        let deep = format!(r#"{{"texts": [{}0{}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(
            error(&deep),
            (422, "texts[0]: invalid type: array, expected a string at line 1 column 12".to_owned())
        );
    }

    /// JSON that is nearly a request.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            ".{0,5}".prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            Just(Value::Null),
            Just(Value::from("windows")),
        ];
        let value = leaf.prop_recursive(3, 30, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("[a-z]{0,3}", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        });
        let texts = prop::collection::vec(".{0,5}", 0..90).prop_map(Value::from);
        prop::collection::vec((prop_oneof!["texts", "share", "most", "way", "[a-z]{0,3}"], value), 0..4).prop_flat_map(
            move |fields| {
                texts.clone().prop_map(move |texts| {
                    let mut fields: serde_json::Map<_, _> = fields.iter().cloned().collect();
                    fields.entry("texts").or_insert(texts);
                    Value::Object(fields)
                })
            },
        )
    }

    proptest! {
        #[test]
        fn json_is_read_as_serde_reads_it_or_refused_in_words(value in values(), max_texts in 0_usize..10) {
            let body = value.to_string();
            let free = serde_json::from_str::<Request>(&body);
            match read::<Request>(body.as_bytes(), max_texts) {
                Ok(request) => {
                    prop_assert!(request.texts.len() <= most_elements(max_texts));
                    prop_assert_eq!(Some(format!("{request:?}")), free.ok().map(|free| format!("{free:?}")));
                }
                Err(error) if error.kind == ErrorKind::TooLarge => {
                    prop_assert!(body.matches([',', '[']).count() > most_elements(max_texts), "{}", body);
                }
                Err(error) => {
                    prop_assert!(free.is_err(), "{}: {}", body, error.message);
                    prop_assert!(!error.message.is_empty());
                }
            }
        }
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
        assert!(read::<Request>("\u{feff} {\"texts\": []}".as_bytes(), 10).is_ok());
    }
}
