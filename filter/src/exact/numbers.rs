//! Numbers as Java reads them from text and writes them.
//!
//! The grammar is that of `Integer.parseInt`, `Long.parseLong` and `Double.valueOf`, which the originals
//! call. It differs from the one of `sql92`: digits of any script are integers, `5d` and `0x1p3` are
//! doubles, ` 5` is a double and no integer.

/// The integer that `Long.parseLong` reads; `None` if it refuses the text or the value is beyond 64 bits.
pub(super) fn parse_long(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    // Negative, because that side reaches one further.
    let value = digits
        .chars()
        .try_fold(0_i64, |value, c| value.checked_mul(10)?.checked_sub(i64::from(digit(c)?)))?;
    if negative { Some(value) } else { value.checked_neg() }
}

/// The integer that `Integer.parseInt` reads.
pub(super) fn parse_int(text: &str) -> Option<i32> {
    // Both read the same text and differ in range only.
    parse_long(text).and_then(|value| i32::try_from(value).ok())
}

/// The value of a decimal digit of any script within the Basic Multilingual Plane (`Character.digit`, which
/// the originals call with UTF-16 units).
fn digit(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    let code = u32::from(c);
    let last = ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?;
    let value = code - ZEROS[last];
    (value < 10).then_some(value)
}

/// The zeros of the scripts in the Basic Multilingual Plane that have decimal digits (Unicode 13, category
/// Nd); the nine other digits follow each.
const ZEROS: [u32; 36] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50,
    0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

/// The double that `Double.valueOf` reads.
pub(super) fn parse_double(text: &str) -> Option<f64> {
    match FloatText::of(text)? {
        FloatText::Decimal(number) => number.parse().ok(),
        FloatText::Nan => Some(f64::NAN),
        FloatText::Infinity { negative } => Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
        FloatText::Hex(hex) => Some(hex.round(53, -1074, 1023)),
    }
}

/// The float that `Float.valueOf` reads.
pub(super) fn parse_float(text: &str) -> Option<f32> {
    match FloatText::of(text)? {
        FloatText::Decimal(number) => number.parse().ok(),
        FloatText::Nan => Some(f32::NAN),
        FloatText::Infinity { negative } => Some(if negative { f32::NEG_INFINITY } else { f32::INFINITY }),
        // Rounded to 24 bits already, so that the conversion is exact.
        FloatText::Hex(hex) => Some(hex.round(24, -149, 127) as f32),
    }
}

/// What text of a floating-point number says.
enum FloatText<'a> {
    /// Text that Rust reads in the same way.
    Decimal(&'a str),
    Nan,
    Infinity {
        negative: bool,
    },
    Hex(Hex),
}

impl<'a> FloatText<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let text = text.trim_matches(|c| c <= ' ');
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        match unsigned {
            "NaN" => return Some(Self::Nan),
            "Infinity" => return Some(Self::Infinity { negative }),
            _ => {}
        }
        let suffixed = unsigned.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(unsigned);
        if let Some(hex) = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
            // `d` and `f` are digits too, but not behind the exponent, which must be there.
            let hex = hex.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(hex);
            return Hex::of(negative, hex.as_bytes()).map(Self::Hex);
        }
        is_decimal(suffixed.as_bytes()).then(|| {
            let signed = text.len() - unsigned.len() + suffixed.len();
            Self::Decimal(&text[..signed])
        })
    }
}

/// `digits [. [digits]] [exponent]` or `. digits [exponent]`.
fn is_decimal(bytes: &[u8]) -> bool {
    let count = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = count(bytes);
    let mut rest = &bytes[whole..];
    let mut digits = whole;
    if let [b'.', fraction @ ..] = rest {
        digits += count(fraction);
        rest = &fraction[count(fraction)..];
    }
    if digits == 0 {
        return false;
    }
    match rest {
        [] => true,
        [b'e' | b'E', exponent @ ..] => {
            let exponent = match exponent {
                [b'+' | b'-', digits @ ..] => digits,
                digits => digits,
            };
            !exponent.is_empty() && count(exponent) == exponent.len()
        }
        _ => false,
    }
}

/// A hexadecimal number: `bits * 2^exponent`, and whether anything not zero was cut off below.
struct Hex {
    negative: bool,
    bits: u64,
    exponent: i64,
    sticky: bool,
}

