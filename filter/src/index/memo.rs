//! What is remembered while one run is judged: answers of atoms, rows on their way, and buffers that the
//! next run uses again.

/// Answers of atoms that are kept during a run take up to so many bytes; beyond, they are computed anew.
const ANSWERS_BYTES_MAX: usize = 32 << 20;

/// Nothing here.
pub(super) const NONE: u32 = u32::MAX;

/// Buffers of the evaluation.
#[derive(Debug, Default)]
pub(super) struct Memo {
    /// The number of the run, so that what was kept for another is not taken for it.
    run: u32,
    atoms: Vec<AtomState>,
    /// Words of one bitmap.
    pub(super) words: usize,
    /// Bitmaps of atoms, one after another.
    bitmaps: Vec<u64>,
    /// A bitmap for which there was no room.
    spare: Vec<u64>,
    /// Answers of atoms a distinct value.
    luts: Vec<Vec<u8>>,
    lut_bytes: usize,
    /// Values at which anchors have been found.
    pub(super) hits: Vec<Hit>,
    pub(super) hit_atoms: Vec<u32>,
    subscriptions: Vec<SubscriptionState>,
    /// Matches of subscriptions with several conjunctions, one bitmap after another.
    matches: Vec<u64>,
    /// The subscriptions of these bitmaps.
    pub(super) matching: Vec<u32>,
    pub(super) buffers: Buffers,
    /// Atoms that were answered for all values or rows at once, ever: for tests.
    pub(super) answered: u64,
    /// Conjunctions that were looked at, ever: for tests.
    pub(super) visited: u64,
}

/// Lists of rows and bitmaps in hand.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) anchor_rows: Vec<u16>,
    pub(super) anchor_bits: Vec<u64>,
    pub(super) rows: Vec<u16>,
    pub(super) bits: Vec<u64>,
}

/// An anchor holds at a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    /// The number of the value; of columns without distinct values, the row.
    pub(super) place: u16,
    /// The hit before, of the same anchor.
    pub(super) next: u32,
}

/// What is known of an atom in this run.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtomState {
    run: u32,
    pub(super) first_hit: u32,
    pub(super) bitmap: u32,
    pub(super) lut: u32,
    /// How many rows have been tested one by one.
    pub(super) tests: u32,
}

const UNTOUCHED: AtomState = AtomState { run: 0, first_hit: NONE, bitmap: NONE, lut: NONE, tests: 0 };

/// What is known of a subscription with several conjunctions in this run.
#[derive(Clone, Copy, Debug, Default)]
struct SubscriptionState {
    run: u32,
    /// Its bitmap of matches; [`NONE`] if it has been reported.
    matches: u32,
}

impl Memo {
    /// Forgets everything for a run of `rows` rows.
    pub(super) fn start(&mut self, rows: usize, atoms: usize, subscriptions: usize) {
        self.run = self.run.wrapping_add(1);
        if self.run == 0 {
            self.run = 1;
            self.atoms.clear();
            self.subscriptions.clear();
        }
        self.words = rows.div_ceil(64);
        self.atoms.resize(atoms, UNTOUCHED);
        self.subscriptions.resize(subscriptions, SubscriptionState::default());
        self.bitmaps.clear();
        self.luts.clear();
        self.lut_bytes = 0;
        self.matches.clear();
        self.matching.clear();
        self.hits.clear();
        self.hit_atoms.clear();
        let bits = [&mut self.buffers.anchor_bits, &mut self.buffers.bits, &mut self.spare];
        bits.into_iter().for_each(|bits| bits.resize(self.words, 0));
    }

    pub(super) fn atom(&mut self, atom: u32) -> &mut AtomState {
        let state = &mut self.atoms[atom as usize];
        if state.run != self.run {
            *state = AtomState { run: self.run, ..UNTOUCHED };
        }
        state
    }

    /// Remembers that an anchor holds at a value.
    pub(super) fn hit(&mut self, atom: u32, place: u16) {
        let hit = self.hits.len() as u32;
        let state = self.atom(atom);
        let next = std::mem::replace(&mut state.first_hit, hit);
        if next == NONE {
            self.hit_atoms.push(atom);
        }
        self.hits.push(Hit { place, next });
    }

    pub(super) fn lut(&self, number: u32) -> &[u8] {
        &self.luts[number as usize]
    }

    /// Whether the answers at so many values may still be kept.
    pub(super) fn has_room_for_lut(&self, places: usize) -> bool {
        self.lut_bytes + places <= ANSWERS_BYTES_MAX
    }

    pub(super) fn keep_lut(&mut self, atom: u32, lut: Vec<u8>) -> u32 {
        self.lut_bytes += lut.len();
        self.answered += 1;
        let number = self.luts.len() as u32;
        self.luts.push(lut);
        self.atom(atom).lut = number;
        number
    }

