//! `cargo xtask`: every chore of the project.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use xtask::bench::pktgen::packages::Guest;
use xtask::lab::gateway::Config;
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::{Connection, Release};
use xtask::lab::topology::{Node, Options, Site};
use xtask::lab::{self, Lab};
use xtask::test::Part;
use xtask::{bench, demo, fuzz, interop, kernels, setup, test};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every chore of the project")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what this machine lacks
    Setup {
        /// Only say what is missing
        #[arg(long)]
        check: bool,
    },
    /// Show what the gateway does, step by step
    Demo,
    /// Measure, each figure beside what it compares with
    Bench {
        /// The part to measure alone
        #[arg(value_enum)]
        part: Option<bench::Part>,
        /// Seconds instead of minutes: shows that it works, not how fast
        #[arg(long)]
        short: bool,
        /// Fail if a ratio of xtask/bench/floor.toml is missed
        #[arg(long)]
        check: bool,
        /// By the kernel's pktgen, alone: filter, NAPT and whole gateways beside nftables and XFRM; in a guest where this kernel
        /// has none
        #[arg(long, conflicts_with = "part")]
        pktgen: bool,
        /// AF_XDP zero copy, alone: packets and whole gateways over network cards that have it, in a guest, beside copy mode
        #[arg(long, conflicts_with_all = ["part", "pktgen"])]
        zero_copy: bool,
    },
    /// Run every test, or one part; the last line is the sum
    Test {
        /// The part to run alone
        #[arg(value_enum)]
        part: Option<Part>,
    },
    /// The packet vectors on other kernels than this machine's, each in an emulated guest: Debian's 6.12, 6.18, and the newest
    /// that its backports have
    Kernels {
        /// The kernel to take alone
        #[arg(value_enum)]
        kernel: Option<Guest>,
    },
    /// The gateway against strongSwan
    Interop {
        /// Every case of the product of algorithms, peers, lines, certificates and sides (hours)
        #[arg(long)]
        full: bool,
        /// A share of the full product, such as 3/41: with a number that has no divisor in common with 144, each share
        /// holds other algorithms in other surroundings
        #[arg(long, value_name = "K/N", conflicts_with = "full")]
        share: Option<interop::Share>,
    },
    /// Fuzz, guided by coverage (installs cargo-fuzz); what is found goes into tests/fuzz/artifacts
    Fuzz {
        /// The target to fuzz alone
        target: Option<String>,
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Afterwards drop what of a corpus reaches nothing that the rest does not
        #[arg(long)]
        minimize: bool,
    },
    /// Check dependencies against .deny.toml (installs cargo-deny, which compiles for some minutes)
    Deny,
    /// The network of namespaces that demo and tests run in
    #[command(subcommand)]
    Lab(LabVerb),
}

#[derive(Subcommand)]
enum LabVerb {
    /// Build it, with a strongSwan router at each site
    Up(LabUp),
    /// Take it down, whatever there is of it
    Down,
    /// What of it is there
    Status,
    /// A shell in one of its nodes
    Shell {
        /// site1-term, site1, nat, site2-term, site2, gateway, center or internet
        node: Node,
    },
}

