//! What goes over the socket.
use serde::{Deserialize, Serialize};

/// Version of requests, replies and views; raised when one changes its meaning or loses a field.
pub const VERSION: u32 = 1;

/// Longest line in bytes; a rule set travels as one.
pub const LINE_MAX: usize = 4 << 20;

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
    /// Counters of dropped packets: a list of [`super::view::Drop`].
    Drops,
    /// Put a rule set in force: [`super::view::Loaded`].
    RulesLoad {
        /// File as the operator named it.
        file: String,
        /// Its content.
        text: String,
    },
    /// The rule set in force: [`super::view::RuleSet`].
    RulesShow,
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
