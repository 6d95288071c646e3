//! The container image under exactly the security contexts of `manifests/waypost.yaml`: runc starts it as a kubelet would, in a network
//! namespace of its own, on a folder of manifests instead of an API server. The agent must program nftables, the DNS server must answer.

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7], ipFamilies: [IPv4], selector: {app: web}, ports: [{port: 80, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.1.2], conditions: {ready: true}}]
";

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = nix::unistd::geteuid().is_root();
    let ignored = !root && std::env::var_os("CI").is_none();
    if ignored && !arguments.list {
        eprintln!(
            "\nNOT TESTED: the container image. Setting up a container's capabilities needs root: run make test as root.\n"
        );
    }
    let trial = |name: &str, test: fn() -> Outcome| Trial::test(name, test).with_ignored_flag(ignored);
    let trials = vec![
        trial("the_image_holds_one_file_and_starts_it", one_file),
        trial("the_agent_programs_nftables_under_the_daemonsets_security_context", agent_programs_nftables),
        trial("the_dns_server_answers_under_the_deployments_security_context", dns_server_answers),
    ];
    if !ignored && !arguments.list {
        build();
        unpack();
    }
    // One at a time: each starts a container, and there are two cores.
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials).exit_code()
}

fn one_file() -> Outcome {
    let files: Vec<_> = fs::read_dir(rootfs())?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    expect(files == ["waypost"], || format!("the image holds {files:?}"))?;
    let config = image_config();
    expect(config["config"]["Entrypoint"] == json!(["/waypost"]), || config.to_string())
}

fn agent_programs_nftables() -> Outcome {
    let container = Container::start("DaemonSet", "waypost-agent")?;
    container.await_page("http://127.0.0.1:10256/readyz")?;
    let table = container.enter(&["nft", "list", "table", "ip", "waypost"])?;
    for element in ["10.96.7.7 . tcp . 80", "10.244.1.2 . 8080"] {
        expect(table.contains(element), || format!("{element} is missing in\n{table}"))?;
    }
    container.enter(&["nft", "list", "table", "ip6", "waypost"])?;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let command: Vec<String> = serde_json::from_value(container.spec[probe]["exec"]["command"].clone())?;
        container.exec(&command)?;
    }
    let sysctl = |name: &str| container.enter(&["cat", &format!("/proc/sys/net/netfilter/{name}")]);
    for (name, value) in [("nf_conntrack_tcp_be_liberal", "1"), ("nf_conntrack_tcp_timeout_established", "86400")] {
        let found = sysctl(name)?;
        expect(found.trim() == value, || format!("{name} is {found}\n{}", container.told()))?;
    }
    Ok(())
}

fn dns_server_answers() -> Outcome {
    let container = Container::start("Deployment", "waypost-dns")?;
    container.await_page("http://127.0.0.1:8181/ready")?;
    for transport in ["+notcp", "+tcp"] {
        let answer = container.enter(&["dig", "+short", transport, "@127.0.0.1", "web.shop.svc.cluster.local"])?;
        expect(answer.trim() == "10.96.7.7", || format!("{transport}: {answer:?}"))?;
    }
    Ok(())
}

/// A container that runc runs; it ends when this is dropped.
struct Container {
    name: String,
    /// The container as the manifest has it.
    spec: Value,
    process: String,
    log: PathBuf,
}

