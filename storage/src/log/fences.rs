//! Damaged ranges of the log, ascending and apart from each other, so that finding one takes a few comparisons.

use std::ops::Range;

use crate::offset::LogPosition;

/// Ranges of positions that are never read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fences(Vec<Range<LogPosition>>);

impl Fences {
    /// Takes ranges in any order.
    pub(crate) fn new(mut ranges: Vec<Range<LogPosition>>) -> Self {
        ranges.retain(|range| range.start < range.end);
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut fences: Vec<Range<LogPosition>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match fences.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => fences.push(range),
            }
        }
        Self(fences)
    }

    pub(crate) fn ranges(&self) -> &[Range<LogPosition>] {
        &self.0
    }

    /// Returns the fence around a position.
    pub(crate) fn at(&self, position: LogPosition) -> Option<&Range<LogPosition>> {
        self.from(position).first().filter(|fence| fence.start <= position)
    }

    /// Returns whether all of a range lies in one fence.
    pub(crate) fn cover(&self, range: &Range<LogPosition>) -> bool {
        self.at(range.start).is_some_and(|fence| range.end <= fence.end)
    }

    /// Returns where the first fence behind a position begins.
    pub(crate) fn next(&self, position: LogPosition) -> Option<LogPosition> {
        let next = self.from(position).iter().find(|fence| fence.start > position);
        next.map(|fence| fence.start)
    }

    /// Returns whether a fence ends at a position.
    pub(crate) fn end_at(&self, position: LogPosition) -> bool {
        let before = self.0.partition_point(|fence| fence.end < position);
        self.0.get(before).is_some_and(|fence| fence.end == position)
    }

    /// Returns the parts of a range that no fence covers.
    pub(crate) fn outside(&self, range: Range<LogPosition>) -> Vec<Range<LogPosition>> {
        let mut parts = Vec::new();
        let mut at = range.start;
        for fence in self.from(range.start).iter().take_while(|fence| fence.start < range.end) {
            if at < fence.start {
                parts.push(at..fence.start);
            }
            at = fence.end;
        }
        if at < range.end {
            parts.push(at..range.end);
        }
        parts
    }

    /// Returns the fences that end behind a position.
    fn from(&self, position: LogPosition) -> &[Range<LogPosition>] {
        let first = self.0.partition_point(|fence| fence.end <= position);
        self.0.get(first..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range<LogPosition> {
        LogPosition(start)..LogPosition(end)
    }

    #[test]
    fn ranges_are_found_and_left_out() {
        let fences =
            Fences::new(vec![range(40, 50), range(10, 20), range(15, 24), range(7, 7), range(24, 26)]);
        assert_eq!(fences.ranges(), [range(10, 26), range(40, 50)]);
        let at = |position| fences.at(LogPosition(position)).cloned();
        assert_eq!([at(9), at(26), at(39), at(50)], [None, None, None, None]);
        assert_eq!([at(10), at(25), at(49)], [Some(range(10, 26)), Some(range(10, 26)), Some(range(40, 50))]);
        assert!(
            fences.cover(&range(12, 26)) && !fences.cover(&range(12, 27)) && !fences.cover(&range(26, 30))
        );
        let next = |position| fences.next(LogPosition(position)).map(|next| next.0);
        assert_eq!([next(0), next(10), next(39), next(40)], [Some(10), Some(40), Some(40), None]);
        assert!(fences.end_at(LogPosition(26)) && !fences.end_at(LogPosition(25)));
        assert_eq!(fences.outside(range(0, 60)), [range(0, 10), range(26, 40), range(50, 60)]);
        assert_eq!(fences.outside(range(12, 45)), [range(26, 40)]);
        assert_eq!(fences.outside(range(11, 20)), []);
        assert_eq!(fences.outside(range(27, 30)), [range(27, 30)]);
    }
}
