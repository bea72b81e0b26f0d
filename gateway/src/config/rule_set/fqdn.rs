//! Names of Internet sites as rules write them.
use std::fmt;
use std::str::FromStr;

/// A host name, or all names below one: `update.av.example`, `*.av.example`.
///
/// The asterisk stands for one or more whole labels at the left: `*.av.example` is `a.av.example` and `b.a.av.example`,
/// not `av.example`. Names are kept as they are asked for: ASCII in lower case, internationalised labels in the form of
/// RFC 5890 ("A-labels").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    /// The name, or what follows the asterisk and its dot.
    name: String,
    is_wildcard: bool,
}

/// Octets of a name as people write it (RFC 1035 section 2.3.4, without length octets and root).
const NAME_MAX: usize = 253;
/// Octets of a label (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;

/// Second labels under a country's top-level domain below which anyone may register.
const REGISTRIES: [&str; 19] = [
    "ac", "ad", "co", "com", "ed", "edu", "gen", "go", "gob", "gov", "gr", "info", "lg", "mil", "ne", "net",
    "or", "org", "sch",
];

impl NamePattern {
    /// Whether this is the name, or one of those that it stands for. `name` is as [`host_name`] gives it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.is_wildcard {
            false => self.name == name,
            true => name
                .strip_suffix(self.name.as_str())
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_wildcard {
            formatter.write_str("*.")?;
        }
        formatter.write_str(&self.name)
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (is_wildcard, rest) = match word.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, word),
        };
        if word == "*" || rest.contains('*') {
            return Err(format!(
                "\"{word}\": an asterisk stands for whole labels at the left of a name; write it like \"*.update.example\""
            ));
        }
        let fault = || {
            format!(
                "\"{word}\" is no host name; write letters, digits and hyphens in labels that dots join, like \"update.example\" or \"*.update.example\""
            )
        };
        let name = host_name_of(rest).ok_or_else(fault)?;
        let labels: Vec<&str> = name.split('.').collect();
        if labels
            .last()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(format!(
                "\"{word}\" reads like an address; write addresses under addresses or destination"
            ));
        }
        if labels.len() < 2 {
            return Err(format!(
                "\"{word}\" {} a whole top-level domain; write at least the name that its owner registered",
                if is_wildcard { "stands for" } else { "is" }
            ));
        }
        if is_wildcard && is_registry(&labels) {
            return Err(format!(
                "\"{word}\" stands for everything that anyone registers under \"{name}\"; write the registered name, like \"*.maker.{name}\""
            ));
        }
        Ok(Self { name, is_wildcard })
    }
}

/// Whether a registry gives names right below this one to anyone. It knows the usual ones under countries' domains, not
/// all of the public suffixes that there are.
fn is_registry(labels: &[&str]) -> bool {
    match labels {
        [second, country] => country.len() == 2 && REGISTRIES.contains(second),
        _ => false,
    }
}

/// A name as patterns compare it: labels of letters, digits, hyphens and underscores (which some sites use), in lower
/// case. `None` for any other: a label may hold any octet, a dot too (RFC 2181 section 11), and no rule means such a name.
#[must_use]
pub fn host_name<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut name = String::new();
    for label in labels {
        let plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        let hyphen = label.first() == Some(&b'-') || label.last() == Some(&b'-');
        if label.is_empty() || label.len() > LABEL_MAX || hyphen || !label.iter().all(plain) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|octet| char::from(octet.to_ascii_lowercase())));
    }
    (!name.is_empty() && name.len() <= NAME_MAX).then_some(name)
}

