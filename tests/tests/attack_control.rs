//! Attacks on the control plane: killed while it writes, asked the same thing twice, given too much at once.
//!
//! What was acknowledged is there afterwards, once; what was refused changed nothing; and it still serves.

#![expect(clippy::indexing_slicing, clippy::string_slice, reason = "a test that panics fails, as it should")]

use std::{collections::BTreeSet, fmt::Write as _, fs, io::Write as _, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, Shape, deployment::kill, eventually};
use serde_json::Value;

fn user(name: &str, group: &str) -> String {
    format!("---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{groups: [{group}]}}\n")
}

/// Writes manifests to a file of this name and gives its path.
fn file(deployment: &Deployment, name: &str, manifests: &str) -> Result<String> {
    let path = deployment.data().join(name);
    fs::write(&path, manifests)?;
    Ok(path.display().to_string())
}

fn users(deployment: &Deployment) -> Result<BTreeSet<String>> {
    let listed: Value = serde_json::from_str(&deployment.cli_ok(&["get", "user", "-o", "json"])?)?;
    let items = listed["items"].as_array().context("items")?;
    Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_control_plane_killed_again_and_again() -> Result<()> {
    let mut deployment = Deployment::start(Shape::Processes).await?;
    let mut acknowledged = BTreeSet::new();
    for round in 0..4 {
        let pid = deployment.role("control-plane")[0].pid;
        let deployment_now = &deployment;
        let written: Vec<String> = thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut done = Vec::new();
                        for n in 0.. {
                            let name = format!("u-{round}-{writer}-{n}");
                            let path = file(deployment_now, &format!("{name}.yaml"), &user(&name, "g"))?;
                            if !deployment_now.cli(&["apply", "-f", &path])?.status.success() {
                                return Ok(done);
                            }
                            done.push(name);
                            if done.len() == 3 && writer == 0 {
                                kill(pid, "KILL");
                            }
                        }
                        Ok::<_, anyhow::Error>(done)
                    })
                })
                .collect();
            let joined: Vec<_> = writers.into_iter().filter_map(|writer| writer.join().ok()).collect();
            joined.into_iter().collect::<Result<Vec<_>>>().map(|lists| lists.concat())
        })?;
        ensure!(!written.is_empty(), "nothing was written in round {round}");
        acknowledged.extend(written);
        deployment.start_again().await?;
        let missing: Vec<_> = acknowledged.difference(&users(&deployment)?).cloned().collect();
        ensure!(missing.is_empty(), "acknowledged and gone after kill {round}: {missing:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_disk_is_full_ends_and_comes_back_with_all_it_acknowledged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("data/data/control-plane-1");
    fs::create_dir_all(&disk)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&disk).status()?;
    ensure!(mounted.success(), "this test mounts a small tmpfs: run it as root");
    let _unmount = Unmount(disk.clone());
    let mut deployment = Deployment::start_on(Shape::Processes, folder.path().join("data")).await?;
    let path = file(&deployment, "before.yaml", &user("before", "g"))?;
    deployment.cli_ok(&["apply", "-f", &path])?;

    let filler = disk.join("filler");
    let mut full = fs::File::create(&filler)?;
    while full.write_all(&[0; 4096]).is_ok() {}
    let pid = deployment.role("control-plane")[0].pid;
    let (mut acknowledged, mut n) = (BTreeSet::from(["before".to_owned()]), 0);
    eventually("the control plane ends", async || {
        n += 1;
        let (name, groups) = (format!("late-{n}"), format!("g{n}-{}", "x".repeat(40)));
        let path = file(&deployment, "late.yaml", &user(&name, &groups)).ok()?;
        if deployment.cli(&["apply", "-f", &path]).ok()?.status.success() {
            acknowledged.insert(name);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })
    .await?;
    ensure!(deployment.log().contains("start again once the disk works"), "it did not say why:\n{}", deployment.log());

    fs::remove_file(&filler)?;
    deployment.start_again().await?;
    let there = users(&deployment)?;
    ensure!(acknowledged.is_subset(&there), "acknowledged {acknowledged:?}, there {there:?}");
    let path = file(&deployment, "after.yaml", &user("after", "g"))?;
    deployment.cli_ok(&["apply", "-f", &path]).map(drop)
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_at_once_is_refused_with_a_reason_and_changes_nothing() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let mut many = String::new();
    for n in 0..3_000 {
        write!(many, "{}", user(&format!("many-{n}"), &format!("g-{}", n % 100)))?;
    }
    let bombs = [
        // A policy nested beyond any reader's stack.
        ("nested", policy("nested", &format!("{}true{}", "(".repeat(20_000), ")".repeat(20_000)))),
        ("negated", policy("negated", &format!("{}true", "!".repeat(50_000)))),
        ("chained", policy("chained", &vec!["context.level == \"x\""; 20_000].join(" || "))),
        ("huge", user("huge", &"g".repeat(8 * 1024 * 1024))),
        ("aliases", format!("a: &a [x,x,x,x,x,x,x,x,x]\n{}", aliases(12))),
        (
            "deep",
            format!(
                "apiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: deep}}\nspec: {}{}\n",
                "[".repeat(30_000),
                "]".repeat(30_000)
            ),
        ),
    ];
    for (name, manifests) in bombs {
        let path = file(&deployment, &format!("{name}.yaml"), &manifests)?;
        let output = deployment.cli(&["apply", "-f", &path])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.code() == Some(1) || output.status.code() == Some(2),
            "{name}: {:?} {said}",
            output.status
        );
        ensure!(!said.trim().is_empty() && said.len() < 20_000, "{name}: a reason, not {} bytes of it", said.len());
    }
    ensure!(users(&deployment)?.is_empty(), "a refused apply changed something");
    // Much that is right is taken whole, or refused whole.
    let path = file(&deployment, "many.yaml", &many)?;
    let taken = deployment.cli(&["apply", "-f", &path])?.status.success();
    ensure!(users(&deployment)?.len() == if taken { 3_000 } else { 0 });
    Ok(())
}

