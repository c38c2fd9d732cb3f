//! What the end-to-end tests share: a namespace of their own, waiting, and looking at a pipeline as its user does.
//! Rule: KUBECONFIG alone says which cluster it is, and nothing here knows how that cluster was made.

pub mod broker;
pub mod browsers;
pub mod children;
pub mod drain;
pub mod dump;
pub mod fixtures;
pub mod forward;
pub mod kubectl;
pub mod load;
pub mod operator_pod;
pub mod page;
pub mod space;
pub mod stall;
pub mod verify;
pub mod wait;

pub use space::{Kind, Space, with_namespace};
pub use wait::wait_until;
