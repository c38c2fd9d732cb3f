//! The children of all pipelines, as their watches have seen them.
//! Rule: an object lies here as deflated text, a thirtieth of the room of its typed form, and is typed while a pass looks at it; a pass finds
//! its own without looking at those of others. What fills this knows no types: the code of a watch for each would be a part of our memory too.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::names;

/// What is known of one kind.
pub struct Children<K> {
    known: Arc<RwLock<Known>>,
    listed: watch::Receiver<bool>,
    kind: PhantomData<fn() -> K>,
}

/// The one who tells [`Children`] what the watch sees.
pub struct Writer {
    known: Arc<RwLock<Known>>,
    /// A list that is not complete yet.
    coming: Known,
    listed: watch::Sender<bool>,
}

/// The objects of a namespace with the label of a pipeline.
#[derive(Default)]
struct Known(HashMap<Family, Vec<Child>>);

#[derive(PartialEq, Eq, Hash)]
struct Family {
    namespace: Box<str>,
    pipeline: Box<str>,
}

struct Child {
    name: Box<str>,
    /// JSON, deflated.
    packed: Box<[u8]>,
}

/// An empty store and its writer.
pub fn children<K>() -> (Children<K>, Writer) {
    let known = Arc::<RwLock<Known>>::default();
    let (sender, listed) = watch::channel(false);
    let writer = Writer { known: known.clone(), coming: Known::default(), listed: sender };
    (Children { known, listed, kind: PhantomData }, writer)
}

impl<K> Children<K> {
    /// The same objects as no type of their own.
    pub fn untyped(&self) -> Children<DynamicObject> {
        Children { known: self.known.clone(), listed: self.listed.clone(), kind: PhantomData }
    }
}

impl<K: DeserializeOwned> Children<K> {
    /// Those with the label of a pipeline, whoever owns them.
    pub fn of(&self, namespace: &str, pipeline: &str) -> Vec<K> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.0.get(&Family::new(namespace, pipeline)).into_iter().flatten().filter_map(typed).collect()
    }

    /// One of them.
    pub fn get(&self, namespace: &str, pipeline: &str, name: &str) -> Option<K> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.0.get(&Family::new(namespace, pipeline))?.iter().find(|child| *child.name == *name).and_then(typed)
    }

    /// Waits for the first full list: before that, absence proves nothing.
    pub async fn listed(&self) {
        // Without a writer the process is ending; there is nothing left to wait for.
        drop(self.listed.clone().wait_for(|listed| *listed).await);
    }
}

impl Writer {
    /// Takes over what a watch has seen.
    pub fn see(&mut self, event: &Event<DynamicObject>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Apply(object) => known.put(object),
            Event::Delete(object) => known.remove(object),
            Event::Init => self.coming = Known::default(),
            Event::InitApply(object) => self.coming.put(object),
            Event::InitDone => {
                *known = std::mem::take(&mut self.coming);
                self.listed.send_replace(true);
            }
        }
    }
}

impl Known {
    fn put(&mut self, object: &DynamicObject) {
        let (family, name) = (Family::of(object), object.name_any());
        let packed = match packed(object) {
            Ok(packed) => packed,
            // It was read from JSON.
            Err(error) => return tracing::error!(name, %error, "not remembered"),
        };
        if let Some(known) =
            self.0.get_mut(&family).and_then(|family| family.iter_mut().find(|child| *child.name == *name))
        {
            known.packed = packed;
            return;
        }
        // New to us, or somebody changed its label.
        self.remove(object);
        self.0.entry(family).or_default().push(Child { name: name.into(), packed });
    }

    /// Removes an object, whatever label it had.
    fn remove(&mut self, object: &DynamicObject) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        self.0.retain(|family, children| {
            if *family.namespace == *namespace {
                children.retain(|child| *child.name != *name);
            }
            !children.is_empty()
        });
    }
}

impl Family {
    fn new(namespace: &str, pipeline: &str) -> Self {
        Self { namespace: namespace.into(), pipeline: pipeline.into() }
    }

    fn of(object: &DynamicObject) -> Self {
        let pipeline = names::pipeline_of(object).unwrap_or_default();
        Self::new(object.metadata.namespace.as_deref().unwrap_or_default(), pipeline)
    }
}

fn packed(object: &DynamicObject) -> io::Result<Box<[u8]>> {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&serde_json::to_vec(object)?)?;
    Ok(packer.finish()?.into_boxed_slice())
}

fn typed<K: DeserializeOwned>(child: &Child) -> Option<K> {
    let mut text = Vec::new();
    let unpacked = DeflateDecoder::new(&*child.packed).read_to_end(&mut text);
    // The server keeps to the schema of its kind.
    let read = unpacked.and_then(|_| Ok(serde_json::from_slice(&text)?));
    read.inspect_err(|error| tracing::error!(name = child.name, %error, "not readable")).ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, pipeline: &str, value: &str) -> DynamicObject {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "markets", "labels": {names::INSTANCE: pipeline}},
            "data": {"key": value},
        }))
        .unwrap()
    }

    fn names_of(children: &Children<ConfigMap>, pipeline: &str) -> Vec<String> {
        children.of("markets", pipeline).iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn a_pipeline_finds_its_own_as_they_were_seen_last() {
        let (children, mut writer) = children::<ConfigMap>();
        for event in [
            Event::Apply(object("a", "demo", "old")),
            Event::Apply(object("b", "other", "")),
            Event::Apply(object("a", "demo", "new")),
        ] {
            writer.see(&event);
        }
        assert_eq!(names_of(&children, "demo"), ["a"]);
        let value = |namespace: &str, name: &str| Some(children.get(namespace, "demo", name)?.data?["key"].clone());
        assert_eq!(value("markets", "a").as_deref(), Some("new"));
        assert_eq!(value("markets", "b"), None);
        assert_eq!(value("elsewhere", "a"), None);
        writer.see(&Event::Delete(object("a", "demo", "new")));
        assert!(names_of(&children, "demo").is_empty());
    }

    #[test]
    fn an_object_whose_label_was_changed_is_known_once() {
        let (children, mut writer) = children::<ConfigMap>();
        writer.see(&Event::Apply(object("a", "demo", "")));
        writer.see(&Event::Apply(object("a", "other", "")));
        assert!(names_of(&children, "demo").is_empty());
        assert_eq!(names_of(&children, "other"), ["a"]);
    }

    #[test]
    fn a_new_list_counts_when_it_is_complete() {
        let (children, mut writer) = children::<ConfigMap>();
        writer.see(&Event::Apply(object("gone", "demo", "")));
        writer.see(&Event::Init);
        writer.see(&Event::InitApply(object("a", "demo", "")));
        assert_eq!(names_of(&children, "demo"), ["gone"]);
        assert!(!*children.listed.borrow());
        writer.see(&Event::InitDone);
        assert_eq!(names_of(&children, "demo"), ["a"]);
        assert!(*children.listed.borrow());
    }
}
