//! Every bound on a selector, so that its cost is known before it is accepted.

/// How large a selector may be. What is larger is refused with the position where it passes the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Length of the text, in bytes. Default: 8,192.
    pub text_bytes_max: usize,
    /// Tokens in the text. Default: 512.
    pub tokens_max: usize,
    /// Nested parentheses. Default: 32; values above [`DEPTH_CEILING`](Self::DEPTH_CEILING) count as that.
    pub depth_max: usize,
    /// Entries of one list after `IN`. Default: 256.
    pub list_max: usize,
    /// Length of one pattern or search text (LIKE, CONTAINS, STARTSWITH, ENDSWITH), in bytes. Default: 1,024.
    pub pattern_bytes_max: usize,
    /// What a selector may cost a row at worst, about in nanoseconds; see [`Selector::cost`]. Default: 250,000.
    ///
    /// [`Selector::cost`]: crate::Selector::cost
    pub cost_max: u64,
}

impl Limits {
    /// No setting allows deeper nesting than this, because parsing recurses once a level.
    pub const DEPTH_CEILING: usize = 64;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            text_bytes_max: 8192,
            tokens_max: 512,
            depth_max: 32,
            list_max: 256,
            pattern_bytes_max: 1024,
            cost_max: 250_000,
        }
    }
}
