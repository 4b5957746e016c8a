//! Dates and times as ISO 8601 writes them, as milliseconds since 1970, UTC.

/// Returns the moment that `text` names, in milliseconds since 1970, UTC; `None` if it names none.
///
/// `YYYY-MM-DD`, or that, a `T` or a space, `HH:MM[:SS[.fraction]]` and, at the end, `Z`, `+HH:MM` or
/// `-HH:MM`. Without a zone it is UTC. The Gregorian calendar, years 0000 to 9999, no leap seconds; what
/// is finer than a millisecond is cut off. Takes linear time.
pub(crate) fn milliseconds(text: &str) -> Option<i64> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.number(4)?;
    rest.expect(b"-")?;
    let month = rest.number(2).filter(|month| (1..=12).contains(month))?;
    rest.expect(b"-")?;
    let day = rest.number(2).filter(|day| (1..=days_of_month(year, month)).contains(day))?;
    let midnight = days_since_1970(year, month, day) * 86_400_000;
    if rest.0.is_empty() {
        return Some(midnight);
    }
    rest.expect(b"Tt ")?;
    let hour = rest.number(2).filter(|hour| *hour < 24)?;
    rest.expect(b":")?;
    let minute = rest.number(2).filter(|minute| *minute < 60)?;
    let mut time = (hour * 60 + minute) * 60_000;
    if rest.expect(b":").is_some() {
        time += rest.number(2).filter(|second| *second < 60)? * 1000;
        if rest.expect(b".").is_some() {
            time += rest.fraction()?;
        }
    }
    let offset = rest.zone()?;
    rest.0.is_empty().then(|| midnight + time - offset)
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Takes one of these bytes.
    fn expect(&mut self, one_of: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        if !one_of.contains(first) {
            return None;
        }
        self.0 = rest;
        Some(*first)
    }

    /// Takes exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        (0..digits).try_fold(0, |number, _| Some(number * 10 + i64::from(self.expect(b"0123456789")? - b'0')))
    }

    /// Takes at least one digit behind a point: milliseconds.
    fn fraction(&mut self) -> Option<i64> {
        let (mut milliseconds, mut weight) = (self.number(1)? * 100, 10);
        while let Some(digit) = self.expect(b"0123456789") {
            milliseconds += i64::from(digit - b'0') * weight;
            weight /= 10;
        }
        Some(milliseconds)
    }

    /// Takes a zone, if there is one: how many milliseconds it is ahead of UTC.
    fn zone(&mut self) -> Option<i64> {
        let Some(sign) = self.expect(b"Zz+-") else { return Some(0) };
        if matches!(sign, b'Z' | b'z') {
            return Some(0);
        }
        let hour = self.number(2).filter(|hour| *hour < 24)?;
        self.expect(b":")?;
        let minute = self.number(2).filter(|minute| *minute < 60)?;
        let ahead = (hour * 60 + minute) * 60_000;
        Some(if sign == b'-' { -ahead } else { ahead })
    }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days in years that begin in March, so that the leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + days_before_month + day
        - 719_469
}

/// Returns the length of a unit of time in milliseconds, by its name in the singular or plural.
pub(crate) fn unit(name: &str) -> Option<i64> {
    let found = UNITS.iter().find(|(unit, _)| {
        name.len() >= unit.len()
            && name.is_char_boundary(unit.len())
            && name[..unit.len()].eq_ignore_ascii_case(unit)
            && matches!(&name[unit.len()..], "" | "s" | "S")
    });
    found.map(|(_, length)| *length)
}

const UNITS: [(&str, i64); 6] = [
    ("MILLISECOND", 1),
    ("SECOND", 1000),
    ("MINUTE", 60_000),
    ("HOUR", 3_600_000),
    ("DAY", 86_400_000),
    ("WEEK", 604_800_000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_text_is_a_moment() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2026-01-02T03:04:05Z", Some(1_767_323_045_000)),
            ("2026-01-02 03:04:05", Some(1_767_323_045_000)),
            ("2026-01-02t05:04:05+02:00", Some(1_767_323_045_000)),
            ("2026-01-01T22:34:05-04:30", Some(1_767_323_045_000)),
            ("2026-01-02T03:04", Some(1_767_323_040_000)),
            ("2000-02-29", Some(951_782_400_000)),
            ("1900-02-28", Some(-2_203_977_600_000)),
            ("0000-01-01", Some(-62_167_219_200_000)),
            ("9999-12-31T23:59:59.9999999Z", Some(253_402_300_799_999)),
            ("1970-01-01T00:00:00.05Z", Some(50)),
            ("1900-02-29", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("2026-01-32", None),
            ("2026-1-2", None),
            ("2026-01-02T24:00:00Z", None),
            ("2026-01-02T03:60:00Z", None),
            ("2026-01-02T03:04:60Z", None),
            ("2026-01-02T03:04:05.Z", None),
            ("2026-01-02T03:04:05+0200", None),
            ("2026-01-02T03:04:05Zx", None),
            ("2026-01-02T", None),
            ("12026-01-02", None),
            ("", None),
            ("٢٠٢٦-01-02", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    /// Every day of eight centuries is one day after the day before.
    #[test]
    fn days_follow_each_other() {
        let mut expected = milliseconds("1600-01-01").unwrap();
        for year in 1600..2400 {
            for month in 1..=12 {
                for day in 1..=days_of_month(year, month) {
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    assert_eq!(milliseconds(&text), Some(expected), "{text}");
                    expected += 86_400_000;
                }
            }
        }
    }

    #[test]
    fn units_may_be_plural() {
        assert_eq!(unit("hour"), Some(3_600_000));
        assert_eq!(unit("DAYS"), Some(86_400_000));
        assert_eq!(unit("Dayss"), None);
        assert_eq!(unit("month"), None);
    }
}
