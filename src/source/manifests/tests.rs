use super::watch::{Content, Reread};
use super::*;
use crate::model::Kind;
use crate::model::ObjectKey;
use crate::store::Store;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc::{Receiver, channel};

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("waypost-manifests-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir(&folder.0).unwrap();
        files.iter().for_each(|(name, text)| folder.write(name, text));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn error(files: &[(&str, &str)]) -> String {
    let folder = Folder::new(files);
    let message = read(&folder.0).unwrap_err().to_string();
    message.replace(&format!("{}/", folder.0.display()), "")
}

const WEB: &str = "
# The shop
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  ports:
  - port: 80
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- addresses: [10.0.0.1]
";

#[test]
fn files_documents_and_lists_are_read() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "empty"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}]}"#;
    let more = "---\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  text: |\n    a\n    --- b\n---\n# nothing\n...\n";
    let pods = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n\
                spec: {selector: {}, template: {spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}}}\n";
    let folder =
        Folder::new(&[("web.yaml", WEB), ("list.json", list), ("more.yml", more), ("pods.yaml", pods), ("notes.txt", ":::")]);
    folder.write(".hidden.yaml", "a: [");
    fs::create_dir(folder.0.join("sub.yaml")).unwrap();
    let manifests = read(&folder.0).unwrap();
    assert_eq!((manifests.services.len(), manifests.slices.len(), manifests.nodes.len(), manifests.pods.len()), (1, 1, 1, 1));
    assert_eq!(manifests.namespaces(), BTreeSet::from(["default", "empty", "shop"]));
    let ignored: Vec<_> = manifests.ignored.iter().map(|ignored| format!("{} {}", ignored.kind, ignored.name)).collect();
    assert_eq!(ignored, ["ConfigMap settings"]);
    let spec = manifests.deployments[0].spec.as_ref().unwrap();
    assert_eq!(spec.replicas, Some(1));
    let pod = spec.template.spec.as_ref().unwrap();
    assert_eq!(pod.containers.as_ref().unwrap()[0].ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
}

#[test]
fn missing_fields_get_the_defaults_of_the_api_server() {
    let folder = Folder::new(&[("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}")]);
    let service = read(&folder.0).unwrap().services.remove(0);
    assert_eq!(service.metadata.namespace.as_deref(), Some("default"));
    let spec = service.spec.unwrap();
    assert_eq!((spec.type_.as_deref(), spec.internal_traffic_policy.as_deref()), (Some("ClusterIP"), Some("Cluster")));
    assert_eq!((spec.cluster_ip, spec.cluster_ips), (None, None));
    let port = &spec.ports.unwrap()[0];
    assert_eq!(port.protocol.as_deref(), Some("TCP"));
    assert_eq!(port.target_port, Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(80)));
}

#[test]
fn cluster_ip_and_cluster_ips_agree() {
    let one = "apiVersion: v1\nkind: Service\nmetadata: {name: one}\nspec: {clusterIP: 10.96.0.1}";
    let two = "apiVersion: v1\nkind: Service\nmetadata: {name: two}\nspec: {clusterIPs: [10.96.0.2, 'fd00::2']}";
    let folder = Folder::new(&[("1.yaml", one), ("2.yaml", two)]);
    let specs: Vec<_> = read(&folder.0).unwrap().services.into_iter().map(|service| service.spec.unwrap()).collect();
    assert_eq!(specs[0].cluster_ips.as_deref(), Some(&["10.96.0.1".to_string()][..]));
    assert_eq!(specs[1].cluster_ip.as_deref(), Some("10.96.0.2"));
}

#[test]
fn a_mistake_is_named_with_file_line_document_and_field() {
    let wrong_type =
        format!("{WEB}---\napiVersion: v1\nkind: Service\nmetadata:\n  name: b\nspec:\n  ports:\n  - port: eighty\n");
    let message = error(&[("web.yaml", &wrong_type)]);
    assert_eq!(message, "web.yaml:28: document 3: invalid i32: \"- port: eighty\"");
    let message = error(&[("broken.yaml", "apiVersion: v1\nkind: [Service\n")]);
    assert!(message.starts_with("broken.yaml:2: document 1: "), "{message}");
    assert_eq!(error(&[("a.yaml", "---\nkind: Service\n")]), "a.yaml:2: document 1: apiVersion is missing");
    assert_eq!(error(&[("a.yaml", "apiVersion: v1\nkind: Service\n")]), "a.yaml:1: document 1: metadata.name is missing");
    let item = r#"{"kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": 3}}]}"#;
    let message = error(&[("list.json", item)]);
    assert!(message.starts_with("list.json:1: document 1: items[0]: "), "{message}");
}

#[test]
fn an_object_defined_twice_is_an_error_that_names_both_files() {
    let message = error(&[("a.yaml", WEB), ("b.yaml", WEB)]);
    assert!(message.starts_with("b.yaml:1: document 1: Service shop/web is already defined in "), "{message}");
    assert!(message.contains("a.yaml; remove one of them"), "{message}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let message = read(Path::new("/nonexistent/manifests")).unwrap_err().to_string();
    assert!(message.starts_with("cannot read /nonexistent/manifests: "), "{message}");
}

#[test]
fn a_folder_is_a_full_listing_of_every_kind() {
    let nodes = "apiVersion: v1\nkind: NodeList\nitems:\n- apiVersion: v1\n  kind: Node\n  metadata: {name: n1}\n\
                 \n- apiVersion: v1\n  kind: Node\n  metadata: {name: n2}\n  status: {addresses: [{type: InternalIP, address: 10.1.1.1}]}\n";
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: nowhere}\n";
    let folder = Folder::new(&[("web.yaml", WEB), ("nodes.yaml", nodes), ("bad.yaml", bad)]);
    let store: Store = read(&folder.0).unwrap().updates(Some("n2"), &mut Translator::default()).into_iter().collect();
    for kind in [Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node, Kind::ServiceCidr] {
        assert!(store.is_listed(kind), "{kind}");
    }
    let web = ObjectKey::new("shop", "web");
    assert!(store.service(&web).is_some() && store.slices(&web).len() == 1);
    assert!(store.service(&ObjectKey::new("default", "bad")).is_none(), "a malformed object is absent, the rest goes on");
    assert!(store.has_namespace("shop") && store.has_namespace("default"));
    assert_eq!(store.node().unwrap().addresses, ["10.1.1.1".parse::<std::net::IpAddr>().unwrap()]);
}

