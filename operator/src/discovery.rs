//! Kinds that a cluster may not have: they are watched from when on it knows them.
//! Rule: without the kind all else works; with it, absence proves nothing before the first full list, as with any other.

use std::time::Duration;

use futures::{FutureExt, Stream};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::children::Children;

/// Pause between two looks for a kind that is not there.
const NEXT_LOOK: Duration = Duration::from_secs(45);

/// What is known of the objects of such a kind.
pub struct Optional<K> {
    /// Empty as long as the cluster does not know the kind.
    pub store: Children<K>,
    /// None before it was asked.
    served: watch::Receiver<Option<bool>>,
}

impl<K: Resource<DynamicType = ()> + DeserializeOwned> Optional<K> {
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

/// Lets `stream`, which fills `store`, begin when the cluster knows the kind.
pub fn optional<K, S>(
    client: &Client,
    store: Children<K>,
    stream: S,
) -> (Optional<K>, impl Stream<Item = S::Item> + use<K, S>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    S: Stream,
{
    let (serves, served) = watch::channel(None);
    let client = client.clone();
    let from_then_on = async move {
        while !knows::<K>(&client).await {
            serves.send_replace(Some(false));
            tokio::time::sleep(NEXT_LOOK).await;
        }
        serves.send_replace(Some(true));
        stream
    };
    (Optional { store, served }, from_then_on.flatten_stream())
}

async fn knows<K: Resource<DynamicType = ()>>(client: &Client) -> bool {
    let kind = K::kind(&());
    match client.list_api_group_resources(&K::api_version(&())).await {
        Ok(list) => list.resources.iter().any(|resource| resource.kind == kind),
        Err(_) => false,
    }
}