fn policy(name: &str, condition: &str) -> String {
    format!(
        "---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  cedar: |\n    permit (principal, action, resource) when {{ {condition} }};\n"
    )
}

/// Each line names the one before nine times.
fn aliases(levels: u8) -> String {
    let letter = |n: u8| char::from(b'a' + n);
    (1..levels).fold(String::new(), |text, n| {
        let before = vec![format!("*{}", letter(n - 1)); 9].join(",");
        format!("{text}{0}: &{0} [{before}]\n", letter(n))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_and_deletes_that_race_leave_nothing_dangling() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let server = |n: u32| {
        format!(
            "---\napiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: s{n}}}\nspec: {{endpoint: {{url: \"http://127.0.0.1:9/mcp\"}}}}\n"
        )
    };
    let view = |n: u32| {
        format!(
            "---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: v{n}}}\nspec: {{servers: [{{server: s{n}}}]}}\n"
        )
    };
    let (servers, views): (String, String) = ((0..4).map(server).collect(), (0..4).map(view).collect());
    let (servers, views) = (file(&deployment, "servers.yaml", &servers)?, file(&deployment, "views.yaml", &views)?);
    thread::scope(|scope| {
        for arguments in
            [["apply", "-f", &servers], ["apply", "-f", &views], ["delete", "-f", &servers], ["delete", "-f", &views]]
        {
            let deployment = &deployment;
            scope.spawn(move || (0..8).for_each(|_| drop(deployment.cli(&arguments))));
        }
    });
    let names = |kind: &str| -> Result<BTreeSet<String>> {
        let listed: Value = serde_json::from_str(&deployment.cli_ok(&["get", kind, "-o", "json"])?)?;
        let items = listed["items"].as_array().context("items")?;
        Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(|name| name[1..].to_owned()).collect())
    };
    let (servers, views) = (names("server")?, names("virtualserver")?);
    ensure!(views.is_subset(&servers), "virtual servers {views:?} on servers {servers:?}");
    Ok(())
}
