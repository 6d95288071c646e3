//! The kernel refuses what belongs to one Service: all others are served, and people are told whose fault it is.

use super::{Agent, PATIENCE, Place};
use libtest_mimic::Failed;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use waypost::agent::layouts::layout;
use waypost::lab::{self, Outcome, Serve};
use waypost::model::{Family, ObjectKey, Protocol, Update};
use waypost::nft::{Batch, Committer, Kernel, Layout, Netlink, NftError, Part, Reading, Usable};
use waypost::notices::{KERNEL_REFUSED, Notices, Subject, TABLE_REPAIRED};
use waypost::proxy::{Backend, Chain, Delta, Dest, Destination, Element, Entry, Set};
use waypost::source::{manifests, translate::Translator};

/// The real kernel, which gets each element of a destination twice, with different data: it refuses such a batch as a whole.
struct Spoilt {
    kernel: Netlink,
    address: IpAddr,
    on: Arc<AtomicBool>,
}

impl Kernel for Spoilt {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        self.kernel.read(layout)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        self.kernel.commit(layout, &self.spoilt(batch))
    }

    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        self.kernel.would_take(layout, &self.spoilt(batch))
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        self.kernel.forget(layout, usable)
    }

    fn batch_limit(&self) -> usize {
        self.kernel.batch_limit()
    }

    fn generation(&mut self) -> Option<u32> {
        self.kernel.generation()
    }
}

impl Spoilt {
    fn spoilt(&self, batch: &Batch) -> Batch {
        let mut batch = batch.clone();
        let twice = |element: &Element| match element {
            Element::Service(dest, _) if dest.address == self.address => Some(Element::Service(*dest, Chain::Outside)),
            _ => None,
        };
        if self.on.load(Ordering::Relaxed) {
            let more: Vec<Element> = batch.elements.add.iter().filter_map(twice).collect();
            batch.elements.add.extend(more);
        }
        batch
    }
}

pub fn one_service() -> Result<(), Failed> {
    let place = Place::new();
    let server = place.node.pod("server", &["10.244.0.3".parse()?, "fd00:244::3".parse()?])?;
    server.serve(Serve::Tcp, 8080)?;
    let on = Arc::new(AtomicBool::new(true));
    let (notices, mut told) = Notices::sent();
    let spoilt = on.clone();
    let bad: IpAddr = "10.96.0.2".parse()?;
    let agent = Agent::start(&place, notices, &[], |kernel| Spoilt { kernel, address: bad, on: spoilt });
    let reached = |number: u8| {
        [format!("10.96.0.{number}:80"), format!("[fd00:96::{number}]:80")].map(|target| {
            let target: SocketAddr = target.parse().unwrap();
            (target, lab::connect(&place.client, Protocol::Tcp, target, Duration::from_secs(2)))
        })
    };
    let await_reached = |number: u8| {
        let began = Instant::now();
        while let Some((target, outcome)) = reached(number).into_iter().find(|(_, one)| !matches!(one, Outcome::Reached { .. })) {
            assert!(began.elapsed() < PATIENCE, "{target}: {outcome}");
        }
    };
    agent.send(updates(&[1, 2, 3]));
    [1, 3].into_iter().for_each(await_reached);
    let [v4, v6] = reached(2);
    assert!(!matches!(v4.1, Outcome::Reached { .. }), "the kernel has refused it");
    assert!(matches!(v6.1, Outcome::Reached { .. }), "the families stand for themselves: {}", v6.1);
    let notice = told.blocking_recv().expect("the agent tells");
    assert_eq!(
        (notice.reason, &notice.about),
        (&KERNEL_REFUSED, &Subject::Service(ObjectKey::new("shop", "web-2"))),
        "{notice:?}"
    );
    assert!(notice.note.contains("10.96.0.2:80"), "{notice:?}");

    // What somebody else does meanwhile is put right, and told.
    let element = "{ 10.96.0.3 . tcp . 80 }";
    let nft = |arguments: &[&str]| place.node.namespace().output(Command::new("nft").args(arguments)).unwrap();
    assert!(nft(&["delete", "element", "ip", "waypost", "services", element]).status.success());
    let notice = told.blocking_recv().expect("the agent tells");
    assert_eq!((notice.reason, &notice.about), (&TABLE_REPAIRED, &Subject::Node), "{notice:?}");
    assert!(notice.note.contains("table ip waypost") && notice.note.contains("nft"), "{notice:?}");
    await_reached(3);

    // What comes later is not held up by it, and it is served once the kernel takes it.
    agent.send(updates(&[1, 2, 3, 4]));
    [1, 3, 4].into_iter().for_each(await_reached);
    on.store(false, Ordering::Relaxed);
    agent.send(updates(&[1, 3, 4]));
    agent.send(updates(&[1, 2, 3, 4]));
    [1, 2, 3, 4].into_iter().for_each(await_reached);
    agent.kill();
    Ok(())
}

