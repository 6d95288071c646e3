//! The kernel's tables themselves, as netlink and the `nft` program show them.

use super::agent::Worlds;
use super::shared::world::{World, output};
use super::shared::{ALL_SETTINGS, Settings};
use super::walked::{layouts, plan};
use libtest_mimic::Failed;
use waypost::lab::Namespace;
use waypost::model::Family;
use waypost::nft::{Committer, Kernel, Memory, Netlink, Reading};
use waypost::proxy::Element;

/// The agent has made what the plan says, and another one in its place finds nothing to do.
pub fn restart_writes_nothing(worlds: &Worlds) -> Result<(), Failed> {
    // On every address means on link-local ones too, of which only the kernel knows. What starts slowly has gone on meanwhile.
    let known = ALL_SETTINGS.iter().filter(|settings| !settings.nodeport_networks().contains(&"::/0") && !settings.later);
    known.for_each(|settings| worlds.with(settings, |world| compare(settings, world)));
    Ok(())
}

fn compare(settings: &Settings, world: &World) {
    let commit = || Committer::new(Netlink::open().expect("a socket"), layouts(settings)).commit(plan(settings));
    for family in world.node.namespace().run(commit).expect("the node's namespace").families {
        assert_eq!((family.elements, family.batches, family.rebuilt), (0, 0, None), "{} {}", settings.name, family.family);
    }
    assert_eq!(held(settings, world), planned(settings), "{}", settings.name);
}

/// What both tables hold.
pub fn held(settings: &Settings, world: &World) -> [Vec<Element>; 2] {
    let read = || {
        let mut kernel = Netlink::open().expect("a socket");
        layouts(settings).map(|layout| match kernel.read(&layout).expect("a reading") {
            Reading::Ours(contents) => sorted(contents.elements),
            _ => panic!("our table is not recognised"),
        })
    };
    world.node.namespace().run(read).expect("the node's namespace")
}

/// What the plan says that they hold.
pub fn planned(settings: &Settings) -> [Vec<Element>; 2] {
    let mut memory = Committer::new(Memory::default(), layouts(settings));
    memory.commit(plan(settings));
    Family::BOTH.map(|family| memory.kernel().elements(family))
}

fn sorted(mut elements: Vec<Element>) -> Vec<Element> {
    elements.sort_unstable();
    elements
}

/// What `nft list table` shows can be loaded, and shows the same then.
pub fn listing_loads_again(worlds: &Worlds) -> Result<(), Failed> {
    // One world for each set of rules; to nft in a user namespace the largest tables are too long a message.
    let different = ALL_SETTINGS.iter().filter(|settings| settings.nodeport_networks().is_empty() && !settings.later);
    different.copied().try_for_each(|settings| worlds.with(settings, |world| load(settings, world)))
}

fn load(settings: &Settings, world: &World) -> Result<(), Failed> {
    // Counters move while other tests connect. For the IPv6 rules of session affinity nft 1.0.6 has not enough registers.
    let stateless = ["-s", "list", "table", "ip", "waypost"];
    let listing = world.output("nft", &stateless);
    let elsewhere = Namespace::new()?;
    let file = std::env::temp_dir().join(format!("waypost-flows-{}-{}", std::process::id(), settings.name));
    std::fs::write(&file, &listing)?;
    output(&elsewhere, "nft", &["-f", &file.display().to_string()]);
    std::fs::remove_file(&file)?;
    let again = output(&elsewhere, "nft", &stateless);
    if words(&again) == words(&listing) { Ok(()) } else { Err(format!("{listing}\nbecame\n{again}").into()) }
}

/// nft lists elements in the order of the kernel's hash tables, which differs from table to table.
fn words(listing: &str) -> Vec<&str> {
    let mut words: Vec<&str> = listing.split([',', '{', '}', '\n']).map(str::trim).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words
}