impl Hex {
    /// Reads `digits [.] [digits] p [sign] digits` behind the `0x`.
    fn of(negative: bool, bytes: &[u8]) -> Option<Self> {
        let p = bytes.iter().position(|byte| matches!(byte, b'p' | b'P'))?;
        let (mantissa, exponent) = (&bytes[..p], &bytes[p + 1..]);
        let mut number = Self { negative, bits: 0, exponent: 0, sticky: false };
        let (mut digits, mut point) = (0, false);
        for byte in mantissa {
            if *byte == b'.' && !point {
                point = true;
                continue;
            }
            let digit = char::from(*byte).to_digit(16)?;
            digits += 1;
            if number.bits >> 59 == 0 {
                number.bits = number.bits << 4 | u64::from(digit);
                number.exponent -= if point { 4 } else { 0 };
            } else {
                number.sticky |= digit != 0;
                number.exponent += if point { 0 } else { 4 };
            }
        }
        let (minus, exponent) = match exponent {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] => (false, digits),
            digits => (false, digits),
        };
        if digits == 0 || exponent.is_empty() || !exponent.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let magnitude = exponent.iter().fold(0_i64, |value, digit| {
            // Far beyond every double, and far from overflow.
            (value * 10 + i64::from(digit - b'0')).min(1 << 50)
        });
        number.exponent += if minus { -magnitude } else { magnitude };
        Some(number)
    }

    /// The nearest number with `precision` bits, ties to even, no bit below `2^lowest` and none above
    /// `2^highest`; infinity beyond.
    fn round(&self, precision: u32, lowest: i64, highest: i64) -> f64 {
        let sign = if self.negative { -1.0 } else { 1.0 };
        if self.bits == 0 {
            return 0.0 * sign;
        }
        let top = self.exponent + 63 - i64::from(self.bits.leading_zeros());
        if top > highest {
            return f64::INFINITY * sign;
        }
        // The weight of the last bit that is kept.
        let last = (top - i64::from(precision) + 1).max(lowest);
        let cut = last - self.exponent;
        let kept = match cut {
            ..=0 => self.bits << u32::try_from(-cut).unwrap_or(0).min(63),
            1..=64 => {
                let wide = u128::from(self.bits);
                let (kept, rest, half) = (wide >> cut, wide & ((1 << cut) - 1), 1_u128 << (cut - 1));
                let up = rest > half || (rest == half && (self.sticky || kept & 1 == 1));
                kept as u64 + u64::from(up)
            }
            _ => 0,
        };
        // Both factors are powers of two that a double has, so that nothing is rounded again.
        let (first, second) = (last.max(-1000), last.min(-1000) + 1000);
        let value = kept as f64 * 2_f64.powi(first as i32) * 2_f64.powi(second as i32);
        let limit = 2_f64.powi(highest as i32);
        if value / 2.0 >= limit { f64::INFINITY * sign } else { value * sign }
    }
}

/// The text of a double: `1.0`, `1.0E10`, `NaN` (`Double.toString`, with the shortest digits).
pub(super) fn double_text(value: f64) -> String {
    let [shortest, two] = [format!("{value:e}"), format!("{value:.1e}")];
    let same = two.parse() == Ok(value);
    java_text(value, shortest, two, same)
}

/// The text of a float (`Float.toString`, with the shortest digits).
pub(super) fn float_text(value: f32) -> String {
    let [shortest, two] = [format!("{value:e}"), format!("{value:.1e}")];
    let same = two.parse() == Ok(value);
    java_text(f64::from(value), shortest, two, same)
}

