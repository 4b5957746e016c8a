//! What functions answer, plainly: the table of `docs/sql.md`, one by one.

use super::{Item, compare, compute, finite, number};
use crate::{
    functions::Function,
    syntax::{Arithmetic, Comparison},
    types::Truth,
};

/// Calls a function whose arguments have been checked to be as many as it takes.
pub(super) fn call(function: Function, arguments: Vec<Item>) -> Item {
    let texts: Vec<Option<String>> = arguments.iter().map(text).collect();
    let numbers: Vec<Item> = arguments.iter().map(number).collect();
    match function {
        Function::Coalesce => {
            arguments.into_iter().find(|item| !matches!(item, Item::Missing)).unwrap_or(Item::Missing)
        }
        Function::NullIf if compare(&arguments[0], Comparison::Equal, &arguments[1]) == Truth::True => {
            Item::Missing
        }
        Function::NullIf => arguments[0].clone(),
        Function::Upper => made(texts[0].as_ref().map(|text| text.to_uppercase())),
        Function::Lower => made(texts[0].as_ref().map(|text| text.to_lowercase())),
        Function::Trim => made(texts[0].as_ref().map(|text| text.trim_matches(' ').to_owned())),
        Function::Concat => made(texts.into_iter().collect::<Option<Vec<_>>>().map(|texts| texts.concat())),
        Function::Length => texts[0]
            .as_ref()
            .map_or(Item::Missing, |text| Item::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))),
        Function::Substring => made(texts[0].as_ref().and_then(|text| substring(text, &numbers[1..]))),
        Function::Abs => match numbers[0] {
            Item::Int(value) => value.checked_abs().map_or(Item::Missing, Item::Int),
            Item::Float(value) => finite(value.abs()),
            _ => Item::Missing,
        },
        Function::Floor => whole(&numbers[0], f64::floor),
        Function::Ceil => whole(&numbers[0], f64::ceil),
        Function::Round => whole(&numbers[0], |value| {
            let cut = value.trunc();
            if (value - cut).abs() >= 0.5 { cut + 1_f64.copysign(value) } else { cut }
        }),
        Function::Mod => compute(&numbers[0], Arithmetic::Modulo, &numbers[1]),
        Function::EpochMs => texts[0].as_deref().and_then(timestamp).map_or(Item::Missing, Item::Int),
    }
}

fn text(item: &Item) -> Option<String> {
    match item {
        Item::Text(text) | Item::Str(text) => Some(text.clone()),
        _ => None,
    }
}

fn made(text: Option<String>) -> Item {
    text.filter(|text| text.len() <= 65_536).map_or(Item::Missing, Item::Str)
}

fn whole(item: &Item, rounded: impl Fn(f64) -> f64) -> Item {
    match item {
        Item::Float(value) => finite(rounded(*value)),
        item => item.clone(),
    }
}

/// Asks of each character whether its place, from 1, is in the range.
fn substring(text: &str, range: &[Item]) -> Option<String> {
    let places: Vec<i128> = range.iter().map(integer).collect::<Option<_>>()?;
    let from = places[0];
    let count = places.get(1).copied().unwrap_or(i128::from(i64::MAX) * 3);
    if count < 0 {
        return None;
    }
    let is_inside = |place: i128| place >= from && place < from + count;
    Some((1..).zip(text.chars()).filter(|(place, _)| is_inside(*place)).map(|(_, c)| c).collect())
}

fn integer(item: &Item) -> Option<i128> {
    match item {
        Item::Int(value) => Some(i128::from(*value)),
        Item::Float(value) if value.trunc() == *value && (-TWO_POW_63..TWO_POW_63).contains(value) => {
            Some(*value as i128)
        }
        _ => None,
    }
}

const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;

/// Counts the days of every year and month.
fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let [year, month, day] = parts[..] else { return None };
    let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let months = |year| [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    if day < 1 || day > *months(year).get(month)? {
        return None;
    }
    let length = |year: i64| if is_leap(year) { 366 } else { 365 };
    let before: i64 =
        if year < 1970 { -(year..1970).map(length).sum::<i64>() } else { (1970..year).map(length).sum() };
    let days = before + months(year)[..month].iter().sum::<i64>() + day - 1;
    Some(days * 86_400_000 + time.map_or(Some(0), time_of_day)?)
}

fn time_of_day(text: &str) -> Option<i64> {
    let (clock, ahead) = match text.find(['Z', 'z', '+', '-']) {
        None => (text, 0),
        Some(at) if at + 1 == text.len() && text[at..].eq_ignore_ascii_case("z") => (&text[..at], 0),
        Some(at) => {
            let (hour, minute) = text.get(at + 1..)?.split_once(':')?;
            let ahead = in_range(hour, 24)? * 60 + in_range(minute, 60)?;
            match &text[at..=at] {
                "+" => (&text[..at], ahead),
                "-" => (&text[..at], -ahead),
                _ => return None,
            }
        }
    };
    let (clock, fraction) = match clock.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (clock, None),
    };
    let parts: Vec<&str> = clock.split(':').collect();
    let (hour, minute, second) = match parts[..] {
        [hour, minute] if fraction.is_none() => (hour, minute, "00"),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let mut milliseconds =
        (in_range(hour, 24)? * 3600 + in_range(minute, 60)? * 60 + in_range(second, 60)? - ahead * 60) * 1000;
    if let Some(fraction) = fraction {
        if fraction.is_empty() || !fraction.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let padded: String = fraction.chars().chain("00".chars()).take(3).collect();
        milliseconds += padded.parse::<i64>().ok()?;
    }
    Some(milliseconds)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.chars().all(|c| c.is_ascii_digit())).then(|| text.parse().ok())?
}

fn in_range(text: &str, end: i64) -> Option<i64> {
    digits(text, 2).filter(|number| *number < end)
}
