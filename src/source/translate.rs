//! One object, one update: the step from a decoded object to the model's language that API server and manifests share.

use super::convert::{self, Complaint, Malformed};
use super::objects;
use crate::model::{Details, Interner, Kind, ObjectKey, Update};
use crate::notices::{INVALID_ANNOTATION, MALFORMED_OBJECT, Notices, Subject};
use std::collections::HashMap;
use tracing::{info, warn};

/// Translates objects, remembering their shared names and which of them have been complained about.
#[derive(Debug, Default)]
pub struct Translator {
    names: Interner,
    complaints: HashMap<String, Complaint>,
    /// Complaints about annotations of objects that are in use all the same.
    doubts: HashMap<String, Vec<Complaint>>,
    notices: Notices,
    details: Details,
}

impl Translator {
    /// A translator that complains there; the default one only logs.
    pub fn new(notices: Notices) -> Translator {
        Translator { notices, ..Translator::default() }
    }

    /// The same, and it reads these details.
    pub fn reading(self, details: Details) -> Translator {
        Translator { details, ..self }
    }

    /// From now on these details are read.
    pub fn read(&mut self, details: Details) {
        self.details = details;
    }

    /// What of these details an object of this kind is read for.
    pub fn details_of(&self, kind: Kind) -> Details {
        self.details.of(kind)
    }

    /// The update for an object that exists. One that is malformed counts as absent: it is logged the first time, and again when the
    /// complaint becomes another one. `None` when it does not even have a name.
    pub fn present<T: Translate>(&mut self, object: &T) -> Option<Update> {
        match object.update(&mut self.names) {
            Ok(mut update) => {
                self.settle::<T>(object);
                self.doubt(object);
                object.detail(&self.details, &mut update, &mut self.names);
                Some(update)
            }
            Err(malformed) => {
                self.complain(malformed);
                object.gone(&mut self.names)
            }
        }
    }

    /// The update for an object that is gone; `None` when it has no name.
    pub fn gone<T: Translate>(&mut self, object: &T) -> Option<Update> {
        if !self.complaints.is_empty() || !self.doubts.is_empty() {
            let name = name_of(object);
            self.complaints.remove(&name);
            self.doubts.remove(&name);
        }
        object.gone(&mut self.names)
    }

    fn complain(&mut self, malformed: Malformed) {
        let Malformed { kind, object, complaint } = &malformed;
        let name = format!("{kind} {object}");
        if self.complaints.get(&name) != Some(complaint) {
            match subject(kind, object) {
                Some(subject) => self.notices.tell(&MALFORMED_OBJECT, subject, malformed.to_string()),
                None => warn!("{malformed}"),
            }
            self.complaints.insert(name, malformed.complaint);
        }
    }

    /// Tells of annotations that cannot be what they should be, each time they have become others.
    fn doubt<T: Translate>(&mut self, object: &T) {
        let found = object.doubts();
        if found.is_empty() && self.doubts.is_empty() {
            return;
        }
        let name = name_of(object);
        let known = self.doubts.remove(&name).unwrap_or_default();
        for new in found.iter().filter(|complaint| !known.contains(complaint)) {
            let note = format!("{name}: {new}; {} until it is corrected", new.meanwhile);
            match name.split_once(' ').and_then(|(kind, object)| subject(kind, object)) {
                Some(subject) => self.notices.tell(&INVALID_ANNOTATION, subject, note),
                None => warn!("{note}"),
            }
        }
        if !found.is_empty() {
            self.doubts.insert(name, found);
        }
    }

    fn settle<T: Translate>(&mut self, object: &T) {
        if !self.complaints.is_empty() && self.complaints.remove(&name_of(object)).is_some() {
            info!("{} is well-formed again and in use", name_of(object));
        }
    }
}

/// An object that has a place in the model.
pub trait Translate: kube::Resource<DynamicType = ()> {
    /// Its kind.
    const KIND: Kind;

    /// What its existence means to the model.
    ///
    /// # Errors
    /// [`Malformed`] when it cannot be read.
    fn update(&self, names: &mut Interner) -> Result<Update, Malformed>;

