//! `gateway nat who`: from the log of addresses and ports, with or without a daemon.
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

use crate::api::client::{Client, ClientError};
use crate::api::message::Request;
use crate::api::view::{NatHolder, NatPlan, NatWho};
use crate::cli::{Common, table};
use crate::core::journal::utc;
use crate::core::nat_log::{Answer, Block, Found, Question, Time, who};
use crate::core::pools::Assignments;
use crate::runtime::{nat_log, read_assignments};

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The address, or one port of it.
    #[arg(value_name = "ADDRESS[:PORT]")]
    of: String,
    /// When: RFC 3339, or like "2026-11-25 14:00" in the local time zone; left out: now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Read this state folder and ask no daemon.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<()> {
    let (address, port) = endpoint(&arguments.of)?;
    let at = arguments.at.as_deref().map(time).transpose()?;
    let question = Question { address, port, at };
    let state_dir = match &arguments.state_dir {
        Some(folder) => folder.clone(),
        None => ask_for_state_dir(common)?,
    };
    let view = answer(&state_dir, &question)?;
    common.print(&view, show)
}

/// The log may be long: it is read here, not by the daemon, which has packets to tend.
fn ask_for_state_dir(common: &Common) -> anyhow::Result<PathBuf> {
    let client = Client::connect(&common.socket)
        .context("to read the log of a gateway that does not run, name its folder with --state-dir")?;
    let mut client = client;
    let view = client.call(&Request::NatPlan)?;
    let plan: NatPlan = serde_json::from_value(view).map_err(ClientError::Answer)?;
    Ok(plan.state_dir)
}

fn answer(state_dir: &Path, question: &Question) -> anyhow::Result<NatWho> {
    if !state_dir.is_dir() {
        return Err(anyhow!(
            "{}: there is no such folder; it is [gateway] state_dir of the configuration",
            state_dir.display()
        ));
    }
    let nat_log::Read { records, faults } = nat_log::read(state_dir)?;
    let found = who(&records, question);
    let mut warnings = warnings(&found, faults);
    let mut answers: Vec<_> = found.answers.iter().map(holder).collect();
    if found.before_log {
        let assignments = read_assignments(state_dir)?;
        answers = held_now(&assignments, question);
        warnings.push(match found.begins {
            Some(begins) => format!(
                "the log begins at {}: this is who has it now, not who had it then",
                utc(begins.0)
            ),
            None => "there is no log yet: this is who is to have it".to_owned(),
        });
    }
    if !warnings.is_empty() {
        answers.iter_mut().for_each(|answer| answer.certain = false);
    }
    Ok(NatWho {
        address: question.address,
        port: question.port,
        at: question.at.map(|at| utc(at.0)),
        answers,
        log_begins: found.begins.map(|begins| utc(begins.0)),
        warnings,
    })
}

fn warnings(found: &Found, faults: Vec<String>) -> Vec<String> {
    let missing = found.missing.iter().map(|(first, last)| {
        format!("records {first} to {last} of the log are missing: what they said is not known")
    });
    let damaged = faults
        .into_iter()
        .map(|fault| format!("damaged, and left out: {fault}"));
    missing.chain(damaged).collect()
}

fn holder(answer: &Answer) -> NatHolder {
    let block = answer.holding.block;
    NatHolder {
        site: answer.holding.site,
        name: answer.holding.name.clone(),
        address: block.address,
        first_port: block.first_port,
        last_port: block.last_port,
        protocol: block.protocol,
        from: (!answer.from_before).then(|| utc(answer.from.0)),
        until: answer.until.map(|until| utc(until.0)),
        certain: answer.certain,
    }
}

fn held_now(assignments: &Assignments, question: &Question) -> Vec<NatHolder> {
    let all = assignments
        .iter()
        .flat_map(|(name, held)| held.blocks.iter().map(move |block| (name, held.site, *block)));
    all.filter(|(_, _, block)| {
        block.address == question.address
            && question
                .port
                .is_none_or(|port| block.contains(question.address, port))
    })
    .map(|(name, site, block)| NatHolder {
        site,
        name: name.to_owned(),
        address: block.address,
        first_port: block.first_port,
        last_port: block.last_port,
        protocol: None,
        from: None,
        until: None,
        certain: false,
    })
    .collect()
}

fn show(view: &NatWho) {
    let port = view.port.map_or_else(String::new, |port| format!(":{port}"));
    let at = view.at.as_deref().unwrap_or("this moment");
    println!("{}{port} at {at}\n", view.address);
    if view.answers.is_empty() {
        println!("no site had it");
    } else {
        let row = |holder: &NatHolder| {
            let block = Block {
                address: holder.address,
                first_port: holder.first_port,
                last_port: holder.last_port,
                protocol: holder.protocol,
            };
            let certain = if holder.certain { "yes" } else { "no" };
            vec![
                holder.name.clone(),
                holder.site.to_string(),
                block.to_string(),
                holder.from.clone().unwrap_or_else(|| "before the log".to_owned()),
                holder.until.clone().unwrap_or_else(|| "now".to_owned()),
                certain.to_owned(),
            ]
        };
        let rows: Vec<_> = view.answers.iter().map(row).collect();
        table::print(&["SITE", ">NUMBER", "HAD", "FROM", "UNTIL", "CERTAIN"], &rows);
    }
    for warning in &view.warnings {
        println!("note: {warning}");
    }
}

