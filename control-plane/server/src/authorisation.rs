//! Who may call which method, and where it is carried out: one table.
//!
//! `forward` asks for every call, before a byte of it is read. Who calls is known from the connection (`runtime::tls`):
//! a certificate of this cluster, none, or plain text from this machine, which stands for its administrator. A control
//! plane that forwards says for whom; nobody else's word on that counts. A method that is not in the table does not
//! exist. Invariant: the matrix in `tests/golden/authorisation.txt` is this table. Absent: which *resources* an
//! administrator may touch (a later part), and what a node may say about others ([`Who::speaks_for`], asked by the
//! services).

use std::fmt;

use bailiwick_control_plane_core::member::Role;
use bailiwick_runtime::{PeerIdentity, identity};

/// The name a local administrator has in events.
const LOCAL_ADMIN: &str = "admin";

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever is on this machine.
    Loopback,
    /// Somebody over TLS who has no certificate: may only ask to become a member.
    Anonymous,
    /// A member of this cluster.
    Member {
        /// What it is.
        role: Role,
        /// Its name.
        name: String,
    },
}

/// Where a method is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the leader; other nodes hand it on.
    Leader,
    /// On the node that is asked. What has to be current is current there too (`Domain::read_latest`).
    Here,
}

/// A method of the API.
#[derive(Debug)]
pub(crate) struct Method {
    /// As in the request's path.
    pub(crate) path: &'static str,
    pub(crate) place: Place,
    callers: &'static [Kind],
}

/// A kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Loopback,
    Admin,
    ControlPlane,
    DataPlane,
    Ledger,
    Anonymous,
}

const ADMINS: &[Kind] = &[Kind::Loopback, Kind::Admin];
const NODES: &[Kind] = &[Kind::Loopback, Kind::Admin, Kind::DataPlane, Kind::Ledger];
const LEDGERS: &[Kind] = &[Kind::Loopback, Kind::Admin, Kind::Ledger];
const DATA_PLANES: &[Kind] = &[Kind::Loopback, Kind::DataPlane];
const CONTROL_PLANES: &[Kind] = &[Kind::ControlPlane];
const EVERYBODY: &[Kind] =
    &[Kind::Loopback, Kind::Admin, Kind::ControlPlane, Kind::DataPlane, Kind::Ledger, Kind::Anonymous];

