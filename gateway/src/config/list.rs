//! One word or a list of words.
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What `key = "a"`, `key = ["a", "b"]` and `key = "any"` (or no key) say; empty means no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> List<T> {
    /// Whether there is no condition.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: fmt::Display> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_empty() {
            true => serializer.serialize_str("any"),
            false => serializer.collect_seq(self.0.iter().map(T::to_string)),
        }
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Words(PhantomData))
    }
}

struct Words<T>(PhantomData<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for Words<T> {
    type Value = List<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or a list of strings")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<List<T>, E> {
        match word {
            "any" => Ok(List::default()),
            word => Ok(List(vec![word.parse().map_err(E::custom)?])),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<List<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<List<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Word(value)) = sequence.next_element()? {
            list.push(value);
        }
        match list.is_empty() {
            // An empty list would read as "no condition", which a generator of rule sets hardly means.
            true => Err(A::Error::custom(
                "the list is empty; write \"any\" if that is meant",
            )),
            false => Ok(List(list)),
        }
    }
}

/// One element; numbers are words too (`443`).
struct Word<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One<T>(PhantomData<T>);

        impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for One<T> {
            type Value = Word<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Word<T>, E> {
                if word == "any" {
                    return Err(E::custom(
                        "\"any\" among others says nothing; write \"any\" alone",
                    ));
                }
                word.parse().map(Word).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Word<T>, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Word<T>, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(One(PhantomData))
    }
}
