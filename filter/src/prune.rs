//! Which blocks may hold a match, by their statistics alone.

use arrow_buffer::BooleanBuffer;
use weir_columns::Statistics;

use crate::tree::Tree;

/// One bit a block.
pub(crate) fn may_match(_tree: &Tree, statistics: &dyn Statistics) -> BooleanBuffer {
    BooleanBuffer::new_set(statistics.blocks())
}
