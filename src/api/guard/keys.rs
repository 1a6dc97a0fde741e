//! Keys that open the server.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};

/// Keys, kept as hashes: comparing those tells nothing about a key by the time it takes.
#[derive(Clone, Default)]
pub struct Keys {
    hashes: Vec<[u8; 32]>,
}

impl Keys {
    /// Keys separated by commas or line ends.
    #[must_use]
    pub fn from_list(list: &str) -> Self {
        let keys = list.split([',', '\n']).map(str::trim).filter(|key| !key.is_empty());
        Self { hashes: keys.map(|key| Sha256::digest(key).into()).collect() }
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

/// The key that a request carries: a Bearer token, else `X-API-Key`.
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

    #[test]
    fn keys_are_listed_by_commas_or_lines_and_compared_whole() {
        let keys = Keys::from_list(" one, two\n\nthree ,\n");
        assert_eq!(["one", "two", "three"].map(|key| keys.position(key)), [Some(0), Some(1), Some(2)]);
        assert_eq!(["", "on", "one,", "ONE"].map(|key| keys.position(key)), [None; 4]);
        assert!(Keys::from_list(" ,\n").is_empty());
    }
}
