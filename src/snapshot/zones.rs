//! How DNS was told to answer, as it was last obeyed, as bytes; pure. Behind the header (`seal.rs`) it is JSON, in the form of the key `dns-zones` of the
//! configuration file, which later versions read as well.

use super::seal::{HEADER, SnapshotError, seal, unseal};
use crate::dns::chain::values::Time;
use crate::dns::chain::{Block, Model};
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"WAYZONES";
const VERSION: u32 = 2;

/// What is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Zones {
    /// Since when it was obeyed.
    pub taken: SystemTime,
    /// Where it was written: a file, or ConfigMaps.
    pub source: String,
    /// What it said.
    pub model: Model,
}

#[derive(Serialize, Deserialize)]
struct Written {
    source: String,
    reload: Option<Time>,
    blocks: Vec<Block>,
}

/// As bytes.
pub fn encode_zones(zones: &Zones) -> Vec<u8> {
    let Model { blocks, reload } = zones.model.clone();
    let mut bytes = vec![0; HEADER];
    // Writing to memory cannot fail, and everything in it is of a kind that JSON knows.
    if let Err(error) = serde_json::to_writer(&mut bytes, &Written { source: zones.source.clone(), reload, blocks }) {
        unreachable!("a configuration cannot be written: {error}");
    }
    seal(&mut bytes, MAGIC, VERSION, zones.taken);
    bytes
}

/// Reads what [`encode_zones`] has written.
///
/// # Errors
/// Anything else.
pub fn decode_zones(bytes: &[u8]) -> Result<Zones, SnapshotError> {
    let (taken, contents) = unseal(bytes, MAGIC, VERSION)?;
    let Written { source, reload, blocks } =
        serde_json::from_slice(contents).map_err(|_| SnapshotError::Damaged("what it says cannot be understood"))?;
    Ok(Zones { taken, source, model: Model { blocks, reload } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::corefile::{Surroundings, parse, translate};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_corefile_comes_back_as_it_was_obeyed_and_anything_else_is_refused() {
        let text = include_str!("../../tests/corefiles/kubeadm");
        let surroundings = Surroundings { variable: &|_| None, import: &|_| Err(String::new()) };
        let model = translate(&parse("Corefile", text, &surroundings).unwrap()).unwrap().model;
        let taken = UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        let zones = Zones { taken, source: "kube-system/coredns".into(), model };
        let bytes = encode_zones(&zones);
        assert_eq!(decode_zones(&bytes), Ok(zones.clone()));
        assert_eq!(zones.model.reload.map(|time| time.0), Some(Duration::from_secs(5)));
        for place in [12, 28, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(decode_zones(&changed), Err(SnapshotError::Damaged("its checksum is wrong")));
        }
        assert_eq!(decode_zones(&bytes[..40]), Err(SnapshotError::Damaged("it is not as long as it says")));
        assert_eq!(decode_zones(b"something else"), Err(SnapshotError::Foreign));
    }
}
