//! How far a reader has come, as text it hands back when it returns, to whichever pod.
//! Rule: pure. Positions of one source are in the order of its changes; positions of two sources say nothing of each other.

use std::fmt;
use std::str::FromStr;

/// A position in the changes of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// 0 is the replica set, whose clock all pods share; a pod that polls is a source of its own.
    pub source: u32,
    /// The cluster time of the newest change, or the number of the poll.
    pub at: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{:x}", self.source, self.at)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, at) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { source: u32::from_str_radix(source, 16)?, at: u64::from_str_radix(at, 16)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_anything_else_is_refused() {
        let cursor = Cursor { source: 7, at: 0x6745_0000_0000_0001 };
        assert_eq!(cursor.to_string(), "7-6745000000000001");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", "7", "7-", "-7", "x-1", "1-2-3"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
