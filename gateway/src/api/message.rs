//! What goes over the socket.
use serde::{Deserialize, Serialize};

/// Version of requests, replies and views; raised when one changes its meaning or loses a field.
pub const VERSION: u32 = 1;

/// Longest line in bytes; a rule set travels as one.
pub const LINE_MAX: usize = 16 << 20;

/// A message with the version its sender speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The message.
    #[serde(flatten)]
    pub message: T,
}

impl<T> Envelope<T> {
    /// In this version.
    pub fn new(message: T) -> Self {
        Self {
            version: VERSION,
            message,
        }
    }
}

/// What the daemon is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it is: [`super::view::Status`].
    Status,
    /// All SAs: a list of [`super::view::IkeSa`].
    SaList,
    /// Everything known of an SA: [`super::view::SaDetails`].
    SaShow {
        /// `ike#N`, `child#N` or an SPI.
        id: String,
    },
    /// Rekey an SA, or the SAs of a site: [`super::view::Commanded`].
    SaRekey {
        /// Those of the site of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
        /// This one: `ike#N`, `child#N` or an SPI.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Of a site: the IKE SA in place of its Child SAs.
        #[serde(default)]
        ike: bool,
    },
    /// Close an SA, or the IKE SAs of a site: [`super::view::Commanded`].
    SaClose {
        /// Those of the site of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
        /// This one: `ike#N`, `child#N` or an SPI.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// The IKE log of a site or peer: [`super::view::IkeLog`].
    IkeLog {
        /// Name of a site, identity or address.
        of: String,
    },
    /// Peers with a log that are no site: [`super::view::IkePeers`].
    IkePeers,
    /// The last events: [`super::view::Events`].
    EventsRecent {
        /// At most so many.
        last: usize,
        /// Of the site of this name only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// The last events, and then a line for each event as it happens, of whichever site, until the client hangs up.
    EventsFollow {
        /// At most so many of the last.
        last: usize,
        /// The last ones of the site of this name only. The lines that follow are of all: their numbers say what was lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// Sites that the gateway connects to: a list of [`super::view::Connection`].
    ConnectionList,
    /// Bring a connection up: [`super::view::Commanded`].
    ConnectionUp {
        /// Its name.
        name: String,
    },
    /// Take a connection down and leave it down: [`super::view::Commanded`].
    ConnectionDown {
        /// Its name.
        name: String,
    },
    /// Tracked connections: [`super::view::Flows`].
    FlowsList {
        /// Of this site only.
        site: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Translations: [`super::view::Mappings`].
    NatList {
        /// Of this site only.
        site: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// What is open by name: [`super::view::OpenNames`].
    DnsList,
    /// How addresses are divided among sites: [`super::view::NatPlan`].
    NatPlan,
    /// Read certificates, authorities, revocation lists and shared keys again: [`super::view::Reloaded`].
    Reload,
    /// Send sites that can be redirected to another gateway, or no longer: [`super::view::Drained`].
    Drain {
        /// Address or DNS name; left out: no longer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Trace packets: [`super::view::Tracing`], and then a line for each packet and place ([`super::view::TraceLine`]), until
    /// the client hangs up or the trace is at its end.
    Trace(Trace),
    /// Counters of dropped packets: a list of [`super::view::Drop`].
    Drops,
    /// Put a rule set in force: [`super::view::Loaded`].
    RulesLoad {
        /// File as the operator named it.
        file: String,
        /// Its content.
        text: String,
        /// How.
        #[serde(default)]
        how: HowToLoad,
    },
    /// The rule set in force: [`super::view::RuleSet`].
    RulesShow,
    /// Keep the rule set that waits to be confirmed: [`super::view::RulesLoaded`].
    RulesConfirm,
    /// Put an earlier rule set in force again: [`super::view::RulesLoaded`].
    RulesRollback {
        /// Its generation; the one before, if none is named.
        generation: Option<u32>,
        /// How.
        #[serde(default)]
        how: HowToLoad,
    },
    /// Rule sets that are or were in force: a list of [`super::view::RulesGeneration`].
    RulesHistory,
    /// The text of a rule set: [`super::view::RulesText`].
    RulesText {
        /// Its generation; the one in force, if none is named.
        generation: Option<u32>,
    },
    /// Which rule decides on new flows: a list of [`super::view::RulesExplained`].
    RulesExplain {
        /// The flows.
        flows: Vec<crate::core::explain::Query>,
        /// Leaves out why rules before the one that decides do not match: with many flows and rules that is very much.
        #[serde(default)]
        verdicts_alone: bool,
    },
}

/// Which packets are traced, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Of this site.
    pub site: String,
    /// Of this protocol: `tcp`, `udp`, `icmp` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// From or to this address, on either side of the translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::Ipv4Addr>,
    /// From or to this port, on either side of the translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Ends after so many lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Ends after so many seconds.
    pub seconds: u64,
}

/// How a rule set is put in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HowToLoad {
    /// Fall back after so many seconds unless it is confirmed.
    #[serde(default)]
    pub confirm_s: Option<u32>,
    /// End running flows that the new rules do not allow.
    #[serde(default)]
    pub rejudge: bool,
    /// Who asks, in words.
    #[serde(default)]
    pub author: Option<String>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; a view.
    Ok(serde_json::Value),
    /// Refused, and why; nothing was changed.
    Error(String),
}

impl Reply {
    /// A view as a reply.
    pub fn view(view: &impl Serialize) -> Self {
        serde_json::to_value(view).map_or_else(|error| Self::Error(error.to_string()), Self::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_documented() {
        let request = Envelope::new(Request::SaRekey {
            site: Some("a".into()),
            id: None,
            ike: true,
        });
        let line = serde_json::to_string(&request).expect("JSON");
        assert_eq!(
            line,
            r#"{"version":1,"request":"sa_rekey","site":"a","ike":true}"#
        );
        assert_eq!(
            serde_json::from_str::<Envelope<Request>>(&line).expect("JSON"),
            request
        );
        let reply = Envelope::new(Reply::Error("no".into()));
        assert_eq!(
            serde_json::to_string(&reply).expect("JSON"),
            r#"{"version":1,"error":"no"}"#
        );
    }
}
