//! `cluster`: beginning one, letting nodes in and out, copies of its state, and who leads.
//!
//! `init` and `restore` work on a data directory while no node runs on it; all others ask any control plane. A backup is
//! written beside its name first and verified whole before it gets that name.

use std::{
    fs::{self, File},
    io::{BufReader, Write},
    path::Path,
};

use bailiwick_consensus::verify_backup;
use bailiwick_control_plane::{Begun, ControlPlaneConfig};
use bailiwick_enrolment::JoinToken;
use bailiwick_proto::v1::{
    BackupRequest, CreateJoinTokenRequest, Member, MembersRequest, RemoveMemberRequest, RotateMasterKeyRequest,
    TransferLeaderRequest,
};
use bailiwick_runtime::MasterKeyConfig;
use serde_json::{Value, json};
use tonic::Request;

use super::{
    resources::request_id,
    role::{refuse, start_logging},
};
use crate::{
    admin::{self, cluster, refusal},
    args::{
        ClusterBackupArgs, ClusterCommand, ClusterEnrolArgs, ClusterInitArgs, ClusterJoinTokenArgs, ClusterOutputArgs,
        ClusterRemoveArgs, ClusterRestoreArgs, ClusterTransferArgs, Output,
    },
    config, enrolled,
    failure::Failure,
    output::{print, show, table, text},
};

/// Says that no leader confirmed a backup to be current.
const UNCONFIRMED: &str = "bailiwick-unconfirmed";
/// Longest join token that is read from a file.
const TOKEN_BYTES_MAX: u64 = 4 * 1024;

pub(crate) async fn run(urls: &str, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init(args) => Box::pin(init(args)).await,
        ClusterCommand::JoinToken(args) => join_token(urls, args).await,
        ClusterCommand::Members(args) => members(urls, args).await,
        ClusterCommand::Remove(args) => remove(urls, args).await,
        ClusterCommand::Backup(args) => backup(urls, args).await,
        ClusterCommand::Restore(args) => Box::pin(restore(args)).await,
        ClusterCommand::RotateMasterKey(args) => rotate_master_key(urls, args).await,
        ClusterCommand::TransferLeader(args) => transfer_leader(urls, args).await,
        ClusterCommand::Enrol(args) => enrol(urls, args).await,
    }
}

async fn init(args: ClusterInitArgs) -> Result<(), Failure> {
    start_logging();
    let mut file = config::load(args.config.as_deref())?;
    let made = make_master_key(&file.master_key)?;
    let config = node(&mut file)?;
    let begun = bailiwick_control_plane::init(&config).await.map_err(Failure::refused)?;
    print(args.output, &begun_json(&begun), || {
        let mut lines = vec![format!("Cluster {} has begun with {} as its first node.", begun.cluster_id, begun.node)];
        lines.push(format!("  Authority fingerprint  {}", begun.fingerprint));
        if let Some(path) = &made {
            lines.push(format!("  Master key             {path} (made now)"));
            lines.push(
                "Keep a copy of the master key elsewhere: without it no secret of this cluster opens again.".into(),
            );
        }
        lines.push(
            "Next: start it with `bailiwick control-plane --config FILE`; then `bailiwick cluster join-token`.".into(),
        );
        lines.join("\n")
    });
    Ok(())
}

/// Makes the master key file that the configuration names, if it is missing; says which.
fn make_master_key(config: &MasterKeyConfig) -> Result<Option<String>, Failure> {
    match &config.file {
        Some(path) if !path.exists() => {
            MasterKeyConfig::ensure_file(path).map_err(Failure::refused)?;
            Ok(Some(path.display().to_string()))
        }
        Some(_) | None => Ok(None),
    }
}

/// The control plane of a configuration file.
fn node(file: &mut config::NodeConfig) -> Result<ControlPlaneConfig, Failure> {
    let mut config = file.control_plane.take().unwrap_or_default();
    config.master_key = file.master_key.clone();
    refuse("control_plane", config.check())?;
    Ok(config)
}

fn begun_json(begun: &Begun) -> Value {
    json!({
        "cluster_id": begun.cluster_id,
        "incarnation": begun.incarnation,
        "node": begun.node,
        "node_id": begun.node_id.to_string(),
        "authority_fingerprint": begun.fingerprint,
    })
}

