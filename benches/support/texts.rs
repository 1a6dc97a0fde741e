//! Texts to measure with: made up from this file's phrases, the same on every machine.
//!
//! Nineteen of twenty have 5 to 40 words, more of them short than long, as comments and chat lines
//! do; one in twenty has 160 to 400 words, which are about 200 to 500 tokens.

const OPENERS: [&str; 16] = [
    "Honestly,",
    "Well,",
    "To be fair,",
    "OMG",
    "I guess",
    "So",
    "Yesterday",
    "No idea why, but",
    "Look,",
    "Seriously?",
    "For once",
    "This morning",
    "As usual",
    "Not gonna lie,",
    "Wow!",
    "Hey,",
];
const WHO: [&str; 20] = [
    "my sister",
    "the new guy at work",
    "our neighbour",
    "I",
    "the whole team",
    "that driver",
    "my old teacher",
    "she",
    "the landlord",
    "nobody in here",
    "my best friend",
    "the doctor",
    "they",
    "this dog",
    "the kid next door",
    "he",
    "the waiter",
    "my mum",
    "the customer service",
    "everyone I know",
];
const DID: [&str; 24] = [
    "forgot about the concert",
    "finally fixed the kitchen sink",
    "laughed until it hurt",
    "wrote a long letter",
    "lost the keys again",
    "won the raffle",
    "left without a word",
    "apologized for the mess",
    "stayed up all night waiting",
    "burned the pancakes",
    "passed the exam on the third try",
    "cried at the airport",
    "shouted across the parking lot",
    "paid for our dinner",
    "ruined the surprise",
    "found a stray kitten",
    "missed the last train",
    "said yes",
    "cancelled the trip at the last minute",
    "sang in front of 300 people",
    "broke the news far too late",
    "didn't even answer",
    "walked me home in the rain",
    "got the job",
];
const FELT: [&str; 20] = [
    "and I couldn't be happier",
    "which made me furious",
    "but I'm still a bit worried",
    "and it scared me to death",
    "so I feel awful now",
    "and honestly I admire that",
    "which is just gross",
    "and I have no clue what to think",
    "and now I miss the old days",
    "which was the sweetest thing ever",
    "and I'm so proud 😊",
    "though nobody seemed to care",
    "and that hurt more than I'd admit",
    "so thanks a lot!!!",
    "and I can't wait for the next time",
    "which is kind of embarrassing",
    "and I really want one too",
    "but hey, it could be worse",
    "and that surprised all of us",
    "so I gave up, I suppose",
];
const ENDINGS: [&str; 8] = [".", ".", ".", "!", "...", "?", "!!", " lol."];

const LONG_IN: u64 = 20;

/// A small generator of pseudo-random numbers (SplitMix64), so that every run reads the same texts.
#[derive(Default)]
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From 0 up to but not including 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// `count` texts of mixed lengths, no two of them equal but by rare chance.
pub fn mixed(count: usize) -> Vec<String> {
    let mut numbers = Numbers::new(7);
    (0..count)
        .map(|_| {
            let words = if numbers.next().is_multiple_of(LONG_IN) {
                160 + numbers.below(241)
            } else {
                5 + (36.0 * numbers.fraction().powi(2)) as usize
            };
            text(&mut numbers, words)
        })
        .collect()
}

/// A text of this many words.
pub fn of_words(words: usize, seed: u64) -> String {
    text(&mut Numbers::new(seed), words)
}

fn text(numbers: &mut Numbers, words: usize) -> String {
    let mut chosen: Vec<&str> = Vec::new();
    let mut endings = Vec::new();
    while chosen.len() < words {
        for phrases in [&OPENERS[..], &WHO, &DID, &FELT] {
            chosen.extend(phrases[numbers.below(phrases.len())].split(' '));
        }
        endings.push((chosen.len() - 1, ENDINGS[numbers.below(ENDINGS.len())]));
    }
    let mut text = String::new();
    for (index, word) in chosen.into_iter().take(words).enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(word);
        if let Some((_, ending)) = endings.iter().find(|(last, _)| *last == index) {
            text.push_str(ending);
        }
    }
    text
}