impl Container {
    /// Starts the first container of this workload as the rendered manifest describes it.
    fn start(kind: &str, workload: &str) -> Result<Container, Failed> {
        let name = format!("{workload}-{}", std::process::id());
        let bundle = folder(&name);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(in_tree("manifests/waypost.yaml"))?)?;
        let object = |kind: &str| objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == workload);
        let pod = &object(kind).ok_or("the manifest lacks the workload")?["spec"]["template"]["spec"];
        let file =
            object("ConfigMap").and_then(|map| map["data"]["waypost.yaml"].as_str()).ok_or("the manifest lacks the ConfigMap")?;

        let write = |path: &str, text: &str| -> Result<(), std::io::Error> {
            let path = bundle.join(path);
            fs::create_dir_all(path.parent().expect("it is in the bundle"))?;
            fs::write(path, text)
        };
        // The manifests folder takes the place of the API server; all else is as installed.
        let kept: Vec<_> = file.lines().filter(|line| !line.starts_with("api-server:")).collect();
        write("etc/waypost.yaml", &format!("{}\nmanifests: /manifests\n", kept.join("\n")))?;
        write("manifests/objects.yaml", OBJECTS)?;
        write("resolv.conf", "nameserver 127.0.0.99\n")?;
        write("config.json", &serde_json::to_string_pretty(&oci_config(pod, &bundle))?)?;

        let log = bundle.join("log");
        let output = File::create(&log)?;
        let mut runc = runc(&["run", "--detach", "--bundle", utf8(&bundle), "--pid-file", utf8(&bundle.join("pid")), &name]);
        let status = runc.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output).status()?;
        let process = fs::read_to_string(bundle.join("pid")).unwrap_or_default();
        let container = Container { process, name, spec: pod["containers"][0].clone(), log };
        expect(status.success(), || format!("runc: {status}\n{}", container.told()))?;
        Ok(container)
    }

    /// Waits until a page is served with success.
    fn await_page(&self, url: &str) -> Outcome {
        let retry = [
            "--silent",
            "--show-error",
            "--fail",
            "--retry",
            "30",
            "--retry-all-errors",
            "--retry-delay",
            "1",
            "--max-time",
            "40",
        ];
        self.enter(&[&["curl"], &retry[..], &[url]].concat()).map(drop)
    }

    /// Runs a program of this machine in the container's network namespace.
    fn enter(&self, command: &[&str]) -> Result<String, Failed> {
        let network = format!("--net=/proc/{}/ns/net", self.process);
        run("nsenter", &[&[network.as_str()], command].concat())
            .map_err(|error| format!("{}\nthe container said:\n{}", error.message().unwrap_or_default(), self.told()).into())
    }

    /// Runs a program of the container in it, as a kubelet does.
    fn exec(&self, command: &[String]) -> Outcome {
        let output = runc(&["exec", &self.name]).args(command).output()?;
        expect(output.status.success(), || format!("{command:?}: {output:?}\nthe container said:\n{}", self.told()))
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = runc(&["delete", "--force", &self.name]).stdout(Stdio::null()).status();
    }
}

/// What a container runtime makes of a pod's first container.
fn oci_config(pod: &Value, bundle: &Path) -> Value {
    let container = &pod["containers"][0];
    let (own, shared) = (&container["securityContext"], &pod["securityContext"]);
    let user = |key: &str| own[key].as_u64().or(shared[key].as_u64()).unwrap_or(0);
    assert_eq!(own["capabilities"]["drop"], json!(["ALL"]), "what is left is only what the manifest adds");
    assert_eq!(shared["seccompProfile"]["type"], "RuntimeDefault");
    let added = own["capabilities"]["add"].as_array().cloned().unwrap_or_default();
    let capabilities: Vec<_> = added.iter().map(|name| format!("CAP_{}", name.as_str().expect("a name"))).collect();
    let entrypoint = image_config()["config"]["Entrypoint"].as_array().cloned().expect("the image has an entry point");
    let arguments: Vec<_> = entrypoint.into_iter().chain(container["args"].as_array().cloned().unwrap_or_default()).collect();
    let sysctls = shared["sysctls"].as_array().cloned().unwrap_or_default();
    let sysctl: serde_json::Map<_, _> =
        sysctls.iter().map(|sysctl| (sysctl["name"].as_str().expect("a name").to_string(), sysctl["value"].clone())).collect();
    let bind = |source: &str, target: &str| json!({"destination": target, "source": bundle.join(source), "type": "bind", "options": ["rbind", "ro"]});
    let mounts = || container["volumeMounts"].as_array().into_iter().flatten();
    // What must be there on the node is the node's own.
    let of_node = |mount: &Value| {
        let volume = pod["volumes"].as_array()?.iter().find(|volume| volume["name"] == mount["name"])?;
        let path = volume["hostPath"]["path"].as_str().filter(|_| volume["hostPath"]["type"] == "Directory")?;
        Some(json!({"destination": mount["mountPath"], "source": path, "type": "bind", "options": ["rbind", "rw"]}))
    };
    // What is made for the pod, or for the node, is empty at first and can be written.
    let empty = |volume: &&Value| !volume["emptyDir"].is_null() || volume["hostPath"]["type"] == "DirectoryOrCreate";
    let volumes: Vec<_> = pod["volumes"].as_array().into_iter().flatten().filter(empty).map(|volume| &volume["name"]).collect();
    let writable = mounts().filter(|mount| volumes.contains(&&mount["name"])).map(|mount| json!({"destination": mount["mountPath"], "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=777"]}));
    let fixed = [
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        bind("etc", "/etc/waypost"),
        bind("manifests", "/manifests"),
        bind("resolv.conf", "/etc/resolv.conf"),
    ];
    let mounts: Vec<Value> = fixed.into_iter().chain(writable).chain(mounts().filter_map(of_node)).collect();
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": rootfs(), "readonly": own["readOnlyRootFilesystem"]},
        "process": {
            "cwd": "/",
            "args": arguments,
            "env": ["NODE_NAME=node-1", "POD_IPS=127.0.0.1"],
            "user": {"uid": user("runAsUser"), "gid": user("runAsGroup")},
            "noNewPrivileges": own["allowPrivilegeEscalation"] == false,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "sysctl": sysctl,
            "seccomp": seccomp(&capabilities),
        },
    })
}

