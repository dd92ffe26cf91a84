//! `import`: how long a company's directory takes to bring everybody in by SCIM, and what finding people costs then.
//!
//! In bulk requests of a thousand, one after the other, as directories send them; beside the same number of manifests,
//! applied by a thousand as well. The processors' time is that of all control planes.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    admin::Admin,
    cluster::Cluster,
    directory::Directory,
    figures::{count, memory_of},
};

/// People of one request: what the service takes.
const AT_ONCE: usize = 1_000;
/// People that are applied by manifests beside.
const MANIFESTS: usize = 10_000;
/// People of one line of the report.
const PART: usize = 10_000;
/// Searches of each kind; the shortest counts.
const SEARCHES: usize = 5;

/// A company's whole directory by SCIM, beside manifests.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of a cluster made with deploy/local-cluster.
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// How many people.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    people: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// So many people, and what they took.
struct Part {
    people: usize,
    took: Duration,
    /// Of all control planes.
    cpu: Duration,
    /// Of the control plane that has most, MiB.
    memory: u64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let cluster = Cluster::read(&args.cluster)?;
    let admin = Admin::connect(&cluster.admins).await?;
    let places = cluster.control_planes_at()?;
    let directory = Directory::new(&admin, places.first().context("no control plane")?).await?;
    let names: Vec<String> = (0..args.people).map(|number| format!("person-{number:06}@import.example")).collect();

    eprintln!("{MANIFESTS} manifests");
    let manifests = part(&cluster, MANIFESTS, apply(&admin)).await?;
    let mut parts = Vec::new();
    for some in names.chunks(PART) {
        let imported = async {
            for request in some.chunks(AT_ONCE) {
                directory.import(request).await?;
            }
            Ok(())
        };
        parts.push(part(&cluster, some.len(), imported).await?);
        eprintln!("{} people", parts.iter().map(|part| part.people).sum::<usize>());
    }
    let name = names.last().context("nobody")?;
    let searches = [
        ("one by userName", format!("userName eq \"{name}\"")),
        ("one by externalId", format!("externalId eq \"00u-{name}\"")),
        ("one by e-mail (no index: looks at everybody)", format!("emails.value eq \"{name}\"")),
    ];
    let mut found = Vec::new();
    for (what, filter) in searches {
        found.push((what, search(&directory, &filter).await?));
    }
    print(&args, &manifests, &parts, &found);
    Ok(())
}

async fn apply(admin: &Admin) -> Result<()> {
    for start in (0..MANIFESTS).step_by(AT_ONCE) {
        let documents = (start..start + AT_ONCE).map(|number| {
            format!("apiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: manifest-{number:06}@import.example}}\nspec: {{}}\n")
        });
        admin.apply(&documents.collect::<Vec<_>>().join("---\n")).await?;
    }
    Ok(())
}

async fn part(cluster: &Cluster, people: usize, work: impl Future<Output = Result<()>>) -> Result<Part> {
    let (began, cpu) = (Instant::now(), cluster.cpu());
    work.await?;
    let (took, cpu) = (began.elapsed(), cluster.cpu() - cpu);
    let memory = cluster.control_planes.iter().map(|pid| memory_of(*pid).0).max().unwrap_or_default();
    Ok(Part { people, took, cpu, memory })
}

/// The shortest time to find exactly one.
async fn search(directory: &Directory, filter: &str) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..SEARCHES {
        let began = Instant::now();
        let found = directory.find(filter).await?;
        best = best.min(began.elapsed());
        ensure!(found == 1, "{filter} finds {found}");
    }
    Ok(best)
}

fn print(args: &Args, manifests: &Part, parts: &[Part], found: &[(&str, Duration)]) {
    let whole = Part {
        people: parts.iter().map(|part| part.people).sum(),
        took: parts.iter().map(|part| part.took).sum(),
        cpu: parts.iter().map(|part| part.cpu).sum(),
        memory: parts.iter().map(|part| part.memory).max().unwrap_or_default(),
    };
    let mut rows = vec![("manifests, by 1,000", manifests), ("SCIM, all", &whole)];
    rows.extend(parts.first().map(|part| ("SCIM, the first part", part)));
    rows.extend(parts.last().map(|part| ("SCIM, the last part", part)));
    if args.json {
        let rows = rows.iter().map(|(name, part)| part.json(name)).collect::<Vec<_>>();
        let found = found.iter().map(|(what, took)| json!({"search": what, "us": took.as_micros().to_string()}));
        println!("{:#}", json!({"items": rows, "searches": found.collect::<Vec<_>>()}));
        return;
    }
    println!("| what | people | seconds | people/s | × manifests | CPU per person, µs | memory, MiB |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (name, part) in rows {
        let ratio = part.per_second() / manifests.per_second();
        let seconds = part.took.as_secs_f64();
        println!(
            "| {name} | {} | {seconds:.1} | {:.0} | {ratio:.2} | {:.0} | {} |",
            part.people,
            part.per_second(),
            part.cpu_us(),
            part.memory
        );
    }
    println!("\n| search among all | ms |\n|---|---:|");
    for (what, took) in found {
        println!("| {what} | {:.1} |", took.as_secs_f64() * 1e3);
    }
}

impl Part {
    fn per_second(&self) -> f64 {
        count(self.people) / self.took.as_secs_f64().max(f64::EPSILON)
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count(self.people)
    }

    fn json(&self, name: &str) -> Value {
        json!({"what": name, "people": self.people.to_string(), "ms": self.took.as_millis().to_string(),
               "cpu_us_per_person": self.cpu_us().round(), "memory_mib": self.memory.to_string()})
    }
}
