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
    let encoded =
        word_tokenizer(6).encode("one two three four one two three", LongText::Windows, TruncationSide::Right).unwrap();
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
fn white_space_between_words_never_hides_later_words_but_endless_words_do() {
    let tokenizer = word_tokenizer(5);
    let encode = |text: &str, long_text| tokenizer.encode(text, long_text, TruncationSide::Right);
    for spaces in [1, 150, 100_000] {
        let text = format!("one{}two{}", " ".repeat(spaces), "\n\u{3000}".repeat(spaces));
        for long_text in [LongText::Refuse, LongText::Windows] {
            let encoded = encode(&text, long_text).unwrap();
            assert_eq!((ids(&encoded), encoded.truncated), (vec![vec![1, 3, 4, 2]], false), "{spaces}");
        }
        let left = tokenizer.encode(&text, LongText::Truncate, TruncationSide::Left).unwrap();
        assert_eq!((ids(&left), left.truncated), (vec![vec![1, 3, 4, 2]], false), "{spaces}");
    }
    let text = format!("one {} two", "x".repeat(100_000));
    assert!(encode(&text, LongText::Truncate).unwrap().truncated);
}

/// What the tokenizer itself makes of a text, without pieces.
fn whole(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
    tokenizer.tokenizer.encode_fast(text, true).unwrap().get_ids().to_vec()
}

fn shipped() -> TextTokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/ekman/tokenizer.json");
    TextTokenizer::load(&path, 100_000).unwrap()
}

/// A byte-level tokenizer, as those of roberta: white space gives tokens.
fn byte_level() -> TextTokenizer {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut letters: Vec<String> = alphabet.into_iter().map(String::from).collect();
    letters.sort();
    letters.extend(["\u{120}\u{120}".to_owned(), "th".to_owned(), "\u{120}th".to_owned()]);
    let vocab: serde_json::Map<_, _> =
        letters.into_iter().enumerate().map(|(id, letter)| (letter, id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["\u{120} \u{120}", "t h", "\u{120} th"]}
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    TextTokenizer::load(file.path(), 100_000).unwrap()
}

#[test]
fn pieces_give_the_tokens_of_the_whole() {
    let (words, blanks) = (shipped(), byte_level());
    assert_eq!((words.pieces, blanks.pieces), (Pieces::Words { longest_word: 100 }, Pieces::Blanks));
    for unit in [
        "I am so happy, thanks! ",
        "the  thing\tis\r\n\r\nthat   ",
        "caf\u{e9} na\u{ef}ve\u{a0}d\u{e9}j\u{e0}\u{3000}vu \u{301}x ",
        &format!("{} I {} ", "x".repeat(9000), "y,".repeat(5000)),
        "\u{597d}\u{7684} \u{1f602}\u{200b}\u{85}it's [SEP] don't\u{b}stop ",
    ] {
        for letters in [0, 1, 7] {
            let text = format!("{}{}", "x".repeat(letters), unit.repeat(60_000 / unit.len()));
            for tokenizer in [&words, &blanks] {
                for side in [TruncationSide::Right, TruncationSide::Left] {
                    let encoded = tokenizer.encode(&text, LongText::Refuse, side).unwrap();
                    assert!(*encoded.windows[0].input_ids == whole(tokenizer, &text), "{unit:?} {side:?}");
                }
            }
        }
    }
}

#[test]
fn of_a_pair_the_longer_text_is_cut_first() {
    let encoded =
        word_tokenizer(7).encode_pair("one", "two three four one", LongText::Truncate, TruncationSide::Right).unwrap();
    assert_eq!(ids(&encoded), [[1, 3, 2, 4, 5, 6, 2]]);
    assert_eq!(*encoded.windows[0].type_ids, [0, 0, 0, 1, 1, 1, 1]);
    assert!(encoded.truncated);
}
