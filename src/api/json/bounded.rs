//! A deserializer around another one. It bounds what a stranger's JSON can make it hold, and it
//! knows where it stands.
//!
//! - The elements of all lists together are counted; reading stops at the first one too many.
//! - Where no string is wanted, only the start of a string goes on: serde quotes it in its error.
//! - When reading fails, the path names the field. So nothing is read twice for a message.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write};

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Bytes of a string that are kept for a message. No field has a longer name.
const QUOTED_BYTES: usize = 64;

/// Where a reading stands.
#[derive(Debug)]
pub(super) struct Reading {
    path: RefCell<String>,
    elements_left: Cell<usize>,
    has_too_many: Cell<bool>,
}

impl Reading {
    /// A reading of lists that hold at most `most_elements` together.
    pub(super) fn new(most_elements: usize) -> Self {
        Self { path: RefCell::default(), elements_left: Cell::new(most_elements), has_too_many: Cell::new(false) }
    }

    /// The place of the value that could not be read; empty for the whole.
    pub(super) fn path(&self) -> String {
        self.path.take()
    }

    /// Whether it stopped because there are too many elements.
    pub(super) fn has_too_many(&self) -> bool {
        self.has_too_many.get()
    }

    /// The deserializer that keeps this reading.
    pub(super) fn bound<T>(&self, inner: T) -> Bounded<'_, T> {
        Bounded { inner, reading: self }
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        let left = self.elements_left.get().checked_sub(1);
        self.has_too_many.set(left.is_none());
        self.elements_left.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or_else(|| E::custom("too many elements"))
    }

    /// Reads what stands at `place`, which stays in the path when that fails.
    fn at<T, E>(&self, place: impl fmt::Display, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let before = self.path.borrow().len();
        // Writing to a string cannot fail.
        let _written = write!(self.path.borrow_mut(), "{place}");
        let value = read()?;
        self.path.borrow_mut().truncate(before);
        Ok(value)
    }
}

/// What is to become of a string.
#[derive(Clone, Copy)]
enum Strings {
    Wanted,
    Quoted,
    Variant,
}

/// A deserializer, or a seed, of a reading.
pub(super) struct Bounded<'a, T> {
    inner: T,
    reading: &'a Reading,
}

impl<'a, T> Bounded<'a, T> {
    fn visitor<V>(&self, visitor: V, strings: Strings) -> BoundedVisitor<'a, V> {
        BoundedVisitor { visitor, strings, reading: self.reading }
    }
}

/// Methods for what is no string.
macro_rules! quote_strings {
    ($($method:ident($($argument:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $(_: $argument,)* visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visitor(visitor, Strings::Quoted);
            self.inner.deserialize_any(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Strings::Wanted);
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Strings::Quoted);
        self.inner.deserialize_option(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Strings::Variant);
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }

    quote_strings! {
        deserialize_bool() deserialize_char() deserialize_unit() deserialize_bytes() deserialize_byte_buf()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_f32() deserialize_f64()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_identifier()
        deserialize_seq() deserialize_map() deserialize_unit_struct(&'static str) deserialize_tuple(usize)
        deserialize_tuple_struct(&'static str, usize) deserialize_struct(&'static str, &'static [&'static str])
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bounded<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.reading.bound(deserializer))
    }
}

struct BoundedVisitor<'a, V> {
    visitor: V,
    strings: Strings,
    reading: &'a Reading,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for BoundedVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.visitor.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.visitor.visit_i64(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.visitor.visit_u64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.visitor.visit_f64(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        match self.strings {
            Strings::Wanted => self.visitor.visit_str(text),
            Strings::Quoted => self.visitor.visit_str(start(text)),
            Strings::Variant => self.visitor.visit_enum(StrDeserializer::new(start(text))),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(self.reading.bound(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Elements { list, index: 0, reading: self.reading })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields { map, name: String::new(), reading: self.reading })
    }
}

struct Elements<'a, A> {
    list: A,
    index: usize,
    reading: &'a Reading,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let (index, reading) = (self.index, self.reading);
        self.index += 1;
        reading.at(format_args!("[{index}]"), || self.list.next_element_seed(Counted(reading.bound(seed))))
    }
}

/// The seed of an element of a list.
struct Counted<'a, S>(Bounded<'a, S>);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Counted<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.reading.count()?;
        self.0.deserialize(deserializer)
    }
}

struct Fields<'a, A> {
    map: A,
    /// Name of the field whose value is read next.
    name: String,
    reading: &'a Reading,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.name.clear();
        match self.map.next_key_seed(Start(&mut self.name))? {
            Some(()) => seed.deserialize(StrDeserializer::new(&self.name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let reading = self.reading;
        let dot = if reading.path.borrow().is_empty() { "" } else { "." };
        reading.at(format_args!("{dot}{}", self.name), || self.map.next_value_seed(reading.bound(seed)))
    }
}

/// Takes over the start of a string.
struct Start<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Start<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Start<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push_str(start(text));
        Ok(())
    }
}

fn start(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTED_BYTES)]
}
