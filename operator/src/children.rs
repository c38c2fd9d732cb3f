//! The children of all pipelines, as their watches have seen them.
//! Rule: an object lies here as text, deflated with the first ones of its kind as the dictionary, a small part of the room of its typed form, and is
//! typed while a pass looks at it; a pass finds its own without looking at those of others. What fills this knows no types: the code of a watch for each
//! would be a part of our memory too.

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::names;

/// Bytes of text that the objects of a kind share as their dictionary. They differ in little more than names, and most of them by far are those of later
/// pipelines.
const DICTIONARY: usize = 16 << 10;

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

#[derive(Default)]
struct Known {
    families: HashMap<Family, Vec<Child>>,
    /// Only ever grows, so that each object finds the part again that was there when it was packed.
    dictionary: Vec<u8>,
}

/// The objects of a namespace with the label of a pipeline.
#[derive(PartialEq, Eq, Hash)]
struct Family {
    namespace: Box<str>,
    pipeline: Box<str>,
}

struct Child {
    name: Box<str>,
    packed: Packed,
}

/// JSON, deflated.
struct Packed {
    bytes: Box<[u8]>,
    /// Bytes of it in the clear.
    length: usize,
    /// Bytes of the dictionary when it was packed.
    dictionary: usize,
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
        let family = known.families.get(&Family::new(namespace, pipeline));
        family.into_iter().flatten().filter_map(|child| known.typed(child)).collect()
    }

    /// One of them.
    pub fn get(&self, namespace: &str, pipeline: &str, name: &str) -> Option<K> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let family = known.families.get(&Family::new(namespace, pipeline))?;
        family.iter().find(|child| *child.name == *name).and_then(|child| known.typed(child))
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
        let text = serde_json::to_vec(object).map_err(io::Error::from);
        let (packed, text) = match text.and_then(|text| Ok((self.packed(&text)?, text))) {
            Ok(both) => both,
            // It was read from JSON.
            Err(error) => return tracing::error!(name, %error, "not remembered"),
        };
        let children = self.families.get_mut(&family);
        if let Some(known) = children.and_then(|children| children.iter_mut().find(|child| *child.name == *name)) {
            known.packed = packed;
            return;
        }
        // New to us, or somebody changed its label.
        self.remove(object);
        self.families.entry(family).or_default().push(Child { name: name.into(), packed });
        let room = DICTIONARY - self.dictionary.len();
        self.dictionary.extend_from_slice(&text[..text.len().min(room)]);
    }

    /// Removes an object, whatever label it had.
    fn remove(&mut self, object: &DynamicObject) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        self.families.retain(|family, children| {
            if *family.namespace == *namespace {
                children.retain(|child| *child.name != *name);
            }
            !children.is_empty()
        });
    }

    fn packed(&self, text: &[u8]) -> io::Result<Packed> {
        let bytes = deflated(text, &self.dictionary)?;
        Ok(Packed { bytes, length: text.len(), dictionary: self.dictionary.len() })
    }

    fn typed<K: DeserializeOwned>(&self, child: &Child) -> Option<K> {
        let Packed { bytes, length, dictionary } = &child.packed;
        let text = inflated(bytes, *length, &self.dictionary[..*dictionary]);
        // The server keeps to the schema of its kind.
        let read = text.and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.inspect_err(|error| tracing::error!(name = child.name, %error, "not readable")).ok()
    }
}

fn deflated(text: &[u8], dictionary: &[u8]) -> io::Result<Box<[u8]>> {
    let mut packer = Compress::new(Compression::default(), false);
    packer.set_dictionary(dictionary)?;
    // What cannot be made shorter becomes longer by a few bytes for each 16 KiB.
    let mut bytes = Vec::with_capacity(text.len() + text.len() / 1000 + 64);
    match packer.compress_vec(text, &mut bytes, FlushCompress::Finish)? {
        Status::StreamEnd => Ok(bytes.into_boxed_slice()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn inflated(bytes: &[u8], length: usize, dictionary: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacker = Decompress::new(false);
    unpacker.set_dictionary(dictionary)?;
    // One byte more than there will be: the end is noticed only with room left.
    let mut text = Vec::with_capacity(length + 1);
    match unpacker.decompress_vec(bytes, &mut text, FlushDecompress::Finish)? {
        Status::StreamEnd => Ok(text),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
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
    fn what_is_packed_with_a_dictionary_that_has_grown_since_comes_back() {
        let (children, mut writer) = children::<ConfigMap>();
        // Hexadecimal digits of a generator: what cannot be deflated to nothing.
        let noise = |seed: u64| -> String {
            let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            std::iter::successors(Some(seed), next).take(200).map(|number| format!("{number:x}")).collect()
        };
        for seed in 0..20 {
            writer.see(&Event::Apply(object(&format!("map-{seed}"), "demo", &noise(seed))));
        }
        for seed in 0..20 {
            let map: Option<ConfigMap> = children.get("markets", "demo", &format!("map-{seed}"));
            assert_eq!(map.unwrap().data.unwrap()["key"], noise(seed));
        }
        assert_eq!(children.known.read().unwrap().dictionary.len(), DICTIONARY);
        let (bytes, text) = (deflated(noise(3).as_bytes(), noise(3).as_bytes()).unwrap(), noise(3));
        assert!(bytes.len() * 20 < text.len(), "what the dictionary holds takes next to no room");
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
