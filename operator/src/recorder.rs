//! Publishes events; one that comes again soon counts up the first instead of standing beside it, as long as that is remembered.
//! Rule: what is remembered is bounded, however many pipelines change at once.

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{self, Event, Reporter};

/// After so many events all of them are forgotten. kube's recorder keeps each in full for six minutes (`CACHE_TTL`), one to two KiB of it, and the room for
/// ever: more than all else that is known of a pipeline while it is made.
const REMEMBERED: usize = 100;

/// Where events go.
pub struct Recorder {
    client: Client,
    reporter: Reporter,
    current: Mutex<Current>,
}

struct Current {
    recorder: events::Recorder,
    published: usize,
}

impl Recorder {
    /// Events will be those of `reporter`.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        let recorder = events::Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, current: Mutex::new(Current { recorder, published: 0 }) }
    }

    /// Publishes an event of an object.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn publish(&self, event: &Event, of: &ObjectReference) -> kube::Result<()> {
        let recorder = self.next();
        recorder.publish(event, of).await
    }

    fn next(&self) -> events::Recorder {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.published == REMEMBERED {
            let recorder = events::Recorder::new(self.client.clone(), self.reporter.clone());
            *current = Current { recorder, published: 0 };
        }
        current.published += 1;
        current.recorder.clone()
    }
}
