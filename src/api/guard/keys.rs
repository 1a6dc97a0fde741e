//! Keys that open the server.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};

/// Most bytes of a file of keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What some editors write before the first line.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Keys, kept as hashes: comparing those tells nothing about a key by the time it takes.
#[derive(Clone, Default)]
pub struct Keys {
    hashes: Vec<[u8; 32]>,
}

impl Keys {
    /// Keys of a variable or flag, separated by commas or line ends. Quotes around all of them or
    /// around one are not part of a key: some readers of environment files leave them there.
    ///
    /// # Errors
    /// Says what is wrong with the list, and never quotes it.
    pub fn from_list(list: &str) -> Result<Self, String> {
        let keys = unquoted(list.trim()).split([',', '\n']).map(|key| unquoted(key.trim()));
        Self::of(keys, "write at least one key, such as one,two, or leave it unset")
    }

    /// Keys of a file, separated by commas or line ends; lines that begin with `#` are comments.
    ///
    /// # Errors
    /// Says why the file cannot be read, or what is wrong with a key.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|error| format!("{} cannot be read: {error}; it must be a file of keys", path.display()))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("{} is over {MAX_FILE_BYTES} bytes; write one key a line", path.display()));
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| format!("{} is not UTF-8; save it as text in UTF-8, one key a line", path.display()))?;
        let lines = text.trim_start_matches(BYTE_ORDER_MARK).lines().map(str::trim);
        let keys = lines.filter(|line| !line.starts_with('#')).flat_map(|line| line.split(',').map(str::trim));
        Self::of(keys, "write one key a line").map_err(|what| format!("{}: {what}", path.display()))
    }

    fn of<'a>(keys: impl Iterator<Item = &'a str>, what_is_right: &str) -> Result<Self, String> {
        let mut hashes = Vec::new();
        for key in keys.filter(|key| !key.is_empty()) {
            let number = hashes.len() + 1;
            // Nobody could ever send it.
            if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                return Err(format!(
                    "key {number} has a character that no header can carry; use letters, digits and signs of ASCII"
                ));
            }
            if key.contains(" #") {
                return Err(format!(
                    "key {number} has a blank before a #, as if a comment followed; write comments on lines of their own"
                ));
            }
            hashes.push(Sha256::digest(key).into());
        }
        if hashes.is_empty() {
            return Err(format!("it is set but holds no key; {what_is_right}"));
        }
        Ok(Self { hashes })
    }

    /// Adds more keys.
    pub fn extend(&mut self, more: Self) {
        self.hashes.extend(more.hashes);
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Position of the key that was sent. Always looks at all keys, so that the time taken does not
    /// tell which one it was.
    #[must_use]
    pub fn position(&self, sent: &str) -> Option<usize> {
        let sent: [u8; 32] = Sha256::digest(sent).into();
        let mut found = None;
        for (index, hash) in self.hashes.iter().enumerate() {
            if *hash == sent {
                found = Some(index);
            }
        }
        found
    }
}

/// The text without a pair of quotes around all of it.
fn unquoted(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote).filter(|inside| !inside.contains(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// The key that a request carries: a Bearer token; `X-API-Key` counts only where there is none.
#[must_use]
pub fn sent_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok().map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(list: &str) -> Result<usize, String> {
        Keys::from_list(list).map(|keys| keys.hashes.len())
    }

    #[test]
    fn keys_are_listed_by_commas_or_lines_and_compared_whole() {
        let keys = Keys::from_list(" one, two\n\nthree ,\n").unwrap();
        assert_eq!(["one", "two", "three"].map(|key| keys.position(key)), [Some(0), Some(1), Some(2)]);
        assert_eq!(["", "on", "one,", "ONE"].map(|key| keys.position(key)), [None; 4]);
    }

    #[test]
    fn quotes_around_keys_are_not_part_of_them() {
        for list in ["\"one,two\"", "'one,two'", "\"one\",'two'", " \"one\" , two "] {
            let keys = Keys::from_list(list).unwrap();
            assert_eq!(["one", "two"].map(|key| keys.position(key)), [Some(0), Some(1)], "{list}");
        }
        for (list, key) in [("o\"ne", "o\"ne"), ("\"one", "\"one"), ("\"one'", "\"one'"), ("one#1", "one#1")] {
            assert_eq!(Keys::from_list(list).unwrap().position(key), Some(0), "{list}");
        }
    }

    #[test]
    fn a_list_without_a_key_or_with_one_that_nobody_can_send_is_refused() {
        for list in ["", " ", ",", ", ,", "\n", "\"\"", "''", "\" \"", "\"\",\"\""] {
            assert!(count(list).unwrap_err().contains("holds no key"), "{list:?}");
        }
        for (list, right) in [("one,schl\u{fc}ssel", "key 2"), ("a\tb", "key 1"), ("one  # mine", "comments")] {
            let error = count(list).unwrap_err();
            assert!(error.contains(right) && !error.contains("ssel") && !error.contains("mine"), "{error}");
        }
    }
}
