//! What a company may be called: `MSFT`, `BRK.B`, `^GSPC`, `0700.HK`, `EURUSD=X`.
//! Rule: this is the only home of that decision; the CRD's pattern and the programs' check are the same string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The rule as a regular expression, for the CRD; [`Symbol`] is the same rule as code, and a test holds them together.
pub const SYMBOL_PATTERN: &str = "^[A-Za-z0-9^][A-Za-z0-9.^=_-]{0,63}$";

/// Longest symbol, in characters (all of them one byte).
pub const MAX_SYMBOL_LENGTH: usize = 64;

/// A company's symbol: legal by construction, and the name of its queue exactly as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(String);

impl Symbol {
    /// The text as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a symbol: one sentence that says what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolError(String);

impl fmt::Display for SymbolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for SymbolError {}

impl FromStr for Symbol {
    type Err = SymbolError;

    /// # Errors
    /// When the text is empty, too long, starts with punctuation or holds a character no symbol has.
    fn from_str(text: &str) -> Result<Self, SymbolError> {
        let Some(first) = text.chars().next() else {
            return Err(SymbolError("a symbol must not be empty: write a company such as MSFT".into()));
        };
        let shown: String = text.chars().take(MAX_SYMBOL_LENGTH).collect();
        if !(first.is_ascii_alphanumeric() || first == '^') {
            return Err(SymbolError(format!(
                "symbol {shown:?} starts with {first:?}: start with a letter, a digit or ^"
            )));
        }
        if let Some(wrong) = text.chars().find(|character| !is_legal(*character)) {
            return Err(SymbolError(format!(
                "symbol {shown:?} holds {wrong:?}: use letters, digits and . ^ = _ - only"
            )));
        }
        if text.len() > MAX_SYMBOL_LENGTH {
            return Err(SymbolError(format!(
                "symbol {shown:?}… has {} characters: use at most {MAX_SYMBOL_LENGTH}",
                text.len()
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_legal(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '^' | '=' | '_' | '-')
}

impl TryFrom<String> for Symbol {
    type Error = SymbolError;

    fn try_from(text: String) -> Result<Self, SymbolError> {
        text.parse()
    }
}

impl AsRef<str> for Symbol {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Symbol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Symbol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Symbol>().unwrap_err().to_string()
    }

    #[test]
    fn real_symbols_are_legal() {
        let longest = "X".repeat(64);
        for text in ["MSFT", "BRK.B", "^GSPC", "0700.HK", "EURUSD=X", "BTC-USD", "a_b", longest.as_str()] {
            assert_eq!(text.parse::<Symbol>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_would_be_right() {
        assert_eq!(refusal(""), "a symbol must not be empty: write a company such as MSFT");
        assert_eq!(refusal(".B"), "symbol \".B\" starts with '.': start with a letter, a digit or ^");
        assert_eq!(refusal("A/B"), "symbol \"A/B\" holds '/': use letters, digits and . ^ = _ - only");
        assert!(refusal(&"X".repeat(65)).ends_with("has 65 characters: use at most 64"));
        assert_eq!(refusal("MSFT\n"), "symbol \"MSFT\\n\" holds '\\n': use letters, digits and . ^ = _ - only");
    }

    #[test]
    fn json_with_an_illegal_symbol_is_refused() {
        assert!(serde_json::from_str::<Symbol>("\"A B\"").is_err());
        assert_eq!(serde_json::from_str::<Symbol>("\"BRK.B\"").unwrap().as_str(), "BRK.B");
    }

    proptest! {
        // `string_regex` draws from the very constant that the CRD carries.
        #[test]
        fn what_the_pattern_allows_is_a_symbol(text in proptest::string::string_regex(SYMBOL_PATTERN.trim_start_matches('^').trim_end_matches('$')).unwrap()) {
            prop_assert!(text.parse::<Symbol>().is_ok(), "{text:?}");
        }

        #[test]
        fn what_is_a_symbol_the_pattern_allows(text in "[ -~\u{e9}]{0,70}") {
            prop_assert_eq!(text.parse::<Symbol>().is_ok(), matches_pattern(&text), "{:?}", text);
        }
    }

    /// The pattern read by hand, character class by character class, so that both sides are compared without a regex crate.
    fn matches_pattern(text: &str) -> bool {
        let body = SYMBOL_PATTERN.strip_prefix('^').unwrap().strip_suffix("{0,63}$").unwrap();
        let (first, rest) = body.split_once("][").unwrap();
        let (first, rest) = (class(&first[1..]), class(rest.strip_suffix(']').unwrap()));
        let mut characters = text.chars();
        characters.next().is_some_and(|character| first.contains(&character))
            && text.chars().count() <= 64
            && characters.all(|character| rest.contains(&character))
    }

    fn class(text: &str) -> Vec<char> {
        let text: Vec<char> = text.chars().collect();
        let mut found = Vec::new();
        let mut index = 0;
        while index < text.len() {
            if text.get(index + 1) == Some(&'-') && index + 2 < text.len() {
                found.extend(text[index]..=text[index + 2]);
                index += 3;
            } else {
                found.push(text[index]);
                index += 1;
            }
        }
        found
    }
}
