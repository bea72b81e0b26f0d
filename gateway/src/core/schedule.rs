//! Times of the week at which a rule is in force.
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use crate::config::ScheduleModel;

const MINUTES_A_DAY: u16 = 24 * 60;
const MINUTES_A_WEEK: u16 = 7 * MINUTES_A_DAY;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A schedule that is understood.
#[derive(Clone, Debug)]
pub struct Schedule {
    zone: TimeZone,
    /// Monday first.
    days: [bool; 7],
    /// Minutes of the day.
    from: u16,
    to: u16,
}

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleFault {
    /// The word that is wrong.
    pub word: String,
    /// Why.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Schedule {
    /// Understands what is written.
    ///
    /// # Errors
    /// The word that is wrong.
    pub fn new(model: &ScheduleModel) -> Result<Self, ScheduleFault> {
        let zone = TimeZone::get(&model.time_zone).map_err(|error| ScheduleFault {
            word: model.time_zone.clone(),
            message: format!("time zone \"{}\" is not known: {error}", model.time_zone),
            remedy: "write an IANA name like \"Asia/Tokyo\" or \"UTC\"".to_owned(),
        })?;
        let mut days = [model.days.is_any(); 7];
        for word in &model.days.0 {
            let found = DAYS.iter().position(|day| day == word);
            let day = found
                .and_then(|place| days.get_mut(place))
                .ok_or_else(|| ScheduleFault {
                    word: word.clone(),
                    message: format!("\"{word}\" is no day of the week"),
                    remedy: format!("write some of {}", DAYS.join(", ")),
                })?;
            *day = true;
        }
        let from = model
            .from
            .as_deref()
            .map_or(Ok(0), |word| minutes(word, MINUTES_A_DAY - 1))?;
        let to = model
            .to
            .as_deref()
            .map_or(Ok(MINUTES_A_DAY), |word| minutes(word, MINUTES_A_DAY))?;
        Ok(Self { zone, days, from, to })
    }

    /// Whether it is in force at a time. Local time decides: on the day that clocks are set, an hour is met twice or not at
    /// all.
    #[must_use]
    pub fn is_on(&self, unix_s: u64) -> bool {
        let seconds = i64::try_from(unix_s).unwrap_or(i64::MAX);
        let Ok(timestamp) = Timestamp::from_second(seconds) else {
            return false;
        };
        let local = timestamp.to_zoned(self.zone.clone());
        let minute = local.hour().unsigned_abs() as u16 * 60 + local.minute().unsigned_abs() as u16;
        let (today, yesterday) = (local.weekday(), local.weekday().wrapping_sub(1));
        if self.from < self.to {
            return self.begins_on(today) && (self.from..self.to).contains(&minute);
        }
        (self.begins_on(today) && minute >= self.from) || (self.begins_on(yesterday) && minute < self.to)
    }

    /// Whether both may be in force at one time. Of different time zones that is not asked: their clocks are set on different days.
    #[must_use]
    pub fn may_meet(&self, other: &Self) -> bool {
        if self.zone != other.zone {
            return true;
        }
        // On the circle that a week is, two spans meet if one begins within the other.
        let begins_within = |start: u16, (from, length): (u16, u16)| {
            (start + MINUTES_A_WEEK - from) % MINUTES_A_WEEK < length
        };
        self.spans().any(|own| {
            let mut others = other.spans();
            others.any(|other| begins_within(own.0, other) || begins_within(other.0, own))
        })
    }

    /// Minute of the week at which it begins on each of its days, and for how many minutes it lasts.
    fn spans(&self) -> impl Iterator<Item = (u16, u16)> {
        let length = match self.from < self.to {
            true => self.to - self.from,
            false => MINUTES_A_DAY - self.from + self.to,
        };
        let days = (0..).zip(self.days).filter(|(_, begins)| *begins);
        days.map(move |(day, _): (u16, _)| (day * MINUTES_A_DAY + self.from, length))
    }

    fn begins_on(&self, day: Weekday) -> bool {
        let place = usize::from(day.to_monday_zero_offset().unsigned_abs());
        self.days.get(place).copied().unwrap_or(false)
    }
}

