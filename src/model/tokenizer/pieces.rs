//! Where a text may be cut so that its pieces, tokenized one by one, give the tokens of the whole.

use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::TruncationSide;

/// Longest piece.
pub(super) const PIECE_BYTES: usize = 8 << 10;

/// Bytes that a tokenizer keeps for each byte of a piece.
const BOOKKEEPING: usize = 100;

/// Bytes that a token takes until the model's input is made of it.
const TOKEN_BYTES: usize = 128;

/// How a tokenizer takes the pieces of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pieces {
    /// White space parts words and gives no tokens itself. Words of more characters than
    /// `longest_word` are one token.
    Words { longest_word: usize },
    /// White space gives tokens; that before a word belongs to it.
    Blanks,
    /// Not known: a text is not to be cut but where it ends.
    Whole,
}

impl Pieces {
    /// How `tokenizer` takes them. Only what is known to look at no more than one word at a time
    /// is read in pieces.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let has_gap = |content: &str| content.contains(char::is_whitespace);
        if tokenizer.get_added_tokens_decoder().values().any(|token| has_gap(&token.content)) {
            return Self::Whole;
        }
        match (tokenizer.get_normalizer(), tokenizer.get_pre_tokenizer()) {
            (
                None | Some(NormalizerWrapper::BertNormalizer(_) | NormalizerWrapper::Lowercase(_)),
                Some(
                    PreTokenizerWrapper::BertPreTokenizer(_)
                    | PreTokenizerWrapper::Whitespace(_)
                    | PreTokenizerWrapper::WhitespaceSplit(_),
                ),
            ) => Self::Words {
                longest_word: match tokenizer.get_model() {
                    ModelWrapper::WordPiece(words) => words.max_input_chars_per_word,
                    ModelWrapper::BPE(_) | ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => usize::MAX,
                },
            },
            (None, Some(PreTokenizerWrapper::ByteLevel(byte_level))) if byte_level.use_regex => Self::Blanks,
            _ => Self::Whole,
        }
    }

    /// `rest` without the white space that gives no tokens.
    pub(super) fn trim(self, rest: &str, side: TruncationSide) -> &str {
        match (self, side) {
            (Self::Words { .. }, TruncationSide::Right) => rest.trim_start_matches(is_gap),
            (Self::Words { .. }, TruncationSide::Left) => rest.trim_end_matches(is_gap),
            (Self::Blanks | Self::Whole, _) => rest,
        }
    }

    /// Bytes of a piece, without the white space that gives no tokens.
    pub(super) fn weight(self, piece: &str) -> usize {
        match self {
            Self::Words { .. } => piece.split(is_gap).map(str::len).sum(),
            Self::Blanks | Self::Whole => piece.len(),
        }
    }

    /// Bytes beside a piece that go on with its last word without another token.
    pub(super) fn rest_of_word(self, piece: &str, later: &str, side: TruncationSide) -> usize {
        let Self::Words { longest_word } = self else { return 0 };
        let is_letter = |character: char| character.is_ascii_alphanumeric();
        let (inside, beside) = match side {
            TruncationSide::Right => (piece.trim_end_matches(is_letter), later.trim_start_matches(is_letter)),
            TruncationSide::Left => (piece.trim_start_matches(is_letter), later.trim_end_matches(is_letter)),
        };
        if piece.len() - inside.len() > longest_word { later.len() - beside.len() } else { 0 }
    }

    /// Most bytes that tokenizing a text of `bytes` takes at a time, when it may give `tokens`.
    pub(super) fn memory_bytes(self, bytes: usize, tokens: usize) -> u64 {
        let piece = match self {
            Self::Words { .. } | Self::Blanks => PIECE_BYTES,
            Self::Whole => tokens.saturating_mul(super::MOST_BYTES_PER_TOKEN),
        };
        (bytes.min(piece) * BOOKKEEPING + bytes.min(tokens) * TOKEN_BYTES) as u64
    }
}

/// White space that every tokenizer takes for it. A BERT's removes other control characters, so
/// that they part no words.
fn is_gap(character: char) -> bool {
    character.is_whitespace() && (!character.is_control() || matches!(character, '\t' | '\n' | '\r'))
}

/// At most `bytes` of the text, up to the last word that fits whole, and the rest. A word longer
/// than a quarter of that is cut.
pub(super) fn split(text: &str, bytes: usize, side: TruncationSide) -> (&str, &str) {
    if text.len() <= bytes {
        return (text, "");
    }
    match side {
        TruncationSide::Right => {
            let cut = text.floor_char_boundary(bytes);
            let gap = text[..cut].rfind(is_gap).filter(|gap| *gap > 0 && *gap >= bytes - bytes / 4);
            text.split_at(gap.unwrap_or(cut))
        }
        TruncationSide::Left => {
            let from = text.ceil_char_boundary(text.len() - bytes);
            let gap = text[from..].find(is_gap).filter(|gap| *gap <= bytes / 4);
            let (rest, piece) = text.split_at(gap.map_or(from, |gap| from + gap));
            (piece, rest)
        }
    }
}
