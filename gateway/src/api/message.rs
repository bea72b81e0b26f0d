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
    /// Rekey the SAs of a site.
    SaRekey {
        /// Name of the site.
        site: String,
        /// The IKE SA in place of its Child SAs.
        ike: bool,
    },
    /// Close the IKE SAs of a site.
    SaClose {
        /// Name of the site.
        site: String,
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
    },
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
            site: "a".into(),
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