/// Minutes since midnight.
fn minutes(word: &str, highest: u16) -> Result<u16, ScheduleFault> {
    let fault = || ScheduleFault {
        word: word.to_owned(),
        message: format!("\"{word}\" is no time of the day"),
        remedy: "write it like \"08:30\"".to_owned(),
    };
    let (hours, minutes) = word.split_once(':').ok_or_else(fault)?;
    let number = |digits: &str| match digits.len() == 2 {
        true => digits.parse::<u16>().ok(),
        false => None,
    };
    let (Some(hours), Some(minutes)) = (number(hours), number(minutes)) else {
        return Err(fault());
    };
    match hours * 60 + minutes {
        time if minutes < 60 && time <= highest => Ok(time),
        _ => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::List;

    fn schedule(zone: &str, days: &[&str], from: &str, to: &str) -> Result<Schedule, ScheduleFault> {
        Schedule::new(&ScheduleModel {
            name: "s".into(),
            time_zone: zone.into(),
            days: List(days.iter().map(|day| (*day).to_owned()).collect()),
            from: Some(from.into()),
            to: Some(to.into()),
            comment: String::new(),
        })
    }

    fn at(local: &str) -> u64 {
        let zoned: jiff::Zoned = local.parse().expect(local);
        zoned.timestamp().as_second().unsigned_abs()
    }

    #[test]
    fn office_hours_in_tokyo() {
        let office = schedule("Asia/Tokyo", &["mon", "fri"], "08:30", "18:00").expect("right");
        // 2026-11-23 is a Monday.
        for (time, on) in [
            ("2026-11-23T08:29:59[Asia/Tokyo]", false),
            ("2026-11-23T08:30:00[Asia/Tokyo]", true),
            ("2026-11-23T17:59:59[Asia/Tokyo]", true),
            ("2026-11-23T18:00:00[Asia/Tokyo]", false),
            ("2026-11-24T12:00:00[Asia/Tokyo]", false),
            ("2026-11-22T23:30:00[UTC]", true),
        ] {
            assert_eq!(office.is_on(at(time)), on, "{time}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let night = schedule("UTC", &["sat"], "22:00", "05:00").expect("right");
        for (time, on) in [
            ("2026-11-28T21:59:00[UTC]", false),
            ("2026-11-28T22:00:00[UTC]", true),
            ("2026-11-29T04:59:00[UTC]", true),
            ("2026-11-29T05:00:00[UTC]", false),
            ("2026-11-29T22:30:00[UTC]", false),
        ] {
            assert_eq!(night.is_on(at(time)), on, "{time}");
        }
    }

    #[test]
    fn local_time_decides_when_clocks_are_set() {
        let early = schedule("Europe/Berlin", &[], "02:00", "03:00").expect("right");
        // 2026-03-29: 02:00 to 03:00 does not exist. 2026-10-25: it is met twice.
        let hours = |from: &str, minutes: u64| {
            (0..minutes)
                .filter(|minute| early.is_on(at(from) + minute * 60))
                .count()
        };
        assert_eq!(hours("2026-03-29T00:00:00[Europe/Berlin]", 6 * 60), 0);
        assert_eq!(hours("2026-10-25T00:00:00[Europe/Berlin]", 6 * 60), 120);
    }

    #[test]
    fn schedules_meet_if_a_minute_is_in_both() {
        const TIMES: [(&[&str], &str, &str); 8] = [
            (&[], "00:00", "24:00"),
            (&[], "08:00", "08:00"),
            (&["sun"], "22:00", "05:00"),
            (&["mon"], "05:00", "22:00"),
            (&["mon"], "04:59", "05:00"),
            (&["sun", "wed"], "21:00", "22:00"),
            (&["sat"], "22:00", "21:00"),
            (&["wed"], "21:59", "24:00"),
        ];
        let all = TIMES.map(|(days, from, to)| schedule("UTC", days, from, to).expect("right"));
        let monday = at("2026-11-23T00:00:00[UTC]");
        let mut met = 0;
        for one in &all {
            for other in &all {
                let mut minutes = (0..u64::from(MINUTES_A_WEEK)).map(|minute| monday + minute * 60);
                let meet = minutes.any(|time| one.is_on(time) && other.is_on(time));
                assert_eq!(one.may_meet(other), meet, "{one:?} {other:?}");
                met += usize::from(meet);
            }
        }
        assert!((20..60).contains(&met), "{met}");
        let elsewhere = schedule("Asia/Tokyo", &["mon"], "05:00", "06:00").expect("right");
        assert!(all.iter().all(|one| one.may_meet(&elsewhere)), "not known");
    }

    #[test]
    fn wrong_words_are_named() {
        let fault = |result: Result<Schedule, ScheduleFault>| result.expect_err("wrong").word;
        assert_eq!(
            fault(schedule("Mars/Olympus", &[], "00:00", "24:00")),
            "Mars/Olympus"
        );
        assert_eq!(fault(schedule("UTC", &["day"], "00:00", "24:00")), "day");
        assert_eq!(fault(schedule("UTC", &[], "24:00", "24:00")), "24:00");
        assert_eq!(fault(schedule("UTC", &[], "8:00", "24:00")), "8:00");
        assert_eq!(fault(schedule("UTC", &[], "08:00", "24:01")), "24:01");
    }
}