async fn join_token(urls: &str, args: ClusterJoinTokenArgs) -> Result<(), Failure> {
    let mut control_planes = admin::connect(urls).await?;
    // A token is shown to one request only, so each attempt makes another; those nobody saw expire.
    let request = CreateJoinTokenRequest {
        role: args.role.clone(),
        learner: args.learner,
        name: args.name.clone().unwrap_or_default(),
        request_id: String::new(),
    };
    let made = control_planes.ask(request, async |channel, asked| cluster(channel).create_join_token(asked).await);
    let made = made.await?;
    let expires_at = i64::try_from(made.expires_at).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let expires_at = expires_at.map_or_else(String::new, |time| time.to_string());
    let value = json!({"token": made.token, "role": args.role, "expires_at": expires_at});
    print(args.output, &value, || {
        let whose = args.name.as_ref().map_or_else(|| "one node".to_owned(), |name| format!("the node {name}"));
        eprintln!("good once, for {whose}, as {}, until {expires_at}; shown only now", args.role);
        made.token.clone()
    });
    Ok(())
}

async fn members(urls: &str, args: ClusterOutputArgs) -> Result<(), Failure> {
    let mut control_planes = admin::connect(urls).await?;
    let asked = control_planes.ask(MembersRequest {}, async |channel, asked| cluster(channel).members(asked).await);
    let answer = asked.await?;
    let items: Vec<Value> = answer.items.iter().map(member_json).collect();
    let value = json!({
        "cluster_id": answer.cluster_id,
        "incarnation": answer.incarnation,
        "revision": answer.revision.to_string(),
        "items": items,
    });
    print(args.output, &value, || members_table(&items));
    Ok(())
}

fn member_json(member: &Member) -> Value {
    json!({
        "name": member.name,
        "role": member.role,
        "leader": member.leader,
        "node_id": member.node_id.to_string(),
        "membership": member.membership,
        "reachable": member.reachable,
        "revision": member.revision.to_string(),
        "log_size": member.log_size.to_string(),
        "log_root": member.log_root,
        "peer_address": member.peer_address,
        "api_address": member.api_address,
        "version": member.version,
        "master_keys": member.master_keys,
    })
}

fn members_table(items: &[Value]) -> String {
    let headers = ["NAME", "ROLE", "ID", "MEMBERSHIP", "LEADER", "REACHABLE", "REVISION", "API", "VERSION"];
    let row = |item: &Value| {
        let yes = |key: &str| if item.get(key).and_then(Value::as_bool) == Some(true) { "yes" } else { "" }.to_owned();
        let id = Some(text(item, "node_id")).filter(|id| id != "0").unwrap_or_default();
        let (leader, reachable) = (yes("leader"), yes("reachable"));
        let of = |key: &str| text(item, key);
        vec![
            of("name"),
            of("role"),
            id,
            of("membership"),
            leader,
            reachable,
            of("revision"),
            of("api_address"),
            of("version"),
        ]
    };
    table(&headers, &items.iter().map(row).collect::<Vec<_>>())
}

async fn remove(urls: &str, args: ClusterRemoveArgs) -> Result<(), Failure> {
    let request = RemoveMemberRequest { member: args.member.clone(), force: args.force, request_id: request_id()? };
    let mut control_planes = admin::connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| cluster(channel).remove(asked).await);
    let revision = asked.await?.revision;
    print(args.output, &json!({"member": args.member, "revision": revision.to_string()}), || {
        format!("{} is no member any more; stop it and delete its data directory", args.member)
    });
    Ok(())
}

async fn backup(urls: &str, args: ClusterBackupArgs) -> Result<(), Failure> {
    let mut control_planes = admin::connect(urls).await?;
    // Asked first because it may be asked twice: whoever answers it is there and knows the leader.
    control_planes.ask(MembersRequest {}, async |channel, asked| cluster(channel).members(asked).await).await?;
    let chunks = cluster(control_planes.channel()).backup(Request::new(BackupRequest {})).await;
    let chunks = chunks.map_err(refusal)?;
    let unconfirmed = chunks.metadata().contains_key(UNCONFIRMED);
    let mut chunks = chunks.into_inner();
    let partial = args.file.with_extension("partial");
    let unwritable = |error: std::io::Error| Failure::Refused(format!("cannot write {}: {error}", partial.display()));
    let mut file = private(&partial).map_err(unwritable)?;
    while let Some(chunk) = chunks.message().await.map_err(refusal)? {
        file.write_all(&chunk.data).map_err(unwritable)?;
    }
    file.sync_all().map_err(unwritable)?;
    drop(file);
    let damaged = |error: std::io::Error| {
        Failure::Refused(format!("the backup that came does not verify ({error}); {} is left there", partial.display()))
    };
    let summary = File::open(&partial).map(BufReader::new).and_then(verify_backup).map_err(damaged)?;
    fs::rename(&partial, &args.file).map_err(unwritable)?;
    let value = json!({
        "file": args.file.display().to_string(),
        "cluster_id": summary.cluster_id,
        "incarnation": summary.incarnation,
        "revision": summary.revision.to_string(),
        "log_size": summary.version.to_string(),
        "log_root": hex(&summary.root),
        "confirmed": !unconfirmed,
    });
    if unconfirmed {
        eprintln!("warning: no leader confirmed that this is current; changes made elsewhere may be missing");
    }
    print(args.output, &value, || {
        let (path, revision, size) = (args.file.display(), summary.revision, summary.version);
        format!("{path}: verified, revision {revision}, {size} changes, root {}", hex(&summary.root))
    });
    Ok(())
}

