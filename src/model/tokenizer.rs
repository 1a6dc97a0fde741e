//! From text to the ids that a model reads, in bounded work and memory.
//!
//! A tokenizer keeps about a hundred bytes of bookkeeping for each byte of text, so a text is cut
//! to what the model can read before it is tokenized, not after.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::{
    PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

/// Bytes of text taken for each token that the model can read, in the first try. English needs
/// four to five.
const BYTES_PER_TOKEN: usize = 12;

/// Bytes taken for each token in the second and last try, when the first one gave too few tokens.
/// Text that needs even more is white space, invisible characters or endless words; the rest of it
/// counts as cut off.
const MOST_BYTES_PER_TOKEN: usize = 64;

/// Most windows that one long text is read in.
pub const MAX_WINDOWS: usize = 32;

/// Tokens that neighbouring windows share, as a part of a window.
const WINDOW_OVERLAP: usize = 4;

/// What to do with a text that the model cannot read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LongText {
    /// Read as much as fits.
    #[default]
    Truncate,
    /// Read it in overlapping windows.
    Windows,
    /// Do not read it.
    Refuse,
}

/// Which end of a long text is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub enum TruncationSide {
    /// Cut the end.
    #[default]
    #[serde(alias = "right")]
    Right,
    /// Cut the start.
    #[serde(alias = "left")]
    Left,
}

/// One text, or one window of it, as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// Token ids, special tokens included.
    pub input_ids: Box<[u32]>,
    /// Which sequence of a pair each token is of; empty where all are of the first.
    pub type_ids: Box<[u32]>,
}

impl Encoding {
    /// Number of tokens, special tokens included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }
}

/// A text's encodings: one, or several windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText {
    /// At least one.
    pub windows: Vec<Encoding>,
    /// Whether some of the text was left out.
    pub truncated: bool,
}

/// Why a text was not tokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The tokenizer's file cannot be used.
    #[error("{path} is not a tokenizer that can be used")]
    Load {
        /// The file.
        path: PathBuf,
        /// What the tokenizer said.
        #[source]
        source: tokenizers::Error,
    },
    /// The text is longer than asked for.
    #[error(
        "the text has more tokens than the {max_length} that the model reads; shorten it, or send \"long_text\": \"truncate\" or \"windows\""
    )]
    TooLong {
        /// Tokens that the model reads.
        max_length: usize,
    },
    /// The text is longer than all windows together.
    #[error("the text is too long even for {MAX_WINDOWS} windows of {max_length} tokens; send it in parts")]
    TooManyWindows {
        /// Tokens that the model reads.
        max_length: usize,
    },
    /// The tokenizer failed on this text.
    #[error("the tokenizer cannot read this text")]
    Encode(#[source] tokenizers::Error),
}

/// A model's tokenizer with its limit.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    max_length: usize,
}