/// A name as people write it, in the form in which [`host_name`] gives it. `None`: it is no host name.
#[must_use]
pub fn host_name_of(word: &str) -> Option<String> {
    let ascii = idna::domain_to_ascii(word.strip_suffix('.').unwrap_or(word)).ok()?;
    host_name(ascii.split('.').map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(word: &str) -> NamePattern {
        word.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn an_asterisk_is_one_label_or_more_and_never_none() {
        let wide = pattern("*.Update.Example");
        for name in ["a.update.example", "b.a.update.example"] {
            assert!(wide.matches(name), "{name}");
        }
        for name in [
            "update.example",
            ".update.example",
            "xupdate.example",
            "a.update.example.evil.example",
            "a.update.exampl",
            "",
        ] {
            assert!(!wide.matches(name), "{name}");
        }
        assert!(pattern("update.example.").matches("update.example"));
        assert!(!pattern("update.example").matches("a.update.example"));
    }

    /// RFC 5890 section 2.3.2.1: what is asked for are A-labels; both spellings are one name.
    #[test]
    fn international_names_are_compared_as_they_are_asked_for() {
        assert_eq!(
            pattern("*.\u{533b}\u{7642}.example").to_string(),
            "*.xn--ekr082f.example"
        );
        assert_eq!(pattern("B\u{fc}cher.example"), pattern("xn--bcher-kva.example"));
    }

    #[test]
    fn what_is_too_wide_or_no_name_is_refused() {
        for (word, why) in [
            ("*", "whole labels at the left"),
            ("*.*.example", "whole labels at the left"),
            ("up*.av.example", "whole labels at the left"),
            ("a.*.example", "whole labels at the left"),
            ("*.com", "stands for a whole top-level domain"),
            ("com", "is a whole top-level domain"),
            ("*.co.jp", "anyone registers under \"co.jp\""),
            ("*.com.au", "anyone registers"),
            ("10.100.0.10", "reads like an address"),
            ("a..example", "no host name"),
            ("-a.example", "no host name"),
            ("a b.example", "no host name"),
            ("https://a.example/", "no host name"),
            ("", "no host name"),
        ] {
            let error = word.parse::<NamePattern>().expect_err(word);
            assert!(error.contains(why), "{word}: {error}");
        }
        let long = format!("{}.example", "a.".repeat(130));
        assert!(long.parse::<NamePattern>().is_err());
        assert!(
            format!("{}.example", "a".repeat(64))
                .parse::<NamePattern>()
                .is_err()
        );
    }

    /// A label may hold a dot: it is no border between labels.
    #[test]
    fn labels_with_other_octets_are_no_name() {
        let labels = |labels: &[&'static [u8]]| host_name(labels.iter().copied());
        assert_eq!(labels(&[b"A", b"Example"]).as_deref(), Some("a.example"));
        assert_eq!(labels(&[b"evil.update", b"example"]), None);
        assert_eq!(labels(&[b"a\0", b"example"]), None);
        assert_eq!(labels(&[b"", b"example"]), None);
        assert_eq!(labels(&[]), None);
    }

    proptest! {
        /// Model: lists of labels, compared from the right.
        #[test]
        fn matching_is_by_labels(
            own in proptest::collection::vec("[ab]{1,2}", 2..4),
            asked in proptest::collection::vec("[ab]{1,2}", 1..5),
            is_wildcard: bool,
        ) {
            let own: Vec<String> = own.into_iter().chain(["example".to_owned()]).collect();
            let asked: Vec<String> = asked.into_iter().chain(["example".to_owned()]).collect();
            let star = if is_wildcard { "*." } else { "" };
            let pattern = pattern(&format!("{star}{}", own.join(".")));
            let expected = match is_wildcard {
                false => own == asked,
                true => asked.len() > own.len() && asked.ends_with(&own),
            };
            prop_assert_eq!(pattern.matches(&asked.join(".")), expected);
        }

        /// What a pattern writes is what it reads.
        #[test]
        fn patterns_are_written_as_they_are_read(word in "(\\*\\.)?[a-z0-9]{1,8}\\.[a-z]{3,6}") {
            let read = pattern(&word);
            prop_assert_eq!(read.to_string(), word);
        }
    }
}
