//! Promises about nodes, the operator itself or short moments: nothing else may run on the cluster meanwhile.
//! Rule: a test is here only if another pipeline would change what it sees, or would suffer from what it does.

mod delete;
mod drift;
mod fail_over;
mod node_drain;
mod node_loss;
mod operator_killed;
mod roll;
mod upgrade;