#[derive(Args)]
struct LabUp {
    /// Queues of the gateway's interfaces
    #[arg(long, default_value_t = 1)]
    queues: u32,
    /// Put a NAT box between site 1 and the gateway
    #[arg(long)]
    nat: bool,
    /// With an Internet that sites may reach by name (docs/dns.md).
    #[arg(long)]
    internet: bool,
    /// The strongSwan that the sites run
    #[arg(long, value_enum, default_value_t)]
    strongswan: Router,
    /// Claim a NAT at the sites, so that strongSwan 6.0 too puts ESP in UDP
    #[arg(long)]
    udp: bool,
    /// Let the sites offer MOBIKE
    #[arg(long)]
    mobike: bool,
    /// Start the gateway that is built, and both tunnels
    #[arg(long, conflicts_with = "strongswan_gateway")]
    gateway: bool,
    /// Put strongSwan in the gateway's place, for this site (1 or 2)
    #[arg(long, value_name = "SITE")]
    strongswan_gateway: Option<u8>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Router {
    /// Debian 12's: ESP always in UDP
    #[default]
    #[value(name = "5.9")]
    Debian12,
    /// Debian 13's: plain ESP
    #[value(name = "6.0")]
    Debian13,
}

/// Nothing was measured, for reasons that have nothing to do with the gateway (`EX_TEMPFAIL` of sysexits.h).
const NOT_BEGUN: u8 = 75;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            if error.is::<bench::pktgen::DidNotBegin>() {
                return ExitCode::from(NOT_BEGUN);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.chore {
        Chore::Setup { check: true } => setup::check(),
        Chore::Setup { check: false } => setup::ensure().and_then(|()| setup::guest(Guest::ZeroCopy)),
        Chore::Demo => demo::run(),
        Chore::Bench {
            short,
            check,
            pktgen: true,
            ..
        } => bench::run_pktgen(*short, *check),
        Chore::Bench {
            short,
            check,
            zero_copy: true,
            ..
        } => bench::run_zero_copy(*short, *check),
        Chore::Bench {
            part,
            short,
            check,
            pktgen: false,
            zero_copy: false,
        } => bench::run(*part, *short, *check),
        Chore::Test { part } => test::run(*part),
        Chore::Kernels { kernel } => kernels::run(*kernel),
        Chore::Interop { full, share } => interop::run(full.then_some(interop::Share::WHOLE).or(*share)),
        Chore::Fuzz {
            target,
            seconds,
            minimize,
        } => fuzz::run(target.as_deref(), *seconds, *minimize),
        Chore::Deny => setup::deny(),
        Chore::Lab(verb) => run_lab(verb),
    }
}

fn run_lab(verb: &LabVerb) -> Result<()> {
    match verb {
        LabVerb::Up(args) => lab_up(args),
        LabVerb::Down => lab::down(),
        LabVerb::Status => {
            print!("{}", lab::status());
            Ok(())
        }
        LabVerb::Shell { node } => {
            let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
            let error = node.command(&shell).env("PS1", format!("{node}# ")).exec();
            bail!("cannot start {shell}: {error}")
        }
    }
}

fn lab_up(args: &LabUp) -> Result<()> {
    let kernel_forwards_in_gateway = args.strongswan_gateway.is_some();
    let lab = Lab::up(Options {
        queues: args.queues,
        nat: args.nat,
        internet: args.internet,
        kernel_forwards_in_gateway,
        release: match args.strongswan {
            Router::Debian12 => Release::Debian12,
            Router::Debian13 => Release::Debian13,
        },
    })?;
    if args.gateway {
        lab.start_gateway(&Config {
            internet: args.internet,
            ..Config::usual(Auth::Rsa)
        })?;
    }
    if let Some(number) = args.strongswan_gateway {
        let site = if number == 2 { Site::Two } else { Site::One };
        lab.start_strongswan_gateway(site, Auth::Rsa)?;
    }
    for site in Site::BOTH {
        let connection = Connection {
            mobike: args.mobike,
            force_udp: args.udp,
            ..Connection::of_site(site, Auth::Rsa, lab.options())
        };
        let router = lab.start_site_with(site, &connection)?;
        if args.gateway {
            println!("{}: {}", site.name(), router.initiate()?.algorithms);
        }
    }
    lab.keep();
    print!("{}", lab::status());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    /// What follows `cargo xtask` in a text, up to the end of the line, a comment or a backtick.
    fn commands(text: &str) -> Vec<Vec<&str>> {
        let lines = text.lines().flat_map(|line| line.split("cargo xtask ").skip(1));
        let ends = ['`', '#', '|', ';', '('];
        lines
            .map(|rest| rest.split(ends).next().unwrap_or(rest))
            .map(|rest| rest.split(|letter: char| letter.is_whitespace() || "[].,:".contains(letter)))
            .map(|words| words.filter(|word| !word.is_empty()).collect())
            .collect()
    }

    /// Whether the chore and its options are there.
    fn is_known(words: &[&str]) -> bool {
        let mut cli = Cli::command();
        cli.build();
        let mut at = &cli;
        for word in words {
            if let Some(name) = word.strip_prefix("--") {
                let is_there = at
                    .get_arguments()
                    .any(|argument| argument.get_long() == Some(name));
                if !is_there {
                    return false;
                }
            } else if let Some(below) = at.find_subcommand(word) {
                at = below;
            } else if at.has_subcommands() || !at.get_arguments().any(takes(word)) {
                return false;
            }
        }
        true
    }

    /// Whether an argument may have this value.
    fn takes(word: &str) -> impl Fn(&clap::Arg) -> bool {
        move |argument| {
            let values = argument.get_possible_values();
            let is_one = values.iter().any(|value| value.matches(word, true));
            argument.get_action().takes_values() && (values.is_empty() || is_one)
        }
    }

    #[test]
    fn every_chore_of_the_documentation_is_there() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut documents = vec![folder.join("README.md")];
        let docs = std::fs::read_dir(folder.join("gateway/docs")).unwrap();
        documents.extend(docs.map(|file| file.unwrap().path()));
        let mut checked = 0;
        for document in documents {
            let text = std::fs::read_to_string(&document).unwrap();
            for words in commands(&text) {
                checked += 1;
                assert!(is_known(&words), "{}: cargo xtask {words:?}", document.display());
            }
        }
        assert!(checked > 20, "only {checked} were found");
        let known = ["bench through --short", "bench thruogh", "setup --chek", "fly"];
        let known = known.map(|text| is_known(&text.split(' ').collect::<Vec<_>>()));
        assert_eq!(known, [true, false, false, false]);
    }
}