    /// Adds the details that are wanted to its update.
    fn detail(&self, _wanted: &Details, _update: &mut Update, _names: &mut Interner) {}

    /// What is wrong with its annotations; that does not keep it from being used.
    fn doubts(&self) -> Vec<Complaint> {
        Vec::new()
    }

    /// What its absence means to the model; `None` when it has no name.
    fn gone(&self, names: &mut Interner) -> Option<Update>;
}

impl Translate for objects::Service {
    const KIND: Kind = Kind::Service;

    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        convert::service(self, names).map(|service| Update::Service(Box::new(service)))
    }

    fn detail(&self, wanted: &Details, update: &mut Update, _names: &mut Interner) {
        if let Update::Service(service) = update {
            service.labels = convert::labels(&self.metadata, &wanted.labels);
        }
    }

    fn doubts(&self) -> Vec<Complaint> {
        convert::service_annotations(&self.metadata).1
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::service_key(self, names).ok().map(Update::ServiceGone)
    }
}

impl Translate for objects::EndpointSlice {
    const KIND: Kind = Kind::Slice;

    /// A slice that concerns nobody is as good as gone: it may have concerned somebody before its label was taken away.
    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        match convert::slice(self, names)? {
            Some(slice) => Ok(Update::Slice(Box::new(slice))),
            None => convert::slice_key(self, names).map(Update::SliceGone),
        }
    }

    fn detail(&self, wanted: &Details, update: &mut Update, names: &mut Interner) {
        if let Update::Slice(slice) = update {
            slice.details = convert::slice_details(self, &wanted.of(Kind::Slice), names);
        }
    }

    fn doubts(&self) -> Vec<Complaint> {
        convert::slice_annotations(&self.metadata).1
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::slice_key(self, names).ok().map(Update::SliceGone)
    }
}

impl Translate for objects::Namespace {
    const KIND: Kind = Kind::Namespace;

    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        convert::namespace(self, names).map(|name| Update::Namespace(name, None))
    }

    fn detail(&self, wanted: &Details, update: &mut Update, _names: &mut Interner) {
        if let Update::Namespace(_, labels) = update {
            *labels = convert::labels(&self.metadata, &wanted.namespace_labels);
        }
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::namespace(self, names).ok().map(Update::NamespaceGone)
    }
}

impl Translate for objects::Node {
    const KIND: Kind = Kind::Node;

    fn update(&self, _names: &mut Interner) -> Result<Update, Malformed> {
        convert::node(self).map(Update::Node)
    }

    fn gone(&self, _names: &mut Interner) -> Option<Update> {
        Some(Update::NodeGone)
    }
}

impl Translate for objects::ServiceCidr {
    const KIND: Kind = Kind::ServiceCidr;

    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        convert::service_cidr(self, names).map(|(name, networks)| Update::ServiceCidr(name, networks))
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::service_cidr_name(self, names).ok().map(Update::ServiceCidrGone)
    }
}

impl Translate for objects::Pod {
    const KIND: Kind = Kind::Pod;

    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        let (key, addresses) = (convert::pod_key(self, names)?, convert::pod(self)?);
        Ok(if addresses.is_empty() { Update::PodGone(key) } else { Update::Pod(key, addresses, None) })
    }

    fn detail(&self, wanted: &Details, update: &mut Update, _names: &mut Interner) {
        if let Update::Pod(_, _, labels) = update {
            *labels = convert::labels(&self.metadata, &wanted.labels);
        }
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::pod_key(self, names).ok().map(Update::PodGone)
    }
}

impl Translate for objects::ServiceImport {
    const KIND: Kind = Kind::Import;

    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        convert::import(self, names).map(|import| Update::Import(Box::new(import)))
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::import_key(self, names).ok().map(Update::ImportGone)
    }
}

impl Translate for objects::ImportedSlice {
    const KIND: Kind = Kind::ImportedSlice;

