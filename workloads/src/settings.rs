//! Texts of the environment become checked values, once; a refusal names the variable and the remedy.
//! Rule: an empty variable counts as unset, and no text that may hold a password is ever repeated.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use wire::env;
use wire::queue::QueueType;

/// Why a program cannot start: one sentence for the person who set the variable. The process ends with code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(pub String);

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

/// What settings give.
pub type Result<T> = std::result::Result<T, SettingsError>;

/// Makes the sentence `NAME: what is wrong`.
pub fn wrong(name: &str, what: impl fmt::Display) -> SettingsError {
    SettingsError(format!("{name}: {what}"))
}

/// The value of a variable, trimmed; an empty one is absent.
#[must_use]
pub fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|text| !text.is_empty())
}

/// The value of a variable that must be there.
///
/// # Errors
/// When it is not set; the sentence ends with `remedy`.
pub fn required<'a>(name: &str, value: Option<&'a str>, remedy: &str) -> Result<&'a str> {
    given(value).ok_or_else(|| wrong(name, format!("is not set; {remedy}")))
}

/// A number, or its default when the variable is not set.
///
/// # Errors
/// When the text is not such a number.
pub fn number<T: FromStr>(name: &str, value: Option<&str>, default: T, remedy: &str) -> Result<T> {
    match given(value) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| wrong(name, format!("{text:?} is not accepted; {remedy}"))),
    }
}

/// A finite decimal number that is not negative, or its default.
///
/// # Errors
/// When the text is not a number, is negative or not finite.
pub fn amount(name: &str, value: Option<&str>, default: f64, remedy: &str) -> Result<f64> {
    let amount: f64 = number(name, value, default, remedy)?;
    if amount.is_finite() && amount >= 0.0 {
        Ok(amount)
    } else {
        Err(wrong(name, format!("{amount} is not accepted; {remedy}")))
    }
}

/// Events per window.
///
/// # Errors
/// When it is 0, above [`wire::queue::MAX_BATCH_SIZE`] or not a number.
pub fn batch_size(value: Option<&str>) -> Result<NonZeroU32> {
    let maximum = wire::queue::MAX_BATCH_SIZE;
    let remedy = format!("set a whole number from 1 to {maximum}");
    let size = number(env::BATCH_SIZE, value, env::default::BATCH_SIZE, &remedy)?;
    NonZeroU32::new(size)
        .filter(|size| size.get() <= maximum)
        .ok_or_else(|| wrong(env::BATCH_SIZE, format!("{size} is not accepted; {remedy}")))
}

/// A port and whether a person asked for it: a default may give way, a wish may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Nobody asked; another free port will do.
    Default(u16),
    /// This one or none. 0 lets the system choose.
    Explicit(u16),
}

impl Port {
    /// Reads a port variable.
    ///
    /// # Errors
    /// When the text is not a port.
    pub fn parse(name: &str, value: Option<&str>, default: u16) -> Result<Self> {
        match given(value) {
            None => Ok(Self::Default(default)),
            Some(_) => number(name, value, default, "set a port from 1 to 65535").map(Self::Explicit),
        }
    }
}

/// Replaces the password of a URL by `***` wherever it stands in a text, so that a library's message can be shown.
#[must_use]
pub fn without_password(text: &str, url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let Some((user, _)) = authority.rsplit_once('@') else { return text.to_owned() };
    match user.split_once(':') {
        Some((_, password)) if !password.is_empty() => text.replace(password, "***"),
        _ => text.to_owned(),
    }
}

/// The type of a queue that does not exist yet.
///
/// # Errors
/// When the text is no queue type.
pub(crate) fn queue_type(value: Option<&str>) -> Result<QueueType> {
    given(value)
        .map_or(Ok(QueueType::default()), |text| text.parse().map_err(|error: String| wrong(env::QUEUE_TYPE, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_size_of_zero_is_refused_with_the_remedy() {
        assert_eq!(
            batch_size(Some("0")).unwrap_err().to_string(),
            "BATCH_SIZE: 0 is not accepted; set a whole number from 1 to 32767"
        );
        assert_eq!(
            batch_size(Some("many")).unwrap_err().to_string(),
            "BATCH_SIZE: \"many\" is not accepted; set a whole number from 1 to 32767"
        );
        assert!(batch_size(Some("32768")).is_err());
        assert_eq!(batch_size(Some(" ")).unwrap().get(), 1000);
    }

    #[test]
    fn a_missing_variable_is_named_with_its_remedy() {
        assert_eq!(
            required("QUEUE_NAME", Some(""), "set it to a symbol").unwrap_err().to_string(),
            "QUEUE_NAME: is not set; set it to a symbol"
        );
    }

    #[test]
    fn amounts_that_are_no_amounts_are_refused() {
        for text in ["-1", "NaN", "inf", "1,5", "x"] {
            assert!(amount("TICKER_INTERVAL", Some(text), 1.0, "set milliseconds").is_err(), "{text}");
        }
        assert_eq!(amount("TICKER_INTERVAL", Some("0.5"), 1.0, ""), Ok(0.5));
    }

    #[test]
    fn a_password_never_survives() {
        let url = "mongodb://user:pa:ss@host/?x=1";
        assert_eq!(without_password("cannot use pa:ss here", url), "cannot use *** here");
        assert_eq!(without_password("plain", "mongodb://host"), "plain");
    }

    #[test]
    fn only_a_port_nobody_asked_for_is_a_default() {
        assert_eq!(Port::parse("PORT", None, 3000), Ok(Port::Default(3000)));
        assert_eq!(Port::parse("PORT", Some("3000"), 3000), Ok(Port::Explicit(3000)));
        assert!(Port::parse("PORT", Some("70000"), 3000).is_err());
    }
}
