//! Kinds that a cluster may not have: they are watched from when on it knows them.
//! Rule: without the kind all else works; with it, absence proves nothing before the first full list, as with any other.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::Client;
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::children::Children;
use crate::watch::Watch;

/// Pause between two looks for a kind that is not there.
const NEXT_LOOK: Duration = Duration::from_secs(45);

/// What is known of the objects of such a kind.
pub struct Optional<K> {
    /// Empty as long as the cluster does not know the kind.
    pub store: Children<K>,
    /// None before it was asked.
    served: watch::Receiver<Option<bool>>,
}

impl<K: DeserializeOwned> Optional<K> {
    /// Whether the cluster knows the kind.
    pub fn is_served(&self) -> bool {
        *self.served.borrow() == Some(true)
    }

    /// Waits until it is known whether the cluster knows the kind, and if so, until the store holds the first full list.
    pub async fn ready(&self) {
        let asked = self.served.clone().wait_for(Option::is_some).await.is_ok_and(|served| *served == Some(true));
        if asked {
            self.store.listed().await;
        }
    }
}

/// Lets a watch, which fills `store`, begin when the cluster knows its kind.
pub fn optional<K>(client: &Client, (store, watch): (Children<K>, Watch)) -> (Optional<K>, Watch) {
    let Watch { kind, stream } = watch;
    let (serves, served) = watch::channel(None);
    let (client, wanted) = (client.clone(), kind.clone());
    let from_then_on = async move {
        while !knows(&client, &wanted).await {
            serves.send_replace(Some(false));
            tokio::time::sleep(NEXT_LOOK).await;
        }
        serves.send_replace(Some(true));
        stream
    };
    (Optional { store, served }, Watch { kind, stream: from_then_on.flatten_stream().boxed() })
}

async fn knows(client: &Client, wanted: &ApiResource) -> bool {
    match client.list_api_group_resources(&wanted.api_version).await {
        Ok(list) => list.resources.iter().any(|resource| resource.kind == wanted.kind),
        Err(_) => false,
    }
}
