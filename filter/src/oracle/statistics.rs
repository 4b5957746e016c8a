//! The statistics of plain rows: exact, or as vague as they may be.

use std::collections::HashMap;

use arrow_array::{BinaryArray, Float64Array, Int64Array, UInt16Array, UInt32Array};
use weir_columns::{Bloom, ColumnRef, ColumnStatistics, KindSet, Presence, Statistics, Value};

use super::rows::VecRows;
use crate::{made, tree::ColumnName};

/// Statistics of blocks made of plain rows.
#[derive(Debug)]
pub struct VecStatistics {
    rows: Vec<usize>,
    columns: HashMap<ColumnName, Presence<ColumnStatistics>>,
}

impl VecStatistics {
    /// Returns the statistics of these blocks, with everything kept and nothing shortened.
    pub fn exact(blocks: &[VecRows]) -> Self {
        Self::new(blocks, &mut Looseness { state: None })
    }

    /// Returns statistics that are true but not exact: bounds are widened and facts left out, by `seed`.
    pub fn loosened(blocks: &[VecRows], seed: u64) -> Self {
        Self::new(blocks, &mut Looseness { state: Some(seed) })
    }

    fn new(blocks: &[VecRows], looseness: &mut Looseness) -> Self {
        let mut names: Vec<ColumnName> = blocks.iter().flat_map(VecRows::names).collect();
        names.sort_unstable_by_key(ColumnName::to_string);
        names.dedup();
        let mut columns = HashMap::new();
        for name in names {
            let facts: Vec<Facts> =
                blocks.iter().map(|block| looseness.loosen(Facts::of(&values(block, &name)))).collect();
            let presence =
                if looseness.once_in(16) { Presence::Unknown } else { Presence::Kept(column(&facts)) };
            columns.insert(name, presence);
        }
        Self { rows: blocks.iter().map(|block| block.rows().len()).collect(), columns }
    }
}

impl Statistics for VecStatistics {
    fn blocks(&self) -> usize {
        self.rows.len()
    }

    fn rows(&self, block: usize) -> usize {
        self.rows[block]
    }

    fn column(&self, name: ColumnRef<'_>) -> Presence<ColumnStatistics> {
        self.columns.get(&ColumnName::from(name)).cloned().unwrap_or(Presence::Absent)
    }
}

fn values<'b>(block: &'b VecRows, name: &ColumnName) -> Vec<Option<&'b Value>> {
    name.as_ref().map(|name| block.values(name)).unwrap_or_default()
}

/// What is known of one column in one block.
#[derive(Clone, Debug, Default)]
struct Facts {
    missing: Option<u32>,
    distinct: Option<u32>,
    kinds: Option<u16>,
    text_min: Option<Vec<u8>>,
    text_max: Option<Vec<u8>>,
    int_min: Option<i64>,
    int_max: Option<i64>,
    float_min: Option<f64>,
    float_max: Option<f64>,
    bloom: Option<Vec<u8>>,
}

impl Facts {
    fn of(values: &[Option<&Value>]) -> Self {
        let present: Vec<&Value> = values.iter().copied().flatten().collect();
        let made = made::distinct(present.iter().copied());
        let mut texts: Vec<String> = present.iter().map(|value| value.to_text()).collect();
        texts.sort_unstable();
        texts.dedup();
        let kinds: KindSet = present.iter().map(|value| value.kind()).collect();
        let ints: Vec<i64> = made.ints.iter().flatten().flatten().collect();
        let floats: Vec<f64> =
            made.floats.iter().flatten().flatten().filter(|float| !float.is_nan()).collect();
        let bytes = |text: &String| text.as_bytes().to_vec();
        Self {
            missing: u32::try_from(values.len() - present.len()).ok(),
            distinct: u32::try_from(texts.len()).ok(),
            kinds: Some(kinds.0),
            text_min: texts.first().map(bytes),
            text_max: texts.last().map(bytes),
            int_min: ints.iter().copied().min(),
            int_max: ints.iter().copied().max(),
            float_min: floats.iter().copied().reduce(f64::min),
            float_max: floats.iter().copied().reduce(f64::max),
            bloom: Some(Bloom::build(texts.len(), texts.iter().map(String::as_bytes))),
        }
    }
}

fn column(facts: &[Facts]) -> ColumnStatistics {
    fn all<T>(facts: &[Facts], fact: impl Fn(&Facts) -> Option<T>) -> Vec<Option<T>> {
        facts.iter().map(fact).collect()
    }
    let bytes = |fact: fn(&Facts) -> Option<&[u8]>| facts.iter().map(fact).collect::<BinaryArray>();
    ColumnStatistics {
        missing: UInt32Array::from(all(facts, |facts| facts.missing)),
        distinct: UInt32Array::from(all(facts, |facts| facts.distinct)),
        kinds: UInt16Array::from(all(facts, |facts| facts.kinds)),
        text_min: bytes(|facts| facts.text_min.as_deref()),
        text_max: bytes(|facts| facts.text_max.as_deref()),
        int_min: Int64Array::from(all(facts, |facts| facts.int_min)),
        int_max: Int64Array::from(all(facts, |facts| facts.int_max)),
        float_min: Float64Array::from(all(facts, |facts| facts.float_min)),
        float_max: Float64Array::from(all(facts, |facts| facts.float_max)),
        bloom: bytes(|facts| facts.bloom.as_deref()),
    }
}

/// Makes facts vaguer, by a simple stream of random numbers.
struct Looseness {
    /// `None`: nothing is changed.
    state: Option<u64>,
}

impl Looseness {
    fn once_in(&mut self, times: u64) -> bool {
        let Some(state) = &mut self.state else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33).is_multiple_of(times)
    }

    fn forget<T>(&mut self, fact: &mut Option<T>) {
        if self.once_in(6) {
            *fact = None;
        }
    }

    fn loosen(&mut self, mut facts: Facts) -> Facts {
        if self.once_in(12) {
            return Facts::default();
        }
        if let Some(min) = &mut facts.text_min
            && self.once_in(3)
        {
            min.truncate(1);
        }
        if let Some(max) = &mut facts.text_max
            && self.once_in(3)
        {
            shorten_upwards(max);
        }
        if self.once_in(4) {
            facts.int_min = facts.int_min.map(|min| min.saturating_sub(3));
            facts.float_max = facts.float_max.map(|max| (max + 1.5).max(max.next_up()));
        }
        // With no bound at all, kinds alone say that there are no texts or numbers.
        self.forget(&mut facts.distinct);
        self.forget(&mut facts.kinds);
        self.forget(&mut facts.text_min);
        self.forget(&mut facts.text_max);
        self.forget(&mut facts.int_min);
        self.forget(&mut facts.int_max);
        self.forget(&mut facts.float_min);
        self.forget(&mut facts.float_max);
        self.forget(&mut facts.bloom);
        facts
    }
}

/// Cuts to one byte and adds one to it, so that the text is not below what it was; it need not be UTF-8.
fn shorten_upwards(text: &mut Vec<u8>) {
    if text.len() > 1 && text[0] < u8::MAX {
        text.truncate(1);
        text[0] += 1;
    }
}