/// A new file for its owner alone: it holds people and policies.
fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn restore(args: ClusterRestoreArgs) -> Result<(), Failure> {
    start_logging();
    let mut file = config::load(args.config.as_deref())?;
    let config = node(&mut file)?;
    let (begun, backup) = bailiwick_control_plane::restore(&args.file, &config).await.map_err(Failure::refused)?;
    let mut value = begun_json(&begun);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("revision".to_owned(), backup.revision.to_string().into());
        fields.insert("log_root".to_owned(), hex(&backup.root).into());
    }
    print(args.output, &value, || {
        [
            format!("Cluster {} is restored up to revision {}, verified.", begun.cluster_id, backup.revision),
            format!("It begins a new life ({}) with {} as node {}.", begun.incarnation, begun.node, begun.node_id),
            "Nodes of the former life are refused. Next:".to_owned(),
            "  1. make sure that none of them runs, and put their data directories away;".to_owned(),
            "  2. start this node: `bailiwick control-plane --config FILE`;".to_owned(),
            "  3. let the others join with empty data directories: `bailiwick cluster join-token control-plane`;"
                .to_owned(),
            "  4. revocations after the backup are undone: look at `bailiwick audit query --kind control.event`."
                .to_owned(),
        ]
        .join("\n")
    });
    Ok(())
}

async fn rotate_master_key(urls: &str, args: ClusterOutputArgs) -> Result<(), Failure> {
    let mut control_planes = admin::connect(urls).await?;
    let request = RotateMasterKeyRequest { request_id: request_id()? };
    let asked = control_planes.ask(request, async |channel, asked| cluster(channel).rotate_master_key(asked).await);
    let rotated = asked.await?;
    let value = json!({
        "master_key": rotated.master_key,
        "secrets": rotated.secrets.to_string(),
        "revision": rotated.revision.to_string(),
    });
    print(args.output, &value, || {
        format!("{} secrets are sealed under master key {}", rotated.secrets, rotated.master_key)
    });
    Ok(())
}

async fn transfer_leader(urls: &str, args: ClusterTransferArgs) -> Result<(), Failure> {
    let mut control_planes = admin::connect(urls).await?;
    let request = TransferLeaderRequest { member: args.member.unwrap_or_default() };
    let asked = control_planes.ask(request, async |channel, asked| cluster(channel).transfer_leader(asked).await);
    let leader = asked.await?.leader;
    print(args.output, &json!({ "leader": leader }), || format!("{leader} leads"));
    Ok(())
}

async fn enrol(urls: &str, args: ClusterEnrolArgs) -> Result<(), Failure> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => read_token(file)?,
        (None, None) => return Err(Failure::Usage("give the join token with --token-file or --token".to_owned())),
    };
    let token: JoinToken = token.parse().map_err(|error| Failure::Usage(format!("{error}")))?;
    let name = args.name.clone().or_else(enrolled::default_name);
    let name = name.ok_or_else(|| Failure::Usage("say with --name who you are".to_owned()))?;
    let member = enrolled::become_admin(urls, name, token).await?;
    let folder = enrolled::folder().display().to_string();
    let value = json!({"name": member.id.name, "role": member.id.role.as_str(), "cluster_id": member.id.cluster, "folder": folder});
    if args.output == Output::Table {
        show(&format!("enrolled as {} of cluster {}; the key is in {folder}\n", member.id.name, member.id.cluster));
    } else {
        print(args.output, &value, String::new);
    }
    Ok(())
}

fn read_token(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}