impl TextTokenizer {
    /// Loads `tokenizer.json`. Truncation and padding that the file asks for are ignored: they are
    /// decided by request and by batch here.
    ///
    /// # Errors
    /// [`TokenizerError::Load`] for a file that is no tokenizer.
    pub fn load(path: &Path, max_length: usize) -> Result<Self, TokenizerError> {
        let failed = |source| TokenizerError::Load { path: path.to_path_buf(), source };
        let mut tokenizer = Tokenizer::from_file(path).map_err(failed)?;
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer, max_length })
    }

    /// Encodes one text.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] and [`TokenizerError::TooManyWindows`] where `long_text` asks for it.
    pub fn encode(&self, text: &str, long_text: LongText, side: TruncationSide) -> Result<EncodedText, TokenizerError> {
        let room = self.max_length - self.special_tokens(false);
        match long_text {
            LongText::Truncate | LongText::Refuse => {
                let (mut encoding, cut) = self.encode_bounded(text, room, side)?;
                let truncated = cut || encoding.len() > room;
                if truncated && long_text == LongText::Refuse {
                    return Err(TokenizerError::TooLong { max_length: self.max_length });
                }
                encoding.truncate(room, 0, direction(side));
                encoding.take_overflowing();
                Ok(EncodedText { windows: vec![self.finish(encoding, None)?], truncated })
            }
            LongText::Windows => {
                let overlap = room / WINDOW_OVERLAP;
                let all_windows = room + (MAX_WINDOWS - 1) * (room - overlap);
                let (mut encoding, cut) = self.encode_bounded(text, all_windows, TruncationSide::Right)?;
                if cut || encoding.len() > all_windows {
                    return Err(TokenizerError::TooManyWindows { max_length: self.max_length });
                }
                encoding.truncate(room, overlap, TruncationDirection::Right);
                let further = encoding.take_overflowing();
                let windows = std::iter::once(encoding).chain(further).map(|window| self.finish(window, None));
                Ok(EncodedText { windows: windows.collect::<Result<_, _>>()?, truncated: false })
            }
        }
    }

    /// Encodes two texts with the tokenizer's template for pairs; where both are too long, the
    /// longer one is cut first.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] with [`LongText::Refuse`]; windows of pairs are not a thing, so
    /// [`LongText::Windows`] refuses too.
    pub fn encode_pair(
        &self,
        first: &str,
        second: &str,
        long_text: LongText,
        side: TruncationSide,
    ) -> Result<EncodedText, TokenizerError> {
        let room = self.max_length - self.special_tokens(true);
        let (first, first_cut) = self.encode_bounded(first, room, side)?;
        let (second, second_cut) = self.encode_bounded(second, room, side)?;
        let truncated = first_cut || second_cut || first.len() + second.len() > room;
        if truncated && long_text != LongText::Truncate {
            return Err(TokenizerError::TooLong { max_length: self.max_length });
        }
        let params = TruncationParams {
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: direction(side),
        };
        let (mut first, second) = truncate_encodings(first, Some(second), &params).map_err(TokenizerError::Encode)?;
        first.take_overflowing();
        let second = second.map(|mut second| {
            second.take_overflowing();
            second
        });
        Ok(EncodedText { windows: vec![self.finish(first, second)?], truncated })
    }

    /// Encodes no more of the text than is needed for more than `tokens` tokens, and tells whether
    /// something was left out.
    fn encode_bounded(
        &self,
        text: &str,
        tokens: usize,
        side: TruncationSide,
    ) -> Result<(tokenizers::Encoding, bool), TokenizerError> {
        let encode_at_most = |bytes_per_token: usize| {
            let part = match side {
                TruncationSide::Right => prefix(text, tokens.saturating_mul(bytes_per_token)),
                TruncationSide::Left => suffix(text, tokens.saturating_mul(bytes_per_token)),
            };
            let encoding = self.tokenizer.encode_fast(part, false).map_err(TokenizerError::Encode)?;
            Ok((encoding, part.len() < text.len()))
        };
        let (encoding, cut) = encode_at_most(BYTES_PER_TOKEN)?;
        // A cut inside a word may change the last token, so one more than needed must be there.
        if !cut || encoding.len() > tokens {
            return Ok((encoding, cut));
        }
        encode_at_most(MOST_BYTES_PER_TOKEN)
    }

    fn finish(
        &self,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
    ) -> Result<Encoding, TokenizerError> {
        let encoding = self.tokenizer.post_process(first, second, true).map_err(TokenizerError::Encode)?;
        let type_ids = encoding.get_type_ids();
        Ok(Encoding {
            input_ids: encoding.get_ids().into(),
            type_ids: if type_ids.iter().all(|id| *id == 0) { Box::default() } else { type_ids.into() },
        })
    }

    fn special_tokens(&self, is_pair: bool) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(is_pair))
    }
}

fn direction(side: TruncationSide) -> TruncationDirection {
    match side {
        TruncationSide::Right => TruncationDirection::Right,
        TruncationSide::Left => TruncationDirection::Left,
    }
}

/// At most `bytes` from the start, up to the last word that fits whole. A word longer than a
/// quarter of that is cut.
fn prefix(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let cut = &text[..text.floor_char_boundary(bytes)];
    match cut.rfind(char::is_whitespace) {
        Some(end) if end >= bytes - bytes / 4 => &cut[..end],
        _ => cut,
    }
}

