//! How long a transfer goes on while no bytes arrive, and the waits between its attempts.
//!
//! Patience is one total: the time since the last byte that stayed, waits that a server asks for included. Attempts
//! are not counted, so an outage of a minute ends nothing, and bytes that are thrown away do not renew it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::HeaderMap;

use crate::error::{Error, HubError, Result};
use crate::progress::{Progress, Stop};

/// First wait between attempts; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Longest wait of our own.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Patience in silences of a server, and its bounds.
const SILENCES: u32 = 20;
const LONGEST: Duration = Duration::from_secs(600);

/// Patience with a server that never answered.
pub(super) const UNREACHED: Duration = Duration::from_secs(5);

/// Longest wait that a header is taken to name: more is more than any patience.
const MAX_ASKED: Duration = Duration::from_secs(1 << 20);

/// Waits from which on the user is notified: of every sixth attempt's, whatever its jitter, and of no earlier one's.
const TOLD_WAIT: Duration = Duration::from_secs(4);

/// Time between two looks at a request to stop.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// What ends a transfer before its time.
#[derive(Clone, Copy)]
pub(super) struct Halt<'a> {
    stop: &'a Stop,
    failed: Option<&'a AtomicBool>,
}

impl<'a> Halt<'a> {
    /// Of work that is one transfer.
    pub(super) fn of(stop: &'a Stop) -> Self {
        Self { stop, failed: None }
    }

    /// Of one of several transfers: where one fails for good, the others are not waited for. `failed`: set when it does.
    pub(super) fn of_many(stop: &'a Stop, failed: &'a AtomicBool) -> Self {
        Self { stop, failed: Some(failed) }
    }

    pub(super) fn is_asked(self) -> bool {
        self.stop.requested() || self.failed.is_some_and(|failed| failed.load(Ordering::Relaxed))
    }

    /// Ends the other transfers.
    pub(super) fn fail(self) {
        if let Some(failed) = self.failed {
            failed.store(true, Ordering::Relaxed);
        }
    }

    /// Waits, unless asked to end.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(super) fn pause(self, wait: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            if self.is_asked() {
                return Err(Error::Interrupted { kept: true });
            }
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}

/// The patience with which a server is asked whose longest silence is `stall`: twenty such silences, ten minutes at
/// most, and never less than two silences.
pub(super) fn limit(stall: Duration) -> Duration {
    stall.saturating_mul(SILENCES).min(LONGEST).max(stall.saturating_mul(2))
}

/// The patience with one transfer.
pub(super) struct Patience {
    limit: Duration,
    since: Instant,
    kept: u64,
    attempts: u32,
}

impl Patience {
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, since: now, kept: 0, attempts: 0 }
    }

    /// The patience is another one from now on.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Tells how many bytes of the transfer are there to stay. Only more than ever renews the patience.
    pub(super) fn kept(&mut self, bytes: u64, now: Instant) {
        if bytes > self.kept {
            (self.kept, self.since, self.attempts) = (bytes, now, 0);
        }
    }

    /// Waits before the next attempt. `why`: the last one failed so; `asked`: the server asks to wait.
    ///
    /// # Errors
    /// [`HubError::Answer`] where no patience is left, [`Error::Interrupted`].
    pub(super) fn attend(
        &mut self,
        url: &str,
        why: &str,
        asked: Option<Duration>,
        halt: Halt<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        if halt.is_asked() {
            return Err(Error::Interrupted { kept: true });
        }
        let over = |over| HubError::Answer { url: url.to_owned(), why: format!("{why}; {over}") };
        let wait = self.wait(asked, Instant::now()).map_err(over)?;
        if wait >= TOLD_WAIT {
            progress.note(&format!("{url}: {why}; the next attempt is in {}", shown(wait)));
        }
        halt.pause(wait)
    }

    /// The wait before the next attempt; else, where none is left, why. `asked`: what the server asks for.
    fn wait(&mut self, asked: Option<Duration>, now: Instant) -> Result<Duration, String> {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.attempts.min(10)).min(MAX_WAIT);
        self.attempts = self.attempts.saturating_add(1);
        // Between half and the whole, so that many clients do not come back together.
        let jitter = RandomState::new().build_hasher().finish() % 512;
        let own = doubled.mul_f64(0.5 + jitter as f64 / 1024.0);
        // A little later than asked, since headers count whole seconds.
        let wait = asked.map_or(own, |asked| asked.saturating_add(FIRST_WAIT).max(own));
        let spent = now.saturating_duration_since(self.since);
        if spent.saturating_add(wait) <= self.limit {
            return Ok(wait);
        }
        let asks = asked
            .map_or(String::new(), |asked| format!(", and the server asks to wait for {}", shown(asked)));
        Err(format!("nothing came for {} of the {} that mgpack waits{asks}", shown(spent), shown(self.limit)))
    }
}

