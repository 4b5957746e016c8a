//! What the messages of the crash test hold: a function of a seed and a number, so that whoever reads a message
//! knows all of it without having been told. Both the load program and the program that judges it use this file.

/// What the consumers of the crash test want; [`Content::matches`] says the same in Rust.
pub const SELECTOR: &str = "color <> 'blue' AND (price IS NULL OR price < 600.5)";

const COLORS: [&str; 3] = ["red", "green", "blue"];
const TAGS: [&str; 3] = ["new", "paid", "sent"];

/// Numbers that look random, from a seed: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the stream of numbers of `seed`, apart from those of other `stream`s.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random
    }

    /// Returns the next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from `low` to `high`, without `high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// Is true that often of a hundred times.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.within(0, 100) < percent
    }
}

/// Everything that a message holds beside its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Text: the number, filler, and a checksum of both.
    pub body: String,
    /// The tag, if any.
    pub tag: Option<&'static str>,
    /// The keys.
    pub keys: Vec<String>,
    /// The properties, sorted by name.
    pub properties: Vec<(&'static str, String)>,
    /// Whether the selector is true for it.
    pub matches: bool,
}

impl Content {
    /// Returns the content of message `n`.
    pub fn of(seed: u64, n: u64) -> Self {
        let mut random = Random::new(seed, n);
        let color = COLORS[random.within(0, 3) as usize];
        let price = random.percent(80).then(|| random.within(0, 1000));
        let tag = random.percent(75).then(|| TAGS[random.within(0, 3) as usize]);
        let keys = (0..random.within(0, 3)).map(|key| format!("key-{n}-{key}")).collect();
        let mut properties = vec![("color", color.to_owned()), ("n", n.to_string())];
        properties.extend(price.map(|price| ("price", format!("{price}.5"))));
        let length = match random.within(0, 100) {
            0 => random.within(10_000, 60_000),
            1..=20 => random.within(500, 4000),
            _ => random.within(0, 300),
        };
        let mut text = format!("message {n} ");
        let end = text.len() + length as usize;
        while text.len() < end {
            text.push_str(&format!("{:016x}", random.next()));
        }
        text.truncate(end);
        let sum = checksum(&text);
        let matches = color != "blue" && price.is_none_or(|price| price < 600);
        Self { body: format!("{text} {sum:016x}"), tag, keys, properties, matches }
    }
}

/// FNV-1a, of 64 bits.
fn checksum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
