//! `bascule events`: a line of `/events` for people.

use serde_json::{Map, Value};

/// `2026-11-22 13:04:44.123Z  role  api  from=backup to=active ...`; what is not an event is shown as it came.
pub(super) fn line(json: &str) -> String {
    let Ok(Value::Object(mut record)) = serde_json::from_str(json) else { return format!("{json}\n") };
    let Some(Value::String(event)) = record.remove("event") else { return format!("{json}\n") };
    let time = record.remove("unix_ms").and_then(|ms| ms.as_u64()).map_or_else(String::new, |ms| utc(ms) + "  ");
    record.remove("seq");
    let about = ["group", "gate", "peer", "neighbor"].into_iter().find_map(|key| record.remove(key));
    let about = about.as_ref().and_then(Value::as_str).map_or_else(String::new, |name| format!("  {name}"));
    format!("{time}{event}{about}{}\n", fields(&record))
}

fn fields(record: &Map<String, Value>) -> String {
    let shown = record.iter().filter(|(_, value)| !value.is_null());
    let words: Vec<String> = shown.map(|(key, value)| format!("{key}={}", plain(value))).collect();
    if words.is_empty() { String::new() } else { format!("  {}", words.join(" ")) }
}

/// Words without quotes, sentences with them.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// Milliseconds since 1970 as a date and a time of day in UTC.
fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
}

/// The date a number of days after 1970-01-01, in the proleptic Gregorian calendar, which repeats every 400 years (146,097 days).
///
/// Years are counted from March, so that the leap day is the last of a year and every month before it has its fixed start
/// (the method of H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let since_0000_03_01 = days + 719_468;
    let (era, day_of_era) = (since_0000_03_01 / 146_097, since_0000_03_01 % 146_097);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
