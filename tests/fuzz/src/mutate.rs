//! Inputs made from a corpus at random. Not guided: what a format needs and
//! chance does not find comes from the corpus and the words.

use aether_counted::Dice;

const BYTES: &[u8] = b"\x00\x01\x7f\x80\xff \t\r\n\"'\\%/.-:=,;{}[]@#*+&?0aA";
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "127",
    "255",
    "65535",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999",
];

pub(crate) struct Mutator {
    dice: Dice,
    words: &'static [&'static str],
    max_len: usize,
}

impl Mutator {
    pub(crate) fn new(dice: Dice, words: &'static [&'static str], max_len: usize) -> Self {
        Self { dice, words, max_len }
    }

    /// One of the corpus, changed in one to eight places.
    pub(crate) fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(corpus).to_vec();
        let other = self.pick(corpus).to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut input, &other);
        }
        input.truncate(self.max_len);
        input
    }

    fn below(&mut self, below: usize) -> usize {
        self.dice.roll(below.max(1) as u64) as usize
    }

    fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a [u8] {
        let at = self.below(corpus.len());
        &corpus[at]
    }

    /// A range of at most `most` bytes inside.
    fn range(&mut self, len: usize, most: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let to = from + self.below((len - from).min(most) + 1);
        from..to
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        match self.below(12) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.below(256) as u8,
            2 if !input.is_empty() => input[at] = BYTES[self.below(BYTES.len())],
            3 => drop(input.drain(self.range(input.len(), 64))),
            4 => drop(input.drain(self.range(input.len(), usize::MAX - 1))),
            5 => self.repeat(input),
            6 => self.put(input, other),
            7 => {
                let bytes: Vec<u8> = (0..=self.below(16)).map(|_| self.below(256) as u8).collect();
                self.splice(input, &bytes);
            }
            8 => self.number(input),
            9 => input.truncate(at),
            _ if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                self.splice(input, word.as_bytes());
            }
            _ => self.splice(input, &[BYTES[at % BYTES.len()]]),
        }
    }

    /// Puts bytes in, or over what is there.
    fn splice(&mut self, input: &mut Vec<u8>, bytes: &[u8]) {
        let at = self.below(input.len() + 1);
        let over = if self.below(2) == 0 { 0 } else { bytes.len().min(input.len() - at) };
        input.splice(at..at + over, bytes.iter().copied());
    }

    /// A piece of another one of the corpus.
    fn put(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let range = self.range(other.len(), 4096);
        self.splice(input, &other[range]);
    }

    /// A piece many times over: depth, and counts beyond a limit.
    fn repeat(&mut self, input: &mut Vec<u8>) {
        let piece = input[self.range(input.len(), 64)].to_vec();
        let room = self.max_len.saturating_sub(input.len()) / piece.len().max(1);
        let most = 1 << self.below(12);
        let piece = piece.repeat(self.below(room.min(most) + 1));
        self.splice(input, &piece);
    }

    /// Another number where one stands.
    fn number(&mut self, input: &mut Vec<u8>) {
        let from = self.below(input.len());
        let Some(begin) = input.iter().skip(from).position(u8::is_ascii_digit).map(|n| n + from) else { return };
        let len = input[begin..].iter().take_while(|b| b.is_ascii_digit()).count();
        let number = NUMBERS[self.below(NUMBERS.len())];
        input.splice(begin..begin + len, number.bytes());
    }
}
