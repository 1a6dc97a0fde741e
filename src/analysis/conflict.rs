//! Phrases that set one thing against another: "but", "on the other hand", "part of me".

use std::sync::LazyLock;

use regex::Regex;

const PHRASES: [&str; 23] = [
    "but",
    "however",
    "though",
    "although",
    "yet",
    "still",
    "should be",
    "supposed to",
    "expected to",
    "want to be",
    "don't know",
    "can't tell",
    "mixed",
    "confused",
    "conflicted",
    "torn",
    "part of me",
    "on one hand",
    "on the other hand",
    "at the same time",
    "despite",
    "even though",
    "while",
];

/// The apostrophes that people and their keyboards write, as a class.
const APOSTROPHE: &str = "['‘’ʼ＇]";

/// What may stand beside a whole word: the end of the text, or a character that is no part of a
/// word. `_` is one for the regex and emphasis for a person; ʼ is a letter to Unicode and an
/// apostrophe here. A class rather than `\b`, because the fast engine of the regex cannot follow
/// `\b` through text that is not ASCII.
const BEFORE_WORD: &str = r"(?:\A|[\W_ʼ])";
const AFTER_WORD: &str = r"(?:\z|[\W_ʼ])";

#[expect(
    clippy::expect_used,
    reason = "the pattern is made of constants, so any test of this file shows that it compiles"
)]
static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(&pattern()).expect("the phrases make a regex"));

fn pattern() -> String {
    let phrases = PHRASES.map(|phrase| phrase.replace(' ', r"\s+").replace('\'', APOSTROPHE)).join("|");
    format!("(?i){BEFORE_WORD}(?:{phrases}){AFTER_WORD}")
}

/// Whether one of the phrases occurs as whole words: in any case, with any apostrophe, and with
/// any white space between the words. Linear in the length of the text.
pub(super) fn has_conflict_phrase(text: &str) -> bool {
    PATTERN.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phrase_matches_alone_in_any_case_and_inside_a_sentence() {
        for phrase in PHRASES {
            for text in [phrase.to_owned(), phrase.to_uppercase(), format!("First this, {phrase} then that.")] {
                assert!(has_conflict_phrase(&text), "{text:?}");
            }
        }
    }

    #[test]
    fn each_phrase_inside_a_longer_word_does_not_match() {
        for phrase in PHRASES {
            for text in [
                format!("x{phrase}"),
                format!("{phrase}x"),
                format!("é{phrase}"),
                format!("{phrase}é"),
                format!("{phrase}2"),
                // A combining accent belongs to the letter before it.
                format!("{phrase}\u{301}"),
            ] {
                // "xeven though" still holds "though".
                if phrase != "even though" {
                    assert!(!has_conflict_phrase(&text), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn whole_words_match_whatever_stands_around_them() {
        for text in [
            "Good, BUT late",
            "but",
            "good\nbut\tlate",
            "(but late)",
            "\"but\"",
            "good—but late",
            "good…but late",
            "*but*",
            "_but_",
            "ʼbutʼ",
            "‘but’",
            "🙂but🙂",
            "très bien but late",
            "yes,but",
            "Yet here we are",
            "I am still here",
            "butter, but no bread",
            "I don't know",
            "I DON’T KNOW",
            "I don’t  know",
            "I donʼt\n\tknow",
            "I don‘t know",
            "I don＇t\u{a0}know",
            "I can’t tell you",
            "on  the\r\nother\u{2003}hand",
            "even  though",
            "I feel torn",
            "part\nof me",
        ] {
            assert!(has_conflict_phrase(text), "{text:?}");
        }
    }

    #[test]
    fn other_words_do_not_match() {
        for text in [
            "",
            " ",
            "butter",
            "rebut",
            "button and butterfly",
            "a yeti",
            "stillness",
            "distill",
            "thought, through, thorough",
            "a tornado tore it",
            "meanwhile",
            "unmixed, remixed",
            "confusedly",
            "whiled away",
            "dont know",
            "I do not know",
            "don't  knows",
            "I don' t know",
            "don't, know",
            "part of mean",
            "on the otherhand",
            "apart of me",
            "should bee",
            "shouldbe",
            "expected toast",
            "b\u{200d}ut",
            "бut",
        ] {
            assert!(!has_conflict_phrase(text), "{text:?}");
        }
    }

    #[test]
    fn texts_of_100_000_characters_are_read_to_their_end() {
        for filler in ["don't ", "on the other ", "butt", " ", "é ", "ʼ", "🙂"] {
            let mut text = filler.repeat(100_000 / filler.chars().count());
            assert!(!has_conflict_phrase(&text), "{filler:?}");
            text.push_str(" but");
            assert!(has_conflict_phrase(&text), "{filler:?}");
        }
        let spaced = format!("don't{}know", " ".repeat(100_000));
        assert!(has_conflict_phrase(&spaced));
    }
}