/// The default seccomp profile of container runtimes, resolved for these capabilities and this architecture.
fn seccomp(capabilities: &[String]) -> Value {
    let text = fs::read_to_string("/usr/share/containers/seccomp.json").expect("buildah's packages bring the default profile");
    let profile: Value = serde_json::from_str(&text).expect("the profile is JSON");
    let has = |list: &Value, wanted: &dyn Fn(&str) -> bool| {
        list.as_array().is_some_and(|list| list.iter().any(|item| item.as_str().is_some_and(wanted)))
    };
    let present = |name: &str| capabilities.iter().any(|capability| capability == name);
    let architecture = |name: &str| name == if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let applies = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let absent = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        (absent(&includes["caps"]) || has(&includes["caps"], &present))
            && (absent(&includes["arches"]) || has(&includes["arches"], &architecture))
            && !has(&excludes["caps"], &present)
            && !has(&excludes["arches"], &architecture)
    };
    let rules: Vec<_> =
        profile["syscalls"].as_array().expect("the profile has rules").iter().filter(applies).map(oci_rule).collect();
    json!({"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"], "syscalls": rules})
}

/// A rule of the profile without what only container engines understand.
fn oci_rule(rule: &Value) -> Value {
    let kept = ["names", "action", "args", "errnoRet"];
    let fields = kept.iter().filter(|key| !rule[**key].is_null()).map(|key| (key.to_string(), rule[*key].clone()));
    Value::Object(fields.collect())
}

/// Builds the image, without what cargo tells this test of itself: build scripts that see it would compile their crates anew.
fn build() {
    let mut script = Command::new(in_tree("scripts/image"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| name.starts_with(prefix)) {
            script.env_remove(&*name);
        }
    }
    let output = script.arg("dev").output().expect("scripts/image can be started");
    assert!(output.status.success(), "scripts/image dev: {}", String::from_utf8_lossy(&output.stderr));
}

/// Unpacks the archive that `scripts/image` made.
fn unpack() {
    let image = folder("image");
    run("tar", &["-xf", utf8(&in_tree("target/image/waypost.tar")), "-C", utf8(&image)]).expect("the archive can be unpacked");
    let layers = manifest()["layers"].as_array().cloned().expect("a manifest lists layers");
    folder("rootfs");
    for layer in layers {
        run("tar", &["-xf", utf8(&blob(&layer["digest"])), "-C", utf8(&rootfs())]).expect("a layer can be unpacked");
    }
    // The DNS server's user must be able to enter it.
    fs::set_permissions(rootfs(), fs::Permissions::from_mode(0o755)).expect("target/ can be written");
}

fn manifest() -> Value {
    let index = read_json(&scratch().join("image/index.json"));
    read_json(&blob(&index["manifests"][0]["digest"]))
}

fn image_config() -> Value {
    read_json(&blob(&manifest()["config"]["digest"]))
}

fn blob(digest: &Value) -> PathBuf {
    let digest = digest.as_str().and_then(|digest| digest.split_once(':')).expect("a digest");
    scratch().join("image/blobs").join(digest.0).join(digest.1)
}

fn rootfs() -> PathBuf {
    scratch().join("rootfs")
}

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("container")
}

/// A new folder with this name.
fn folder(name: &str) -> PathBuf {
    let path = scratch().join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("target/ can be written");
    path
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn runc(arguments: &[&str]) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(folder_of_state()).args(arguments);
    command
}

fn folder_of_state() -> PathBuf {
    let path = scratch().join("state");
    fs::create_dir_all(&path).expect("target/ can be written");
    path
}

fn run(program: &str, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    expect(output.status.success(), || format!("{program} {arguments:?}: {}\n{out}{err}", output.status))?;
    Ok(out.into_owned())
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("it is JSON")
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("the path of the checkout is UTF-8")
}

fn expect(holds: bool, message: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(message().into()) }
}