/// Every method there is.
pub(crate) const METHODS: &[Method] = &[
    method("/bailiwick.v1.Admin/Apply", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/Delete", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/Get", Place::Here, ADMINS),
    method("/bailiwick.v1.Admin/IssueToken", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/PinTools", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/Revoke", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/SetAgentState", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/Status", Place::Here, ADMINS),
    method("/bailiwick.v1.Admin/BeginRollout", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/AdvanceRollout", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/TakeBackRollout", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/GetRollouts", Place::Here, ADMINS),
    method("/bailiwick.v1.Admin/SetSecret", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/DeleteSecret", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/ListSecrets", Place::Here, ADMINS),
    method("/bailiwick.v1.Admin/RotateKey", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/ListKeys", Place::Here, ADMINS),
    method("/bailiwick.v1.Admin/CreateScimToken", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/RevokeScimToken", Place::Leader, ADMINS),
    method("/bailiwick.v1.Admin/ListScimTokens", Place::Here, ADMINS),
    method("/bailiwick.v1.Admin/SignalStream", Place::Here, ADMINS),
    method("/bailiwick.v1.Config/RegisterNode", Place::Leader, NODES),
    method("/bailiwick.v1.Config/ReserveEpoch", Place::Leader, DATA_PLANES),
    method("/bailiwick.v1.Config/BeginReserved", Place::Leader, DATA_PLANES),
    method("/bailiwick.v1.Config/Stream", Place::Here, NODES),
    method("/bailiwick.v1.Config/Lane", Place::Here, DATA_PLANES),
    method("/bailiwick.v1.Config/ReportTools", Place::Leader, NODES),
    method("/bailiwick.v1.Checkpoints/Latest", Place::Here, LEDGERS),
    method("/bailiwick.v1.Checkpoints/Commit", Place::Leader, LEDGERS),
    method("/bailiwick.v1.Enrolment/Enrol", Place::Leader, EVERYBODY),
    method("/bailiwick.v1.Enrolment/Renew", Place::Leader, EVERYBODY),
    method("/bailiwick.v1.Cluster/CreateJoinToken", Place::Leader, ADMINS),
    method("/bailiwick.v1.Cluster/Members", Place::Here, ADMINS),
    method("/bailiwick.v1.Cluster/Remove", Place::Leader, ADMINS),
    method("/bailiwick.v1.Cluster/Backup", Place::Here, ADMINS),
    method("/bailiwick.v1.Cluster/RotateMasterKey", Place::Leader, ADMINS),
    method("/bailiwick.v1.Cluster/TransferLeader", Place::Leader, ADMINS),
    method("/bailiwick.v1.Internal/Discover", Place::Here, CONTROL_PLANES),
    method("/bailiwick.v1.Internal/Describe", Place::Here, CONTROL_PLANES),
    method("/bailiwick.v1.Internal/Decide", Place::Leader, CONTROL_PLANES),
];

const fn method(path: &'static str, place: Place, callers: &'static [Kind]) -> Method {
    Method { path, place, callers }
}

/// The method of a request's path.
pub(crate) fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

impl Method {
    /// Whether this caller may call it.
    pub(crate) fn is_open_to(&self, who: &Who) -> bool {
        self.callers.contains(&who.kind())
    }
}

impl Who {
    /// Who is at the other end of a connection. A connection that says nothing of it was made by this process.
    pub(crate) fn of(peer: Option<&PeerIdentity>) -> Self {
        match peer {
            Some(PeerIdentity::Loopback) => Self::Loopback,
            Some(PeerIdentity::Node { role, name, .. }) => Self::Member { role: role_of(*role), name: name.clone() },
            Some(PeerIdentity::Anonymous) | None => Self::Anonymous,
        }
    }

    /// The other way round of `to_string`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            None if text == "loopback" => Some(Self::Loopback),
            None if text == "anonymous" => Some(Self::Anonymous),
            None => None,
            Some((role, name)) => {
                let named = bailiwick_proto::names::is_resource_name(name);
                Role::from_word(role).filter(|_| named).map(|role| Self::Member { role, name: name.to_owned() })
            }
        }
    }

    /// How events name this caller.
    pub(crate) fn actor(&self) -> String {
        match self {
            Self::Loopback => LOCAL_ADMIN.to_owned(),
            Self::Anonymous => "anonymous".to_owned(),
            Self::Member { role: Role::Admin, name } => format!("admin:{name}"),
            Self::Member { role: Role::ControlPlane | Role::DataPlane | Role::Ledger, name } => format!("node:{name}"),
        }
    }

    /// Whether this caller may say something in the name of the node `name` in `role`: nodes only in their own,
    /// administrators in any.
    pub(crate) fn speaks_for(&self, name: &str, role: &str) -> bool {
        match self {
            Self::Loopback | Self::Member { role: Role::Admin, .. } => true,
            Self::Member { role: own, name: own_name } => own_name == name && own.as_str() == role,
            Self::Anonymous => false,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Loopback => Kind::Loopback,
            Self::Anonymous => Kind::Anonymous,
            Self::Member { role: Role::ControlPlane, .. } => Kind::ControlPlane,
            Self::Member { role: Role::DataPlane, .. } => Kind::DataPlane,
            Self::Member { role: Role::Ledger, .. } => Kind::Ledger,
            Self::Member { role: Role::Admin, .. } => Kind::Admin,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Member { role, name } => write!(f, "{}/{name}", role.as_str()),
        }
    }
}

const fn role_of(role: identity::Role) -> Role {
    match role {
        identity::Role::ControlPlane => Role::ControlPlane,
        identity::Role::DataPlane => Role::DataPlane,
        identity::Role::Ledger => Role::Ledger,
        identity::Role::Admin => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use super::*;

    fn member(role: Role) -> Who {
        Who::Member { role, name: "m".to_owned() }
    }

    #[test]
    fn who_may_call_what_is_as_the_golden_matrix_says() {
        let callers: Vec<Who> =
            [Who::Loopback, Who::Anonymous].into_iter().chain(Role::ALL.into_iter().map(member)).collect();
        let mut matrix = String::new();
        for method in METHODS {
            let who: Vec<String> = callers
                .iter()
                .filter(|who| method.is_open_to(who))
                .map(|who| who.to_string().replace("/m", ""))
                .collect();
            let place = if method.place == Place::Leader { "leader" } else { "here" };
            writeln!(matrix, "{} [{place}]: {}", method.path, who.join(" ")).unwrap();
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/authorisation.txt");
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            matrix == golden,
            "who may call what has changed; if it should, {} must say:\n{matrix}",
            path.display()
        );
    }

    #[test]
    fn every_method_of_every_service_is_in_the_table_and_no_other() {
        let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/bailiwick/v1");
        let mut methods = Vec::new();
        for file in ["admin", "cluster", "config", "ledger"] {
            let mut service = String::new();
            for line in fs::read_to_string(protos.join(format!("{file}.proto"))).unwrap().lines() {
                let words: Vec<&str> = line.trim().split([' ', '(']).collect();
                match words[..] {
                    ["service", name, ..] => service = name.to_owned(),
                    ["rpc", name, ..] => methods.push(format!("/bailiwick.v1.{service}/{name}")),
                    _ => {}
                }
            }
        }
        let mut listed: Vec<String> = METHODS.iter().map(|method| method.path.to_owned()).collect();
        listed.sort();
        methods.sort();
        assert_eq!(listed, methods);
    }

    #[test]
    fn a_caller_survives_being_handed_on() {
        for who in [Who::Loopback, Who::Anonymous, member(Role::Admin), member(Role::DataPlane)] {
            assert_eq!(Who::parse(&who.to_string()), Some(who));
        }
        for text in ["", "root", "admin", "admin/", "admin/../x y", "root/x", "loopback/x"] {
            assert_eq!(Who::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_node_speaks_for_itself_alone() {
        let node = Who::Member { role: Role::DataPlane, name: "dp-1".to_owned() };
        assert!(node.speaks_for("dp-1", "data-plane"));
        assert!(!node.speaks_for("dp-2", "data-plane") && !node.speaks_for("dp-1", "ledger"));
        assert!(Who::Loopback.speaks_for("dp-1", "ledger") && !Who::Anonymous.speaks_for("dp-1", "data-plane"));
    }
}