/// `shortest` is the number as `d.ddde±x`, `two` the nearest with two digits, which may be the `same` number.
fn java_text(value: f64, shortest: String, two: String, same: bool) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_infinite() {
        return format!("{sign}Infinity");
    }
    if value == 0.0 {
        return format!("{sign}0.0");
    }
    // Java writes two digits at least, and then the nearest two: 4.9E-324, not 5.0E-324.
    let has_one_digit =
        shortest.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count() == 1;
    let written = if has_one_digit && same { two } else { shortest };
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match digits.trim_end_matches('0') {
        "" => &digits,
        trimmed => trimmed,
    };
    if !(-3..7).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        return format!("{sign}{first}.{}E{exponent}", if rest.is_empty() { "0" } else { rest });
    }
    if exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = exponent as usize + 1;
    let padded = format!("{digits:0<whole$}");
    let (whole, fraction) = padded.split_at(whole);
    format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_digits_of_any_script_and_nothing_else() {
        for (text, value) in [
            ("0", Some(0)),
            ("+05", Some(5)),
            ("-0", Some(0)),
            ("2147483647", Some(i32::MAX)),
            ("2147483648", None),
            ("-2147483648", Some(i32::MIN)),
            ("٥", Some(5)),
            ("５1", Some(51)),
            ("-๙", Some(-9)),
            ("𝟓", None),
            ("²", None),
            ("Ⅴ", None),
            (" 5", None),
            ("5.0", None),
            ("5L", None),
            ("", None),
            ("-", None),
            ("+-5", None),
        ] {
            assert_eq!(parse_int(text), value, "{text:?}");
        }
        assert_eq!(parse_long("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_long("9223372036854775808"), None);
        assert_eq!(parse_long("000000000000000000000000000005"), Some(5));
    }

    #[test]
    fn doubles_are_what_java_writes_in_a_program() {
        for (text, value) in [
            ("5", Some(5.0)),
            (" 5.\t", Some(5.0)),
            ("\u{0}5", Some(5.0)),
            (".5", Some(0.5)),
            ("-5e1d", Some(-50.0)),
            ("5f", Some(5.0)),
            ("1e400", Some(f64::INFINITY)),
            ("1e-400", Some(0.0)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("0x1p3", Some(8.0)),
            ("-0x1.8p1", Some(-3.0)),
            ("0X.8P1f", Some(1.0)),
            ("0x1.p+2", Some(4.0)),
            ("0x1p-1074", Some(5e-324)),
            ("0x1p-1075", Some(0.0)),
            ("0x1.8p-1075", Some(5e-324)),
            ("0x1p1024", Some(f64::INFINITY)),
            ("0x1.fffffffffffff8p1023", Some(f64::INFINITY)),
            ("0x1.fffffffffffff7p1023", Some(f64::MAX)),
            ("0x1.00000000000008p0", Some(1.0)),
            ("0x1.000000000000080000000000000000001p0", Some(1.0 + f64::EPSILON)),
            ("0x10000000000000000000p0", Some(75_557_863_725_914_323_419_136.0)),
            ("0x0p99999999999999999999", Some(0.0)),
            ("0x1", None),
            ("0xp1", None),
            ("0x1p", None),
            ("Infinityd", None),
            ("NaNf", None),
            ("nan", None),
            ("inf", None),
            ("infinity", None),
            ("5dd", None),
            ("d", None),
            (".", None),
            ("5e", None),
            ("5 5", None),
            ("٥", None),
            ("\u{a0}5", None),
            ("", None),
            ("  ", None),
        ] {
            assert_eq!(parse_double(text), value, "{text:?}");
        }
        assert!(parse_double("+NaN").is_some_and(f64::is_nan));
        assert_eq!(parse_double("-0").map(f64::to_bits), Some((-0.0_f64).to_bits()));
        assert_eq!(parse_float("0.1"), Some(0.1_f32));
        assert_eq!(parse_float("0x1.000001p0"), Some(1.0));
        assert_eq!(parse_float("0x1.0000011p0"), Some(1.0 + f32::EPSILON));
    }

    #[test]
    fn floats_are_written_with_a_point_or_an_exponent() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (100.5, "100.5"),
            (0.001, "0.001"),
            (0.000_999, "9.99E-4"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (123_456_789.0, "1.23456789E8"),
            (1e300, "1.0E300"),
            (0.012_5, "0.0125"),
            (f64::INFINITY, "Infinity"),
            (5e-324, "4.9E-324"),
            (2e-323, "2.0E-323"),
            (0.5, "0.5"),
            (20.0, "20.0"),
            (1e23, "1.0E23"),
            (-1e300, "-1.0E300"),
        ] {
            assert_eq!(double_text(value), text);
        }
        assert_eq!(float_text(0.1), "0.1");
        assert_eq!(float_text(16_777_216.0), "1.6777216E7");
    }
}