fn endpoint(text: &str) -> anyhow::Result<(Ipv4Addr, Option<u16>)> {
    let wrong = || {
        anyhow!("\"{text}\" is neither an IPv4 address nor one with a port; write it like 10.200.0.1:2048")
    };
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => (address, Some(port.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    Ok((address.parse().map_err(|_| wrong())?, port))
}

/// A time as it is asked for.
fn time(text: &str) -> anyhow::Result<Time> {
    time_in(text, &TimeZone::system())
}

fn time_in(text: &str, local: &TimeZone) -> anyhow::Result<Time> {
    let timestamp = match text.parse::<Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) => {
            let civil: civil::DateTime = text.parse().map_err(|_| {
                anyhow!(
                    "\"{text}\" is no time; write it like \"2026-11-25 14:00\" or 2026-11-25T14:00:00+09:00"
                )
            })?;
            civil.to_zoned(local.clone())?.timestamp()
        }
    };
    let ms = u64::try_from(timestamp.as_millisecond());
    ms.map(Time)
        .map_err(|_| anyhow!("\"{text}\" is before the year 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::nat_log::{Event, Holding};

    #[test]
    fn an_address_may_have_a_port() {
        let address = Ipv4Addr::new(10, 200, 0, 1);
        assert_eq!(endpoint("10.200.0.1").expect("right"), (address, None));
        assert_eq!(endpoint("10.200.0.1:2048").expect("right"), (address, Some(2048)));
        for wrong in ["10.200.0", "10.200.0.1:", "10.200.0.1:65536", "::1", "x:1"] {
            let error = endpoint(wrong).expect_err(wrong).to_string();
            assert!(error.contains("10.200.0.1:2048"), "{error}");
        }
    }

    #[test]
    fn a_time_is_rfc_3339_or_local() {
        let tokyo = TimeZone::get("Asia/Tokyo").expect("known");
        let at = |text| time_in(text, &tokyo).expect(text).0;
        let two = at("2026-11-25T05:00:00Z");
        assert_eq!(two, 1_795_582_800_000);
        for same in [
            "2026-11-25 14:00",
            "2026-11-25T14:00",
            "2026-11-25 14:00:00",
            "2026-11-25T14:00:00+09:00",
        ] {
            assert_eq!(at(same), two, "{same}");
        }
        assert_eq!(at("2026-11-25"), at("2026-11-24T15:00:00Z"), "the day's begin");
        for wrong in ["", "14:00", "25.11.2026", "2026-13-01 00:00"] {
            let error = time_in(wrong, &tokyo).expect_err(wrong).to_string();
            assert!(error.contains("2026-11-25 14:00"), "{error}");
        }
    }

    #[test]
    fn answers_come_from_the_log_and_before_it_from_the_state() {
        let folder = tempfile::tempdir().expect("folder");
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let ask = |port, at_s: u64| {
            let question = Question {
                address,
                port: Some(port),
                at: Some(Time(at_s * 1_000)),
            };
            answer(folder.path(), &question).expect("answered")
        };
        let nothing = ask(2048, 5);
        assert!(nothing.answers.is_empty() && nothing.log_begins.is_none());
        let block = r#""blocks":[{"address":"10.0.0.1","first_port":2048,"last_port":4095}]"#;
        let sites = format!(r#"{{"names":{{"now":{{"site":2,{block}}}}}}}"#);
        std::fs::write(folder.path().join("sites.json"), sites).expect("written");
        let mut log = nat_log::NatLog::open(folder.path(), 30, 10_000).expect("opened");
        let holding = Holding {
            site: 1,
            name: "then".into(),
            block: Block {
                address,
                first_port: 2048,
                last_port: 4095,
                protocol: None,
            },
        };
        log.append(20_000, [Event::Assigned(holding)]).expect("written");
        let found = ask(3000, 25);
        assert_eq!(
            (found.answers[0].name.as_str(), found.answers[0].certain),
            ("then", true)
        );
        assert_eq!(found.answers[0].from.as_deref(), Some("1970-01-01T00:00:20.000Z"));
        assert!(found.warnings.is_empty());
        assert!(ask(5000, 25).answers.is_empty());
        let before = ask(3000, 5);
        assert_eq!(
            (before.answers[0].name.as_str(), before.answers[0].certain),
            ("now", false)
        );
        assert!(before.warnings[0].contains("the log begins at 1970-01-01T00:00:10.000Z"));
    }
}
