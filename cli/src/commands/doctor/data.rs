//! The data directory of a control plane that does not run: whole, or damaged, and whose.
//!
//! Every change in it is hashed and the root compared, as a start would; nothing is written. A node that runs does this
//! itself, and `members` compares its root with the others'.

use std::{
    io,
    path::{Path, PathBuf},
};

use bailiwick_consensus::{Inspection, inspect};

use super::finding::Finding;

/// The database inside a control plane's data directory.
pub(crate) fn database(data_folder: &Path) -> PathBuf {
    data_folder.join("raft")
}

/// Reads all of it.
pub(crate) async fn look(database: PathBuf) -> io::Result<Option<Inspection>> {
    tokio::task::spawn_blocking(move || inspect(&database)).await.map_err(io::Error::other)?
}

pub(crate) fn check(node: &str, looked: &io::Result<Option<Inspection>>) -> Finding {
    match looked {
        Ok(Some(found)) => {
            let root: String = found.root.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            let (version, revision, birth) = (found.version, found.revision, &found.birth);
            let detail = format!("whole: {version} changes up to revision {revision}, root {root}…; {birth}");
            Finding::ok("data", node, detail)
        }
        Ok(None) => {
            let advice = "`bailiwick cluster init` begins a cluster with it; to join one, give it a join token";
            Finding::warn("data", node, "belongs to no cluster yet", advice)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = "`bailiwick cluster init` begins a cluster; to join one, give the node a join token";
            Finding::warn("data", node, "there is no data yet", advice)
        }
        Err(error) => {
            let advice = "look at the disk (kernel log, smartctl) before you use it again";
            Finding::fail("data", node, error.to_string(), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_consensus::Birth;

    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn damage_fails_and_emptiness_is_only_said() {
        let birth = Birth { cluster_id: "a".repeat(32), incarnation: "b".repeat(16), node_id: 2 };
        let whole = Inspection { birth, starts: 3, revision: 9, version: 7, root: [0xab; 32], entries: 9 };
        assert_eq!(check("cp", &Ok(Some(whole))).level, Level::Ok);
        assert_eq!(check("cp", &Ok(None)).level, Level::Warn);
        assert_eq!(check("cp", &Err(io::Error::from(io::ErrorKind::NotFound))).level, Level::Warn);
        assert_eq!(check("cp", &Err(io::Error::new(io::ErrorKind::InvalidData, "corrupted"))).level, Level::Fail);
    }

    #[tokio::test]
    async fn a_folder_without_a_database_stays_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let looked = look(database(folder.path())).await;
        assert_eq!(looked.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!database(folder.path()).exists());
    }
}
