//! Writes the inputs to begin with into a folder: `seed TARGET FOLDER`.

use std::path::Path;
use std::{env, fs};
use waypost_fuzz::checks::{Check, Clusters, Corefiles, Datagrams, Names, Replies, Snapshots, Streams, Zones};

fn main() {
    let [target, folder] = [1, 2].map(|place| env::args().nth(place).expect("seed TARGET FOLDER"));
    let seeds = match target.as_str() {
        Clusters::NAME => Clusters::seeds(),
        Corefiles::NAME => Corefiles::seeds(),
        Datagrams::NAME => Datagrams::seeds(),
        Names::NAME => Names::seeds(),
        Replies::NAME => Replies::seeds(),
        Snapshots::NAME => Snapshots::seeds(),
        Streams::NAME => Streams::seeds(),
        Zones::NAME => Zones::seeds(),
        _ => panic!("there is no target {target}"),
    };
    fs::create_dir_all(&folder).expect("the folder can be made");
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).expect("a seed can be written");
    }
}
