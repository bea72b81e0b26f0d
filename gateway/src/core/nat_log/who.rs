//! Who had a port of an address at a time.
use std::net::Ipv4Addr;

use super::{Block, Event, Holding, Record, Time};
use crate::config::PortBlock;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The address.
    pub address: Ipv4Addr,
    /// The port, or the identifier of an ICMP query; `None`: whoever had a part of the address.
    pub port: Option<u16>,
    /// When; `None`: now.
    pub at: Option<Time>,
}

impl Question {
    fn concerns(&self, block: Block) -> bool {
        block.address == self.address
            && self
                .port
                .is_none_or(|port| PortBlock::from(block).contains(self.address, port))
    }
}

/// Who it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who, and what of the address.
    pub holding: Holding,
    /// Since when, as far as the log reaches back.
    pub from: Time,
    /// The holding is older than the log.
    pub from_before: bool,
    /// Until when; `None`: still.
    pub until: Option<Time>,
    /// No other answer is possible: whenever the clock showed the time asked for, it was this site.
    pub certain: bool,
}

/// What the log knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Who it was; more than one where a whole address was asked for, or where the clock was set back.
    pub answers: Vec<Answer>,
    /// Time of the first record; `None`: there is none.
    pub begins: Option<Time>,
    /// The time asked for is before the first record, which knows nothing of it.
    pub before_log: bool,
    /// Numbers of records that are missing: the first and the last.
    pub missing: Vec<(u64, u64)>,
}

/// A time in which the clock ran on: number of the stretch, time.
type Moment = (usize, u64);

/// Records between which the clock was not set back.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first_ms: u64,
    last_ms: u64,
    /// The clock showed nothing before `first_ms` in it.
    start_is_known: bool,
    /// The clock showed nothing after `last_ms` in it.
    end_is_known: bool,
}

/// A holding and the time of it.
#[derive(Clone, Debug)]
struct Period {
    holding: Holding,
    from: Moment,
    from_before: bool,
    until: Option<Moment>,
}

/// Answers a question from the records of a log, in their order.
#[must_use]
pub fn who<'a>(records: impl IntoIterator<Item = &'a Record>, question: &Question) -> Found {
    let mut reading = Reading::default();
    for record in records {
        reading.next(record, question);
    }
    reading.answer(question)
}

#[derive(Default)]
struct Reading {
    stretches: Vec<Stretch>,
    periods: Vec<Period>,
    sequence: Option<u64>,
    missing: Vec<(u64, u64)>,
    /// Of the file that has just begun: when, how many holdings it is still to name, and which it has named.
    beginning: Option<(Moment, u64, Vec<Holding>)>,
}

impl Reading {
    fn next(&mut self, record: &Record, question: &Question) {
        let is_first = self.sequence.is_none();
        if let Some(last) = self.sequence
            && record.sequence > last + 1
        {
            self.missing.push((last + 1, record.sequence - 1));
        }
        self.sequence = Some(record.sequence);
        let now = self.tick(record);
        match &record.event {
            Event::File { held } => {
                self.beginning = Some((now, *held, Vec::new()));
                self.end_of_beginning();
            }
            Event::Held(holding) => {
                if question.concerns(holding.block) && !self.is_open(holding) {
                    self.close(holding.block, now);
                    self.open(holding, now, true);
                }
                if let Some((_, left, named)) = &mut self.beginning {
                    *left = left.saturating_sub(1);
                    named.push(holding.clone());
                }
                self.end_of_beginning();
            }
            Event::Assigned(holding) if question.concerns(holding.block) => {
                if !self.is_open(holding) {
                    self.close(holding.block, now);
                    self.open(holding, now, is_first);
                }
            }
            Event::Released(holding) if question.concerns(holding.block) => self.close(holding.block, now),
            Event::Assigned(_)
            | Event::Released(_)
            | Event::Started { .. }
            | Event::Stopped
            | Event::ClockSet { .. } => {}
        }
    }

    /// The moment of a record.
    fn tick(&mut self, record: &Record) -> Moment {
        let now_ms = record.time.0;
        if let Event::ClockSet { before } = record.event
            && let Some(last) = self.stretches.last_mut()
        {
            last.last_ms = last.last_ms.max(before.0);
            if now_ms < last.last_ms {
                last.end_is_known = true;
                self.stretches.push(Stretch {
                    first_ms: now_ms,
                    last_ms: now_ms,
                    start_is_known: true,
                    end_is_known: false,
                });
            }
        }
        match self.stretches.last_mut() {
            Some(last) if now_ms >= last.last_ms => last.last_ms = now_ms,
            // Set back while nobody looked, or there is none yet.
            Some(_) | None => self.stretches.push(Stretch {
                first_ms: now_ms,
                last_ms: now_ms,
                start_is_known: false,
                end_is_known: false,
            }),
        }
        (self.stretches.len() - 1, now_ms)
    }

    fn is_open(&self, holding: &Holding) -> bool {
        let mut open = self.periods.iter().filter(|period| period.until.is_none());
        open.any(|period| period.holding == *holding)
    }

    fn open(&mut self, holding: &Holding, from: Moment, from_before: bool) {
        self.periods.push(Period {
            holding: holding.clone(),
            from,
            from_before,
            until: None,
        });
    }

    fn close(&mut self, block: Block, now: Moment) {
        for period in &mut self.periods {
            if period.until.is_none() && period.holding.block.overlaps(&block) {
                period.until = Some(now);
            }
        }
    }

    /// What a file does not name at its beginning is not held: where records were lost, that is all there is to know.
    fn end_of_beginning(&mut self) {
        let Some((at, _, named)) = self.beginning.take_if(|(_, left, _)| *left == 0) else {
            return;
        };
        for period in &mut self.periods {
            if period.until.is_none() && !named.contains(&period.holding) {
                period.until = Some(at);
            }
        }
    }

    fn answer(self, question: &Question) -> Found {
        let moments = match question.at {
            Some(at) => self.moments(at.0),
            // Now is after everything.
            None => self
                .stretches
                .len()
                .checked_sub(1)
                .map(|last| ((last, u64::MAX), true))
                .into_iter()
                .collect(),
        };
        let is_known = moments.iter().any(|(_, known)| *known);
        let mut answers = Vec::new();
        for period in &self.periods {
            let is_in = |moment: Moment| {
                let ended = period.until.is_some_and(|until| until <= moment);
                period.from <= moment && !ended
            };
            let hits = moments.iter().filter(|(moment, _)| is_in(*moment)).count();
            if hits == 0 {
                continue;
            }
            answers.push(Answer {
                holding: period.holding.clone(),
                from: Time(period.from.1),
                from_before: period.from_before,
                until: period.until.map(|(_, until_ms)| Time(until_ms)),
                certain: is_known && hits == moments.len(),
            });
        }
        Found {
            answers,
            begins: self.stretches.first().map(|first| Time(first.first_ms)),
            before_log: moments.is_empty(),
            missing: self.missing,
        }
    }

    /// When the clock showed a time, and whether it certainly did.
    fn moments(&self, at_ms: u64) -> Vec<(Moment, bool)> {
        let last = self.stretches.len().saturating_sub(1);
        let of = |(number, stretch): (usize, &Stretch)| {
            let after = at_ms >= stretch.first_ms;
            let before = at_ms <= stretch.last_ms;
            let known = if after && (before || number == last) {
                true
            } else if (after && !stretch.end_is_known) || (before && number > 0 && !stretch.start_is_known) {
                false
            } else {
                return None;
            };
            Some(((number, at_ms), known))
        };
        self.stretches.iter().enumerate().filter_map(of).collect()
    }
}
