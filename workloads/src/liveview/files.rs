//! How many sockets the kernel lets this process have open.
//! Rule: as many as it may have; who comes then is refused with a sentence, and no connection waits for a file that is never free.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are nobody's socket: the database's connections, and those of requests, which are short.
const OTHERS: u64 = 256;

/// Raises the limit of open files as far as it goes, and gives it; `None` for none.
///
/// Container runtimes start programs with 1024, for those that cannot do with more (systemd's `DefaultLimitNOFILE`), and leave it to the others to ask.
#[must_use]
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// So many of the readers that are wanted have room with so many files.
#[must_use]
pub fn readers(wanted: usize, files: Option<u64>) -> usize {
    let room = files.map_or(u64::MAX, |files| files.saturating_sub(OTHERS).max(1));
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_leave_room_for_other_files() {
        for (files, expected) in [(None, 10_000), (Some(1_048_576), 10_000), (Some(1024), 768), (Some(100), 1)] {
            assert_eq!(readers(10_000, files), expected, "{files:?}");
        }
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let limit = raise_limit();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
        assert_eq!(limit, getrlimit(Resource::Nofile).current);
    }
}
