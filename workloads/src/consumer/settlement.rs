//! Decides what became of a window whose number is taken: it is ours, it is another's, or nobody can tell yet.
//! Rule: pure; only a document that a majority has is an answer, for any other may still be taken back.

/// What became of an insert whose number is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Our document has the number: an earlier attempt was stored, though nobody said so.
    Stored,
    /// Another document has it: another consumer was first, and what we hold may be in its window.
    Overtaken,
    /// Some document has it, but no majority has that document yet.
    Unknown,
}

/// Judges by the identity of our document and of the one that a majority has under its number.
#[must_use]
pub fn settle<Id: PartialEq>(ours: &Id, stored: Option<&Id>) -> Settlement {
    match stored {
        None => Settlement::Unknown,
        Some(id) if id == ours => Settlement::Stored,
        Some(_) => Settlement::Overtaken,
    }
}