/// The same from the end.
fn suffix(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let cut = &text[text.ceil_char_boundary(text.len() - bytes)..];
    match cut.find(char::is_whitespace) {
        Some(start) if start <= bytes / 4 => &cut[start..],
        _ => cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole-word tokenizer with `[CLS]` and `[SEP]`, so that tokens are easy to count.
    fn word_tokenizer(max_length: usize) -> TextTokenizer {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
            "model": {"type": "WordLevel", "unk_token": "[UNK]",
                      "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "one": 3, "two": 4, "three": 5, "four": 6}}
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json.to_string()).unwrap();
        TextTokenizer::load(file.path(), max_length).unwrap()
    }

    fn ids(encoded: &EncodedText) -> Vec<Vec<u32>> {
        encoded.windows.iter().map(|window| window.input_ids.to_vec()).collect()
    }

    #[test]
    fn a_text_that_fits_is_read_whole() {
        let encoded = word_tokenizer(8).encode("one two three", LongText::Refuse, TruncationSide::Right).unwrap();
        assert_eq!(ids(&encoded), [[1, 3, 4, 5, 2]]);
        assert!(!encoded.truncated);
    }

    #[test]
    fn a_long_text_is_cut_on_the_asked_side() {
        let tokenizer = word_tokenizer(4);
        let right = tokenizer.encode("one two three four", LongText::Truncate, TruncationSide::Right).unwrap();
        assert_eq!(ids(&right), [[1, 3, 4, 2]]);
        assert!(right.truncated);
        let left = tokenizer.encode("one two three four", LongText::Truncate, TruncationSide::Left).unwrap();
        assert_eq!(ids(&left), [[1, 5, 6, 2]]);
    }

    #[test]
    fn a_long_text_is_refused_when_asked() {
        let error = word_tokenizer(4).encode("one two three", LongText::Refuse, TruncationSide::Right).unwrap_err();
        assert!(matches!(error, TokenizerError::TooLong { max_length: 4 }), "{error}");
    }

    #[test]
    fn windows_overlap_by_a_quarter_and_hold_every_token() {
        let encoded = word_tokenizer(6)
            .encode("one two three four one two three", LongText::Windows, TruncationSide::Right)
            .unwrap();
        assert_eq!(ids(&encoded), [[1, 3, 4, 5, 6, 2].to_vec(), [1, 6, 3, 4, 5, 2].to_vec()]);
    }

    #[test]
    fn a_text_beyond_all_windows_is_refused() {
        let text = "one ".repeat(6 * MAX_WINDOWS);
        let error = word_tokenizer(6).encode(&text, LongText::Windows, TruncationSide::Right).unwrap_err();
        assert!(matches!(error, TokenizerError::TooManyWindows { .. }), "{error}");
    }

    #[test]
    fn a_huge_text_gives_the_tokens_of_its_ends() {
        let tokenizer = word_tokenizer(5);
        let text = format!("one two three {}four one two", "three ".repeat(200_000));
        let right = tokenizer.encode(&text, LongText::Truncate, TruncationSide::Right).unwrap();
        assert_eq!(ids(&right), [[1, 3, 4, 5, 2]]);
        let left = tokenizer.encode(&text, LongText::Truncate, TruncationSide::Left).unwrap();
        assert_eq!(ids(&left), [[1, 6, 3, 4, 2]]);
    }

    #[test]
    fn some_white_space_between_words_does_not_hide_later_words_but_endless_white_space_is_cut_off() {
        let tokenizer = word_tokenizer(5);
        let encode = |spaces| {
            let text = format!("one{}two", " ".repeat(spaces));
            tokenizer.encode(&text, LongText::Truncate, TruncationSide::Right).unwrap()
        };
        assert_eq!((ids(&encode(150)), encode(150).truncated), (vec![vec![1, 3, 4, 2]], false));
        assert_eq!((ids(&encode(100_000)), encode(100_000).truncated), (vec![vec![1, 3, 2]], true));
    }

    #[test]
    fn of_a_pair_the_longer_text_is_cut_first() {
        let encoded = word_tokenizer(7)
            .encode_pair("one", "two three four one", LongText::Truncate, TruncationSide::Right)
            .unwrap();
        assert_eq!(ids(&encoded), [[1, 3, 2, 4, 5, 6, 2]]);
        assert_eq!(*encoded.windows[0].type_ids, [0, 0, 0, 1, 1, 1, 1]);
        assert!(encoded.truncated);
    }
}