    fn update(&self, names: &mut Interner) -> Result<Update, Malformed> {
        match convert::imported_slice(&self.0, names)? {
            Some(slice) => Ok(Update::ImportedSlice(Box::new(slice))),
            None => convert::slice_key(&self.0, names).map(Update::ImportedSliceGone),
        }
    }

    fn detail(&self, wanted: &Details, update: &mut Update, names: &mut Interner) {
        if let Update::ImportedSlice(imported) = update {
            imported.slice.details = convert::slice_details(&self.0, &wanted.of(Kind::ImportedSlice), names);
        }
    }

    fn gone(&self, names: &mut Interner) -> Option<Update> {
        convert::slice_key(&self.0, names).ok().map(Update::ImportedSliceGone)
    }
}

/// What a complaint is about; `None` for objects that Events are not made for.
fn subject(kind: &str, object: &str) -> Option<Subject> {
    let key = || object.split_once('/').map(|(namespace, name)| ObjectKey::new(namespace, name));
    match kind {
        "Service" => key().map(Subject::Service),
        "EndpointSlice" => key().map(Subject::Slice),
        "Node" => Some(Subject::Node),
        _ => None,
    }
}

/// The name under which a complaint about this object is kept, as [`Malformed`] spells it.
fn name_of<T: Translate>(object: &T) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or("(unnamed)");
    match metadata.namespace.as_deref() {
        Some(namespace) => format!("{} {namespace}/{name}", T::kind(&())),
        None => format!("{} {name}", T::kind(&())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ip: &str) -> objects::Service {
        let text = format!("{{metadata: {{namespace: shop, name: web}}, spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}");
        serde_saphyr::from_str(&text).unwrap()
    }

    #[test]
    fn a_malformed_object_is_told_of_once_and_again_when_it_is_wrong_in_another_way() {
        let (notices, mut told) = Notices::sent();
        let mut translator = Translator::new(notices);
        let mut told_of = |ip: &str, translator: &mut Translator| {
            translator.present(&service(ip));
            std::iter::from_fn(|| told.try_recv().ok()).collect::<Vec<_>>()
        };
        let first = told_of("300.1.2.3", &mut translator);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].reason, &first[0].about), (&MALFORMED_OBJECT, &Subject::Service(ObjectKey::new("shop", "web"))));
        assert!(first[0].note.contains("spec.clusterIPs[0]"), "{}", first[0].note);
        assert_eq!(told_of("300.1.2.3", &mut translator), []);
        assert_eq!(told_of("nowhere", &mut translator).len(), 1);
        assert_eq!(told_of("10.96.0.1", &mut translator), []);
        assert_eq!(told_of("300.1.2.3", &mut translator).len(), 1, "it was well-formed in between");
    }

    #[test]
    fn a_bad_annotation_is_told_of_once_and_the_object_is_in_use() {
        let (notices, mut told) = Notices::sent();
        let mut translator = Translator::new(notices);
        let mut told_of = |balance: &str, translator: &mut Translator| {
            let annotations = format!("annotations: {{waypost.dev/balance: {balance}}}");
            let text = format!("{{metadata: {{namespace: shop, name: web, {annotations}}}, spec: {{clusterIP: 10.96.0.1}}}}");
            let object: objects::Service = serde_saphyr::from_str(&text).unwrap();
            assert!(matches!(translator.present(&object), Some(Update::Service(_))));
            std::iter::from_fn(|| told.try_recv().ok()).collect::<Vec<_>>()
        };
        let first = told_of("fastest", &mut translator);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].reason, &first[0].about), (&INVALID_ANNOTATION, &Subject::Service(ObjectKey::new("shop", "web"))));
        assert!(first[0].note.contains("waypost.dev/balance") && first[0].note.contains("fastest"), "{}", first[0].note);
        assert_eq!(told_of("fastest", &mut translator), []);
        assert_eq!(told_of("slowest", &mut translator).len(), 1);
        assert_eq!(told_of("random", &mut translator), []);
        assert_eq!(told_of("slowest", &mut translator).len(), 1, "it was right in between");
    }
}