/// A table of another layout, and a destination that the kernel refuses.
pub fn another_layout() -> Result<(), Failed> {
    let place = Place::new();
    let on = Arc::new(AtomicBool::new(false));
    let bad: IpAddr = "10.96.0.2".parse()?;
    let spoilt = on.clone();
    let dest = |number: u8| Dest { address: [10, 96, 0, number].into(), protocol: Protocol::Tcp, port: 80 };
    let backend = Backend { address: [10, 244, 0, 3].into(), port: 8080 };
    let served = Destination { entry: Some(Entry::Cluster), cluster: Arc::new([backend]), ..Destination::default() };
    let of = move |mark| Layout { masquerade_mark: mark, ..layout(&super::config(&[]).proxy, None, Family::V4) };
    let look = move || -> Result<(), NftError> {
        let kernel = Spoilt { kernel: Netlink::open()?, address: bad, on: spoilt.clone() };
        let mut committer = Committer::new(kernel, [of(0x8000)]);
        let destinations = (1..=5).map(|number| (dest(number), Some(served.clone()))).collect();
        let committed = committer.commit(Delta { destinations, ..Delta::default() });
        assert!(committed.families.iter().all(|family| family.error.is_none() && family.rejected.is_empty()), "{committed:?}");
        spoilt.store(true, Ordering::Relaxed);
        let before = committer.kernel().generation();
        committer.set_layout(of(0x4000));
        let committed = committer.commit(Delta::default());
        let [family] = &committed.families[..] else { panic!("{committed:?}") };
        assert!(family.error.is_none() && family.batches == 1, "{family:?}");
        assert_eq!(family.rejected.iter().map(|one| one.what).collect::<Vec<_>>(), [Part::Dest(dest(2))]);
        assert_eq!(committer.kernel().generation(), before.map(|before| before + 1), "what is tried changes nothing");
        let Reading::Ours(contents) = committer.kernel().read(&of(0x4000))? else { panic!("it is the new table") };
        let services = contents.elements.iter().filter(|element| element.set() == Set::Services).filter_map(Element::dest);
        assert_eq!(services.map(|dest| dest.address).collect::<BTreeSet<_>>(), [1, 3, 4, 5].map(|n| dest(n).address).into());
        Ok(())
    };
    Ok(place.node.namespace().run(look).unwrap()?)
}

/// A listing of Services with these numbers.
fn updates(numbers: &[u8]) -> Vec<Update> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refused-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("target/ can be written");
    let slice = |number: u8, family: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{number}-{}, namespace: shop, labels: {{kubernetes.io/service-name: web-{number}}}}}\n\
             addressType: {family}\nports: [{{port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n",
            family.to_lowercase()
        )
    };
    let service = |number: &u8| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web-{number}, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.0.{number}, clusterIPs: [10.96.0.{number}, \"fd00:96::{number}\"], ports: [{{port: 80}}]}}\n{}{}",
            slice(*number, "IPv4", "10.244.0.3"),
            slice(*number, "IPv6", "fd00:244::3")
        )
    };
    std::fs::write(folder.join("cluster.yaml"), numbers.iter().map(service).collect::<String>()).expect("target/ can be written");
    let manifests = manifests::read(&folder).expect("they are right");
    std::fs::remove_dir_all(&folder).expect("it is ours");
    manifests.updates(Some("node-1"), &mut Translator::default())
}