/// Watches a folder and keeps what arrives.
struct Watched {
    folder: Folder,
    updates: Receiver<Update>,
    store: Store,
    task: tokio::task::JoinHandle<Result<(), ManifestError>>,
}

impl Watched {
    async fn new(files: &[(&str, &str)]) -> Watched {
        let folder = Folder::new(files);
        let (sender, updates) = channel(4);
        let path = folder.0.clone();
        let task = tokio::spawn(async move { watch(&path, None, sender).await });
        let mut watched = Watched { folder, updates, store: Store::default(), task };
        watched.listing().await;
        watched
    }

    /// Takes one whole listing; the namespaces are its end.
    async fn listing(&mut self) {
        loop {
            let update = tokio::time::timeout(std::time::Duration::from_secs(30), self.updates.recv()).await.expect("a listing");
            let update = update.expect("the watch goes on");
            let last = update == Update::ListEnd(Kind::Namespace);
            self.store.apply(update);
            if last {
                return;
            }
        }
    }

    fn has_service(&self, name: &str) -> bool {
        self.store.service(&ObjectKey::new("shop", name)).is_some()
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n")
}

#[tokio::test]
async fn edits_arrive() {
    let mut watched = Watched::new(&[("a.yaml", &service("a"))]).await;
    assert!(watched.has_service("a"));
    watched.folder.write("b.yaml", &service("b"));
    watched.listing().await;
    assert!(watched.has_service("a") && watched.has_service("b"));
    fs::remove_file(watched.folder.0.join("a.yaml")).unwrap();
    watched.listing().await;
    assert!(watched.has_service("b") && !watched.has_service("a"));
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_content() {
    let folder = Folder::new(&[("a.yaml", &service("a"))]);
    let mut content = Content::of(&folder.0).await.unwrap();
    let good = content.good.clone();
    folder.write("b.yaml", "kind: [");
    assert_eq!(content.reread().await, Reread::Broken);
    fs::remove_file(folder.0.join("a.yaml")).unwrap();
    assert_eq!(content.reread().await, Reread::Broken);
    assert_eq!(content.good, good);
    folder.write("b.yaml", &service("b"));
    assert_eq!(content.reread().await, Reread::Changed);
    assert_eq!(content.good.services[0].metadata.name.as_deref(), Some("b"));
    folder.write("notes.txt", "");
    assert_eq!(content.reread().await, Reread::Unchanged);
    fs::remove_dir_all(&folder.0).unwrap();
    assert_eq!(content.reread().await, Reread::Gone);
    assert_eq!(content.good.services.len(), 1);
}

#[tokio::test]
async fn a_config_map_is_swapped_as_a_whole() {
    use std::os::unix::fs::symlink;
    let mut watched = Watched::new(&[]).await;
    let path = watched.folder.0.clone();
    for (generation, name) in [("..1", "a"), ("..2", "b")] {
        fs::create_dir(path.join(generation)).unwrap();
        fs::write(path.join(generation).join("web.yaml"), service(name)).unwrap();
        symlink(generation, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if generation == "..1" {
            symlink("..data/web.yaml", path.join("web.yaml")).unwrap();
        }
        watched.listing().await;
        assert!(watched.has_service(name), "{name}");
    }
    assert!(!watched.has_service("a"));
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_found_again() {
    let mut watched = Watched::new(&[("a.yaml", &service("a"))]).await;
    let aside = watched.folder.0.with_extension("old");
    fs::rename(&watched.folder.0, &aside).unwrap();
    fs::remove_dir_all(&aside).unwrap();
    fs::create_dir(&watched.folder.0).unwrap();
    watched.folder.write("b.yaml", &service("b"));
    watched.listing().await;
    assert!(watched.has_service("b") && !watched.has_service("a"));
    watched.folder.write("c.yaml", &service("c"));
    watched.listing().await;
    assert!(watched.has_service("c"), "the new folder is watched as the old one was");
}

#[tokio::test]
async fn the_watch_ends_with_its_receiver() {
    let watched = Watched::new(&[("a.yaml", &service("a"))]).await;
    let Watched { folder: _folder, updates, task, .. } = watched;
    drop(updates);
    assert!(task.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_folder_that_is_broken_at_the_start_is_an_error() {
    let folder = Folder::new(&[("a.yaml", "kind: [")]);
    let (sender, _updates) = channel(4);
    assert!(matches!(watch(&folder.0, None, sender).await, Err(ManifestError::Document { .. })));
    let (sender, _updates) = channel(4);
    let nowhere = watch(Path::new("/nonexistent"), None, sender).await.unwrap_err().to_string();
    assert!(nowhere.starts_with("cannot ") && nowhere.contains("/nonexistent"), "{nowhere}");
}