    /// The bitmap of an atom: the one that is kept, or the one that `fill` makes.
    pub(super) fn bitmap_of(&mut self, atom: u32, fill: impl FnOnce(&mut Self, &mut [u64])) -> &[u64] {
        let kept = self.atom(atom).bitmap;
        if kept != NONE {
            let start = kept as usize * self.words;
            return &self.bitmaps[start..start + self.words];
        }
        let mut spare = std::mem::take(&mut self.spare);
        fill(self, &mut spare);
        self.spare = spare;
        self.answered += 1;
        if (self.bitmaps.len() + self.words) * 8 > ANSWERS_BYTES_MAX {
            return &self.spare;
        }
        let start = self.bitmaps.len();
        self.atom(atom).bitmap = (start / self.words.max(1)) as u32;
        self.bitmaps.extend_from_slice(&self.spare);
        &self.bitmaps[start..]
    }

    /// Whether a subscription has been reported already.
    pub(super) fn is_reported(&self, subscription: u32) -> bool {
        let state = self.subscriptions[subscription as usize];
        state.run == self.run && state.matches == NONE
    }

    pub(super) fn set_reported(&mut self, subscription: u32) {
        self.subscriptions[subscription as usize] = SubscriptionState { run: self.run, matches: NONE };
    }

    /// The matches so far of a subscription with several conjunctions; `None` if there is no room for them.
    pub(super) fn matches_of(&mut self, subscription: u32) -> Option<&mut [u64]> {
        let state = &mut self.subscriptions[subscription as usize];
        if state.run != self.run {
            if (self.matches.len() + self.words) * 8 > MATCHES_BYTES_MAX {
                return None;
            }
            *state = SubscriptionState { run: self.run, matches: self.matching.len() as u32 };
            self.matching.push(subscription);
            self.matches.resize(self.matches.len() + self.words, 0);
        }
        let start = state.matches as usize * self.words;
        Some(&mut self.matches[start..start + self.words])
    }

    /// The matches of subscription `number` of [`matching`](Self::matching).
    pub(super) fn matches(&self, number: usize) -> &[u64] {
        &self.matches[number * self.words..(number + 1) * self.words]
    }
}

/// Matches of subscriptions with several conjunctions take up to so many bytes; what has no room is judged
/// by its own predicate.
const MATCHES_BYTES_MAX: usize = 64 << 20;

/// Sets the bits of rows.
pub(super) fn set_rows(words: &mut [u64], rows: &[u16]) {
    for row in rows {
        words[usize::from(*row) / 64] |= 1 << (row % 64);
    }
}

/// Calls `visit` with the number of each bit that is set, ascending.
pub(super) fn for_each_bit(words: &[u64], mut visit: impl FnMut(usize)) {
    for (number, word) in words.iter().enumerate() {
        let mut word = *word;
        while word != 0 {
            visit(number * 64 + word.trailing_zeros() as usize);
            word &= word - 1;
        }
    }
}

/// Packs the answer for each entry into bits.
#[inline(always)]
pub(super) fn pack<T: Copy>(entries: &[T], words: &mut [u64], holds: impl Fn(T) -> bool) {
    let (whole, rest) = entries.as_chunks::<64>();
    for (word, entries) in words.iter_mut().zip(whole) {
        let mut bytes = [0_u8; 64];
        for (byte, entry) in bytes.iter_mut().zip(entries) {
            *byte = u8::from(holds(*entry));
        }
        *word = bits_of(&bytes);
    }
    if !rest.is_empty() {
        let mut bytes = [0_u8; 64];
        for (byte, entry) in bytes.iter_mut().zip(rest) {
            *byte = u8::from(holds(*entry));
        }
        words[whole.len()] = bits_of(&bytes);
    }
}

/// The lowest bits of 64 bytes that are 0 or 1.
#[inline(always)]
fn bits_of(bytes: &[u8; 64]) -> u64 {
    let (eights, _) = bytes.as_chunks::<8>();
    let mut word = 0;
    for (number, eight) in eights.iter().enumerate() {
        // The product moves the bit of byte n to bit 56 + n.
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word |= bits << (8 * number);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_packed_in_the_order_of_the_rows() {
        for len in [0, 1, 63, 64, 65, 130, 200] {
            let entries: Vec<u16> = (0..len).collect();
            let mut words = vec![u64::MAX; entries.len().div_ceil(64)];
            pack(&entries, &mut words, |entry| entry % 3 == 1 || entry % 7 == 0);
            let mut found = Vec::new();
            for_each_bit(&words, |row| found.push(row as u16));
            let expected: Vec<u16> = entries.into_iter().filter(|n| n % 3 == 1 || n % 7 == 0).collect();
            assert_eq!(found, expected);
            let mut again = vec![0; words.len()];
            set_rows(&mut again, &expected);
            assert_eq!(again, words);
        }
    }
}
