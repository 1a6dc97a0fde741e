//! From text to the ids that a model reads, in bounded work and memory.
//!
//! A tokenizer keeps about a hundred bytes of bookkeeping for each byte of text, so a text is
//! tokenized in pieces, and no more of it than the model can read.

mod pieces;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::{
    PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use pieces::{PIECE_BYTES, Pieces, split};

/// Bytes of text that are taken at first for each token that is wanted. English needs four to five.
const BYTES_PER_TOKEN: usize = 12;

/// Bytes that are taken at most for each token. Text that needs even more is invisible characters or
/// endless words; the rest of it counts as cut off.
const MOST_BYTES_PER_TOKEN: usize = 64;

/// Smallest piece.
const LEAST_PIECE_BYTES: usize = 256;

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
    pieces: Pieces,
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
        Ok(Self { pieces: Pieces::of(&tokenizer), tokenizer, max_length })
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

    /// Most bytes that encoding a text of `bytes` takes at a time.
    #[must_use]
    pub fn memory_bytes(&self, bytes: usize, long_text: LongText) -> u64 {
        self.pieces.memory_bytes(
            bytes,
            match long_text {
                LongText::Truncate | LongText::Refuse => self.max_length,
                LongText::Windows => self.max_length * MAX_WINDOWS,
            },
        )
    }

    /// Encodes no more of the text than is needed for more than `tokens` tokens, in pieces, and
    /// tells whether something was left out.
    fn encode_bounded(
        &self,
        text: &str,
        tokens: usize,
        side: TruncationSide,
    ) -> Result<(tokenizers::Encoding, bool), TokenizerError> {
        if self.pieces == Pieces::Whole {
            return self.encode_whole(text, tokens, side);
        }
        let mut all = tokenizers::Encoding::default();
        let mut bytes_left = tokens.saturating_mul(MOST_BYTES_PER_TOKEN);
        let mut rest = self.pieces.trim(text, side);
        // A cut inside a word may change the last token, so one more than needed must be there.
        while !rest.is_empty() && all.len() <= tokens && bytes_left > 0 {
            let wanted = (tokens + 1 - all.len()).saturating_mul(BYTES_PER_TOKEN);
            let (piece, later) = split(rest, wanted.clamp(LEAST_PIECE_BYTES, PIECE_BYTES), side);
            let encoding = self.tokenizer.encode_fast(piece, false).map_err(TokenizerError::Encode)?;
            match side {
                _ if all.is_empty() => all = encoding,
                TruncationSide::Right => all.merge_with(encoding, false),
                TruncationSide::Left => {
                    let after = std::mem::replace(&mut all, encoding);
                    all.merge_with(after, false);
                }
            }
            bytes_left = bytes_left.saturating_sub(self.pieces.weight(piece));
            let passed_by = self.pieces.rest_of_word(piece, later, side).min(bytes_left);
            bytes_left -= passed_by;
            let later = match side {
                TruncationSide::Right => &later[passed_by..],
                TruncationSide::Left => &later[..later.len() - passed_by],
            };
            rest = self.pieces.trim(later, side);
        }
        Ok((all, !rest.is_empty()))
    }

    /// The same in one piece, or in a second, longer one where the first gave too few tokens.
    fn encode_whole(
        &self,
        text: &str,
        tokens: usize,
        side: TruncationSide,
    ) -> Result<(tokenizers::Encoding, bool), TokenizerError> {
        let encode_at_most = |bytes_per_token: usize| {
            let (piece, rest) = split(text, tokens.saturating_mul(bytes_per_token), side);
            let encoding = self.tokenizer.encode_fast(piece, false).map_err(TokenizerError::Encode)?;
            Ok((encoding, !rest.is_empty()))
        };
        let (encoding, cut) = encode_at_most(BYTES_PER_TOKEN)?;
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

#[cfg(test)]
mod tests;