/// A time as people read it.
fn shown(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

/// The wait that an answer asks for: of the hub's `RateLimit` where it is used up, else of `Retry-After`, in seconds or
/// as a date. Sources: draft-ietf-httpapi-ratelimit-headers-09, RFC 9110 section 10.2.3.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let limits = header("ratelimit").into_iter().flat_map(|text| text.split(',')).filter_map(used_up);
    let after = || {
        let text = header("retry-after")?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        // By the server's own clock, where it shows it.
        let now = header("date").and_then(date).unwrap_or_else(|| since_epoch(now));
        Some(Duration::from_secs(date(text)?.saturating_sub(now)))
    };
    limits.max().or_else(after).map(|asked| asked.min(MAX_ASKED))
}

/// The `t` of `"api";r=0;t=55`, where `r` is 0.
fn used_up(limit: &str) -> Option<Duration> {
    let value = |name: &str| {
        let parts = limit.split(';').filter_map(|part| part.split_once('='));
        parts.into_iter().find(|(key, _)| key.trim() == name)?.1.trim().parse::<u64>().ok()
    };
    (value("r")? == 0).then_some(Duration::from_secs(value("t")?))
}

fn since_epoch(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the one form of a date that servers may send.
fn date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.trim().strip_suffix(" GMT")?.split_once(", ")?;
    let [day, month, year, time] = rest.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|number| *number <= most);
    let (day, year) = (number(day, 31)?, number(year, 9999).filter(|year| *year >= 1970)?);
    let month = MONTHS.find(month).filter(|at| month.len() == 3 && at % 3 == 0)? as u64 / 3;
    // Years that begin in March end with the day that leap years add.
    let (years, months) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day;
    // 719,469 days lie between the first of March of the year 0 and 1970, counted so.
    let days = days.checked_sub(719_469)?;
    Some(days * 86_400 + number(hour, 23)? * 3600 + number(minute, 59)? * 60 + number(second, 60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_server_names_its_wait_in_seconds_as_a_date_or_as_the_hubs_rate_limit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (pairs, seconds) in [
            (&[("retry-after", "7")][..], Some(7)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:50:00 GMT")], Some(23)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT")], Some(0)),
            // The server's clock is an hour behind, and so is the date that it names.
            (
                &[
                    ("retry-after", "Sun, 06 Nov 1994 07:50:00 GMT"),
                    ("date", "Sun, 06 Nov 1994 07:49:00 GMT"),
                ],
                Some(60),
            ),
            (&[("ratelimit", r#""api";r=0;t=55"#)], Some(55)),
            (&[("ratelimit", r#""api";r=3;t=55"#), ("retry-after", "2")], Some(2)),
            (&[("ratelimit", r#""api";r=0;t=5, "pages"; r=0; t=9"#)], Some(9)),
            (&[("retry-after", "99999999999999999999")], None),
            (&[("retry-after", "18446744073709551615")], Some(1 << 20)),
            (&[("retry-after", "soon")], None),
            (&[], None),
        ] {
            assert_eq!(asked(&headers(pairs), now), seconds.map(Duration::from_secs), "{pairs:?}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Of `date -u -d ... +%s`.
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Wed, 01 Mar 2000 00:00:00 GMT", Some(951_868_800)),
            ("Thu, 31 Dec 2099 12:00:00 GMT", Some(4_102_401_600)),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 anF 1994 08:49:37 GMT", None),
            ("06 Nov 1994", None),
        ] {
            assert_eq!(date(text), seconds, "{text}");
        }
    }

    #[test]
    fn patience_is_a_total_that_only_more_bytes_than_ever_renew() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(60), begun);
        assert!(patience.wait(None, at(50)).is_ok());
        patience.kept(10, at(50));
        assert!(patience.wait(None, at(100)).is_ok());
        // What was thrown away and came again is nothing new.
        patience.kept(10, at(100));
        let over = patience.wait(None, at(111)).unwrap_err();
        assert_eq!(over, "nothing came for 61 s of the 60 s that mgpack waits");
        patience.kept(11, at(111));
        assert!(patience.wait(Some(Duration::from_secs(30)), at(112)).unwrap() >= Duration::from_secs(30));
        let over = patience.wait(Some(Duration::from_secs(300)), at(112)).unwrap_err();
        assert!(over.ends_with("and the server asks to wait for 5 min"), "{over}");
    }

    #[test]
    fn no_longest_silence_is_too_long_to_count_with() {
        assert_eq!(limit(Duration::from_secs(30)), Duration::from_secs(600));
        assert_eq!(limit(Duration::from_secs(1)), Duration::from_secs(20));
        assert_eq!(limit(Duration::from_secs(3600)), Duration::from_secs(7200));
        assert_eq!(limit(Duration::MAX), Duration::MAX);
    }
}
