//! The edge: Kubernetes objects in, model updates out.
//!
//! | module | what it is |
//! |---|---|
//! | [`objects`] | the few fields of an API object that are ever decoded |
//! | [`convert`] | from such an object to the model, or a complaint that names the field |
//! | [`translate`] | one object to one update; remembers the names and what was complained about |
//! | [`kubernetes`] | an API server, watched |
//! | [`manifests`] | a folder of manifests, read and watched |

pub mod convert;
pub mod kubernetes;
pub mod manifests;
pub mod objects;
pub mod translate;
